//! AES-256-GCM as Noise uses it (section 12.4): the nonce is four zero bytes
//! and the 64-bit counter, big-endian.
//!
//! snow's own computes the key schedule anew for every record and does not wipe
//! it; this one keeps it in memory that is wiped.

use zeroize::{Zeroize, Zeroizing};

use crate::wipe::scrub_stack;

const TAG: usize = 16;

/// A cipher that gets its key later, as snow wants it.
#[derive(Default)]
pub(super) struct AesGcm(Option<aead::Key>);

impl AesGcm {
    fn key(&self) -> &aead::Key {
        self.0.as_ref().expect("snow sets a key before it uses it")
    }

    fn nonce(counter: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_be_bytes());
        nonce
    }
}

impl snow::types::Cipher for AesGcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = Some(aead::Key::new(key));
        scrub_stack();
    }

    fn encrypt(&self, counter: u64, associated: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (sealed, rest) = out.split_at_mut(plaintext.len());
        sealed.copy_from_slice(plaintext);
        let tag = self.key().seal(Self::nonce(counter), associated, sealed);
        rest[..TAG].copy_from_slice(&tag);
        plaintext.len() + TAG
    }

    fn decrypt(
        &self,
        counter: u64,
        associated: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, snow::Error> {
        let Some((sealed, tag)) = ciphertext.split_last_chunk::<TAG>() else {
            return Err(snow::Error::Decrypt);
        };
        let opened = &mut out[..sealed.len()];
        opened.copy_from_slice(sealed);
        if !self
            .key()
            .open(Self::nonce(counter), associated, opened, tag)
        {
            opened.zeroize();
            return Err(snow::Error::Decrypt);
        }
        Ok(sealed.len())
    }

    /// Section 4.2, with the new key wiped where it passed.
    fn rekey(&mut self) {
        let mut key = Zeroizing::new([0; 32]);
        // The reserved counter; the tag is thrown away.
        let _ = self
            .key()
            .seal(Self::nonce(u64::MAX), &[], key.as_mut_slice());
        self.set(&key);
    }
}

#[cfg(feature = "ring")]
mod aead {
    use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

    use super::TAG;
    use crate::wipe::{Wiped, clear_registers};

    pub(super) struct Key(Wiped<LessSafeKey>);

    impl Key {
        #[inline(never)]
        pub(super) fn new(key: &[u8; 32]) -> Self {
            let key = UnboundKey::new(&AES_256_GCM, key).expect("AES-256 takes keys of 32 bytes");
            Self(Wiped::new(LessSafeKey::new(key)))
        }

        pub(super) fn seal(
            &self,
            nonce: [u8; 12],
            associated: &[u8],
            content: &mut [u8],
        ) -> [u8; TAG] {
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = self
                .0
                .get()
                .seal_in_place_separate_tag(nonce, Aad::from(associated), content)
                .expect("a record is far below AES-GCM's limit");
            clear_registers();
            let mut bytes = [0; TAG];
            bytes.copy_from_slice(tag.as_ref());
            bytes
        }

        pub(super) fn open(
            &self,
            nonce: [u8; 12],
            associated: &[u8],
            content: &mut [u8],
            tag: &[u8; TAG],
        ) -> bool {
            let nonce = Nonce::assume_unique_for_key(nonce);
            let (associated, tag) = (Aad::from(associated), Tag::from(*tag));
            let opened = self
                .0
                .get()
                .open_in_place_separate_tag(nonce, associated, tag, content, 0..)
                .is_ok();
            clear_registers();
            opened
        }
    }
}

#[cfg(not(feature = "ring"))]
mod aead {
    use aes_gcm::aead::AeadInOut;
    use aes_gcm::{Aes256Gcm, KeyInit};

    use super::TAG;
    use crate::wipe::{Wiped, scrub_stack};

    pub(super) struct Key(Wiped<Aes256Gcm>);

    impl Key {
        #[inline(never)]
        pub(super) fn new(key: &[u8; 32]) -> Self {
            Self(Wiped::new(Aes256Gcm::new(key.into())))
        }

        pub(super) fn seal(
            &self,
            nonce: [u8; 12],
            associated: &[u8],
            content: &mut [u8],
        ) -> [u8; TAG] {
            let tag = self.seal_unscrubbed(nonce, associated, content);
            scrub_stack();
            tag
        }

        pub(super) fn open(
            &self,
            nonce: [u8; 12],
            associated: &[u8],
            content: &mut [u8],
            tag: &[u8; TAG],
        ) -> bool {
            let opened = self.open_unscrubbed(nonce, associated, content, tag);
            scrub_stack();
            opened
        }

        #[inline(never)]
        fn seal_unscrubbed(
            &self,
            nonce: [u8; 12],
            associated: &[u8],
            content: &mut [u8],
        ) -> [u8; TAG] {
            self.0
                .get()
                .encrypt_inout_detached(&nonce.into(), associated, content.into())
                .expect("a record is far below AES-GCM's limit")
                .into()
        }

        #[inline(never)]
        fn open_unscrubbed(
            &self,
            nonce: [u8; 12],
            associated: &[u8],
            content: &mut [u8],
            tag: &[u8; TAG],
        ) -> bool {
            self.0
                .get()
                .decrypt_inout_detached(&nonce.into(), associated, content.into(), &(*tag).into())
                .is_ok()
        }
    }
}
