//! Every way in which a signed request can be wrong, one test each.

#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use katachi_auth::replay::Epoch;
use katachi_auth::signature::{
    Answer, Context, Fault, Freshness, KeyId, KnownKey, Profile, Reason, Refusal, SignError,
    Signer, derive_key,
};
use katachi_crypto::Secret;
use katachi_crypto::mac::HmacKey;
use std::sync::Arc;
use support::{NOW, Sent, World, at, key_id, secret};

fn refused(outcome: Result<(), Refusal>) -> Answer {
    outcome.expect_err("the request was accepted").answer()
}

/// Signs `base` text by hand with the agent's key, for requests that our signer refuses to make.
fn sign_by_hand(world: &World, sent: &mut Sent, params: &str, base: &str) {
    let key = derive_key(&secret(), "agent-1", &world.profile);
    let mac = key.sign(format!("{base}\"@signature-params\": {params}").as_bytes());
    sent.set("signature-input", format!("katachi={params}"));
    sent.set("signature", format!("katachi=:{}:", base64(mac.as_bytes())));
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The lines of the base that the agent's profile prescribes.
fn base_lines(sent: &Sent) -> Vec<(&'static str, String)> {
    vec![
        ("@method", sent.method.clone()),
        ("@authority", sent.authority.clone()),
        ("@path", sent.path.clone()),
        (
            "@query",
            format!("?{}", sent.query.clone().unwrap_or_default()),
        ),
        ("content-digest", sent.header("content-digest")),
        ("katachi-epoch", sent.header("katachi-epoch")),
        ("content-type", sent.header("content-type")),
    ]
}

/// Signs a good request again over exactly `lines`, with `tail` as parameters.
fn resign(world: &World, sent: &mut Sent, lines: &[(&str, String)], tail: &str) {
    let list: Vec<String> = lines
        .iter()
        .map(|(name, _)| format!("\"{name}\""))
        .collect();
    let params = format!("({}){tail}", list.join(" "));
    let base: String = lines
        .iter()
        .map(|(name, value)| format!("\"{name}\": {value}\n"))
        .collect();
    sign_by_hand(world, sent, &params, &base);
}

/// The parameters of a signed request.
fn tail(sent: &Sent) -> String {
    sent.header("signature-input")
        .split_once(')')
        .unwrap()
        .1
        .to_owned()
}

#[test]
fn a_request_signed_by_hand_after_the_standard_is_accepted() {
    let world = World::agent();
    let mut sent = world.good();
    let (lines, tail) = (base_lines(&sent), tail(&sent));
    let ours = sent.header("signature");
    resign(&world, &mut sent, &lines, &tail);
    assert_eq!(
        sent.header("signature"),
        ours,
        "our base is that of RFC 9421"
    );
    world.accept(&sent).unwrap();
}

#[test]
fn s04_refuses_unknown_reordered_and_repeated_parameters() {
    let world = World::agent();
    let good = world.good();
    let lines = base_lines(&good);
    let original = tail(&good);
    let mut parts: Vec<&str> = original.split(';').skip(1).collect();
    let mut tails = vec![
        format!("{original};extra=1"),
        format!("{original};created={NOW}"),
        format!("{original};alg=\"hmac-sha256\""),
        original.replace(";created", "; created"),
    ];
    parts.swap(0, 1);
    tails.push(format!(";{}", parts.join(";")));
    parts.swap(0, 1);
    parts.swap(2, 3);
    tails.push(format!(";{}", parts.join(";")));
    for missing in 0..5 {
        let kept: Vec<&str> = original
            .split(';')
            .skip(1)
            .enumerate()
            .filter(|(at, _)| *at != missing)
            .map(|(_, part)| part)
            .collect();
        tails.push(format!(";{}", kept.join(";")));
    }
    for tail in tails {
        // Also with a MAC that covers the changed parameters.
        let mut sent = good.clone();
        resign(&world, &mut sent, &lines, &tail);
        assert_eq!(refused(world.check(&sent)), Answer::Refused, "{tail}");
    }
}

#[test]
fn s04_refuses_any_other_spelling_of_the_same_member() {
    let world = World::agent();
    let good = world.good();
    let input = good.header("signature-input");
    for other in [
        format!(" {input}"),
        format!("{input} "),
        format!("{input}, katachi=()"),
        format!("{input}, other=(\"@method\");created=1"),
        format!("other=(\"@method\"), {input}"),
        input.replace("katachi=", "katachi =").to_owned(),
        input.replace("(\"", "( \""),
        input.replace("\" \"", "\"  \""),
        input.replace("katachi=", "Katachi="),
    ] {
        let mut sent = good.clone();
        sent.set("signature-input", other.clone());
        assert_eq!(refused(world.check(&sent)), Answer::Refused, "{other}");
    }
    let mut twice = good.clone();
    twice
        .headers
        .push(("signature-input".into(), input.into_bytes()));
    assert_eq!(refused(world.check(&twice)), Answer::Refused);
    let mut twice = good.clone();
    twice
        .headers
        .push(("Signature".into(), good.header("signature").into_bytes()));
    assert_eq!(refused(world.check(&twice)), Answer::Refused);
}

#[test]
fn s04_refuses_the_escaped_nonce_trick() {
    // The same MAC with escapes that another serialiser would drop.
    let world = World::agent();
    let good = world.good();
    let input = good.header("signature-input");
    let mut sent = good.clone();
    sent.set(
        "signature-input",
        input.replacen("\";keyid=\"", "\\\";keyid=\\\"", 1),
    );
    assert_eq!(refused(world.check(&sent)), Answer::Refused);
}

#[test]
fn s05_refuses_times_that_are_no_plain_integers() {
    let world = World::agent();
    let good = world.good();
    let lines = base_lines(&good);
    for created in [
        "-1",
        "\"1\"",
        "1.5",
        "999999999999999",
        "1800000000000000000000000000000000000000",
        "",
        "?1",
        "@1800000000",
        "01800000000",
        "+1800000000",
        "1800000000 ",
        ":MTgwMDAwMDAwMA==:",
    ] {
        let mut sent = good.clone();
        let changed = tail(&good).replacen(&NOW.to_string(), created, 1);
        resign(&world, &mut sent, &lines, &changed);
        let answer = refused(world.check(&sent));
        assert!(matches!(answer, Answer::Refused), "{created}: {answer:?}");
    }
}

#[test]
fn s06_accepts_the_edges_of_the_window_and_nothing_beyond() {
    let world = World::agent();
    let good = world.good();
    world.check_at(&good, NOW + 60).unwrap();
    world.check_at(&good, NOW - 5).unwrap();
    assert_eq!(refused(world.check_at(&good, NOW + 61)), Answer::Skew);
    assert_eq!(refused(world.check_at(&good, NOW - 6)), Answer::Skew);
}

#[test]
fn s06_refuses_lifetimes_that_are_negative_or_longer_than_the_window() {
    let world = World::agent();
    let good = world.good();
    let lines = base_lines(&good);
    for (expires, accepted) in [
        (NOW + 60, true),
        (NOW + 1, true),
        (NOW, false),
        (NOW - 1, false),
        (NOW + 61, false),
    ] {
        let mut sent = good.clone();
        let changed = tail(&good).replace(
            &format!("expires={}", NOW + 60),
            &format!("expires={expires}"),
        );
        resign(&world, &mut sent, &lines, &changed);
        assert_eq!(world.check(&sent).is_ok(), accepted, "{expires}");
    }
}

#[test]
fn s07_refuses_nonces_that_are_short_long_padded_or_of_another_form() {
    let world = World::agent();
    let good = world.good();
    let lines = base_lines(&good);
    let original = tail(&good);
    let nonce = original
        .split("nonce=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let long = "A".repeat(65);
    for other in [
        "",
        "short",
        &nonce[..24],
        &format!("{nonce}="),
        &long,
        &nonce.replace("r1.", "x1."),
    ] {
        let mut sent = good.clone();
        resign(&world, &mut sent, &lines, &original.replace(nonce, other));
        assert_eq!(refused(world.check(&sent)), Answer::Refused, "{other}");
    }
}

#[test]
fn s08_refuses_a_nonce_spent_before() {
    let world = World::agent();
    let good = world.good();
    world.accept(&good).unwrap();
    assert_eq!(refused(world.accept(&good)), Answer::Replayed);
    assert_eq!(refused(world.accept_at(&good, NOW + 60)), Answer::Replayed);
}

#[test]
fn s12_strangers_leave_no_trace_in_the_store() {
    let world = World::agent();
    let before = (world.store.len(), world.store.bytes());
    for _ in 0..10_000 {
        let mut sent = world.good();
        sent.body.push(b'x');
        sent.edit("signature", "katachi=:", "katachi=:A");
        assert!(world.accept(&sent).is_err());
    }
    assert_eq!((world.store.len(), world.store.bytes()), before);
}

#[test]
fn s17_refuses_a_signature_moved_to_another_request() {
    let world = World::agent();
    let good = world.good();
    let change = |act: fn(&mut Sent)| {
        let mut sent = good.clone();
        act(&mut sent);
        refused(world.check(&sent))
    };
    assert_eq!(change(|sent| sent.method = "PUT".into()), Answer::Refused);
    assert_eq!(
        change(|sent| sent.path = "/v1/agent/activity".into()),
        Answer::Refused
    );
    assert_eq!(
        change(|sent| sent.query = Some("a=2".into())),
        Answer::Refused
    );
    assert_eq!(change(|sent| sent.query = None), Answer::Refused);
    assert_eq!(
        change(|sent| sent.authority = "other.example".into()),
        Answer::Refused
    );
    assert_eq!(
        change(|sent| sent.authority = "evil.example".into()),
        Answer::BadRequest
    );
}

#[test]
fn s18_refuses_a_valid_signature_that_leaves_a_component_out() {
    let world = World::agent();
    let good = world.good();
    let lines = base_lines(&good);
    for missing in 0..lines.len() {
        let mut fewer = lines.clone();
        let (name, _) = fewer.remove(missing);
        let mut sent = good.clone();
        resign(&world, &mut sent, &fewer, &tail(&good));
        assert_eq!(
            refused(world.check(&sent)),
            Answer::Refused,
            "without {name}"
        );
    }
    let mut sent = good.clone();
    resign(&world, &mut sent, &[], &tail(&good));
    assert_eq!(refused(world.check(&sent)), Answer::Refused);
}

#[test]
fn s18_refuses_a_component_twice_or_in_another_order() {
    let world = World::agent();
    let good = world.good();
    let lines = base_lines(&good);
    let mut twice = lines.clone();
    twice.push(lines[0].clone());
    let mut swapped = lines.clone();
    swapped.swap(0, 1);
    for changed in [twice, swapped] {
        let mut sent = good.clone();
        resign(&world, &mut sent, &changed, &tail(&good));
        assert_eq!(refused(world.check(&sent)), Answer::Refused);
    }
}

#[test]
fn s19_refuses_an_altered_body_under_an_intact_signature() {
    let world = World::agent();
    let mut sent = world.good();
    sent.body = b"{\"state\":\"busy\"}".to_vec();
    let refusal = world.check(&sent).unwrap_err();
    assert!(matches!(refusal.reason(), Reason::Digest));
    assert_eq!(refusal.answer(), Answer::Refused);
    // A digest that fits the body does not fit the signature.
    let other = world.sign(Sent::post("/v1/agent/heartbeat", b"{\"state\":\"busy\"}"));
    sent.set("content-digest", other.header("content-digest"));
    assert!(matches!(
        world.check(&sent).unwrap_err().reason(),
        Reason::Signature
    ));
}

#[test]
fn s19_refuses_digests_of_another_algorithm_or_form() {
    let world = World::agent();
    let good = world.good();
    let digest = good.header("content-digest");
    for other in [
        digest.replace("sha-256", "sha-512"),
        digest.replace("sha-256", "SHA-256"),
        format!("{digest}, {digest}"),
        format!("unixsum=1, {digest}"),
        String::new(),
    ] {
        let mut sent = good.clone();
        sent.set("content-digest", other.clone());
        let mut lines = base_lines(&good);
        lines[4].1 = other;
        resign(&world, &mut sent, &lines, &tail(&good));
        assert_eq!(refused(world.check(&sent)), Answer::Refused);
    }
}

#[test]
fn s21_a_body_smuggled_into_a_get_is_refused_and_an_empty_one_accepted() {
    let world = World::agent();
    let mut get = Sent::post("/v1/agent/mcp", b"");
    get.method = "GET".into();
    get.query = None;
    get.headers.clear();
    let signed = world.sign(get);
    assert!(signed.header("content-digest").contains("47DEQpj8"));
    world.accept(&signed).unwrap();
    let mut smuggled = signed;
    smuggled.body = b"x".to_vec();
    assert_eq!(refused(world.check(&smuggled)), Answer::Refused);
}

#[test]
fn s22_refuses_a_meaningful_header_that_somebody_added() {
    let world = World::agent();
    for (name, value) in [
        ("content-encoding", "gzip"),
        ("content-type", "text/plain"),
        ("idempotency-key", "1"),
        ("authorization", "Bearer x"),
    ] {
        let mut sent = world.good();
        sent.headers.push((name.into(), value.into()));
        assert_eq!(refused(world.check(&sent)), Answer::Refused, "{name}");
    }
}

#[test]
fn s22_refuses_a_meaningful_header_that_somebody_removed_or_changed() {
    let world = World::agent();
    let mut removed = world.good();
    removed.remove("content-type");
    assert_eq!(refused(world.check(&removed)), Answer::Refused);
    let mut changed = world.good();
    changed.set("content-type", "text/plain");
    assert_eq!(refused(world.check(&changed)), Answer::Refused);
}

#[test]
fn s22_an_unsigned_header_changes_nothing_that_was_verified() {
    let world = World::agent();
    let mut sent = world.good();
    for (name, value) in [
        ("x-http-method-override", "DELETE"),
        ("x-original-url", "/v1/admin"),
        ("x-forwarded-host", "evil.example"),
    ] {
        sent.headers.push((name.into(), value.into()));
    }
    let context = Context::new(at(NOW), world.epoch);
    sent.with(|view| {
        let authentic = world.verifier.check(view, &world.keys, &context).unwrap();
        let verified = authentic.spend(&world.store, at(NOW)).unwrap();
        let request = verified.request();
        assert_eq!(
            (request.method, request.authority, request.path),
            ("POST", support::AUTHORITY, "/v1/agent/heartbeat")
        );
    });
}

#[test]
fn s22_covers_every_meaningful_header_that_is_present() {
    let world = World::agent();
    let mut sent = Sent::post("/v1/agent/activity", b"{}");
    sent.set("content-encoding", "identity");
    sent.set("idempotency-key", "\"a\"");
    sent.set("authorization", "Bearer x");
    let signed = world.sign(sent);
    let list = "\"content-type\" \"content-encoding\" \"idempotency-key\" \"authorization\")";
    assert!(signed.header("signature-input").contains(list));
    world.accept(&signed).unwrap();
}

#[test]
fn s23_refuses_a_request_stripped_of_either_header_or_both() {
    let world = World::agent();
    for stripped in [
        &["signature"][..],
        &["signature-input"],
        &["signature", "signature-input"],
    ] {
        let mut sent = world.good();
        stripped.iter().for_each(|name| sent.remove(name));
        sent.set("authorization", "Bearer token");
        assert_eq!(refused(world.check(&sent)), Answer::Refused, "{stripped:?}");
    }
}

#[test]
fn s26_refuses_every_key_identifier_but_the_right_one_alike() {
    let world = World::agent();
    let good = world.good();
    for other in ["k-7qm2", "K-7QM2", "k-7Qm", "k-7Qm22", "someone-else"] {
        let mut sent = good.clone();
        sent.edit("signature-input", "k-7Qm2", other);
        let refusal = world.check(&sent).unwrap_err();
        assert!(matches!(refusal.reason(), Reason::UnknownKey), "{other}");
        assert_eq!(refusal.answer(), Answer::Refused);
        assert!(refusal.authenticated().is_none());
    }
    for other in ["", "k-7Qm2 ", "k\"7", "ü", &"x".repeat(65)] {
        let mut sent = good.clone();
        sent.edit("signature-input", "k-7Qm2", other);
        assert_eq!(refused(world.check(&sent)), Answer::Refused, "{other}");
    }
    let mut sent = good.clone();
    sent.edit("signature-input", "k-7Qm2", &"x".repeat(10_000));
    assert_eq!(
        refused(world.check(&sent)),
        Answer::BadRequest,
        "larger than any request"
    );
}

#[test]
fn s26_tells_of_a_revoked_key_only_its_holder() {
    let mut world = World::agent();
    let key = derive_key(&secret(), "agent-1", &world.profile);
    let mut known = KnownKey::new(key_id(), "agent-1", key);
    known.revoked = true;
    world.keys = Arc::new(known);
    let good = world.good();
    let refusal = world.check(&good).unwrap_err();
    assert_eq!(refusal.answer(), Answer::Revoked);
    assert_eq!(refusal.authenticated().unwrap().0.owner, "agent-1");
    let mut forged = good;
    forged.path = "/elsewhere".into();
    assert_eq!(refused(world.check(&forged)), Answer::Refused);
}

#[test]
fn s27_refuses_macs_of_every_wrong_length_and_form() {
    let world = World::agent();
    let good = world.good();
    let signature = good.header("signature");
    let mac = {
        use base64::Engine as _;
        let text = signature
            .trim_start_matches("katachi=:")
            .trim_end_matches(':');
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap()
    };
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    for other in [
        "katachi=::".into(),
        "katachi=:AA==:".into(),
        format!("katachi=:{}:", base64(&mac[..1])),
        format!("katachi=:{}:", base64(&mac[..31])),
        format!("katachi=:{}:", base64(&[&mac[..], &[0]].concat())),
        format!("katachi=:{}:", base64(&[&mac[..], &mac[..]].concat())),
        format!("katachi=:{hex}:"),
        format!("katachi={}", base64(&mac)),
        format!("katachi=\"{}\"", base64(&mac)),
        signature.replace('=', ""),
        format!("{signature}, katachi=:{}:", base64(&mac)),
        signature.replace("katachi", "other"),
        String::new(),
    ] {
        let mut sent = good.clone();
        sent.set("signature", other.clone());
        assert_eq!(refused(world.check(&sent)), Answer::Refused, "{other}");
    }
    for at in 0..mac.len() {
        let mut flipped = mac.clone();
        flipped[at] ^= 1;
        let mut sent = good.clone();
        sent.set("signature", format!("katachi=:{}:", base64(&flipped)));
        assert_eq!(refused(world.check(&sent)), Answer::Refused, "byte {at}");
    }
}

/// SHA-256 continued from a digest as if it were a state: what whoever sees
/// `H(secret ‖ message)` can compute without the secret. Gives the longer message's
/// tail, and its digest.
fn extend(digest: &[u8; 32], hashed: usize, suffix: &[u8]) -> (Vec<u8>, [u8; 32]) {
    let pad = |length: usize| {
        let mut padding = vec![0x80];
        padding.resize(1 + (119 - length % 64) % 64, 0);
        padding.extend_from_slice(&(length as u64 * 8).to_be_bytes());
        padding
    };
    let glue = pad(hashed);
    let mut rest = suffix.to_vec();
    rest.extend(pad(hashed + glue.len() + suffix.len()));
    let mut state = [0_u32; 8];
    for (word, bytes) in state.iter_mut().zip(digest.chunks_exact(4)) {
        *word = u32::from_be_bytes(bytes.try_into().unwrap());
    }
    let blocks: Vec<[u8; 64]> = rest
        .chunks_exact(64)
        .map(|block| block.try_into().unwrap())
        .collect();
    sha2::block_api::compress256(&mut state, &blocks);
    let mut out = [0; 32];
    for (bytes, word) in out.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    ([&glue, suffix].concat(), out)
}

#[test]
fn s28_an_extension_that_forges_a_prefix_mac_does_not_forge_ours() {
    use sha2::{Digest as _, Sha256};
    let (secret, message) = ([0x5a; 32], b"\"@method\": POST");
    let suffix = b";tag=\"katachi-agent/1\"";
    // The control: it does forge `H(secret ‖ message)`, as others have signed.
    let prefix: [u8; 32] = Sha256::digest([&secret[..], message].concat()).into();
    let (tail, forged) = extend(&prefix, secret.len() + message.len(), suffix);
    let real: [u8; 32] = Sha256::digest([&secret[..], message, &tail].concat()).into();
    assert_eq!(forged, real);

    let key = HmacKey::new(&Secret::new(secret));
    let mac = *key.sign(message).as_bytes();
    // The MAC is a digest of 96 bytes outside, and of 64 more than the message inside.
    for hashed in [96, 64 + message.len(), 32 + message.len(), message.len()] {
        let (tail, forged) = extend(&mac, hashed, suffix);
        assert!(
            key.verify(&[&message[..], &tail].concat(), &forged)
                .is_err()
        );
    }
    // Nor does a prefix MAC pass for ours.
    let world = World::agent();
    let good = world.good();
    let base: String = base_lines(&good)
        .iter()
        .map(|(name, value)| format!("\"{name}\": {value}\n"))
        .collect();
    let params = good.header("signature-input").replacen("katachi=", "", 1);
    let base = format!("{base}\"@signature-params\": {params}");
    let naive = Sha256::digest([secret_bytes(), base.into_bytes()].concat());
    let mut sent = good;
    sent.set("signature", format!("katachi=:{}:", base64(&naive)));
    assert_eq!(refused(world.check(&sent)), Answer::Refused);
}

fn secret_bytes() -> Vec<u8> {
    secret().expose_secret().to_vec()
}

#[test]
fn s30_signer_and_verifier_agree_on_unusual_targets_or_refuse() {
    let world = World::agent();
    for path in [
        "/",
        "/%2F",
        "/%7e",
        "/./",
        "//",
        "/a//b/../c",
        "/a%0ab",
        "/+",
        "/;x=1",
    ] {
        let mut sent = Sent::post(path, b"");
        sent.query = Some("b=2&a=1&a=1&c=+%20".into());
        world.accept(&world.sign(sent)).unwrap();
    }
    let freshness = Freshness::new(
        at(NOW),
        katachi_auth::replay::Nonce::random().unwrap(),
        world.epoch,
    );
    for (path, query) in [
        ("", None),
        ("*", None),
        ("x", None),
        ("/a b", None),
        ("/a\n", None),
        ("/ü", None),
        ("/a?b", None),
        ("/a#b", None),
        ("/", Some("")),
        ("/", Some("a b")),
    ] {
        let mut sent = Sent::post(path, b"");
        sent.query = query.map(str::to_owned);
        let error = sent
            .with(|view| world.signer.sign(view, &freshness))
            .unwrap_err();
        assert!(matches!(error, SignError::Unfit(_)), "{path} {query:?}");
    }
    // An equivalent spelling is another request.
    let signed = world.sign(Sent::post("/%7e", b""));
    for path in ["/~", "/%7E", "/%7e/", "//%7e"] {
        let mut sent = signed.clone();
        sent.path = path.into();
        assert_eq!(refused(world.check(&sent)), Answer::Refused, "{path}");
    }
}

#[test]
fn s31_refuses_names_that_are_not_this_server_s() {
    let world = World::agent();
    for authority in [
        "RELAY.example:8443",
        "relay.example.",
        "relay.example",
        "relay.example:443",
        "[::1]:8443",
        "",
    ] {
        let mut sent = Sent::post("/", b"");
        sent.authority = authority.into();
        assert_eq!(
            refused(world.check(&world.sign(sent))),
            Answer::BadRequest,
            "{authority}"
        );
    }
}

#[test]
fn s32_refuses_component_parameters_and_names_outside_the_profile() {
    let world = World::agent();
    let good = world.good();
    let input = good.header("signature-input");
    for (from, to) in [
        ("\"@method\"", "\"@METHOD\""),
        ("\"content-type\"", "\"Content-Type\""),
        ("\"@method\"", "\"@method\";req"),
        ("\"content-type\"", "\"content-type\";bs"),
        ("\"content-type\"", "\"content-type\";sf"),
        ("\"content-type\"", "\"content-type\";key=\"a\""),
        ("\"content-type\"", "\"@signature-params\""),
        ("\"content-type\"", "\"x-unknown\""),
    ] {
        let mut sent = good.clone();
        sent.set("signature-input", input.replace(from, to));
        assert_eq!(refused(world.check(&sent)), Answer::Refused, "{to}");
    }
}

#[test]
fn s35_hostile_sizes_are_a_bad_request() {
    let world = World::agent();
    let good = world.good();
    let input = good.header("signature-input");
    let labels: String = (0..1000).map(|n| format!("l{n}=(), ")).collect();
    let components = "\"@method\" ".repeat(1000);
    for huge in [
        "a".repeat(65_536),
        format!("{labels}{input}"),
        format!("katachi=({components});created=1"),
        "\"".repeat(65_536),
        "katachi=".repeat(8192),
    ] {
        let mut sent = good.clone();
        sent.set("signature-input", huge);
        assert_eq!(refused(world.check(&sent)), Answer::BadRequest);
    }
    let mut long = good;
    long.path = format!("/{}", "x".repeat(100_000));
    assert_eq!(refused(world.check(&long)), Answer::BadRequest);
}

#[test]
fn s36_the_identifier_says_nothing_about_the_secret() {
    // The key id is chosen by the caller; nothing in the crate computes one.
    let one = derive_key(&Secret::new([1; 32]), "agent-1", &Profile::AGENT_REQUEST);
    let two = derive_key(&Secret::new([2; 32]), "agent-1", &Profile::AGENT_REQUEST);
    let sent = Sent::post("/", b"");
    let nonce = katachi_auth::replay::Nonce::Random([9; 16]);
    let freshness = Freshness::new(at(NOW), nonce, Epoch::from_bytes([3; 16]));
    let input = |key: HmacKey| {
        let signer = Signer::new(Profile::AGENT_REQUEST, key_id(), key);
        let signed = sent.with(|view| signer.sign(view, &freshness)).unwrap();
        let mut headers = signed.headers();
        headers
            .find(|(name, _)| *name == "signature-input")
            .unwrap()
            .1
            .to_owned()
    };
    assert_eq!(input(one), input(two));
}

#[test]
fn a_stale_epoch_is_told_to_the_holder_of_the_key_alone() {
    let world = World::agent();
    let good = world.good();
    let elsewhere = Context::new(at(NOW), Epoch::generate().unwrap());
    let check = |sent: &Sent| {
        sent.with(|view| {
            world
                .verifier
                .check(view, &world.keys, &elsewhere)
                .map(drop)
        })
    };
    assert_eq!(refused(check(&good)), Answer::StaleEpoch);
    let mut forged = good;
    forged.set("signature", format!("katachi=:{}:", base64(&[0; 32])));
    assert_eq!(refused(check(&forged)), Answer::Refused);
}

#[test]
fn a_key_of_another_purpose_or_owner_signs_nothing_here() {
    let world = World::agent();
    for key in [
        derive_key(&secret(), "agent-1", &Profile::TUNNEL_REQUEST),
        derive_key(&secret(), "agent-1", &Profile::RELAY_RESPONSE),
        derive_key(&secret(), "agent-2", &Profile::AGENT_REQUEST),
        HmacKey::new(&secret()),
    ] {
        let mut other = World::agent();
        other.epoch = world.epoch;
        other.signer = Signer::new(other.profile, key_id(), key);
        let refusal = world.check(&other.good()).unwrap_err();
        assert!(matches!(refusal.reason(), Reason::Signature));
    }
}

#[test]
fn a_tunnel_request_is_bound_to_its_tls_connection() {
    let world = World::new(Profile::TUNNEL_REQUEST);
    let mut sent = Sent::post("/v1/tunnel", b"");
    let nonce = katachi_auth::replay::Nonce::random().unwrap();
    let mut freshness = Freshness::new(at(NOW), nonce, world.epoch);
    let missing = sent
        .with(|view| world.signer.sign(view, &freshness))
        .unwrap_err();
    assert_eq!(missing, SignError::NoChannel);
    freshness.channel = Some(&[1; 32]);
    let signed = sent
        .with(|view| world.signer.sign(view, &freshness))
        .unwrap();
    for (name, value) in signed.headers() {
        sent.set(name, value);
    }
    assert!(
        sent.header("signature-input")
            .contains("\"katachi-epoch\" \"katachi-tls-exporter\"")
    );
    let check = |channel| {
        let context = Context {
            channel,
            ..Context::new(at(NOW), world.epoch)
        };
        sent.with(|view| world.verifier.check(view, &world.keys, &context).map(drop))
    };
    check(Some(&[1; 32])).unwrap();
    let other = check(Some(&[2; 32])).unwrap_err();
    assert!(matches!(other.reason(), Reason::Channel));
    assert_eq!(other.answer(), Answer::Refused);
    let unset = check(None).unwrap_err();
    assert_eq!(
        (unset.fault(), unset.answer()),
        (Fault::Caller, Answer::Misconfigured)
    );
}

#[test]
fn the_operator_reads_the_rule_and_whose_fault_it_was() {
    let world = World::agent();
    let refusal = world.check_at(&world.good(), NOW + 600).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "request refused (fault: peer, key k-7Qm2): outside the window: made 600 s ago by our clock"
    );
    let mut sent = world.good();
    sent.remove("signature");
    let refusal = world.check(&sent).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "request refused (fault: peer): signature is absent"
    );
}

#[test]
fn two_keys_of_one_owner_live_side_by_side_during_a_rotation() {
    let world = World::agent();
    let fresh_id = KeyId::parse("k-next").unwrap();
    let fresh = || derive_key(&Secret::new([0x77; 32]), "agent-1", &world.profile);
    let mut keys = std::collections::HashMap::new();
    keys.insert("k-7Qm2".to_owned(), world.keys.clone());
    let known = KnownKey::new(fresh_id.clone(), "agent-1", fresh());
    keys.insert("k-next".to_owned(), Arc::new(known));
    let mut next = World::agent();
    next.epoch = world.epoch;
    next.signer = Signer::new(world.profile, fresh_id, fresh());
    for sent in [world.good(), next.good()] {
        let context = Context::new(at(NOW), world.epoch);
        let owner = sent.with(|view| {
            let authentic = world.verifier.check(view, &keys, &context).unwrap();
            authentic
                .spend(&world.store, at(NOW))
                .unwrap()
                .owner()
                .to_owned()
        });
        assert_eq!(owner, "agent-1");
    }
}
