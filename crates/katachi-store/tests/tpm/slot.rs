//! A vault with a TPM slot.

use std::path::Path;
use std::time::{Duration, Instant};

use katachi_store::Vault;
use katachi_store::testing::FakeMachine;
use katachi_store::tpm::TpmError;
use katachi_store::vault::{Builder, SlotFailure, SlotKind, VaultError};
use rustix::process::Signal;

use crate::software::{Case, SWTPM, SoftwareTpm};

pub const CASES: [Case; 5] = [
    (
        "a_vault_opens_with_its_chip_alone",
        SWTPM,
        a_vault_opens_with_its_chip_alone,
    ),
    (
        "a_stolen_drive_stays_closed_in_another_computer",
        SWTPM,
        a_stolen_drive_stays_closed_in_another_computer,
    ),
    (
        "a_frozen_chip_costs_its_deadline_and_the_next_slot_opens",
        SWTPM,
        a_frozen_chip_costs_its_deadline_and_the_next_slot_opens,
    ),
    (
        "a_slot_is_added_renewed_and_removed",
        SWTPM,
        a_slot_is_added_renewed_and_removed,
    ),
    (
        "a_slot_of_another_user_is_refused",
        SWTPM,
        a_slot_of_another_user_is_refused,
    ),
];

fn builder(home: &Path) -> Builder {
    Vault::builder(home.join("vault"))
}

fn a_vault_opens_with_its_chip_alone() {
    let (home, mut chip) = (tempfile::tempdir().unwrap(), SoftwareTpm::start());
    let vault = builder(home.path()).tpm(chip.device()).create().unwrap();
    assert_eq!(vault.report().slot.kind, SlotKind::Tpm);
    assert!(SlotKind::Tpm.is_machine_bound());
    let key = vault.data_key("notes").unwrap().id();
    drop(vault);
    chip.restart();
    let vault = builder(home.path()).tpm(chip.device()).open().unwrap();
    assert_eq!(vault.report().slot.kind, SlotKind::Tpm);
    assert!(vault.report().degraded.is_empty());
    assert!(!vault.report().is_copy_deterrent());
    assert_eq!(vault.data_key("notes").unwrap().id(), key);
    assert_eq!(vault.examine()[0].1, Ok(()));
    // Nothing but the vault and its lock lies about.
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
}

fn a_stolen_drive_stays_closed_in_another_computer() {
    let home = tempfile::tempdir().unwrap();
    let (own, thiefs) = (SoftwareTpm::start(), SoftwareTpm::start());
    let vault = builder(home.path()).tpm(own.device()).create().unwrap();
    let code = vault.add_recovery_code().unwrap();
    let key = vault.data_key("notes").unwrap().id();
    drop(vault);

    let VaultError::NoUsableSlot { tried } = builder(home.path())
        .tpm(thiefs.device())
        .open()
        .unwrap_err()
    else {
        panic!("refused for another reason");
    };
    assert_eq!(tried[0].why, SlotFailure::Tpm(TpmError::Other));
    assert!(tried[0].to_string().contains("another TPM"), "{}", tried[0]);

    // The owner has the code, and moves in.
    let vault = builder(home.path())
        .tpm(thiefs.device())
        .recovery_code(code)
        .open()
        .unwrap();
    let moved = vault.move_here().unwrap();
    assert_eq!(moved[0].kind, SlotKind::Tpm);
    drop(vault);
    let vault = builder(home.path()).tpm(thiefs.device()).open().unwrap();
    assert_eq!(vault.data_key("notes").unwrap().id(), key);
    drop(vault);
    builder(home.path()).tpm(own.device()).open().unwrap_err();
}

fn a_frozen_chip_costs_its_deadline_and_the_next_slot_opens() {
    let (home, chip) = (tempfile::tempdir().unwrap(), SoftwareTpm::start());
    let with = |within| {
        builder(home.path())
            .binding(FakeMachine::laptop())
            .tpm(chip.device().with_deadline(within))
            .file_slot(home.path().join("secrets"))
    };
    drop(with(Duration::from_secs(30)).create().unwrap());
    chip.signal(Signal::STOP);
    let started = Instant::now();
    let vault = with(Duration::from_millis(500)).open().unwrap();
    let waited = started.elapsed();
    assert_eq!(vault.report().slot.kind, SlotKind::File);
    assert_eq!(
        vault.report().degraded[0].why,
        SlotFailure::Tpm(TpmError::Timeout)
    );
    assert!(waited < Duration::from_millis(1500), "{waited:?}");

    // Nobody makes a slot of another kind in its place.
    let error = vault.add_tpm_slot().unwrap_err();
    assert!(
        matches!(error, VaultError::Tpm(TpmError::Timeout)),
        "{error}"
    );
    assert_eq!(vault.slots().len(), 2);
}

fn a_slot_is_added_renewed_and_removed() {
    let (home, chip) = (tempfile::tempdir().unwrap(), SoftwareTpm::start());
    let with_both = || {
        builder(home.path())
            .binding(FakeMachine::laptop())
            .tpm(chip.device())
            .file_slot(home.path().join("secrets"))
    };
    let vault = builder(home.path())
        .binding(FakeMachine::laptop())
        .file_slot(home.path().join("secrets"))
        .create()
        .unwrap();
    assert!(matches!(
        vault.add_tpm_slot().unwrap_err(),
        VaultError::NotGiven("TPM")
    ));
    drop(vault);

    let vault = with_both().open().unwrap();
    assert_eq!(vault.report().degraded[0].why, SlotFailure::Missing);
    let added = vault.add_tpm_slot().unwrap();
    drop(vault);
    let vault = with_both().open().unwrap();
    assert_eq!(vault.report().slot.id, added.id);

    let renewed = vault.rewrap(added.id).unwrap();
    assert_ne!(renewed.id, added.id);
    let kept = vault.rekey(None, None).unwrap();
    assert_eq!((kept.kept.len(), kept.dropped.len()), (2, 0));
    let slot = kept.kept.iter().find(|slot| slot.kind == SlotKind::Tpm);
    vault.remove_slot(slot.unwrap().id).unwrap();
    drop(vault);
    let vault = with_both().open().unwrap();
    assert_eq!(vault.report().slot.kind, SlotKind::File);
}

fn a_slot_of_another_user_is_refused() {
    let (home, chip) = (tempfile::tempdir().unwrap(), SoftwareTpm::start());
    let as_user = |user| builder(home.path()).tpm(chip.device()).user(user);
    drop(as_user("1000").create().unwrap());
    let VaultError::NoUsableSlot { tried } = as_user("1001").open().unwrap_err() else {
        panic!("refused for another reason");
    };
    assert_eq!(tried[0].why, SlotFailure::OtherUser);
    drop(as_user("1000").open().unwrap());
}
