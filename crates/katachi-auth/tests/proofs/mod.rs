//! Proofs of possession (RFC 9449): ours, other clients', and what is none.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_auth::device::dpop::{self, ProofError, ProofKey};
use katachi_auth::replay::{
    AsyncReplayStore, Epoch, Limits, MemoryReplay, Nonce, ReplayStore, Spend, Spending, Unavailable,
};
use katachi_crypto::Secret;
use proptest::prelude::*;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::{NOW, TOKEN_URL, later};

/// The access token of RFC 9449 section 7.1, and what a proof that goes with it names.
const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
const ATH: &str = "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo";

/// A client that writes its proofs itself.
struct OtherClient {
    pair: Ed25519KeyPair,
}

impl OtherClient {
    fn new() -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap();
        Self { pair }
    }

    fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.public_key())
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let text = format!("{header}.{claims}");
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes()));
        format!("{text}.{signature}")
    }

    /// With a header as it should be.
    fn prove(&self, claims: &str) -> String {
        let jwk = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, self.x());
        let header = format!(r#"{{"typ":"dpop+jwt","alg":"EdDSA","jwk":{jwk}}}"#);
        self.sign(&header, claims)
    }
}

/// Claims for a request to [`TOKEN_URL`], and `more`.
fn claims(store: &MemoryReplay, jti: &str, more: &str) -> String {
    let (iat, nonce) = (NOW.as_unix(), ReplayStore::epoch(store).unwrap());
    format!(
        r#"{{"jti":"{jti}","htm":"POST","htu":"{TOKEN_URL}","iat":{iat},"nonce":"{nonce}",{more}}}"#
    )
}

/// A store at hand, asked as one across a network.
struct Far<'a>(&'a MemoryReplay);

impl AsyncReplayStore for Far<'_> {
    async fn epoch(&self) -> Result<Epoch, Unavailable> {
        ReplayStore::epoch(self.0)
    }

    async fn spend(&self, spending: &Spending<'_>) -> Result<Spend, Unavailable> {
        ReplayStore::spend(self.0, spending)
    }
}

/// A store that gives no answer.
struct Away;

impl AsyncReplayStore for Away {
    async fn epoch(&self) -> Result<Epoch, Unavailable> {
        Err(Unavailable::new("away"))
    }

    async fn spend(&self, _: &Spending<'_>) -> Result<Spend, Unavailable> {
        Err(Unavailable::new("away"))
    }
}

fn prove(key: &ProofKey, store: &MemoryReplay) -> String {
    let epoch = store.epoch().unwrap();
    key.prove(
        "POST",
        TOKEN_URL,
        NOW,
        &Nonce::random().unwrap(),
        Some(&epoch),
    )
}

#[test]
fn a_proof_is_good_once_for_its_own_request() {
    let store = MemoryReplay::new(Limits::default()).unwrap();
    let key = ProofKey::from_seed(&Secret::new([1; 32]));
    let proof = prove(&key, &store);
    let verify = |proof: &str, method, uri, now| dpop::verify(proof, method, uri, &store, now);
    assert!(matches!(
        verify(&proof, "GET", TOKEN_URL, NOW),
        Err(ProofError::Invalid)
    ));
    let elsewhere = "https://relay.example/other";
    assert!(matches!(
        verify(&proof, "POST", elsewhere, NOW),
        Err(ProofError::Invalid)
    ));
    assert!(matches!(
        verify(&proof, "POST", TOKEN_URL, later(61)),
        Err(ProofError::Skew)
    ));
    let early = NOW.before(Duration::from_secs(6));
    assert!(matches!(
        verify(&proof, "POST", TOKEN_URL, early),
        Err(ProofError::Skew)
    ));
    assert_eq!(
        verify(&proof, "POST", TOKEN_URL, NOW).unwrap(),
        key.thumbprint()
    );
    assert!(matches!(
        verify(&proof, "POST", TOKEN_URL, NOW),
        Err(ProofError::Replayed)
    ));
}

#[test]
fn a_proof_without_the_current_nonce_is_sent_back_for_one() {
    let store = MemoryReplay::new(Limits::default()).unwrap();
    let key = ProofKey::from_seed(&Secret::new([1; 32]));
    let bare = key.prove("POST", TOKEN_URL, NOW, &Nonce::random().unwrap(), None);
    let error = dpop::verify(&bare, "POST", TOKEN_URL, &store, NOW).unwrap_err();
    assert_eq!(error.code(), "use_dpop_nonce");
    let old = prove(&key, &store);
    store.start_new_epoch().unwrap();
    let error = dpop::verify(&old, "POST", TOKEN_URL, &store, NOW).unwrap_err();
    assert_eq!(error.code(), "use_dpop_nonce");
}

#[test]
fn a_proof_altered_anywhere_is_refused() {
    let store = MemoryReplay::new(Limits::default()).unwrap();
    let proof = prove(&ProofKey::from_seed(&Secret::new([1; 32])), &store);
    let other = prove(&ProofKey::from_seed(&Secret::new([2; 32])), &store);
    let parts: Vec<&str> = proof.split('.').collect();
    let others: Vec<&str> = other.split('.').collect();
    for mixed in [
        format!("{}.{}.{}", others[0], parts[1], parts[2]),
        format!("{}.{}.{}", parts[0], others[1], parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], others[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{proof}."),
        format!("{proof}="),
        String::new(),
        "a.b.c".into(),
        "x".repeat(100_000),
    ] {
        let outcome = dpop::verify(&mixed, "POST", TOKEN_URL, &store, NOW);
        assert!(matches!(outcome, Err(ProofError::Invalid)), "{mixed}");
    }
    assert!(store.is_empty(), "strangers leave no trace");
}

#[test]
fn a_proof_that_names_another_algorithm_is_refused() {
    let store = MemoryReplay::new(Limits::default()).unwrap();
    let other = OtherClient::new();
    let x = other.x();
    let sign = |header: String| {
        let claims = claims(&store, "an-id-of-another-client", r#""extra":1"#);
        let proof = other.sign(&header, &claims);
        dpop::verify(&proof, "POST", TOKEN_URL, &store, NOW)
    };
    let header = |typ: &str, alg: &str, rest: &str| {
        format!(
            r#"{{"typ":"{typ}","alg":"{alg}","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{x}"{rest}}}}}"#
        )
    };
    for (typ, alg, rest) in [
        ("JWT", "EdDSA", ""),
        ("dpop+jwt", "none", ""),
        ("dpop+jwt", "HS256", ""),
        ("dpop+jwt", "EdDSA", r#","d":"secret""#),
    ] {
        assert!(
            matches!(sign(header(typ, alg, rest)), Err(ProofError::Invalid)),
            "{typ} {alg}"
        );
    }
    sign(header("dpop+jwt", "Ed25519", "")).unwrap();
    assert!(matches!(
        sign(header("dpop+jwt", "EdDSA", "")),
        Err(ProofError::Replayed)
    ));
}

#[test]
fn a_thumbprint_is_that_of_rfc_8037() {
    // Appendix A.1 and A.3: the key and its thumbprint.
    let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A");
    let key = ProofKey::from_seed(&Secret::new(seed.unwrap().try_into().unwrap()));
    assert_eq!(
        key.thumbprint(),
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    );
}

// What is checked before anything is remembered.

#[tokio::test]
async fn a_proof_that_is_only_checked_takes_no_room_and_is_still_good() {
    let store = MemoryReplay::new(Limits::default()).unwrap();
    let far = Far(&store);
    let key = ProofKey::from_seed(&Secret::new([1; 32]));
    let proof = prove(&key, &store);
    let check = |now| dpop::check(&proof, "POST", TOKEN_URL, now).unwrap();
    for _ in 0..100 {
        assert_eq!(check(NOW).thumbprint(), key.thumbprint());
    }
    assert!(store.is_empty(), "nothing is remembered of a check");
    // Of three that were checked before one was spent, one is good.
    let checked = [check(NOW), check(later(1)), check(later(60))];
    let [first, second, third] = checked;
    assert_eq!(
        first.spend_async(&far, NOW).await.unwrap(),
        key.thumbprint()
    );
    for (copy, now) in [(second, later(1)), (third, later(60))] {
        let outcome = copy.spend_async(&far, now).await;
        assert!(matches!(outcome, Err(ProofError::Replayed)), "{outcome:?}");
    }
}

#[tokio::test]
async fn what_the_store_says_of_a_checked_proof_is_told_with_its_status() {
    let key = ProofKey::from_seed(&Secret::new([1; 32]));
    let told = |outcome: Result<String, ProofError>| {
        let error = outcome.unwrap_err();
        (error.status(), error.code())
    };
    let store = MemoryReplay::new(Limits {
        entries_per_key: 1,
        ..Limits::default()
    });
    let store = store.unwrap();
    let far = Far(&store);
    let checked = || dpop::check(&prove(&key, &store), "POST", TOKEN_URL, NOW).unwrap();
    checked().spend_async(&far, NOW).await.unwrap();
    let outcome = checked().spend_async(&far, NOW).await;
    assert_eq!(told(outcome), (429, "temporarily_unavailable"));
    let outcome = checked().spend_async(&Away, NOW).await;
    assert_eq!(told(outcome), (503, "temporarily_unavailable"));
    // Checked in time, and spent when the store may have forgotten it.
    let outcome = checked().spend_async(&far, later(600)).await;
    assert_eq!(told(outcome), (400, "invalid_dpop_proof"));
    // The store began anew between the check and the spending.
    let late = checked();
    store.start_new_epoch().unwrap();
    let outcome = late.spend_async(&far, NOW).await;
    assert_eq!(told(outcome), (400, "use_dpop_nonce"));
}

#[test]
fn a_proof_goes_with_the_token_that_it_names_and_no_other() {
    let store = MemoryReplay::new(Limits::default()).unwrap();
    let other = OtherClient::new();
    let unspent = |more: &str| {
        let proof = other.prove(&claims(&store, "an-id", more));
        dpop::check(&proof, "POST", TOKEN_URL, NOW)
    };
    let named = unspent(&format!(r#""ath":"{ATH}""#)).unwrap();
    named.for_token(TOKEN).unwrap();
    let shorter = &TOKEN[..TOKEN.len() - 1];
    let swapped = TOKEN.to_ascii_lowercase();
    for token in ["", shorter, &swapped, ATH, &format!("{TOKEN} ")] {
        let error = named.for_token(token).unwrap_err();
        assert_eq!((error.status(), error.code()), (400, "invalid_dpop_proof"));
    }
    // A proof that was made for a request without a token, and other spellings.
    let padded = format!(r#""ath":"{ATH}=""#);
    for more in [r#""extra":1"#, r#""ath":null"#, r#""ath":"""#, &padded] {
        let bare = unspent(more).unwrap();
        assert!(bare.for_token(TOKEN).is_err(), "{more}");
        assert!(bare.for_token("").is_err(), "{more}");
    }
    let ours = prove(&ProofKey::from_seed(&Secret::new([1; 32])), &store);
    let ours = dpop::check(&ours, "POST", TOKEN_URL, NOW).unwrap();
    assert!(ours.for_token(TOKEN).is_err(), "ours names no token");
    // What is no text is no proof at all.
    let twice = format!(r#""ath":"{ATH}","ath":"{ATH}""#);
    for more in [r#""ath":1"#, r#""ath":["a"]"#, r#""ath":{}"#, &twice] {
        assert!(matches!(unspent(more), Err(ProofError::Invalid)), "{more}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// One changed character anywhere, at whatever time: both ways to verify agree, and of
    /// a stranger's nothing is remembered.
    #[test]
    fn checking_and_then_spending_is_verifying(
        at in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        alters in any::<bool>(),
        age in -8_i64..70,
    ) {
        const ALPHABET: &[u8] = b"ABYZabyz0189-_.=+/ ";
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store = MemoryReplay::new(Limits::default()).unwrap();
        let far = Far(&store);
        let key = ProofKey::from_seed(&Secret::new([1; 32]));
        let good = prove(&key, &store);
        let mut bytes = good.clone().into_bytes();
        if alters {
            let at = at.index(bytes.len());
            bytes[at] = ALPHABET[to.index(ALPHABET.len())];
        }
        let proof = String::from_utf8(bytes).unwrap();
        let now = match age {
            0.. => later(age.unsigned_abs()),
            _ => NOW.before(Duration::from_secs(age.unsigned_abs())),
        };
        let first = dpop::check(&proof, "POST", TOKEN_URL, now);
        let in_time = (-5..=60).contains(&age);
        prop_assert_eq!(first.is_ok(), proof == good && in_time);
        if let Err(error) = first {
            prop_assert!(store.is_empty());
            let other = runtime.block_on(dpop::verify_async(&proof, "POST", TOKEN_URL, &far, now));
            let twin = dpop::verify(&proof, "POST", TOKEN_URL, &store, now);
            let code = Some(error.code());
            prop_assert_eq!(other.err().map(|error| error.code()), code);
            prop_assert_eq!(twin.err().map(|error| error.code()), code);
            prop_assert!(store.is_empty());
        } else {
            let twin = runtime.block_on(dpop::verify_async(&proof, "POST", TOKEN_URL, &far, now));
            prop_assert_eq!(twin.unwrap(), key.thumbprint());
            let copy = dpop::verify(&proof, "POST", TOKEN_URL, &store, now);
            prop_assert!(matches!(copy, Err(ProofError::Replayed)));
        }
    }
}
