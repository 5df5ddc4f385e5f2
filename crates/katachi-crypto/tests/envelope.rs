//! What an envelope promises: it opens where it was sealed for, and nowhere else.

#![cfg(any(feature = "ring", feature = "rustcrypto"))]
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::num::NonZeroUsize;

use katachi_crypto::envelope::{Context, DataKey, Kind, MAX_PLAINTEXT, Sealed};
use katachi_crypto::{Error, KeyId, Secret, SecretBytes};
use proptest::prelude::*;

/// Where the message of C2SP chunked encryption starts.
const MESSAGE: usize = 16;
/// Where the first chunk starts.
const CHUNKS: usize = 72;
/// Length of a full sealed chunk.
const SEALED_CHUNK: usize = 16 * 1024 + 16;

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

fn seal(plaintext: &[u8]) -> Vec<u8> {
    key()
        .seal(Kind::Record, &context(), plaintext)
        .unwrap()
        .into_bytes()
}

/// Opens in all three ways, which have to agree.
fn open(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut reused = SecretBytes::new(vec![0xee; 100]);
    let into = key().open_into(&context(), bytes, &mut reused);
    let opened = Sealed::parse(bytes).and_then(|sealed| {
        let opened = key().open(&context(), &sealed);
        assert_eq!(opened, key().open_in_place(&context(), sealed));
        opened
    });
    match &opened {
        Ok(plaintext) => assert_eq!(plaintext, &reused),
        Err(error) => {
            assert_eq!(into, Err(error.clone()));
            assert!(reused.is_empty());
        }
    }
    Ok(opened?.expose_secret().to_vec())
}

/// The context of the message inside an envelope, as the format describes it.
fn foreign_context(envelope: &[u8]) -> Vec<u8> {
    [b"katachi.v1", &envelope[..MESSAGE], context().as_bytes()].concat()
}

#[test]
fn opens_what_it_sealed_at_every_edge_of_a_chunk() {
    for length in [0, 1, 64, 16_383, 16_384, 16_385, 32_768, 40_000] {
        let plaintext: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let sealed = seal(&plaintext);
        assert_eq!(sealed.len(), CHUNKS + length + 16 * (length / 16_384 + 1));
        assert_eq!(open(&sealed).unwrap(), plaintext);
    }
}

#[test]
fn a_reused_buffer_holds_just_the_last_value() {
    let (mut envelope, mut plaintext) = (vec![0xee; 7], SecretBytes::default());
    for length in [40_000, 0, 16_384, 5, 40_001] {
        let value = vec![length as u8; length];
        key()
            .seal_into(Kind::Record, &context(), &value, &mut envelope)
            .unwrap();
        assert_eq!(open(&envelope).unwrap(), value);
        key()
            .open_into(&context(), &envelope, &mut plaintext)
            .unwrap();
        assert_eq!(plaintext.expose_secret(), value);
    }
}

#[test]
fn threads_make_no_difference() {
    let (mut envelope, mut plaintext) = (Vec::new(), SecretBytes::default());
    for length in [0, 1, 16_384, 32_768, 100_000, 131_072] {
        let value: Vec<u8> = (0..length).map(|at| (at / 7) as u8).collect();
        for threads in [1, 2, 3, 8, 100].map(|threads| NonZeroUsize::new(threads).unwrap()) {
            let key = key();
            let parallel = key.parallel(threads);
            parallel
                .seal_into(Kind::Record, &context(), &value, &mut envelope)
                .unwrap();
            assert_eq!(open(&envelope).unwrap(), value);
            parallel
                .open_into(&context(), &envelope, &mut plaintext)
                .unwrap();
            assert_eq!(plaintext.expose_secret(), value);
            for place in (CHUNKS..envelope.len()).step_by(9_973) {
                envelope[place] ^= 1;
                let opened = parallel.open_into(&context(), &envelope, &mut plaintext);
                assert_eq!(opened, Err(Error::Tampered));
                assert!(plaintext.is_empty());
                envelope[place] ^= 1;
            }
            envelope.pop();
            assert!(
                parallel
                    .open_into(&context(), &envelope, &mut plaintext)
                    .is_err()
            );
        }
    }
}

#[test]
fn seals_in_place_with_and_without_room() {
    for length in [0, 1, 16_383, 16_384, 16_385, 32_768, 50_000] {
        let value: Vec<u8> = (0..length).map(|at| (at / 5) as u8).collect();
        let mut roomy = Vec::with_capacity(length + 200);
        roomy.extend_from_slice(&value);
        let memory = roomy.as_ptr();
        for (plaintext, stays) in [(value.clone(), false), (roomy, true)] {
            let sealed = key()
                .seal_in_place(Kind::Record, &context(), SecretBytes::new(plaintext))
                .unwrap();
            assert_eq!(open(sealed.as_bytes()).unwrap(), value);
            assert_eq!(sealed.as_bytes().as_ptr() == memory, stays);
        }
        let mut again = SecretBytes::new(value.clone());
        for _ in 0..3 {
            let sealed = key()
                .seal_in_place(Kind::Record, &context(), again)
                .unwrap();
            again = key().open_in_place(&context(), sealed).unwrap();
            assert_eq!(again.expose_secret(), value);
        }
    }
}

#[test]
fn is_a_message_that_another_implementation_opens() {
    let theirs = cobblestone::Key256::from_bytes(key().expose_secret());
    for length in [0, 1, 16_383, 16_384, 16_385, 50_000] {
        let plaintext = vec![0x5a; length];
        let sealed = seal(&plaintext);
        let opened = cobblestone::decrypt(&theirs, &foreign_context(&sealed), &sealed[MESSAGE..]);
        assert_eq!(opened.unwrap(), plaintext);
    }
}

#[test]
fn opens_a_message_that_another_implementation_sealed() {
    let theirs = cobblestone::Key256::from_bytes(key().expose_secret());
    let header = &seal(b"")[..MESSAGE];
    for length in [0, 1, 16_383, 16_384, 16_385, 50_000] {
        let plaintext = vec![0xa5; length];
        let message = cobblestone::encrypt(&theirs, &foreign_context(header), &plaintext).unwrap();
        assert_eq!(open(&[header, &message].concat()).unwrap(), plaintext);
    }
}

#[test]
fn refuses_every_flipped_bit() {
    let sealed = seal(b"sixteen bytes ok");
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let error = open(&changed).unwrap_err();
        assert!(error.is_refusal(), "bit {bit}: {error}");
        if bit / 8 >= CHUNKS {
            assert_eq!(error, Error::Tampered, "bit {bit}");
        }
    }
}

#[test]
fn refuses_every_truncation_and_extension() {
    let sealed = seal(b"sixteen bytes ok");
    for length in 0..sealed.len() {
        assert!(open(&sealed[..length]).is_err(), "cut to {length}");
    }
    for extra in 1..64 {
        let mut longer = sealed.clone();
        longer.resize(sealed.len() + extra, 0);
        assert!(open(&longer).is_err(), "{extra} more");
    }
}

#[test]
fn refuses_dropped_swapped_doubled_and_spliced_chunks() {
    let plaintext = vec![1; 3 * 16_384 + 5];
    let sealed = seal(&plaintext);
    let other = seal(&plaintext);
    let chunk = |bytes: &[u8], number: usize| {
        let start = CHUNKS + number * SEALED_CHUNK;
        bytes[start..bytes.len().min(start + SEALED_CHUNK)].to_vec()
    };
    let assemble = |chunks: &[Vec<u8>]| [&sealed[..CHUNKS], &chunks.concat()].concat();
    let [a, b, c, d] = [0, 1, 2, 3].map(|number| chunk(&sealed, number));
    assert_eq!(
        open(&assemble(&[a.clone(), b.clone(), c.clone(), d.clone()])).unwrap(),
        plaintext
    );
    let wrong = [
        vec![a.clone(), c.clone(), d.clone()],
        vec![b.clone(), a.clone(), c.clone(), d.clone()],
        vec![a.clone(), a.clone(), b.clone(), c.clone(), d.clone()],
        vec![a.clone(), chunk(&other, 1), c.clone(), d.clone()],
        vec![a.clone(), b.clone(), d.clone()],
        vec![a, b, c],
        vec![d],
    ];
    for chunks in wrong {
        assert!(open(&assemble(&chunks)).is_err());
    }
}

#[test]
fn refuses_another_context_in_any_field() {
    let sealed = key().seal(Kind::Column, &context(), b"text").unwrap();
    let base = || {
        Context::new("test")
            .tenant("acme")
            .table("notes")
            .column("text")
    };
    let others = [
        Context::new("tesT")
            .tenant("acme")
            .table("notes")
            .column("text")
            .row(b"17")
            .version(3),
        Context::new("test")
            .tenant("acm")
            .table("notes")
            .column("text")
            .row(b"17")
            .version(3),
        Context::new("test")
            .tenant("acme")
            .table("note")
            .column("text")
            .row(b"17")
            .version(3),
        base().row(b"18").version(3),
        base().row(b"17").version(4),
        base().row(b"17"),
        base().version(3).row(b"17"),
        context().path(""),
        context().bytes(0, b""),
    ];
    for other in others {
        assert_eq!(key().open(&other, &sealed).unwrap_err(), Error::KeyMismatch);
    }
}

#[test]
fn refuses_a_change_in_each_field_and_the_lack_of_each() {
    /// The context with field number `field` as given, or without it.
    fn with(field: usize, given: Option<&str>) -> Context {
        let plain = ["purpose", "acme", "notes", "text", "17", "3", "a/b", "own"];
        let value = |at: usize| match at == field {
            true => given,
            false => Some(plain[at]),
        };
        let mut context = Context::new(value(0).unwrap_or_default());
        for at in 1..plain.len() {
            let Some(value) = value(at) else { continue };
            context = match at {
                1 => context.tenant(value),
                2 => context.table(value),
                3 => context.column(value),
                4 => context.row(value.as_bytes()),
                5 => context.version(value.len() as u64),
                6 => context.path(value),
                _ => context.bytes(9, value.as_bytes()),
            };
        }
        context
    }
    let sealed = key().seal(Kind::Record, &with(99, None), b"text").unwrap();
    assert!(key().open(&with(99, None), &sealed).is_ok());
    for field in 0..8 {
        for given in [None, Some(""), Some("purposE"), Some("acme."), Some("17 ")] {
            let other = with(field, given);
            assert_eq!(
                key().open(&other, &sealed).unwrap_err(),
                Error::KeyMismatch,
                "field {field} as {given:?}"
            );
        }
    }
    let renamed = with(7, None).bytes(8, b"own");
    assert!(key().open(&renamed, &sealed).is_err());
}

#[test]
fn refuses_another_key_and_another_name_for_it() {
    let sealed = key().seal(Kind::Record, &context(), b"text").unwrap();
    let same_name = DataKey::from_parts(key().id(), Secret::new([8; 32]));
    let same_key = DataKey::from_parts(KeyId::from_bytes([0; 8]), Secret::new([7; 32]));
    assert_eq!(
        same_name.open(&context(), &sealed).unwrap_err(),
        Error::KeyMismatch
    );
    assert_eq!(
        same_key.open(&context(), &sealed).unwrap_err(),
        Error::KeyMismatch
    );
}

#[test]
fn refuses_what_it_does_not_know_before_any_key_is_used() {
    let sealed = seal(b"text");
    for (at, value, what) in [
        (3, 2, "envelope version"),
        (4, 2, "envelope suite"),
        (5, 9, "envelope kind"),
        (6, 1, "envelope flags"),
    ] {
        let mut changed = sealed.clone();
        changed[at] = value;
        assert_eq!(
            Sealed::parse(&changed).unwrap_err(),
            Error::Unsupported { what }
        );
    }
    assert!(matches!(
        Sealed::parse(b"-----BEGIN AGE-----"),
        Err(Error::Malformed { .. })
    ));
}

#[test]
fn never_seals_alike_twice() {
    let mut seen = std::collections::HashSet::new();
    for _ in 0..10_000 {
        assert!(seen.insert(seal(b"text")[MESSAGE..CHUNKS].to_vec()));
    }
}

#[test]
fn refuses_a_value_that_belongs_into_a_stream() {
    let long = vec![0; MAX_PLAINTEXT + 1];
    assert!(matches!(
        key().seal(Kind::Record, &context(), &long),
        Err(Error::Limit { .. })
    ));
}

#[test]
fn text_form_is_exact() {
    let sealed = key().seal(Kind::Record, &context(), b"text").unwrap();
    let text = sealed.to_text();
    assert_eq!(Sealed::from_text(&text).unwrap(), sealed);
    for wrong in [
        format!("{text}="),
        format!(" {text}"),
        text.replacen("ktc1", "ktc2", 1),
        text.replace("ktc1.", ""),
    ] {
        assert!(matches!(
            Sealed::from_text(&wrong),
            Err(Error::Malformed { .. })
        ));
    }
}

proptest! {
    #[test]
    fn opens_whatever_it_sealed(plaintext in proptest::collection::vec(any::<u8>(), 0..40_000), row: Vec<u8>) {
        let context = context().row(&row);
        let sealed = key().seal(Kind::Column, &context, &plaintext).unwrap();
        let again = Sealed::parse(sealed.as_bytes()).unwrap();
        let opened = key().open(&context, &again).unwrap();
        prop_assert_eq!(opened.expose_secret(), &plaintext[..]);
    }

    #[test]
    fn reads_any_bytes_without_panic(bytes: Vec<u8>) {
        if let Ok(sealed) = Sealed::parse(&bytes) {
            prop_assert!(key().open(&context(), &sealed).is_err());
        }
    }
}
