//! Keys of others, and signatures that are none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use serde_json::json;

use super::Verdict::{NoRequest, Silence};
use super::{BUSY, HEARTBEAT, World};
use crate::agent::TestAgent;

#[tokio::test]
async fn s26_a_key_of_somebody_else() {
    let world = World::start().await;
    let ben = world.relay.browser_of("ben@example.org").await;
    let other = TestAgent::approved(&world.relay, &ben).await;
    let gone = TestAgent::approved(&world.relay, &ben).await;
    let path = format!("/api/agents/{}", gone.id);
    let removed = ben.send(Method::DELETE, &path, None).await;
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    let own = world.agent.key_id.as_str();
    let mut rows = Vec::new();
    for (what, key, verdict) in [
        ("another tenant's", other.key_id.to_string(), Silence),
        ("one that was withdrawn", gone.key_id.to_string(), Silence),
        ("the agent's own name", world.agent.id.clone(), Silence),
        ("another case", own.to_uppercase(), Silence),
        ("a space behind", format!("{own} "), Silence),
        ("a letter less", own[1..].to_owned(), Silence),
        ("a letter more", format!("{own}0"), Silence),
        ("none", String::new(), Silence),
        ("a quote", format!("{own}\\\"x"), Silence),
        ("a path", format!("../{own}"), Silence),
        ("SQL", "' OR 1=1 --".to_owned(), Silence),
        ("65 characters", "k".repeat(65), Silence),
        ("10,000 characters", "k".repeat(10_000), NoRequest),
    ] {
        // As it is, and with a MAC of our own key over the name.
        let mut sent = world.heartbeat(BUSY);
        sent.edit("signature-input", own, &key);
        rows.push((what.to_owned(), sent, verdict));
        let mut sent = world.heartbeat(BUSY);
        let (lines, tail) = (sent.lines(), sent.tail().replacen(own, &key, 1));
        world.resign(&mut sent, &lines, &tail);
        rows.push((format!("{what}, signed over"), sent, verdict));
    }
    world.hold("S26", rows).await;
    // Its holder alone hears that a key was withdrawn.
    let answer = gone.call(
        &world.relay,
        Method::POST,
        HEARTBEAT,
        Some(json!({"state": "busy"})),
    );
    let answer = answer.await;
    assert_eq!(
        (answer.signed, &answer.body["error"]),
        (true, &json!("revoked"))
    );
}

#[tokio::test]
async fn s27_a_mac_of_a_wrong_length_or_form() {
    let world = World::start().await;
    let good = world.heartbeat(BUSY);
    let signature = good.header("signature");
    let text = signature
        .trim_start_matches("katachi=:")
        .trim_end_matches(':');
    let mac = STANDARD.decode(text).unwrap();
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let of = |bytes: &[u8]| format!("katachi=:{}:", STANDARD.encode(bytes));
    let mut forms = vec![
        "katachi=::".to_owned(),
        "katachi=:AA==:".to_owned(),
        "katachi=:=:".to_owned(),
        of(&mac[..1]),
        of(&mac[..31]),
        of(&[&mac[..], &[0]].concat()),
        of(&[&mac[..], &mac[..]].concat()),
        of(&[0; 32]),
        format!("katachi=:{hex}:"),
        format!("katachi={text}"),
        format!("katachi=\"{text}\""),
        format!("{signature}, {signature}"),
        format!("{signature};x=1"),
        signature.replace("katachi", "other"),
        signature.replace("katachi", "Katachi"),
        signature.trim_end_matches(':').to_owned(),
        signature.replace("=:", ":"),
        "x".repeat(250),
        String::new(),
    ];
    for at in 0..mac.len() {
        let mut flipped = mac.clone();
        flipped[at] ^= 1 << (at % 8);
        forms.push(of(&flipped));
    }
    let row = |form: String| {
        let mut sent = good.clone();
        sent.set("signature", &form);
        (form, sent, Silence)
    };
    world
        .hold("S27", forms.into_iter().map(row).collect())
        .await;
}
