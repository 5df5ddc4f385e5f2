//! Sealing beside the raw primitive and beside another implementation.

use std::hint::black_box;
use std::io::{Read, Write};
use std::num::NonZeroUsize;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use katachi_crypto::envelope::{Context, DataKey, Kind};
use katachi_crypto::stream::{OpenReader, SealWriter};
use katachi_crypto::{Secret, SecretBytes};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

const MIB: usize = 1024 * 1024;
const CHUNK: usize = 16 * 1024;

/// Seal and open 1 MiB on one core.
fn seal_bulk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal-bulk");
    group.throughput(Throughput::Bytes(2 * MIB as u64));
    let plain = vec![0x5a; MIB];

    let key = DataKey::generate().expect("the system gives randomness");
    let context = Context::new("bench").row(b"1");
    group.bench_function("ours", |bencher| {
        // A value that goes back and forth in the same memory, as the peer's does.
        let mut value = Some(SecretBytes::new(plain.clone()));
        bencher.iter(|| {
            let sealed = key
                .seal_in_place(Kind::Record, &context, value.take().expect("it came back"))
                .expect("1 MiB is within the limit");
            let opened = key.open_in_place(&context, sealed);
            value = Some(opened.expect("what was sealed opens"));
        });
    });
    // The same between buffers that are kept.
    group.bench_function("ours-buffers", |bencher| {
        let (mut sealed, mut opened) = (Vec::new(), SecretBytes::default());
        bencher.iter(|| {
            key.seal_into(Kind::Record, &context, black_box(&plain), &mut sealed)
                .expect("1 MiB is within the limit");
            key.open_into(&context, &sealed, &mut opened)
                .expect("what was sealed opens");
        });
    });
    // The same with fresh memory for each value, as one-off callers do it and
    // as the other implementation always does.
    group.bench_function("ours-fresh", |bencher| {
        bencher.iter(|| {
            let sealed = key
                .seal(Kind::Record, &context, black_box(&plain))
                .expect("1 MiB is within the limit");
            key.open(&context, &sealed).expect("what was sealed opens")
        });
    });
    group.bench_function("ours-stream", |bencher| {
        let mut sealed = Vec::with_capacity(2 * MIB);
        let mut opened = Vec::with_capacity(MIB);
        bencher.iter(|| {
            sealed.clear();
            opened.clear();
            let mut writer =
                SealWriter::new(&mut sealed, &key, &context).expect("a vector takes everything");
            writer
                .write_all(black_box(&plain))
                .expect("a vector takes everything");
            writer.finish().expect("a vector takes everything");
            let mut reader =
                OpenReader::new(sealed.as_slice(), &key, &context).expect("what was sealed opens");
            reader
                .read_to_end(&mut opened)
                .expect("what was sealed opens")
        });
    });

    let raw = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes"));
    group.bench_function("ring", |bencher| {
        let mut buffer = plain.clone();
        bencher.iter(|| {
            for chunk in buffer.chunks_mut(CHUNK) {
                let tag = raw
                    .seal_in_place_separate_tag(
                        Nonce::assume_unique_for_key([0; 12]),
                        Aad::empty(),
                        black_box(chunk),
                    )
                    .expect("16 KiB is within the limit");
                raw.open_in_place_separate_tag(
                    Nonce::assume_unique_for_key([0; 12]),
                    Aad::empty(),
                    tag,
                    chunk,
                    0..,
                )
                .expect("what was sealed opens");
            }
        });
    });

    let theirs = cobblestone::Key256::generate();
    group.bench_function("cobblestone", |bencher| {
        bencher.iter(|| {
            let sealed = cobblestone::encrypt(&theirs, b"bench", black_box(&plain))
                .expect("1 MiB is within the limit");
            cobblestone::decrypt(&theirs, b"bench", &sealed).expect("what was sealed opens")
        });
    });
    // Through the same traits and between the same kept buffers as our stream.
    group.bench_function("cobblestone-stream", |bencher| {
        let mut sealed = Vec::with_capacity(2 * MIB);
        let mut opened = Vec::with_capacity(MIB);
        bencher.iter(|| {
            sealed.clear();
            opened.clear();
            let mut writer = cobblestone::EncryptWriter::new(&theirs, b"bench", &mut sealed);
            writer
                .write_all(black_box(&plain))
                .expect("a vector takes everything");
            writer.finish().expect("a vector takes everything");
            cobblestone::DecryptReader::new(&theirs, b"bench", sealed.as_slice())
                .read_to_end(&mut opened)
                .expect("what was sealed opens")
        });
    });
    group.finish();
}

/// Seal and open 16 MiB between kept buffers, on two threads and on one: as one
/// value, and as a stream.
fn seal_parallel(criterion: &mut Criterion) {
    const LENGTH: usize = 16 * MIB;
    let mut group = criterion.benchmark_group("seal-parallel");
    group.throughput(Throughput::Bytes(2 * LENGTH as u64));
    group.sample_size(20);
    let plain = vec![0x5a; LENGTH];
    let key = DataKey::generate().expect("the system gives randomness");
    let context = Context::new("bench").row(b"1");
    for (name, threads) in [("ours", 2), ("one", 1)] {
        let threads = NonZeroUsize::new(threads).expect("it is not zero");
        let (mut sealed, mut opened) = (Vec::new(), SecretBytes::default());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let parallel = key.parallel(threads);
                parallel
                    .seal_into(Kind::Record, &context, black_box(&plain), &mut sealed)
                    .expect("16 MiB is within the limit");
                parallel
                    .open_into(&context, &sealed, &mut opened)
                    .expect("what was sealed opens");
            });
        });
    }
    let mut sealed = Vec::with_capacity(2 * LENGTH);
    let mut opened = Vec::with_capacity(2 * LENGTH);
    group.bench_function("stream", |bencher| {
        bencher.iter(|| {
            sealed.clear();
            opened.clear();
            let parallel = key.parallel(NonZeroUsize::new(2).expect("it is not zero"));
            let mut writer = parallel
                .seal_writer(&mut sealed, &context)
                .expect("there are threads");
            writer
                .write_all(black_box(&plain))
                .expect("a vector takes everything");
            writer.finish().expect("a vector takes everything");
            parallel
                .open_reader(sealed.as_slice(), &context)
                .expect("what was sealed opens")
                .read_to_end(&mut opened)
                .expect("what was sealed opens")
        });
    });
    group.bench_function("stream-one", |bencher| {
        bencher.iter(|| {
            sealed.clear();
            opened.clear();
            let mut writer =
                SealWriter::new(&mut sealed, &key, &context).expect("a vector takes everything");
            writer
                .write_all(black_box(&plain))
                .expect("a vector takes everything");
            writer.finish().expect("a vector takes everything");
            OpenReader::new(sealed.as_slice(), &key, &context)
                .expect("what was sealed opens")
                .read_to_end(&mut opened)
                .expect("what was sealed opens")
        });
    });
    group.finish();
}

/// Seal 64 bytes, beside the parts that it cannot do without.
fn seal_small(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal-small");
    let plain = [0x5a; 64];
    let key = DataKey::generate().expect("the system gives randomness");
    let context = Context::new("bench").row(b"1");
    group.bench_function("ours", |bencher| {
        bencher.iter(|| {
            key.seal(Kind::Record, &context, black_box(&plain))
                .expect("64 bytes are within the limit")
        });
    });
    group.bench_function("parts", |bencher| bencher.iter(|| parts(black_box(&plain))));
    let theirs = cobblestone::Key256::generate();
    group.bench_function("cobblestone", |bencher| {
        bencher.iter(|| {
            cobblestone::encrypt(&theirs, b"bench", black_box(&plain))
                .expect("64 bytes are within the limit")
        });
    });
    group.finish();
}

/// 24 random bytes, two blocks of HKDF-Expand-SHA512, AES-256-GCM of 64 bytes
/// with key set-up, and the scrub of the stack.
fn parts(plain: &[u8; 64]) -> ([u8; 24], [u8; 64]) {
    use hmac::{Hmac, KeyInit, Mac};
    let mut salt = [0; 24];
    getrandom(&mut salt);
    let keyed = Hmac::<sha2::Sha512>::new_from_slice(&[7; 32]).expect("any length");
    let block = |number: u8, previous: &[u8]| {
        let mut mac = keyed.clone();
        mac.update(previous);
        mac.update(&salt);
        mac.update(&[number; 60]);
        mac.finalize().into_bytes()
    };
    let first = block(1, &[]);
    let second = block(2, &first);
    let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &first[..32]).expect("32 bytes"));
    let mut buffer = *plain;
    let nonce = second[..12].try_into().expect("12 bytes");
    let tag = aead
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::empty(),
            &mut buffer,
        )
        .expect("64 bytes are within the limit");
    scrub();
    black_box(tag);
    (salt, buffer)
}

fn getrandom(bytes: &mut [u8]) {
    use ring::rand::SecureRandom;
    ring::rand::SystemRandom::new()
        .fill(bytes)
        .expect("the system gives randomness");
}

#[inline(never)]
fn scrub() {
    black_box([0u8; 8 * 1024]);
}

/// A tag of 64 bytes with the keyed state kept, and one key derived.
fn small_parts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mac");
    let secret = Secret::random().expect("the system gives randomness");
    let key = katachi_crypto::mac::HmacKey::new(&secret);
    group.bench_function("ours", |bencher| {
        bencher.iter(|| key.sign(black_box(&[1; 64])))
    });
    let theirs = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.expose_secret());
    group.bench_function("ring", |bencher| {
        bencher.iter(|| ring::hmac::sign(&theirs, black_box(&[1; 64])))
    });
    group.finish();
}

criterion_group!(benches, seal_bulk, seal_parallel, seal_small, small_parts);
criterion_main!(benches);
