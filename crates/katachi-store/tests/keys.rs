//! What is kept under a vault: sealed files, credentials, sealed columns.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

mod support;

use std::os::unix::fs::MetadataExt as _;

use katachi_crypto::LocalKeyEncryptor;
use katachi_crypto::envelope::DataKey;
use katachi_store::SecretString;
use katachi_store::column::{Cell, ColumnError, TenantKeys};
use katachi_store::credentials::{CredentialError, Credentials, Name};
use katachi_store::file::{SealedFile, SealedFileError};
use katachi_store::vault::{KeyStatus, VaultError};
use support::{Home, copy};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn value(text: &str) -> SecretString {
    SecretString::new(text.to_owned())
}

#[test]
fn a_sealed_file_reads_what_was_written_last() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let file = SealedFile::at(home.directory.path().join("data/tunnel.json")).unwrap();
    assert!(!file.exists().unwrap());
    assert!(matches!(
        file.read(&vault).unwrap_err(),
        SealedFileError::File(_)
    ));
    for content in [&b"{\"TunnelSecret\":\"hunter2\"}"[..], b"", &[7; 100_000]] {
        file.write(&vault, content).unwrap();
        assert_eq!(file.read(&vault).unwrap().expose_secret(), content);
    }
    assert_eq!(file.path().metadata().unwrap().mode() & 0o7777, 0o600);
    file.remove().unwrap();
    file.remove().unwrap();
    assert!(!file.exists().unwrap());
    let long = vec![0; SealedFile::MAX_LEN + 1];
    assert!(matches!(
        file.write(&vault, &long).unwrap_err(),
        SealedFileError::TooLong
    ));
}

#[test]
fn a_sealed_file_is_nothing_to_another_vault_or_under_another_name() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let file = SealedFile::at(home.directory.path().join("tunnel")).unwrap();
    file.write(&vault, b"content").unwrap();
    let elsewhere = Home::new();
    let other = elsewhere.both().create().unwrap();
    let error = file.read(&other).unwrap_err();
    assert!(
        matches!(error, SealedFileError::Key(VaultError::NoSuchKey { .. })),
        "{error}"
    );

    let swapped = home.directory.path().join("another");
    std::fs::copy(file.path(), &swapped).unwrap();
    let swapped = SealedFile::at(&swapped).unwrap();
    assert!(matches!(
        swapped.read(&vault).unwrap_err(),
        SealedFileError::Damaged
    ));
    assert_eq!(
        swapped
            .named("tunnel")
            .unwrap()
            .read(&vault)
            .unwrap()
            .expose_secret(),
        b"content"
    );
}

#[test]
fn a_sealed_file_shows_nothing_and_notices_every_changed_byte() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let file = SealedFile::at(home.directory.path().join("tunnel")).unwrap();
    file.write(&vault, b"a very secret content").unwrap();
    let good = std::fs::read(file.path()).unwrap();
    assert!(!good.windows(6).any(|window| window == b"secret"));
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 1;
        std::fs::write(file.path(), &bad).unwrap();
        assert!(file.read(&vault).is_err(), "byte {place}");
    }
}

#[test]
fn a_sealed_file_does_not_take_the_place_of_the_vault() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    for name in ["vault", "Vault", "credentials", ".vault.lock"] {
        let file = SealedFile::at(home.vault().join(name)).unwrap();
        let error = file.write(&vault, b"content").unwrap_err();
        assert!(matches!(error, SealedFileError::Reserved { .. }), "{error}");
    }
    SealedFile::at(home.vault().join("tunnel"))
        .unwrap()
        .write(&vault, b"content")
        .unwrap();
    drop(vault);
    home.both().open().unwrap();
}

#[test]
fn credentials_are_kept_listed_replaced_and_removed() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let credentials = Credentials::open(&vault).unwrap();
    assert!(credentials.list().unwrap().is_empty());
    let (openai, github) = (name("openai/api-key"), name("github.com/token"));
    assert!(matches!(
        credentials.get(&openai).unwrap_err(),
        CredentialError::NotFound(_)
    ));
    credentials.set(&openai, &value("sk-one")).unwrap();
    credentials.set(&github, &value("ghp")).unwrap();
    credentials.set(&openai, &value("sk-two")).unwrap();
    drop(vault);

    let vault = home.both().open().unwrap();
    let credentials = Credentials::open(&vault).unwrap();
    assert_eq!(credentials.get(&openai).unwrap().expose_secret(), "sk-two");
    let names: Vec<_> = credentials
        .list()
        .unwrap()
        .into_iter()
        .map(|info| info.name)
        .collect();
    assert_eq!(names, [github.clone(), openai.clone()]);
    credentials.remove(&openai).unwrap();
    assert!(matches!(
        credentials.remove(&openai).unwrap_err(),
        CredentialError::NotFound(_)
    ));
    assert_eq!(credentials.list().unwrap().len(), 1);
}

#[test]
fn credentials_outlive_a_rotation_and_their_old_copies_do_not() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let credentials = Credentials::open(&vault).unwrap();
    credentials.set(&name("key"), &value("sk")).unwrap();
    let old = std::fs::read(home.vault().join("credentials")).unwrap();
    credentials.rotate().unwrap();
    credentials.rotate().unwrap();
    assert_eq!(credentials.get(&name("key")).unwrap().expose_secret(), "sk");
    let keys = vault.data_keys("katachi.credentials");
    let statuses: Vec<_> = keys.into_iter().map(|key| key.status).collect();
    assert_eq!(
        statuses,
        [
            KeyStatus::Destroyed,
            KeyStatus::Destroyed,
            KeyStatus::Enabled
        ]
    );
    std::fs::write(home.vault().join("credentials"), old).unwrap();
    let error = credentials.get(&name("key")).unwrap_err();
    assert!(
        matches!(
            error,
            CredentialError::Vault(VaultError::KeyDestroyed { .. })
        ),
        "{error}"
    );
}

#[test]
fn a_writer_with_a_stale_vault_does_not_seal_with_a_destroyed_key() {
    let home = Home::new();
    let (one, two) = (home.both().create().unwrap(), home.both().open().unwrap());
    let (one, two) = (
        Credentials::open(&one).unwrap(),
        Credentials::open(&two).unwrap(),
    );
    one.set(&name("a"), &value("1")).unwrap();
    two.set(&name("b"), &value("2")).unwrap();
    one.rotate().unwrap();
    two.set(&name("c"), &value("3")).unwrap();
    for credentials in [&one, &two] {
        assert_eq!(credentials.list().unwrap().len(), 3);
        assert_eq!(credentials.get(&name("a")).unwrap().expose_secret(), "1");
    }
}

#[test]
fn credentials_of_a_stolen_home_open_nowhere_else() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    Credentials::open(&vault)
        .unwrap()
        .set(&name("key"), &value("sk-very-secret"))
        .unwrap();
    for file in ["vault", "credentials"] {
        let bytes = std::fs::read(home.vault().join(file)).unwrap();
        assert!(
            !bytes.windows(6).any(|window| window == b"secret"),
            "{file}"
        );
        assert!(
            !bytes.windows(3).any(|window| window == b"key"),
            "{file} shows a name"
        );
    }
    // Put beside a vault of the thief's own, they are refused.
    let thief = Home::new();
    let own = thief.both().create().unwrap();
    std::fs::copy(
        home.vault().join("credentials"),
        thief.vault().join("credentials"),
    )
    .unwrap();
    assert!(Credentials::open(&own).is_err());
    let copied = Home::new();
    copy(&home.vault(), &copied.vault());
    assert!(copied.both().open().is_err());
}

#[test]
fn credentials_have_limits() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let credentials = Credentials::open(&vault).unwrap();
    let largest = "x".repeat(Credentials::MAX_VALUE);
    credentials.set(&name("largest"), &value(&largest)).unwrap();
    assert_eq!(
        credentials.get(&name("largest")).unwrap().expose_secret(),
        largest
    );
    for wrong in [String::new(), format!("{largest}x")] {
        let error = credentials.set(&name("wrong"), &value(&wrong)).unwrap_err();
        assert!(matches!(error, CredentialError::ValueLength), "{error}");
    }
}

#[test]
fn credential_names_have_one_spelling() {
    for good in [
        "a",
        "0",
        "openai/api-key",
        "github.com/token_2",
        "a/b/c",
        &"x".repeat(64),
    ] {
        assert_eq!(Name::parse(good).unwrap().to_string(), good);
    }
    for bad in [
        "",
        "A",
        "/a",
        "a/",
        "a//b",
        ".a",
        "-a",
        "_a",
        "a b",
        "a\n",
        "ä",
        "a=b",
        "../a",
        "a/../b",
        "a/.b",
        "a\0",
        &"x".repeat(65),
    ] {
        assert!(Name::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_cell_opens_in_its_own_place_only() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let tenants = TenantKeys::from_vault(&vault, "accounts").unwrap();
    let (acme_key, umbrella_key) = (
        tenants.generate("acme").unwrap(),
        tenants.generate("umbrella").unwrap(),
    );
    let acme = tenants.open("acme", &acme_key).unwrap();
    let umbrella = tenants.open("umbrella", &umbrella_key).unwrap();
    let cell = Cell {
        table: "users",
        column: "email",
        row: b"42",
        version: 1,
    };
    let sealed = acme.seal(&cell, b"ann@example.com").unwrap();
    assert_eq!(
        acme.open(&cell, &sealed).unwrap().expose_secret(),
        b"ann@example.com"
    );
    assert_eq!(sealed[8..16], *acme.key_id().as_bytes());

    for elsewhere in [
        Cell {
            table: "admins",
            ..cell
        },
        Cell {
            column: "name",
            ..cell
        },
        Cell { row: b"43", ..cell },
        Cell { version: 2, ..cell },
        Cell {
            table: "user",
            column: "semail",
            ..cell
        },
    ] {
        assert!(
            matches!(acme.open(&elsewhere, &sealed), Err(ColumnError::Refused)),
            "{elsewhere:?}"
        );
    }
    assert!(matches!(
        umbrella.open(&cell, &sealed),
        Err(ColumnError::UnknownKey { id }) if id == acme.key_id()
    ));
    assert!(matches!(
        tenants.open("umbrella", &acme_key),
        Err(ColumnError::Refused)
    ));
    for place in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[place] ^= 1;
        assert!(acme.open(&cell, &bad).is_err(), "byte {place}");
    }
    // An empty value is a value, unlike NULL.
    let empty = acme.seal(&cell, b"").unwrap();
    assert!(acme.open(&cell, &empty).unwrap().is_empty());
    assert!(acme.open(&cell, b"").is_err());
}

#[test]
fn rewrapping_a_tenant_key_leaves_its_data_alone() {
    let home = Home::new();
    let vault = home.both().create().unwrap();
    let tenants = TenantKeys::from_vault(&vault, "accounts").unwrap();
    let wrapped = tenants.generate("acme").unwrap();
    let cell = Cell {
        table: "t",
        column: "c",
        row: b"1",
        version: 1,
    };
    let cipher = tenants.open("acme", &wrapped).unwrap();
    let sealed = cipher.seal(&cell, b"value").unwrap();
    let tag = cipher.index("t", "c").tag(b"value", 64);

    let old = vault.data_key(tenants.purpose()).unwrap().id();
    vault.rotate(tenants.purpose()).unwrap();
    let rewrapped = tenants.rewrap("acme", &wrapped).unwrap();
    vault.destroy_data_key(tenants.purpose(), old).unwrap();
    assert!(tenants.open("acme", &wrapped).is_err());
    let cipher = tenants.open("acme", &rewrapped).unwrap();
    assert_eq!(
        cipher.open(&cell, &sealed).unwrap().expose_secret(),
        b"value"
    );
    assert_eq!(cipher.index("t", "c").tag(b"value", 64), tag);
    assert_ne!(cipher.index("t", "d").tag(b"value", 64), tag);
}

#[test]
fn the_newest_key_seals_and_all_of_them_open() {
    let tenants = TenantKeys::new(LocalKeyEncryptor::new(DataKey::generate().unwrap()));
    let (old, new) = (
        tenants.generate("acme").unwrap(),
        tenants.generate("acme").unwrap(),
    );
    let cell = Cell {
        table: "t",
        column: "c",
        row: b"1",
        version: 1,
    };
    let before = tenants.open("acme", &old).unwrap();
    let sealed = before.seal(&cell, b"value").unwrap();

    let both = tenants.open_all("acme", [&new[..], &old]).unwrap();
    assert_eq!(both.open(&cell, &sealed).unwrap().expose_secret(), b"value");
    let again = both.seal(&cell, b"value").unwrap();
    assert_eq!(again[8..16], *both.key_id().as_bytes());
    assert_ne!(again[8..16], sealed[8..16]);
    assert!(matches!(
        before.open(&cell, &again),
        Err(ColumnError::UnknownKey { id }) if id == both.key_id()
    ));

    // A search during the rotation finds rows of either key.
    let tags = both.tags("t", "c", b"value", 64).unwrap();
    assert_eq!(tags.len(), 2);
    for cipher in [&before, &both] {
        let tag = cipher.index("t", "c").tag(b"value", 64).unwrap();
        assert!(tags.contains(&tag));
    }
    assert!(matches!(
        tenants.open_all("acme", []),
        Err(ColumnError::Refused)
    ));
    assert!(matches!(
        tenants.open("umbrella", &old),
        Err(ColumnError::Encryptor(_))
    ));
}
