//! The process that is looked into.

use std::io::{BufRead, Read, Write};
use std::num::NonZeroUsize;

use katachi_crypto::envelope::{Context, DataKey, Kind};
use katachi_crypto::kdf::{self, Label};
use katachi_crypto::keyset::Keyset;
use katachi_crypto::mac::HmacKey;
use katachi_crypto::stream::{OpenReader, SealWriter};
use katachi_crypto::{KeyId, Secret, SecretBytes, SecretString};

/// Starts the argument that names the work to do.
pub(crate) const ARGUMENT: &str = "--look-into=";

/// Something no key is made of, and that no other text here contains.
pub(crate) fn key() -> Secret<32> {
    kdf::derive(&[b"seed of the test"], b"", &Label::new("wiping/key"))
}

pub(crate) fn plaintext() -> Secret<4_000> {
    kdf::derive(&[b"seed of the test"], b"", &Label::new("wiping/plaintext"))
}

pub(crate) fn context() -> Context {
    Context::new("wiping")
}

/// Does the work called `work`, stopping for a look while it holds its keys and
/// once they are gone.
pub(crate) fn run(work: &str) {
    match work {
        "envelope" => envelope(),
        #[cfg(target_os = "linux")]
        "hardened" => hardened(),
        "stream" => stream(),
        "threads" => threads(),
        "stream-threads" => stream_threads(),
        "keyset" => keyset(),
        "mac" => mac(),
        "secrets" => secrets(),
        "unwiped" => unwiped(),
        #[cfg(feature = "ring")]
        "bare-ring" => bare_ring(),
        #[cfg(feature = "password")]
        "password" => password(),
        other => panic!("no work is called {other}"),
    }
    pause("dropped", &[]);
}

/// Tells the other side where we are, and waits until it has looked.
fn pause(place: &str, envelope: &[u8]) {
    let mut line = format!("{place} ");
    envelope
        .iter()
        .for_each(|byte| line.push_str(&format!("{byte:02x}")));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").expect("the parent reads");
    out.flush().expect("the parent reads");
    std::io::stdin()
        .lock()
        .read_line(&mut String::new())
        .expect("the parent answers");
}

fn data_key() -> DataKey {
    DataKey::from_parts(KeyId::from_bytes([1; 8]), key())
}

#[inline(never)]
fn envelope() {
    let (key, value) = (data_key(), plaintext());
    let sealed = key
        .seal(Kind::Record, &context(), value.expose_secret())
        .expect("it is short");
    drop(value);
    let opened = key.open(&context(), &sealed).expect("it was sealed so");
    let in_place = key
        .open_in_place(&context(), sealed.clone())
        .expect("it was sealed so");
    assert_eq!(opened, in_place);
    drop(in_place);
    let back_and_forth = key
        .seal_in_place(Kind::Record, &context(), opened)
        .expect("it is short");
    assert_eq!(back_and_forth.as_bytes().len(), sealed.as_bytes().len());
    let opened = key.open(&context(), &sealed).expect("it was sealed so");
    let mut spoilt = sealed.as_bytes().to_vec();
    *spoilt.last_mut().expect("it is not empty") ^= 1;
    let mut buffer = SecretBytes::default();
    key.open_into(&context(), &spoilt, &mut buffer)
        .expect_err("it was changed");
    pause("held", sealed.as_bytes());
    drop(opened);
}

/// The same in the pages for keys, which are kept, and used again.
#[inline(never)]
fn hardened() {
    let got = katachi_crypto::harden();
    assert!(got.excluded_pages, "the system has no such pages");
    envelope();
}

/// Seals and opens ten chunks on two threads, whose stacks outlive them.
#[inline(never)]
fn threads() {
    let key = data_key();
    let piece = plaintext();
    let value = SecretBytes::new(piece.expose_secret().repeat(41));
    let parallel = key.parallel(NonZeroUsize::new(2).expect("it is not zero"));
    let (mut envelope, mut opened) = (Vec::new(), SecretBytes::default());
    parallel
        .seal_into(
            Kind::Record,
            &context(),
            value.expose_secret(),
            &mut envelope,
        )
        .expect("it is short");
    parallel
        .open_into(&context(), &envelope, &mut opened)
        .expect("it was sealed so");
    assert_eq!(opened, value);
    pause("held", &envelope[..200]);
}

#[inline(never)]
fn stream() {
    let key = data_key();
    let mut sealed = Vec::new();
    let mut writer = SealWriter::new(&mut sealed, &key, &context()).expect("a vector takes all");
    let value = plaintext();
    (0..10).for_each(|_| {
        writer
            .write_all(value.expose_secret())
            .expect("a vector takes all");
    });
    writer.finish().expect("a vector takes all");
    let mut reader = OpenReader::new(sealed.as_slice(), &key, &context()).expect("it was sealed");
    let mut some = Secret::<4_000>::new([0; 4_000]);
    drop(value);
    // Given up half way.
    let mut piece = [0; 100];
    reader.read_exact(&mut piece).expect("it was sealed");
    assert_ne!(piece, some.expose_secret()[..100]);
    zeroize::Zeroize::zeroize(&mut piece);
    some = plaintext();
    pause("held", &sealed[..200]);
    drop(some);
}

/// The same on two threads, whose stacks outlive them, and given up half way.
#[inline(never)]
fn stream_threads() {
    let key = data_key();
    let parallel = key.parallel(NonZeroUsize::new(2).expect("it is not zero"));
    let mut sealed = Vec::new();
    let mut writer = parallel
        .seal_writer(&mut sealed, &context())
        .expect("there are threads");
    let value = plaintext();
    (0..400).for_each(|_| {
        writer
            .write_all(value.expose_secret())
            .expect("a vector takes all");
    });
    writer.finish().expect("a vector takes all");
    drop(value);
    let mut reader = parallel
        .open_reader(sealed.as_slice(), &context())
        .expect("it was sealed");
    let mut piece = zeroize::Zeroizing::new([0; 4_000]);
    reader.read_exact(&mut *piece).expect("it was sealed");
    pause("held", &sealed[..200]);
}

#[inline(never)]
fn keyset() {
    let (outer, context) = (data_key(), context());
    let mut keys = Keyset::new();
    keys.rotate("a").expect("there is randomness");
    let sealed = keys.to_sealed(&outer, &context).expect("it is short");
    let again = Keyset::from_sealed(&outer, &context, &sealed).expect("it was sealed so");
    assert!(keys.keys().eq(again.keys()));
    pause("held", sealed.as_bytes());
}

#[inline(never)]
fn mac() {
    let secret = key();
    let key = HmacKey::new(&secret);
    let tag = key.sign(b"message");
    key.verify(b"message", tag.as_bytes()).expect("it is right");
    let mut pieces = key.start();
    pieces.update(b"mess").update(b"age");
    pieces.verify(tag.as_bytes()).expect("it is right");
    pause("held", &[]);
}

#[inline(never)]
fn secrets() {
    let secret = key();
    let copy = SecretBytes::new(secret.expose_secret().to_vec());
    let hex: String =
        secret
            .expose_secret()
            .iter()
            .fold(String::with_capacity(64), |mut text, byte| {
                for digit in [byte >> 4, byte & 15] {
                    text.push(char::from_digit(digit.into(), 16).expect("it is a digit"));
                }
                text
            });
    let text = SecretString::new(hex);
    assert_eq!(copy.len() * 2, text.expose_secret().len());
    pause("held", &[]);
}

/// A key and a plaintext in memory that nobody wipes.
#[inline(never)]
fn unwiped() {
    let copies = [
        key().expose_secret().to_vec(),
        plaintext().expose_secret().to_vec(),
    ];
    pause("held", &[]);
    drop(copies);
}

/// What ring leaves behind when nobody wipes after it.
#[cfg(feature = "ring")]
#[inline(never)]
fn bare_ring() {
    use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let secret = key();
    let bare = UnboundKey::new(&AES_256_GCM, secret.expose_secret()).expect("it is 32 bytes");
    let bare = Box::new(LessSafeKey::new(bare));
    let mut text = [0; 64];
    let tag = bare
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key([0; 12]),
            Aad::empty(),
            &mut text,
        )
        .expect("it is short");
    pause("held", tag.as_ref());
    drop(bare);
}

#[cfg(feature = "password")]
#[inline(never)]
fn password() {
    use katachi_crypto::password::{Params, stretch};
    let stretched = stretch(key().expose_secret(), &[1; 16], &Params::FLOOR).expect("it is short");
    let shown = kdf::derive::<8>(&[stretched.expose_secret()], b"", &Label::new("shown"));
    pause("held", shown.expose_secret());
}
