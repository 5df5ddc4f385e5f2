//! Signed answers, and the clock that is learnt from them.

#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use std::time::Duration;

use katachi_auth::replay::Nonce;
use katachi_auth::signature::{
    ClockOffset, Freshness, KeyId, Profile, RequestBinding, ResponseError, ResponseView,
    SigningKey, VerifiedResponse, VerifyingKey, derive_key, sign_response, verify_response,
};
use katachi_crypto::Secret;
use support::{NOW, Sent, World, at, key_id, secret};

const PROFILE: Profile = Profile::RELAY_RESPONSE;

fn binding(world: &World, path: &str) -> RequestBinding {
    let sent = Sent::post(path, b"{}");
    let freshness = Freshness::new(at(NOW), Nonce::random().unwrap(), world.epoch);
    sent.with(|view| world.signer.sign(view, &freshness))
        .unwrap()
        .binding()
        .clone()
}

#[derive(Clone, Debug)]
struct Answered {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn answer(key: &SigningKey, binding: &RequestBinding, now: u64) -> Answered {
    let (status, body) = (401, b"{\"error\":\"skew\"}".to_vec());
    let view = ResponseView {
        status,
        headers: &[],
        body: &body,
    };
    let headers = sign_response(&PROFILE, &key_id(), key, &view, binding, at(now)).to_vec();
    Answered {
        status,
        headers,
        body,
    }
}

fn verify(
    key: &VerifyingKey,
    answered: &Answered,
    binding: &RequestBinding,
) -> Result<VerifiedResponse, ResponseError> {
    let headers: Vec<(&str, &[u8])> = answered
        .headers
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()))
        .collect();
    let view = ResponseView {
        status: answered.status,
        headers: &headers,
        body: &answered.body,
    };
    verify_response(&PROFILE, &key_id(), key, &view, binding)
}

fn keys() -> (SigningKey, VerifyingKey) {
    let key = || derive_key(&secret(), "agent-1", &PROFILE);
    (key().into(), key().into())
}

#[test]
fn an_answer_is_believed_by_the_one_who_asked() {
    let world = World::agent();
    let (sign, check) = keys();
    let asked = binding(&world, "/v1/agent/mcp");
    let answered = answer(&sign, &asked, NOW + 600);
    let input = &answered.headers[1].1;
    assert_eq!(
        *input,
        format!(
            "katachi=(\"@status\" \"content-digest\" \"@method\";req \"@path\";req \
             \"@query\";req \"signature\";req;key=\"katachi\");created={};keyid=\"k-7Qm2\";\
             tag=\"katachi-relay/1\"",
            NOW + 600
        )
    );
    assert_eq!(
        verify(&check, &answered, &asked).unwrap().created(),
        NOW + 600
    );
}

#[test]
fn the_server_binds_to_what_it_verified() {
    // Both ends compute the binding on their own, also for a refusal.
    let world = World::agent();
    let (sign, check) = keys();
    let mut sent = Sent::post("/v1/agent/mcp", b"{}");
    let freshness = Freshness::new(at(NOW), Nonce::random().unwrap(), world.epoch);
    let signed = sent
        .with(|view| world.signer.sign(view, &freshness))
        .unwrap();
    for (name, value) in signed.headers() {
        sent.set(name, value);
    }
    let refusal = world.check_at(&sent, NOW + 600).unwrap_err();
    let (_, theirs) = refusal.authenticated().unwrap();
    assert_eq!(theirs, signed.binding());
    let answered = answer(&sign, theirs, NOW + 600);
    verify(&check, &answered, signed.binding()).unwrap();

    world.accept(&sent).unwrap();
    let replayed = world.accept(&sent).unwrap_err();
    assert_eq!(replayed.authenticated().unwrap().1, signed.binding());
}

#[test]
fn an_answer_to_another_question_is_not_believed() {
    let world = World::agent();
    let (sign, check) = keys();
    let answered = answer(&sign, &binding(&world, "/v1/agent/mcp"), NOW);
    // The same question asked again is another question.
    for other in ["/v1/agent/mcp", "/v1/epoch"] {
        let outcome = verify(&check, &answered, &binding(&world, other));
        assert_eq!(outcome, Err(ResponseError::Signature));
    }
}

#[test]
fn an_altered_answer_is_not_believed() {
    let world = World::agent();
    let (sign, check) = keys();
    let asked = binding(&world, "/v1/agent/mcp");
    let good = answer(&sign, &asked, NOW);
    let with = |act: fn(&mut Answered)| {
        let mut answered = good.clone();
        act(&mut answered);
        verify(&check, &answered, &asked).unwrap_err()
    };
    assert_eq!(with(|a| a.status = 200), ResponseError::Signature);
    assert_eq!(with(|a| a.body.push(b' ')), ResponseError::Digest);
    assert_eq!(with(|a| a.headers.clear()), ResponseError::Unsigned);
    assert_eq!(with(|a| drop(a.headers.pop())), ResponseError::Unsigned);
    for at in 1..3 {
        let mut twice = good.clone();
        twice.headers.push(good.headers[at].clone());
        assert!(matches!(
            verify(&check, &twice, &asked),
            Err(ResponseError::Malformed(_))
        ));
    }
    for (from, to) in [
        ("created=1800000000", "created=1800000600"),
        ("k-7Qm2", "k-7Qm3"),
        ("katachi-relay/1", "katachi-relay/2"),
        (" \"@path\";req", ""),
        (";tag=", ";alg=\"hmac-sha256\";tag="),
    ] {
        let mut changed = good.clone();
        changed.headers[1].1 = changed.headers[1].1.replace(from, to);
        assert_ne!(changed.headers[1].1, good.headers[1].1);
        assert!(verify(&check, &changed, &asked).is_err(), "{to}");
    }
}

#[test]
fn an_answer_by_another_key_is_not_believed() {
    let world = World::agent();
    let (_, check) = keys();
    let asked = binding(&world, "/");
    // Not even one signed with the agent's own request key, which a reflection would use.
    let own: SigningKey = derive_key(&secret(), "agent-1", &Profile::AGENT_REQUEST).into();
    let answered = answer(&own, &asked, NOW);
    assert_eq!(
        verify(&check, &answered, &asked),
        Err(ResponseError::Signature)
    );
    let (sign, _) = keys();
    let answered = answer(&sign, &asked, NOW);
    let other = KeyId::parse("k-other").unwrap();
    let headers: Vec<(&str, &[u8])> = answered
        .headers
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()))
        .collect();
    let view = ResponseView {
        status: answered.status,
        headers: &headers,
        body: &answered.body,
    };
    let outcome = verify_response(&PROFILE, &other, &check, &view, &asked);
    assert_eq!(outcome, Err(ResponseError::Signature));
}

#[test]
fn ed25519_signs_requests_and_answers_on_the_same_wire() {
    let agent = SigningKey::ed25519(&Secret::new([3; 32]));
    let mut world = World::agent();
    let known =
        katachi_auth::signature::KnownKey::new(key_id(), "agent-1", agent.public_key().unwrap());
    world.keys = known.into();
    world.signer = katachi_auth::signature::Signer::new(world.profile, key_id(), agent);
    let good = world.good();
    assert_eq!(good.header("signature").len(), "katachi=::".len() + 88);
    world.accept(&good).unwrap();
    assert!(world.accept(&good).is_err());
    let mut forged = world.good();
    forged.path = "/x".into();
    assert!(world.check(&forged).is_err());
    // A MAC made with the public key as a secret is no signature.
    let confused = World::agent().good();
    assert!(world.check(&confused).is_err());

    let relay = SigningKey::ed25519(&Secret::new([4; 32]));
    let check = relay.public_key().unwrap();
    let asked = binding(&world, "/");
    let answered = answer(&relay, &asked, NOW);
    verify(&check, &answered, &asked).unwrap();
}

#[test]
fn s38_a_wrong_clock_is_corrected_by_signed_answers_alone() {
    let world = World::agent();
    let (sign, check) = keys();
    for wrong in [NOW - 600, NOW + 600] {
        let offset = ClockOffset::new();
        let mut sent = Sent::post("/", b"");
        let freshness = Freshness::new(at(wrong), Nonce::random().unwrap(), world.epoch);
        let signed = sent
            .with(|view| world.signer.sign(view, &freshness))
            .unwrap();
        for (name, value) in signed.headers() {
            sent.set(name, value);
        }
        let refusal = world.check_at(&sent, NOW).unwrap_err();
        let answered = answer(&sign, refusal.authenticated().unwrap().1, NOW);
        let mut unsigned = answered.clone();
        unsigned.headers.clear();
        unsigned
            .headers
            .push(("date", "Fri, 15 Jan 2027 08:00:00 GMT".into()));
        assert_eq!(
            verify(&check, &unsigned, signed.binding()),
            Err(ResponseError::Unsigned)
        );

        let verified = verify(&check, &answered, signed.binding()).unwrap();
        let received = at(wrong).after(Duration::from_millis(80));
        assert!(offset.learn(&verified, at(wrong), received));
        let corrected = offset.apply(received).as_unix();
        assert!(corrected.abs_diff(NOW) <= 1, "{corrected}");
        let retry = world.sign_at(Sent::post("/", b""), corrected);
        world.accept_at(&retry, NOW).unwrap();
    }
}

#[test]
fn s38_an_answer_held_back_does_not_move_the_clock() {
    let world = World::agent();
    let (sign, check) = keys();
    let asked = binding(&world, "/");
    let verified = verify(&check, &answer(&sign, &asked, NOW), &asked).unwrap();
    let offset = ClockOffset::new();
    assert!(!offset.learn(&verified, at(NOW), at(NOW + 30)));
    assert!(
        !offset.learn(&verified, at(NOW), at(NOW - 30)),
        "our own clock stepped meanwhile"
    );
    assert_eq!(offset.as_millis(), 0);
    // What delay and resolution explain is no offset.
    assert!(offset.learn(&verified, at(NOW), at(NOW + 3)));
    assert_eq!(offset.as_millis(), 0);
}
