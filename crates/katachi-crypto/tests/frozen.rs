//! What was released once reads the same for ever: sealed samples in `testdata/`
//! and values that other data hangs on.

#![cfg(any(feature = "ring", feature = "rustcrypto"))]
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::io::{Cursor, Read};
use std::path::Path;

use katachi_crypto::envelope::{Context, DataKey, Kind, Sealed};
use katachi_crypto::kdf::{self, Label};
use katachi_crypto::keyset::{Keyset, Status};
use katachi_crypto::stream::{OpenAt, OpenReader};
use katachi_crypto::{BlindIndex, Error, KeyEncryptor, KeyId, LocalKeyEncryptor, Secret};

fn sample(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    std::fs::read(folder.join(name)).unwrap()
}

fn key() -> DataKey {
    DataKey::from_parts(KeyId::from_bytes(*b"key id 1"), Secret::new([7; 32]))
}

fn context() -> Context {
    Context::new("test")
        .tenant("acme")
        .table("notes")
        .column("text")
        .row(b"17")
        .version(3)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn opens_every_frozen_value() {
    for (name, kind, plaintext) in [
        ("empty", Kind::Record, vec![]),
        ("short", Kind::Record, b"katachi".to_vec()),
        ("chunks", Kind::Record, vec![0x42; 20_000]),
        ("column", Kind::Column, "pässword".as_bytes().to_vec()),
    ] {
        let sealed = Sealed::parse(&sample(&format!("v1-{name}.ktc"))).unwrap();
        assert_eq!(sealed.kind(), kind, "{name}");
        let opened = key().open(&context(), &sealed).unwrap();
        assert_eq!(opened.expose_secret(), plaintext, "{name}");
    }
}

#[test]
fn the_worked_example_of_the_format_page_is_the_frozen_sample() {
    let page = include_str!("../FORMAT.md").replace(char::is_whitespace, "");
    let sealed = sample("v1-short.ktc");
    for part in [
        &sealed[..16],
        &sealed[16..40],
        &sealed[40..72],
        &sealed[72..],
    ] {
        assert!(page.contains(&hex(part)), "{}", hex(part));
    }
    assert!(page.contains(&hex(context().as_bytes())));
}

#[test]
fn opens_the_frozen_text() {
    let text = String::from_utf8(sample("v1-text.txt")).unwrap();
    let sealed = Sealed::from_text(&text).unwrap();
    let opened = key().open(&context(), &sealed).unwrap();
    assert_eq!(opened.expose_secret(), b"katachi");
}

#[test]
fn opens_the_frozen_stream_from_the_front_and_from_any_place() {
    let sealed = sample("v1-stream.ktc");
    let context = Context::new("backup").path("notes.tar").bytes(200, b"own");
    let mut plaintext = Vec::new();
    OpenReader::new(sealed.as_slice(), &key(), &context)
        .unwrap()
        .read_to_end(&mut plaintext)
        .unwrap();
    assert_eq!(plaintext, [0x53; 32_768]);
    let at = OpenAt::new(Cursor::new(sealed), &key(), &context).unwrap();
    assert_eq!(at.len(), 32_768);
}

#[test]
fn opens_the_frozen_key_set_and_what_it_sealed() {
    let sealed = Sealed::parse(&sample("v1-keyset.ktc")).unwrap();
    let keys = Keyset::from_sealed(&key(), &Context::new("keyset"), &sealed).unwrap();
    let held: Vec<_> = keys
        .keys()
        .map(|key| (key.purpose, key.status, key.primary, key.seals))
        .collect();
    let entry =
        |purpose: &str, status, primary, seals| (purpose.to_owned(), status, primary, seals);
    assert_eq!(
        held,
        [
            entry("notes", Status::Destroyed, false, 0),
            entry("notes", Status::DecryptOnly, false, 0),
            entry("notes", Status::Enabled, true, 1),
            entry("tunnel", Status::Enabled, true, 0),
        ]
    );
    let old = Sealed::parse(&sample("v1-of-keyset.ktc")).unwrap();
    let opened = keys.open(&context(), &old).unwrap();
    assert_eq!(opened.expose_secret(), b"sealed under the key set");
}

#[test]
fn unwraps_the_frozen_key() {
    let kek = LocalKeyEncryptor::new(key());
    let context = Context::new("tenant-key").tenant("acme");
    let unwrapped = kek.unwrap(&sample("v1-wrapped.ktc"), &context).unwrap();
    assert_eq!(unwrapped.id(), KeyId::from_bytes(*b"inner  1"));
    assert_eq!(unwrapped.expose_secret(), &[9; 32]);
    let elsewhere = Context::new("tenant-key").tenant("evil");
    assert_eq!(
        kek.unwrap(&sample("v1-wrapped.ktc"), &elsewhere)
            .unwrap_err(),
        Error::KeyMismatch
    );
}

#[test]
fn derives_as_ever() {
    let label = Label::new("katachi/v1/kek").field(b"field");
    assert_eq!(
        hex(kdf::derive::<32>(&[b"one", b"two"], b"salt", &label).expose_secret()),
        "cd25f20685f3483ae6ac59853e09f47837c9bd93d06180f957f5f58d89656634"
    );
}

#[test]
fn indexes_as_ever() {
    let index = BlindIndex::new(&Secret::new([7; 32]), "accounts", "email");
    let tag = |bits| hex(&index.tag(b"ada@example.org", bits).unwrap());
    assert_eq!(tag(64), "0ea7cafc803abb26");
    assert_eq!(tag(12), "0ea0");
}

#[cfg(feature = "password")]
#[test]
fn stretches_as_ever() {
    use katachi_crypto::password::{Params, stretch};
    let stretched = stretch(b"correct horse", &[5; 16], &Params::FLOOR).unwrap();
    assert_eq!(
        hex(stretched.expose_secret()),
        "aeb7724ee8e2ba77dcbc553967ccb7780b4bfa2c2b9e2f881c05b63b90cd7f36"
    );
    assert_eq!(hex(&Params::VAULT.to_bytes()), "000100000000000300000001");
}
