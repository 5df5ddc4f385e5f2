//! HKDF-Expand-SHA512 (RFC 5869, section 2.3) with the 32-byte data key as the
//! pseudorandom key, which the `hkdf` crate refuses as too short.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use zeroize::Zeroizing;

use crate::wipe::{Wiped, scrub_stack};

/// The output that a message takes: 76 bytes, in two whole blocks.
pub(crate) type Block2 = Zeroizing<[u8; 128]>;

/// A data key whose two HMAC key blocks were absorbed: each message starts from
/// a copy of that state and saves a quarter of the hashing.
pub(crate) struct Expander(Wiped<Hmac<Sha512>>);

impl Expander {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let expander = Self(Self::set_up(key));
        scrub_stack();
        expander
    }

    #[inline(never)]
    fn set_up(key: &[u8; 32]) -> Wiped<Hmac<Sha512>> {
        Wiped::new(Hmac::new_from_slice(key).expect("HMAC takes keys of every length"))
    }

    /// Expands `info`, given in pieces, into two blocks. The caller scrubs the
    /// stack afterwards.
    #[inline(never)]
    pub(crate) fn expand(&self, info: &[&[u8]]) -> Block2 {
        let mut out = Zeroizing::new([0; 128]);
        let (first, second) = out.split_at_mut(64);
        self.block(&[], info, 1, first);
        self.block(first, info, 2, second);
        out
    }

    fn block(&self, previous: &[u8], info: &[&[u8]], number: u8, out: &mut [u8]) {
        let mut mac = self.0.get().clone();
        mac.update(previous);
        info.iter().for_each(|piece| mac.update(piece));
        mac.update(&[number]);
        out.copy_from_slice(&mac.finalize().into_bytes());
    }
}
