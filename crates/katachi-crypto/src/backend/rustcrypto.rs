//! Through RustCrypto: pure Rust, no C compiler, also for wasm.
//!
//! Its set-up and its use both leave round keys on the stack, so both are
//! followed by a scrub.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};

use super::{Aead, TAG, Unauthentic};
use crate::wipe::{Wiped, scrub_stack};

pub(crate) struct Cipher(Wiped<Aes256Gcm>);

impl Cipher {
    #[inline(never)]
    fn set_up(key: &[u8; 32]) -> Wiped<Aes256Gcm> {
        Wiped::new(Aes256Gcm::new(key.into()))
    }

    #[inline(never)]
    fn seal_unscrubbed(&self, nonce: [u8; 12], chunk: &mut [u8]) -> [u8; TAG] {
        self.0
            .get()
            .encrypt_inout_detached(&nonce.into(), &[], chunk.into())
            .expect("a chunk is far below AES-GCM's limit")
            .into()
    }

    #[inline(never)]
    fn open_unscrubbed(
        &self,
        nonce: [u8; 12],
        chunk: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), Unauthentic> {
        self.0
            .get()
            .decrypt_inout_detached(&nonce.into(), &[], chunk.into(), &(*tag).into())
            .map_err(|_| Unauthentic)
    }
}

impl Aead for Cipher {
    fn new(key: &[u8; 32]) -> Self {
        Self(Self::set_up(key))
    }

    fn seal(&self, nonce: [u8; 12], chunk: &mut [u8]) -> [u8; TAG] {
        let tag = self.seal_unscrubbed(nonce, chunk);
        scrub_stack();
        tag
    }

    fn open(
        &self,
        nonce: [u8; 12],
        chunk: &mut [u8],
        start: usize,
        tag: &[u8; TAG],
    ) -> Result<(), Unauthentic> {
        chunk.copy_within(start.., 0);
        let length = chunk.len() - start;
        let opened = self.open_unscrubbed(nonce, &mut chunk[..length], tag);
        scrub_stack();
        opened
    }
}
