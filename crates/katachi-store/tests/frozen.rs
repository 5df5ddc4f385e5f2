//! Vaults written by released versions, which every later version opens.
//!
//! A format change adds a directory to `testdata/`; none is ever changed.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use katachi_store::binding::Unbound;
use katachi_store::credentials::{Credentials, Name};
use katachi_store::file::SealedFile;
use katachi_store::vault::{Builder, KeyStatus, RecoveryCode, SlotKind};
use katachi_store::{SecretString, Vault};
use support::copy;

const PASSPHRASE: &str = "correct horse battery staple";
const USER: &str = "frozen";

fn passphrase() -> SecretString {
    SecretString::new(PASSPHRASE.to_owned())
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// Copies a sample to where it may be opened.
fn thaw(version: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for directory in ["vault", "secrets", "files"] {
        let place = home.path().join(directory);
        copy(&testdata().join(version).join(directory), &place);
        for file in std::fs::read_dir(place).unwrap() {
            std::fs::set_permissions(file.unwrap().path(), std::fs::Permissions::from_mode(0o600))
                .unwrap();
        }
    }
    home
}

fn builder(home: &Path) -> Builder {
    Vault::builder(home.join("vault")).user(USER)
}

fn with_file_slot(home: &Path) -> Builder {
    builder(home)
        .binding(Unbound)
        .file_slot(home.join("secrets"))
}

#[test]
fn opens_the_vault_of_version_1_with_each_of_its_slots() {
    let home = thaw("vault-v1");
    let home = home.path();
    let code = std::fs::read_to_string(testdata().join("vault-v1/recovery-code")).unwrap();
    let derived = std::fs::read_to_string(testdata().join("vault-v1/derived.hex")).unwrap();
    for (kind, builder) in [
        (SlotKind::File, with_file_slot(home)),
        (
            SlotKind::RecoveryCode,
            builder(home).recovery_code(RecoveryCode::parse(&code).unwrap()),
        ),
        (SlotKind::Passphrase, builder(home).passphrase(passphrase())),
    ] {
        let vault = builder.open().unwrap();
        assert_eq!(vault.report().slot.kind, kind);
        let hex: String = vault
            .derive::<32>("frozen")
            .expose_secret()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, derived.trim());
        let credentials = Credentials::open(&vault).unwrap();
        let value = credentials
            .get(&Name::parse("openai/api-key").unwrap())
            .unwrap();
        assert_eq!(value.expose_secret(), "sk-frozen");
        let tunnel = SealedFile::at(home.join("files/tunnel")).unwrap();
        assert_eq!(
            tunnel.read(&vault).unwrap().expose_secret(),
            b"frozen tunnel"
        );
        let statuses: Vec<_> = vault
            .data_keys("rotated")
            .into_iter()
            .map(|key| key.status)
            .collect();
        assert_eq!(
            statuses,
            [
                KeyStatus::Destroyed,
                KeyStatus::OpenOnly,
                KeyStatus::Enabled
            ]
        );
        assert_eq!(vault.mark("generation").unwrap(), Some(7));
    }
    // And it can be changed and opened again.
    let vault = with_file_slot(home).open().unwrap();
    vault.rotate("rotated").unwrap();
    drop(vault);
    with_file_slot(home).open().unwrap();
}

/// Keeps, where `KATACHI_SAMPLE` names a directory, what to freeze for a new
/// version of the format.
#[test]
fn a_sample_can_be_made_anew() {
    let temporary = tempfile::tempdir().unwrap();
    let home = match std::env::var_os("KATACHI_SAMPLE") {
        Some(directory) => std::path::PathBuf::from(directory),
        None => temporary.path().to_owned(),
    };
    let vault = with_file_slot(&home)
        .passphrase(passphrase())
        .create()
        .unwrap();
    let code = vault.add_recovery_code().unwrap();
    let first = vault.data_key("rotated").unwrap();
    vault.rotate("rotated").unwrap();
    vault.rotate("rotated").unwrap();
    vault.destroy_data_key("rotated", first.id()).unwrap();
    vault.set_mark("generation", 7).unwrap();
    let value = SecretString::new("sk-frozen".to_owned());
    Credentials::open(&vault)
        .unwrap()
        .set(&Name::parse("openai/api-key").unwrap(), &value)
        .unwrap();
    SealedFile::at(home.join("files/tunnel"))
        .unwrap()
        .write(&vault, b"frozen tunnel")
        .unwrap();
    let derived = vault.derive::<32>("frozen");
    let hex: String = derived
        .expose_secret()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    std::fs::write(home.join("derived.hex"), hex + "\n").unwrap();
    std::fs::write(
        home.join("recovery-code"),
        code.to_text().expose_secret().to_owned() + "\n",
    )
    .unwrap();
    drop(vault);
    let again = with_file_slot(&home).open().unwrap();
    assert_eq!(again.derive::<32>("frozen"), derived);
}
