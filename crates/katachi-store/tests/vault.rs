//! A vault on fake machines: what opens it, what does not, and what is said.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

mod support;

use katachi_store::binding::{BindingError, Unbound};
use katachi_store::keychain::{Deadline, KeychainError, NoKeychain};
use katachi_store::testing::{FakeMachine, Mood};
use katachi_store::vault::{Healing, KeyStatus, RecoveryCode, SlotFailure, SlotKind, VaultError};
use katachi_store::{SecretString, Vault};
use support::{Home, copy};

fn passphrase(text: &str) -> SecretString {
    SecretString::new(text.to_owned())
}

fn tried(error: VaultError) -> Vec<(SlotKind, SlotFailure)> {
    match error {
        VaultError::NoUsableSlot { tried } => tried
            .into_iter()
            .map(|slot| (slot.kind, slot.why))
            .collect(),
        other => panic!("expected NoUsableSlot, got {other}"),
    }
}

#[test]
fn opens_again_with_the_same_keys() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let key = vault.data_key("notes").unwrap();
    let derived = vault.derive::<32>("label");
    assert_eq!(vault.slots().len(), 2);
    drop(vault);

    let vault = home.both().open().unwrap();
    assert_eq!(vault.report().slot.kind, SlotKind::Keychain);
    assert!(vault.report().degraded.is_empty(), "{:?}", vault.report());
    assert_eq!(vault.report().healing, Healing::NotNeeded);
    assert_eq!(
        vault.data_key("notes").unwrap().expose_secret(),
        key.expose_secret()
    );
    assert_eq!(vault.derive::<32>("label"), derived);
    assert_ne!(vault.derive::<32>("another"), derived);
    assert_ne!(
        vault.data_key("others").unwrap().expose_secret(),
        key.expose_secret()
    );
}

#[test]
fn a_copy_on_another_machine_stays_closed_and_says_what_did_not_match() {
    let home = Home::new();
    home.both().create().unwrap();
    // The thief has the vault, the secret files and the keychain's content.
    let stolen = Home {
        machine: FakeMachine::desktop(),
        keychain: home.keychain.clone(),
        ..Home::new()
    };
    copy(&home.vault(), &stolen.vault());
    copy(&home.secrets(), &stolen.secrets());
    let error = stolen.both().open().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("recovery code"), "{text}");
    let tried = tried(error);
    assert_eq!(tried.len(), 2);
    for (kind, why) in tried {
        let SlotFailure::Binding(BindingError::WrongMachine { changed, .. }) = why else {
            panic!("{kind}: {why}");
        };
        assert_eq!(changed, ["board", "cpu", "disk", "nic"]);
    }
}

#[test]
fn a_stolen_vault_without_its_secrets_stays_closed_on_the_very_same_machine() {
    let home = Home::new();
    home.both().create().unwrap();
    let stolen = Home {
        machine: home.machine.clone(),
        ..Home::new()
    };
    copy(&home.vault(), &stolen.vault());
    let tried = tried(stolen.both().open().unwrap_err());
    assert!(
        matches!(
            tried[0],
            (
                SlotKind::Keychain,
                SlotFailure::Keychain(KeychainError::NotFound)
            )
        ),
        "{tried:?}"
    );
    assert!(
        matches!(tried[1], (SlotKind::File, SlotFailure::SecretFile { .. })),
        "{tried:?}"
    );
}

#[test]
fn a_lost_keychain_opens_by_the_file_slot_and_is_reported() {
    let home = Home::new();
    let key = home.both().create().unwrap().data_key("notes").unwrap();
    home.keychain.clear();
    let vault = home.both().open().unwrap();
    assert_eq!(vault.report().slot.kind, SlotKind::File);
    assert_eq!(vault.report().degraded.len(), 1);
    assert_eq!(
        vault.report().degraded[0].why,
        SlotFailure::Keychain(KeychainError::NotFound)
    );
    assert_eq!(vault.data_key("notes").unwrap().id(), key.id());

    // The owner asks for a new keychain slot, and all is well again.
    let lost = vault.report().degraded[0].slot.unwrap();
    vault.rewrap(lost).unwrap();
    drop(vault);
    let vault = home.both().open().unwrap();
    assert_eq!(vault.report().slot.kind, SlotKind::Keychain);
    assert!(vault.report().degraded.is_empty());
    assert_eq!(home.keychain.len(), 1);
}

#[test]
fn a_locked_absent_or_silent_keychain_costs_its_deadline_once_and_no_slot() {
    let home = Home::new();
    home.both().create().unwrap();
    let quick = Deadline::quiet().with_duration(std::time::Duration::from_millis(100));
    for (mood, expected) in [
        (Mood::Locked, KeychainError::Locked),
        (Mood::Silent, KeychainError::Timeout),
        (
            Mood::Absent,
            KeychainError::Unavailable {
                why: "a test took it away".to_owned(),
            },
        ),
    ] {
        home.keychain.set_mood(mood);
        let before = (home.keychain.calls(), std::time::Instant::now());
        let vault = home.both().keychain_deadline(quick.clone()).open().unwrap();
        assert_eq!(home.keychain.calls() - before.0, 1);
        assert!(before.1.elapsed() < std::time::Duration::from_secs(2));
        assert_eq!(
            vault.report().degraded[0].why,
            SlotFailure::Keychain(expected)
        );
        assert_eq!(vault.slots().len(), 2, "no slot was made or lost");
    }
    home.keychain.set_mood(Mood::Working);
    assert!(home.both().open().unwrap().report().degraded.is_empty());
}

#[test]
fn one_changed_part_heals_and_is_named() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let generation = vault.generation();
    drop(vault);
    home.machine.change("nic", "00:11:22:33:44:55");
    let vault = home.both().open().unwrap();
    assert_eq!(vault.report().drift, ["nic changed"]);
    assert_eq!(vault.report().matched, ["board", "cpu", "disk"]);
    assert_eq!(vault.report().healing, Healing::Done);
    assert_eq!(vault.generation(), generation + 1);
    drop(vault);

    let vault = home.both().open().unwrap();
    assert!(vault.report().drift.is_empty());
    assert_eq!(vault.report().healing, Healing::NotNeeded);
    drop(vault);

    // Part after part may change, as long as the vault is opened in between.
    for (part, value) in [
        ("cpu", "new"),
        ("disk", "new"),
        ("board", "new"),
        ("nic", "newer"),
    ] {
        home.machine.change(part, value);
        assert_eq!(
            home.both().open().unwrap().report().healing,
            Healing::Done,
            "{part}"
        );
    }
}

#[test]
fn healing_needs_no_keychain_write_and_a_failed_one_still_opens() {
    let home = Home::new();
    home.both().create().unwrap();
    home.machine.change("nic", "00:11:22:33:44:55");
    let calls = home.keychain.calls();
    home.both().open().unwrap();
    assert_eq!(
        home.keychain.calls() - calls,
        1,
        "healing asked the keychain again"
    );

    home.machine.change("nic", "00:11:22:33:44:66");
    katachi_store::testing::fault::fail_in(1);
    let vault = home.both().open().unwrap();
    katachi_store::testing::fault::stop_failing();
    assert!(
        matches!(vault.report().healing, Healing::Failed { .. }),
        "{:?}",
        vault.report().healing
    );
    drop(vault);
    assert_eq!(home.both().open().unwrap().report().healing, Healing::Done);
}

#[test]
fn too_many_changed_parts_close_it_and_the_recovery_code_opens() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let code = vault.add_recovery_code().unwrap();
    let key = vault.data_key("notes").unwrap();
    drop(vault);
    home.machine.change("nic", "new");
    home.machine.change("disk", "new");
    assert!(matches!(
        home.both().open().unwrap_err(),
        VaultError::NoUsableSlot { .. }
    ));

    let text = code.to_text();
    let vault = home
        .both()
        .recovery_code(RecoveryCode::parse(text.expose_secret()).unwrap())
        .open()
        .unwrap();
    assert_eq!(vault.report().slot.kind, SlotKind::RecoveryCode);
    assert_eq!(vault.report().degraded.len(), 2);
    assert_eq!(vault.data_key("notes").unwrap().id(), key.id());
    assert_eq!(vault.move_here().unwrap().len(), 2);
    drop(vault);
    let vault = home.both().open().unwrap();
    assert!(vault.report().degraded.is_empty());
    assert_eq!(vault.data_key("notes").unwrap().id(), key.id());
    assert_eq!(
        home.keychain.len(),
        1,
        "the old machine's item is forgotten"
    );
    assert_eq!(std::fs::read_dir(home.secrets()).unwrap().count(), 1);
}

#[test]
fn a_wrong_recovery_code_is_told_from_a_mistyped_one() {
    let home = Home::new();
    let code = RecoveryCode::generate().unwrap();
    Vault::builder(home.vault())
        .recovery_code(code)
        .create()
        .unwrap();
    let other = RecoveryCode::generate().unwrap();
    let error = Vault::builder(home.vault())
        .recovery_code(other)
        .open()
        .unwrap_err();
    assert_eq!(
        tried(error),
        [(SlotKind::RecoveryCode, SlotFailure::WrongSecret)]
    );
}

#[test]
fn a_passphrase_opens_on_any_machine_and_a_wrong_one_does_not() {
    let home = Home::new();
    let vault = home
        .with_file()
        .passphrase(passphrase("correct horse battery"))
        .create()
        .unwrap();
    assert_eq!(vault.slots().len(), 2);
    assert!(matches!(
        vault.add_passphrase(&passphrase("short")),
        Err(VaultError::Invalid(_))
    ));
    drop(vault);
    let open = |text| {
        Vault::builder(home.vault())
            .passphrase(passphrase(text))
            .open()
    };
    let vault = open("correct horse battery").unwrap();
    assert_eq!(vault.report().slot.kind, SlotKind::Passphrase);
    let tried = tried(open("correct horse batterz").unwrap_err());
    assert!(
        tried.contains(&(SlotKind::Passphrase, SlotFailure::WrongSecret)),
        "{tried:?}"
    );
}

#[test]
fn another_user_of_the_machine_does_not_get_in() {
    let home = Home::new();
    home.both().user("1000").create().unwrap();
    let tried = tried(home.both().user("1001").open().unwrap_err());
    assert!(
        tried.iter().all(|(_, why)| *why == SlotFailure::OtherUser),
        "{tried:?}"
    );
    home.both().user("1000").open().unwrap();
}

#[test]
fn never_makes_a_weaker_slot_unasked() {
    let home = Home::new();
    home.keychain.set_mood(Mood::Absent);
    // Without a keychain a vault with a keychain slot alone cannot be made.
    let error = home.with_keychain().create().unwrap_err();
    assert!(
        matches!(
            error,
            VaultError::Keychain(KeychainError::Unavailable { .. })
        ),
        "{error}"
    );
    assert!(!home.vault().join("vault").exists());
    // Nor is one made of which half is missing.
    let error = home.both().create().unwrap_err();
    assert!(matches!(error, VaultError::Keychain(_)), "{error}");
    assert!(!home.vault().join("vault").exists());

    // Asked for, it is made and named as degraded, now and at every opening.
    let asked = || {
        home.with_keychain()
            .file_slot_if_no_keychain(home.secrets())
    };
    let vault = asked().create().unwrap();
    assert_eq!(vault.report().slot.kind, SlotKind::File);
    assert_eq!(vault.report().degraded[0].kind, SlotKind::Keychain);
    drop(vault);
    home.keychain.set_mood(Mood::Working);
    let vault = asked().open().unwrap();
    assert_eq!(vault.report().degraded[0].why, SlotFailure::Missing);
    vault.add_keychain_slot().unwrap();
    drop(vault);
    assert_eq!(
        asked().open().unwrap().report().slot.kind,
        SlotKind::Keychain
    );
}

#[test]
fn a_fallback_is_not_made_where_the_keychain_works() {
    let home = Home::new();
    let vault = home
        .with_keychain()
        .file_slot_if_no_keychain(home.secrets())
        .create()
        .unwrap();
    assert_eq!(vault.slots().len(), 1);
    assert!(!home.secrets().exists());
}

#[test]
fn says_what_a_builder_lacks() {
    let home = Home::new();
    assert!(matches!(
        Vault::builder(home.vault()).create().unwrap_err(),
        VaultError::NoSlotAsked
    ));
    let error = Vault::builder(home.vault())
        .keychain(NoKeychain)
        .create()
        .unwrap_err();
    assert!(matches!(error, VaultError::NoBinding), "{error}");
    for beside in [
        home.vault(),
        home.vault().join("secrets"),
        home.directory.path().to_owned(),
    ] {
        let error = Vault::builder(home.vault())
            .binding(Unbound)
            .file_slot(beside)
            .create()
            .unwrap_err();
        assert!(matches!(error, VaultError::SecretBesideVault), "{error}");
    }
    assert!(matches!(
        home.both().open().unwrap_err(),
        VaultError::NoVault { .. }
    ));
    home.both().create().unwrap();
    assert!(matches!(
        home.both().create().unwrap_err(),
        VaultError::Exists { .. }
    ));
}

#[test]
fn status_asks_nobody() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    vault.add_recovery_code().unwrap();
    let calls = home.keychain.calls();
    home.keychain.set_mood(Mood::Silent);
    let status = Vault::status(home.vault()).unwrap();
    assert_eq!(home.keychain.calls(), calls);
    assert_eq!(
        (status.id, status.generation),
        (vault.id(), vault.generation())
    );
    let kinds: Vec<_> = status.slots.iter().map(|slot| slot.kind).collect();
    assert_eq!(
        kinds,
        [SlotKind::Keychain, SlotKind::File, SlotKind::RecoveryCode]
    );
    assert!(matches!(
        Vault::status(home.secrets()).unwrap_err(),
        VaultError::NoVault { .. }
    ));
}

#[test]
fn a_removed_slot_opens_no_more_and_its_secret_is_gone() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let code = vault.add_recovery_code().unwrap();
    let slots = vault.slots();
    for slot in &slots[..2] {
        vault.remove_slot(slot.id).unwrap();
    }
    assert!(home.keychain.is_empty());
    assert_eq!(std::fs::read_dir(home.secrets()).unwrap().count(), 0);
    assert!(matches!(
        vault.remove_slot(slots[0].id).unwrap_err(),
        VaultError::NoSuchSlot(_)
    ));
    assert!(matches!(
        vault.remove_slot(slots[2].id).unwrap_err(),
        VaultError::LastSlot
    ));
    drop(vault);
    assert!(home.both().open().is_err());
    home.both().recovery_code(code).open().unwrap();
}

#[test]
fn rekeying_shuts_out_old_secrets_and_keeps_the_data() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let code = vault.add_recovery_code().unwrap();
    let key = vault.data_key("notes").unwrap();
    let (old_vault, old_secrets) = (
        home.directory.path().join("old"),
        home.directory.path().join("old-secrets"),
    );
    copy(&home.vault(), &old_vault);
    copy(&home.secrets(), &old_secrets);

    let rekeyed = vault.rekey(None, None).unwrap();
    assert_eq!(rekeyed.kept.len(), 2);
    assert_eq!(rekeyed.dropped.len(), 1);
    assert_eq!(vault.data_key("notes").unwrap().id(), key.id());
    drop(vault);

    // Yesterday's secret files and code do not open today's vault.
    let yesterday = Vault::builder(home.vault())
        .binding(home.machine.clone())
        .file_slot(&old_secrets);
    assert!(yesterday.recovery_code(code).open().is_err());
    let vault = home.both().open().unwrap();
    assert_eq!(
        vault.data_key("notes").unwrap().expose_secret(),
        key.expose_secret()
    );
}

#[test]
fn a_second_process_whose_vault_was_rekeyed_is_told_to_reopen() {
    let home = Home::new();
    let one = home.both().create().unwrap();
    let two = home.both().open().unwrap();
    one.rekey(None, None).unwrap();
    assert!(matches!(
        two.data_key("notes").unwrap_err(),
        VaultError::Replaced
    ));
    assert!(matches!(
        two.add_recovery_code().unwrap_err(),
        VaultError::Replaced
    ));
    home.both().open().unwrap();
}

#[test]
fn rotated_keys_open_old_data_and_destroyed_ones_nothing() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let first = vault.data_key("notes").unwrap();
    let second = vault.rotate("notes").unwrap();
    assert_ne!(first.id(), second.id());
    assert_eq!(vault.data_key("notes").unwrap().id(), second.id());
    let old = vault.data_key_by_id("notes", first.id()).unwrap();
    assert_eq!(old.expose_secret(), first.expose_secret());
    assert!(matches!(
        vault.data_key_by_id("others", first.id()).unwrap_err(),
        VaultError::NoSuchKey { .. }
    ));
    vault.destroy_data_key("notes", first.id()).unwrap();
    drop(vault);
    let vault = home.both().open().unwrap();
    assert!(matches!(
        vault.data_key_by_id("notes", first.id()).unwrap_err(),
        VaultError::KeyDestroyed { .. }
    ));
    let keys: Vec<_> = vault
        .data_keys("notes")
        .into_iter()
        .map(|key| key.status)
        .collect();
    assert_eq!(keys, [KeyStatus::Destroyed, KeyStatus::Enabled]);
}

#[test]
fn a_key_that_one_process_rotates_is_not_used_by_another() {
    let home = Home::new();
    let one = home.both().create().unwrap();
    one.data_key("notes").unwrap();
    let two = home.both().open().unwrap();
    let newest = one.rotate("notes").unwrap();
    assert_eq!(two.data_key("notes").unwrap().id(), newest.id());
}

#[test]
fn an_older_vault_in_its_place_is_noticed() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    vault.data_key("one").unwrap();
    let old = std::fs::read(home.vault().join("vault")).unwrap();
    vault.data_key("two").unwrap();
    let expected = vault.generation();
    std::fs::write(home.vault().join("vault"), old).unwrap();
    let error = vault.data_key("three").unwrap_err();
    assert!(
        matches!(error, VaultError::RolledBack { expected: seen, .. } if seen == expected),
        "{error}"
    );
}

#[test]
fn every_changed_byte_of_the_file_is_refused() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    vault.add_recovery_code().unwrap();
    vault.data_key("notes").unwrap();
    drop(vault);
    let path = home.vault().join("vault");
    let good = std::fs::read(&path).unwrap();
    for place in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[place] ^= flip;
            std::fs::write(&path, &bad).unwrap();
            let error = home.both().open().expect_err("a damaged vault opened");
            assert!(
                matches!(
                    error,
                    VaultError::Tampered | VaultError::Format(_) | VaultError::NoUsableSlot { .. }
                ),
                "byte {place}: {error}"
            );
        }
    }
    for length in 0..good.len() {
        std::fs::write(&path, &good[..length]).unwrap();
        assert!(
            home.both().open().is_err(),
            "the first {length} bytes opened"
        );
    }
    std::fs::write(&path, &good).unwrap();
    home.both().open().unwrap();
}

#[test]
fn a_damaged_slot_does_not_hide_behind_a_good_one() {
    let home = Home::new();
    home.both().create().unwrap();
    let path = home.vault().join("vault");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[29 + 20] ^= 1; // the first slot's salt
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(
        home.both().open().unwrap_err(),
        VaultError::Tampered
    ));
}

#[test]
fn a_destroyed_vault_leaves_nothing_that_opens() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let backup = home.directory.path().join("backup");
    copy(&home.vault(), &backup);
    vault.destroy().unwrap();
    assert!(home.keychain.is_empty());
    assert_eq!(std::fs::read_dir(home.secrets()).unwrap().count(), 0);
    assert!(matches!(
        home.both().open().unwrap_err(),
        VaultError::NoVault { .. }
    ));
    let kept = Vault::builder(&backup)
        .binding(home.machine.clone())
        .keychain(home.keychain.clone());
    assert!(matches!(
        kept.file_slot(home.secrets()).open().unwrap_err(),
        VaultError::NoUsableSlot { .. }
    ));
}

#[test]
fn sixteen_slots_are_enough_and_the_seventeenth_is_refused() {
    let home = Home::new();
    let vault = home.with_keychain().create().unwrap();
    for _ in 1..16 {
        vault.add_recovery_code().unwrap();
    }
    assert!(matches!(
        vault.add_recovery_code().unwrap_err(),
        VaultError::Full(_)
    ));
    drop(vault);
    home.with_keychain().open().unwrap();
}

#[test]
fn what_could_not_be_saved_did_not_happen() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let key = vault.data_key("notes").unwrap();
    for step in 1..20 {
        let (slots, items) = (vault.slots(), home.keychain.len());
        katachi_store::testing::fault::fail_in(step);
        let added = vault.add_keychain_slot();
        let rotated = vault.rotate("notes");
        let failed = !katachi_store::testing::fault::stop_failing();
        assert_eq!(failed, added.is_err() || rotated.is_err(), "step {step}");
        drop(home.both().open().unwrap());
        let opened = home.both().open().unwrap();
        assert_eq!(opened.slots(), vault.slots(), "step {step}");
        assert!(opened.data_key_by_id("notes", key.id()).is_ok());
        if added.is_err() && vault.slots().len() == slots.len() {
            assert_eq!(
                home.keychain.len(),
                items,
                "step {step} left a secret behind"
            );
        }
        if let Ok(added) = added {
            vault.remove_slot(added.id).unwrap();
        }
    }
}

#[test]
fn examining_finds_the_slot_that_an_opening_did_not_need() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let code = vault.add_recovery_code().unwrap();
    let failures = |vault: &Vault| -> Vec<_> {
        vault
            .examine()
            .into_iter()
            .map(|(_, opens)| opens.err())
            .collect()
    };
    assert_eq!(failures(&vault), [None, None, Some(SlotFailure::NotTried)]);
    assert!(vault.accepts_recovery_code(&code));
    assert!(!vault.accepts_recovery_code(&RecoveryCode::generate().unwrap()));
    std::fs::remove_dir_all(home.secrets()).unwrap();
    home.keychain.set_mood(Mood::Locked);
    let found = failures(&vault);
    assert_eq!(found[0], Some(SlotFailure::Keychain(KeychainError::Locked)));
    assert!(matches!(found[1], Some(SlotFailure::SecretFile { .. })));
}

#[test]
fn opening_while_slots_are_renewed_always_succeeds() {
    let home = Home::new();
    let vault = home.with_file().create().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut opened = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                home.with_file().open().unwrap();
                opened += 1;
            }
            opened
        });
        for _ in 0..30 {
            vault.rewrap(vault.slots()[0].id).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn marks_are_kept_and_seen_by_others() {
    let home = Home::new();
    let one = home.both().create().unwrap();
    let two = home.both().open().unwrap();
    assert_eq!(one.mark("database").unwrap(), None);
    one.set_mark("database", 7).unwrap();
    assert_eq!(two.mark("database").unwrap(), Some(7));
    two.set_mark("database", 8).unwrap();
    assert_eq!(one.mark("database").unwrap(), Some(8));
}

#[test]
fn names_of_purposes_are_checked() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let long = "x".repeat(129);
    for name in ["", "new\nline", "ü", long.as_str()] {
        assert!(
            matches!(vault.data_key(name), Err(VaultError::Invalid(_))),
            "{name}"
        );
    }
}

#[test]
fn nothing_printed_holds_a_secret() {
    let home = Home::new();
    let code = RecoveryCode::generate().unwrap();
    let text = code.to_text();
    let builder = home
        .both()
        .recovery_code(code)
        .passphrase(passphrase("correct horse battery"));
    let before = format!("{builder:?}");
    let vault = builder.create().unwrap();
    let key = vault.data_key("notes").unwrap();
    let printed = format!("{before} {vault:?} {key:?}");
    let hex: String = key
        .expose_secret()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let list = format!("{:?}", key.expose_secret());
    let file = std::fs::read_dir(home.secrets())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let source = format!("{:?}", &std::fs::read(file).unwrap()[4..]);
    for secret in [
        text.expose_secret(),
        "correct horse",
        &hex,
        &list[1..list.len() - 1],
        &source[1..source.len() - 1],
    ] {
        assert!(!printed.contains(secret));
    }
}

#[test]
fn a_recovery_code_is_never_renewed_behind_its_owners_back() {
    let home = Home::new();
    let vault = home.with_file().create().unwrap();
    let code = vault.add_recovery_code().unwrap();
    let slot = vault.slots()[1].id;
    let error = vault.rewrap(slot).unwrap_err();
    assert!(matches!(error, VaultError::Invalid(_)), "{error}");
    assert!(vault.accepts_recovery_code(&code));
}
