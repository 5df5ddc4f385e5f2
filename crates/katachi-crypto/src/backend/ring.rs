//! Through ring, whose key objects do not wipe themselves: they are held in
//! memory that we wipe, what the set-up left on the stack is scrubbed, and the
//! registers that a use leaves full of round keys are cleared.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

use super::{Aead, TAG, Unauthentic};
use crate::wipe::{Wiped, clear_registers};

pub(crate) struct Cipher(Wiped<LessSafeKey>);

impl Cipher {
    #[inline(never)]
    fn set_up(key: &[u8; 32]) -> Wiped<LessSafeKey> {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes keys of 32 bytes");
        Wiped::new(LessSafeKey::new(key))
    }
}

impl Aead for Cipher {
    fn new(key: &[u8; 32]) -> Self {
        Self(Self::set_up(key))
    }

    fn seal(&self, nonce: [u8; 12], chunk: &mut [u8]) -> [u8; TAG] {
        let tag = self
            .0
            .get()
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), chunk)
            .expect("a chunk is far below AES-GCM's limit");
        clear_registers();
        let mut bytes = [0; TAG];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    fn open(
        &self,
        nonce: [u8; 12],
        chunk: &mut [u8],
        start: usize,
        tag: &[u8; TAG],
    ) -> Result<(), Unauthentic> {
        let opened = self
            .0
            .get()
            .open_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::empty(),
                Tag::from(*tag),
                chunk,
                start..,
            )
            .map(|_| ())
            .map_err(|_| Unauthentic);
        clear_registers();
        opened
    }
}
