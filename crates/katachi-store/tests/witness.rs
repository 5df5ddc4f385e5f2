//! A vault that was replaced by an older copy of itself, and who notices.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

mod support;

use katachi_store::Vault;
use katachi_store::testing::{MemoryKeychain, Mood, conformance};
use katachi_store::vault::{FileWitness, Freshness, KeychainWitness, VaultError, Witness};
use support::{Home, copy};

/// Creates a vault, keeps a copy, goes on, and puts the copy in its place.
/// Says how far the vault had come.
fn roll_back(home: &Home, witness: impl Fn() -> Box<dyn Witness>) -> u64 {
    let vault = home.both().witness(witness()).create().unwrap();
    assert_eq!(vault.report().freshness, Freshness::Confirmed);
    let removed = vault.add_recovery_code().unwrap();
    drop(removed);
    let backup = tempfile::tempdir().unwrap();
    copy(&home.vault(), &backup.path().join("vault"));
    vault.data_key("notes").unwrap();
    let code = vault.slots()[2].id;
    vault.remove_slot(code).unwrap();
    let reached = vault.generation();
    drop(vault);
    assert_eq!(
        home.both()
            .witness(witness())
            .open()
            .unwrap()
            .report()
            .freshness,
        Freshness::Confirmed
    );
    std::fs::copy(
        backup.path().join("vault/vault"),
        home.vault().join("vault"),
    )
    .unwrap();
    reached
}

fn check(home: &Home, witness: impl Fn() -> Box<dyn Witness>) {
    let reached = roll_back(home, &witness);
    let error = home.both().witness(witness()).open().unwrap_err();
    assert!(
        matches!(error, VaultError::RolledBack { expected, .. } if expected == reached),
        "{error}"
    );
    // Whoever has no witness does not notice.
    assert_eq!(
        home.both().open().unwrap().report().freshness,
        Freshness::Unwitnessed
    );

    let vault = home
        .both()
        .witness(witness())
        .accept_restore()
        .open()
        .unwrap();
    assert_eq!(
        vault.report().freshness,
        Freshness::Restored { expected: reached }
    );
    assert_eq!(vault.generation(), reached + 1);
    drop(vault);
    let vault = home.both().witness(witness()).open().unwrap();
    assert_eq!(vault.report().freshness, Freshness::Confirmed);
}

#[test]
fn every_witness_does_what_a_witness_does() {
    let vaults = [Home::new(), Home::new()];
    let [one, other] = vaults.map(|home| home.both().create().unwrap().id());
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("witness");
    conformance::witness(|| FileWitness::in_directory(&directory), one, other);
    let keychain = MemoryKeychain::new();
    conformance::witness(|| KeychainWitness::new(keychain.clone()), one, other);
}

#[test]
fn a_file_elsewhere_notices() {
    let home = Home::new();
    let place = home.directory.path().join("witness");
    check(&home, || Box::new(FileWitness::in_directory(&place)));
}

#[test]
fn a_keychain_notices() {
    let home = Home::new();
    check(&home, || {
        Box::new(KeychainWitness::new(home.keychain.clone()))
    });
}

#[test]
fn a_witness_that_cannot_be_asked_is_reported_and_stops_nobody() {
    let home = Home::new();
    let witness = || KeychainWitness::new(home.keychain.clone());
    home.both().witness(witness()).create().unwrap();
    home.keychain.set_mood(Mood::Locked);
    let vault = home.both().witness(witness()).open().unwrap();
    assert!(matches!(
        vault.report().freshness,
        Freshness::Unavailable(_)
    ));
    vault.data_key("notes").unwrap();
    drop(vault);
    // It is told what it missed with the next save.
    home.keychain.set_mood(Mood::Working);
    let vault = home.both().witness(witness()).open().unwrap();
    assert_eq!(vault.report().freshness, Freshness::Confirmed);
    vault.data_key("more").unwrap();
    assert_eq!(
        witness().recall(vault.id()).unwrap(),
        Some(vault.generation())
    );
}

#[test]
fn a_witness_of_another_vault_says_nothing() {
    let (one, two) = (Home::new(), Home::new());
    let witness = FileWitness::in_directory(one.directory.path().join("witness"));
    let vault: Vault = one.both().witness(witness.clone()).create().unwrap();
    for number in 0..5 {
        vault.set_mark("number", number).unwrap();
    }
    two.both().witness(witness.clone()).create().unwrap();
    two.both().witness(witness).open().unwrap();
}

#[test]
fn a_destroyed_vault_is_forgotten() {
    let home = Home::new();
    let place = home.directory.path().join("witness");
    let in_file = FileWitness::in_directory(&place);
    let vault = home.both().witness(in_file.clone()).create().unwrap();
    let id = vault.id();
    assert!(in_file.recall(id).unwrap().is_some());
    vault.destroy().unwrap();
    assert_eq!(in_file.recall(id).unwrap(), None);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);

    let in_keychain = KeychainWitness::new(home.keychain.clone());
    let vault = home.both().witness(in_keychain).create().unwrap();
    assert_eq!(home.keychain.len(), 2);
    vault.destroy().unwrap();
    assert_eq!(home.keychain.len(), 0);
}
