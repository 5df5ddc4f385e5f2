//! Verifying a signed request beside the bare primitives and beside another
//! implementation; spending a nonce beside a cache's insert-if-absent.

use std::hint::black_box;
use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::Request;
use httpsig::prelude::message_component::HttpMessageComponent;
use httpsig::prelude::{
    AlgorithmName, HttpSignatureBase, HttpSignatureHeaders, HttpSignatureParams, SharedKey,
};
use katachi_auth::clock::Timestamp;
use katachi_auth::replay::{
    Epoch, Limits, MemoryReplay, Nonce, NonceSequence, ReplayStore as _, Spending,
};
use katachi_auth::signature::{
    Context, Freshness, KeyId, KnownKey, Profile, Signer, Verifier, derive_key,
};
use katachi_crypto::Secret;
use sha2::{Digest as _, Sha256};

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);
const BODY: usize = 1024;

fn id() -> KeyId {
    KeyId::parse("k-7Qm2v0XoQ9yJ").expect("a valid identifier")
}

fn unsigned() -> Request<Vec<u8>> {
    Request::post("https://relay.example:8443/v1/agent/activity?seq=7")
        .header("content-type", "application/json")
        .header("user-agent", "katachi-agent/0.1")
        .header("accept", "application/json")
        .body(vec![b'x'; BODY])
        .expect("a valid request")
}

/// Strict verification of a 1 KiB request, from its bytes to the spent nonce.
fn verify(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verify");
    group.throughput(Throughput::Bytes(BODY as u64));
    let secret = Secret::new([7; 32]);
    let key = || derive_key(&secret, "agent-1", &Profile::AGENT_REQUEST);
    let signer = Signer::new(Profile::AGENT_REQUEST, id(), key());
    let verifier = Verifier::new(Profile::AGENT_REQUEST, ["relay.example:8443"]);
    let keys = Arc::new(KnownKey::new(id(), "agent-1", key()));
    let store = MemoryReplay::new(Limits::default()).expect("the system gives randomness");
    let epoch = store.epoch().expect("the store answers");
    let context = Context::new(NOW, epoch);
    let nonces = NonceSequence::start().expect("the system gives randomness");
    let sign = || {
        let mut request = unsigned();
        let freshness = Freshness::new(NOW, nonces.draw(), epoch);
        let signed = signer
            .sign(&request, &freshness)
            .expect("the request can be signed");
        signed.apply(request.headers_mut());
        request
    };

    group.bench_function("ours", |bencher| {
        bencher.iter_batched_ref(
            sign,
            |request| {
                let authentic = verifier
                    .check(&*request, &keys, &context)
                    .expect("it is genuine");
                authentic.spend(&store, NOW).expect("it is new").created()
            },
            BatchSize::NumIterations(64),
        );
    });

    // The same bytes, and nothing else: the body hashed, the base authenticated with
    // a key that is already set up.
    let request = sign();
    let base = signature_base(&request);
    group.bench_function("bare", |bencher| {
        let mac = Hmac::<Sha256>::new_from_slice(&[7; 32]).expect("any length is a key");
        bencher.iter(|| {
            let digest = Sha256::digest(black_box(request.body()));
            let mut mac = mac.clone();
            mac.update(black_box(base.as_bytes()));
            (digest, mac.finalize())
        });
    });
    group.bench_function("bare-ring", |bencher| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &[7; 32]);
        bencher.iter(|| {
            let digest = ring::digest::digest(&ring::digest::SHA256, black_box(request.body()));
            (digest, ring::hmac::sign(&key, black_box(base.as_bytes())))
        });
    });

    // httpsig does not look at the body; it parses, rebuilds the base and verifies.
    let shared = SharedKey::from_base64(
        &AlgorithmName::HmacSha256,
        "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=",
    )
    .expect("a valid key");
    let components: Vec<_> = base
        .lines()
        .filter(|line| !line.starts_with("\"@signature-params\""))
        .map(|line| HttpMessageComponent::try_from(line).expect("a valid component"))
        .collect();
    let ids: Vec<_> = components
        .iter()
        .map(|component| component.id.clone())
        .collect();
    let mut params = HttpSignatureParams::try_new(&ids).expect("valid components");
    params
        .set_created(1_800_000_000)
        .set_expires(4_000_000_000)
        .set_nonce("c1.AAAAAAAAAAAAAAAAAAAAAA")
        .set_keyid("k-7Qm2v0XoQ9yJ")
        .set_tag("katachi-agent/1");
    let made = HttpSignatureBase::try_new(&components, &params)
        .and_then(|base| base.build_signature_headers(&shared, Some("katachi")))
        .expect("the request can be signed");
    let (input, signature) = (
        made.signature_input_header_value(),
        made.signature_header_value(),
    );
    let lines: Vec<&str> = base.lines().take(components.len()).collect();
    group.bench_function("httpsig", |bencher| {
        bencher.iter(|| {
            let parsed = HttpSignatureHeaders::try_parse(black_box(&signature), black_box(&input))
                .expect("what was written parses");
            let headers = parsed.get("katachi").expect("the label is there");
            let components: Vec<_> = lines
                .iter()
                .map(|line| HttpMessageComponent::try_from(*line).expect("a valid component"))
                .collect();
            HttpSignatureBase::try_new(&components, headers.signature_params())
                .and_then(|base| base.verify_signature_headers(&shared, headers))
                .expect("it is genuine");
        });
    });

    // Its server verifies by signing once more; it has no window, no nonces, no answer.
    let identity = Credentials::new("AKIDEXAMPLE", "a secret", None, None, "bench").into();
    let params = aws_sigv4::sign::v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("service")
        .time(std::time::UNIX_EPOCH + std::time::Duration::from_secs(NOW.as_unix()))
        .settings(SigningSettings::default())
        .build()
        .expect("all parameters are there")
        .into();
    let headers: Vec<(&str, &str)> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().expect("plain ASCII")))
        .collect();
    let uri = request.uri().to_string();
    group.bench_function("aws-sigv4", |bencher| {
        bencher.iter(|| {
            let body = SignableBody::Bytes(black_box(request.body()));
            SignableRequest::new("POST", uri.as_str(), headers.iter().copied(), body)
                .map(|request| aws_sigv4::http_request::sign(request, &params))
                .expect("the request can be signed")
                .expect("the request can be signed")
                .signature()
                .to_owned()
        });
    });
    group.finish();
}

/// The base of a signed request, put together the dull way.
fn signature_base(request: &Request<Vec<u8>>) -> String {
    let header = |name: &str| request.headers()[name].to_str().expect("plain ASCII");
    format!(
        "\"@method\": POST\n\"@authority\": relay.example:8443\n\"@path\": /v1/agent/activity\n\
         \"@query\": ?seq=7\n\"content-digest\": {}\n\"katachi-epoch\": {}\n\
         \"content-type\": application/json\n\"@signature-params\": {}",
        header("content-digest"),
        header("katachi-epoch"),
        header("signature-input").trim_start_matches("katachi="),
    )
}

/// Spending a nonce that was never seen.
fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    let limits = Limits {
        entries: 1 << 24,
        entries_per_key: usize::MAX,
        ..Limits::default()
    };
    let key_id = id();

    let spend = |store: &MemoryReplay, nonce: &Nonce, epoch: &Epoch| {
        let spending = Spending {
            key_id: &key_id,
            nonce,
            created: NOW.as_unix(),
            expires: NOW.as_unix() + 60,
            epoch,
            now: NOW,
        };
        store
            .spend(black_box(&spending))
            .expect("the store answers")
    };
    group.bench_function("ours", |bencher| {
        let store = MemoryReplay::new(limits).expect("the system gives randomness");
        let epoch = store.epoch().expect("the store answers");
        let nonces = NonceSequence::start().expect("the system gives randomness");
        bencher.iter(|| spend(&store, &nonces.draw(), &epoch));
    });
    // As many as the default limits let live; emptied when full, as by time.
    const LIVE: u64 = 1 << 18;
    group.bench_function("ours-random", |bencher| {
        let store = MemoryReplay::new(limits).expect("the system gives randomness");
        let mut epoch = store.epoch().expect("the store answers");
        let mut drawn = 0_u64;
        bencher.iter(|| {
            drawn += 1;
            if drawn.is_multiple_of(LIVE) {
                epoch = store
                    .start_new_epoch()
                    .expect("the system gives randomness");
            }
            spend(&store, &Nonce::Random(scattered(drawn)), &epoch)
        });
    });
    group.bench_function("moka", |bencher| {
        let fresh = || {
            moka::sync::Cache::<(KeyId, [u8; 16]), ()>::builder()
                .max_capacity(LIVE)
                .build()
        };
        let mut cache = fresh();
        let mut drawn = 0_u64;
        bencher.iter(|| {
            drawn += 1;
            if drawn.is_multiple_of(LIVE) {
                cache = fresh();
            }
            let nonce = scattered(drawn);
            cache
                .entry((key_id.clone(), black_box(nonce)))
                .or_insert(())
                .is_fresh()
        });
    });
    group.finish();
}

/// A nonce that no other number has.
fn scattered(n: u64) -> [u8; 16] {
    (u128::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)).to_le_bytes()
}

criterion_group!(auth, verify, replay);
criterion_main!(auth);
