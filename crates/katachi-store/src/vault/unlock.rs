//! Tries the slots of a vault, one after the other.

use katachi_crypto::{Secret, SecretString};

use crate::binding::Enrolled;

use super::authenticate;
use super::error::VaultError;
use super::format::{MAC_LEN, SlotId, SlotKind, SlotRecord, VaultFile, VaultId};
use super::keys::KeyRing;
use super::manage::stretch;
use super::recovery::RecoveryCode;
use super::report::{Degraded, Healing, OpenReport, SlotFailure, SlotInfo};
use super::slot::VaultKey;
use super::source::Environment;
use super::witness::Freshness;

pub(super) struct Unlocked {
    pub(super) key: VaultKey,
    pub(super) ring: KeyRing,
    pub(super) report: OpenReport,
    pub(super) renewal: Option<Renewal>,
}

/// What is needed to make a slot anew for a machine that changed.
pub(super) struct Renewal {
    pub(super) slot: SlotId,
    pub(super) source: Secret<32>,
    pub(super) enrolled: Enrolled,
}

const ORDER: [SlotKind; 5] = [
    SlotKind::Keychain,
    SlotKind::Tpm,
    SlotKind::File,
    SlotKind::RecoveryCode,
    SlotKind::Passphrase,
];

pub(super) fn unlock(
    file: &VaultFile,
    mac: &[u8; MAC_LEN],
    environment: &Environment,
    passphrase: Option<&SecretString>,
    recovery_code: Option<&RecoveryCode>,
) -> Result<Unlocked, VaultError> {
    let mut degraded = missing_kinds(file, environment);
    for kind in ORDER {
        for slot in file.slots.iter().filter(|slot| slot.kind == kind) {
            let tried = match kind {
                SlotKind::Keychain | SlotKind::Tpm | SlotKind::File => {
                    open_here(file.id, slot, environment)
                }
                SlotKind::RecoveryCode => match recovery_code {
                    Some(code) => slot
                        .open_portable(file.id, code.expose_secret())
                        .map(Opened::portable),
                    None => Err(SlotFailure::NotTried),
                },
                SlotKind::Passphrase => match passphrase {
                    Some(passphrase) => {
                        open_passphrase(file, slot, passphrase).map(Opened::portable)
                    }
                    None => Err(SlotFailure::NotTried),
                },
            };
            match tried {
                Ok(opened) => {
                    let ring = authenticate(file, mac, &opened.key)?;
                    return Ok(opened.report(slot, ring, degraded));
                }
                Err(why) => degraded.push(Degraded {
                    kind,
                    slot: Some(slot.id),
                    why,
                }),
            }
        }
    }
    Err(VaultError::NoUsableSlot { tried: degraded })
}

/// Kinds that the caller gave the means for and the vault has no slot of.
fn missing_kinds(file: &VaultFile, environment: &Environment) -> Vec<Degraded> {
    let given = [
        (SlotKind::Keychain, environment.keychain.is_some()),
        (SlotKind::Tpm, environment.tpm.is_some()),
    ];
    let is_missing = |kind| file.slots.iter().all(|slot| slot.kind != kind);
    given
        .into_iter()
        .filter(|&(kind, is_given)| is_given && is_missing(kind))
        .map(|(kind, _)| Degraded {
            kind,
            slot: None,
            why: SlotFailure::Missing,
        })
        .collect()
}

pub(super) struct Opened {
    key: VaultKey,
    bound: Option<(crate::binding::Recovered, Secret<32>)>,
}

impl Opened {
    fn portable(key: VaultKey) -> Self {
        Self { key, bound: None }
    }

    fn report(self, slot: &SlotRecord, ring: KeyRing, degraded: Vec<Degraded>) -> Unlocked {
        let mut report = OpenReport {
            slot: SlotInfo::of(slot),
            // Slots that nobody meant to use are no cause for worry once one opened.
            degraded: degraded
                .into_iter()
                .filter(|slot| slot.why != SlotFailure::NotTried)
                .collect(),
            matched: Vec::new(),
            drift: Vec::new(),
            strength: None,
            healing: Healing::NotNeeded,
            freshness: Freshness::Unwitnessed,
        };
        let mut renewal = None;
        if let Some((recovered, source)) = self.bound {
            report.matched = recovered.matched;
            report.drift = recovered.drift;
            report.strength = Some(recovered.strength);
            renewal = recovered.renewed.map(|enrolled| Renewal {
                slot: slot.id,
                source,
                enrolled,
            });
        }
        Unlocked {
            key: self.key,
            ring,
            report,
            renewal,
        }
    }
}

/// Opens a slot of this machine with what it keeps for it.
pub(super) fn open_here(
    vault: VaultId,
    slot: &SlotRecord,
    environment: &Environment,
) -> Result<Opened, SlotFailure> {
    if slot.kind == SlotKind::Tpm {
        if environment.tpm.is_some() && slot.user != environment.user {
            return Err(SlotFailure::OtherUser);
        }
        let source = environment.fetch(vault, slot)?;
        return slot
            .open_portable(vault, source.expose_secret())
            .map(Opened::portable);
    }
    let binding = environment
        .binding
        .as_deref()
        .ok_or(SlotFailure::NotTried)?;
    let source = environment.fetch(vault, slot)?;
    let (key, recovered) = slot.open_bound(environment.place(vault), &source, binding)?;
    Ok(Opened {
        key,
        bound: Some((recovered, source)),
    })
}

fn open_passphrase(
    file: &VaultFile,
    slot: &SlotRecord,
    passphrase: &SecretString,
) -> Result<VaultKey, SlotFailure> {
    let source = stretch(&slot.parameters, passphrase).map_err(|_| SlotFailure::WrongSecret)?;
    slot.open_portable(file.id, source.expose_secret())
}
