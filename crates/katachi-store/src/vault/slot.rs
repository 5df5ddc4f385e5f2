//! How a slot holds the vault's key.
//!
//! ```text
//! key-encryption key = HKDF(salt of the slot, source secret [, device secret],
//!                           info: vault, slot, kind, user)
//! ```
//!
//! The device secret takes part in machine-bound slots only. Their enrolment
//! is sealed under the source secret alone, since it is needed to find the
//! device secret; without the keychain item or the secret file it tells nothing.

use std::time::SystemTime;

use katachi_crypto::envelope::{Context, DataKey, Kind, Sealed};
use katachi_crypto::kdf::{self, Label};
use katachi_crypto::mac::HmacKey;
use katachi_crypto::{KeyId, Secret, SecretBytes, random};

use crate::binding::{Enrolled, MachineBinding, Recovered};

use super::error::VaultError;
use super::format::{SlotId, SlotKind, SlotRecord, VaultId};
use super::report::SlotFailure;

/// The random key that every slot wraps.
#[derive(Debug)]
pub(crate) struct VaultKey(Secret<32>);

impl VaultKey {
    pub(crate) fn generate() -> Result<Self, VaultError> {
        Ok(Self(Secret::random()?))
    }

    /// Authenticates the file of `vault`.
    pub(crate) fn file_mac(&self, vault: VaultId) -> HmacKey {
        HmacKey::new(&kdf::derive(
            &[self.0.expose_secret()],
            &vault.0,
            &Label::new("katachi/v1/vault/mac"),
        ))
    }

    /// Seals the key ring of `vault`.
    pub(crate) fn ring_key(&self, vault: VaultId) -> DataKey {
        let secret = kdf::derive(
            &[self.0.expose_secret()],
            &vault.0,
            &Label::new("katachi/v1/vault/key-ring"),
        );
        DataKey::from_parts(KeyId::from_bytes(first_eight(&vault.0)), secret)
    }
}

fn first_eight(bytes: &[u8; 16]) -> [u8; 8] {
    std::array::from_fn(|index| bytes[index])
}

/// What a slot is bound to, besides its secrets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) vault: VaultId,
    pub(crate) user: &'a str,
}

impl SlotRecord {
    /// Makes a slot that opens with `source` alone, on any machine.
    pub(crate) fn portable(
        kind: SlotKind,
        id: SlotId,
        place: Place<'_>,
        parameters: Vec<u8>,
        source: &[u8],
        key: &VaultKey,
    ) -> Result<Self, VaultError> {
        let mut slot = Self::empty(kind, id, place, parameters)?;
        slot.wrapped = slot.seal_key(place.vault, &[source], key)?;
        Ok(slot)
    }

    /// Makes a slot that opens with `source` on the enrolled machine.
    pub(crate) fn bound(
        kind: SlotKind,
        id: SlotId,
        place: Place<'_>,
        source: &Secret<32>,
        enrolled: &Enrolled,
        key: &VaultKey,
    ) -> Result<Self, VaultError> {
        let mut slot = Self::empty(kind, id, place, Vec::new())?;
        let context = slot.context("katachi/v1/vault/enrolment", place.vault);
        let enrolment_key = slot.derive(
            "katachi/v1/vault/enrolment",
            place.vault,
            &[source.expose_secret()],
        );
        slot.enrolment = enrolment_key
            .seal(Kind::Record, &context, enrolled.state.expose_secret())?
            .into_bytes();
        let secrets: [&[u8]; 2] = [source.expose_secret(), enrolled.secret.expose_secret()];
        slot.wrapped = slot.seal_key(place.vault, &secrets, key)?;
        Ok(slot)
    }

    fn empty(
        kind: SlotKind,
        id: SlotId,
        place: Place<'_>,
        parameters: Vec<u8>,
    ) -> Result<Self, VaultError> {
        let user = if kind.is_machine_bound() {
            place.user.to_owned()
        } else {
            String::new()
        };
        let created = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let salt = random::bytes()?;
        Ok(Self {
            kind,
            id,
            created,
            salt,
            user,
            parameters,
            enrolment: Vec::new(),
            wrapped: Vec::new(),
        })
    }

    /// Opens a slot that opens on any machine.
    pub(crate) fn open_portable(
        &self,
        vault: VaultId,
        source: &[u8],
    ) -> Result<VaultKey, SlotFailure> {
        self.open_key(vault, &[source])
            .ok_or(SlotFailure::WrongSecret)
    }

    /// Opens a machine-bound slot.
    pub(crate) fn open_bound(
        &self,
        place: Place<'_>,
        source: &Secret<32>,
        binding: &dyn MachineBinding,
    ) -> Result<(VaultKey, Recovered), SlotFailure> {
        if self.user != place.user {
            return Err(SlotFailure::OtherUser);
        }
        let state = self
            .open_enrolment(place.vault, source)
            .ok_or(SlotFailure::WrongSecret)?;
        let mut key = None;
        let recovered = binding.recover(state.expose_secret(), &mut |device| {
            key = self.open_key(
                place.vault,
                &[source.expose_secret(), device.expose_secret()],
            );
            key.is_some()
        })?;
        // A binding that answers with a secret it never showed us has no key to give.
        key.map(|key| (key, recovered))
            .ok_or(SlotFailure::WrongSecret)
    }

    fn open_enrolment(&self, vault: VaultId, source: &Secret<32>) -> Option<SecretBytes> {
        let sealed = Sealed::parse(&self.enrolment).ok()?;
        let key = self.derive(
            "katachi/v1/vault/enrolment",
            vault,
            &[source.expose_secret()],
        );
        key.open(&self.context("katachi/v1/vault/enrolment", vault), &sealed)
            .ok()
    }

    fn seal_key(
        &self,
        vault: VaultId,
        secrets: &[&[u8]],
        key: &VaultKey,
    ) -> Result<Vec<u8>, VaultError> {
        let kek = self.derive("katachi/v1/kek", vault, secrets);
        let context = self.context("katachi/v1/vault/slot", vault);
        Ok(kek
            .seal(Kind::Slot, &context, key.0.expose_secret())?
            .into_bytes())
    }

    fn open_key(&self, vault: VaultId, secrets: &[&[u8]]) -> Option<VaultKey> {
        let sealed = Sealed::parse(&self.wrapped).ok()?;
        let kek = self.derive("katachi/v1/kek", vault, secrets);
        let opened = kek
            .open(&self.context("katachi/v1/vault/slot", vault), &sealed)
            .ok()?;
        Secret::from_slice(opened.expose_secret())
            .ok()
            .map(VaultKey)
    }

    fn derive(&self, label: &'static str, vault: VaultId, secrets: &[&[u8]]) -> DataKey {
        let label = Label::new(label)
            .field(&vault.0)
            .field(&self.id.0)
            .field(&[self.kind.to_byte()])
            .field(self.user.as_bytes());
        DataKey::from_parts(
            KeyId::from_bytes(self.id.0),
            kdf::derive(secrets, &self.salt, &label),
        )
    }

    /// Binds what is sealed in a slot to every other field of the slot.
    fn context(&self, purpose: &'static str, vault: VaultId) -> Context {
        Context::new(purpose)
            .bytes(1, &vault.0)
            .bytes(2, &self.id.0)
            .bytes(3, &[self.kind.to_byte()])
            .bytes(4, &self.created.to_be_bytes())
            .bytes(5, self.user.as_bytes())
            .bytes(6, &self.parameters)
    }
}
