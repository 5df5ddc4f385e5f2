//! Another spelling of what was signed.

use super::Verdict::{Elsewhere, NoRequest, Silence};
use super::{BUSY, Sent, World, with_tails};

#[tokio::test]
async fn s04_another_spelling_of_the_same_signature() {
    let world = World::start().await;
    type Spell = fn(&str) -> String;
    let tails: [Spell; 8] = [
        |tail| format!("{tail};extra=1"),
        |tail| format!("{tail};alg=\"hmac-sha256\""),
        |tail| format!("{tail};tag=\"katachi-agent/1\""),
        |tail| tail.replace(";created", "; created"),
        |tail| tail.replace(";created=", ";Created="),
        |tail| tail.replace("\";keyid=\"", "\\\";keyid=\\\""),
        |tail| {
            let mut parts: Vec<&str> = tail.split(';').collect();
            parts.swap(1, 2);
            parts.join(";")
        },
        |tail| {
            let mut parts: Vec<&str> = tail.split(';').collect();
            parts.swap(4, 5);
            parts.join(";")
        },
    ];
    let signed = tails
        .map(|spell| -> Box<dyn Fn(&Sent) -> String> { Box::new(move |sent| spell(&sent.tail())) });
    let mut rows = with_tails(&world, Silence, signed);
    let missing = (1..6).map(|missing| -> Box<dyn Fn(&Sent) -> String> {
        Box::new(move |sent| {
            let tail = sent.tail();
            let parts = tail.split(';').enumerate();
            let kept: Vec<&str> = parts
                .filter(|(at, _)| *at != missing)
                .map(|(_, part)| part)
                .collect();
            kept.join(";")
        })
    });
    rows.extend(with_tails(&world, Silence, missing));
    let members: [Spell; 8] = [
        |input| format!("{input}, katachi=()"),
        |input| format!("{input}, other=(\"@method\");created=1"),
        |input| format!("other=(\"@method\"), {input}"),
        |input| input.replacen("katachi=", "katachi =", 1),
        |input| input.replacen("katachi=", "Katachi=", 1),
        |input| input.replacen("(\"", "( \"", 1),
        |input| input.replacen("\" \"", "\"  \"", 1),
        |input| format!("{input}\t;"),
    ];
    for spell in members {
        let mut sent = world.heartbeat(BUSY);
        let other = spell(&sent.header("signature-input"));
        sent.set("signature-input", &other);
        rows.push((other, sent, Silence));
    }
    for twice in ["signature-input", "signature"] {
        let mut sent = world.heartbeat(BUSY);
        let value = sent.header(twice);
        sent.add(twice, &value);
        rows.push((format!("{twice} twice"), sent, Silence));
    }
    world.hold("S04", rows).await;
}

#[tokio::test]
async fn s32_a_component_that_means_something_else() {
    let world = World::start().await;
    let good = world.heartbeat(BUSY).lines();
    let mut rows = Vec::new();
    let mut push = |what: &str, lines: Vec<(String, String)>| {
        let mut sent = world.heartbeat(BUSY);
        let tail = sent.tail();
        world.resign(&mut sent, &lines, &tail);
        rows.push((what.to_owned(), sent, Silence));
    };
    let renamed = |from: &str, to: &str| -> Vec<(String, String)> {
        let line = |(name, value): (String, String)| match name == from {
            true => (to.to_owned(), value),
            false => (name, value),
        };
        good.iter().cloned().map(line).collect()
    };
    for (from, to) in [
        ("\"@method\"", "\"@Method\""),
        ("\"content-digest\"", "\"Content-Digest\""),
        ("\"@method\"", "\"@method\";req"),
        ("\"@path\"", "\"@path\";req"),
        ("\"@query\"", "\"@query-param\";name=\"a\""),
        ("\"@authority\"", "\"host\""),
        ("\"@path\"", "\"@target-uri\""),
        ("\"content-type\"", "\"content-type\";bs"),
        ("\"content-type\"", "\"content-type\";sf"),
        ("\"content-type\"", "\"content-type\";tr"),
        ("\"content-digest\"", "\"content-digest\";key=\"sha-256\""),
        ("\"@method\"", "@method"),
        ("\"@method\"", "\"@met\\hod\""),
    ] {
        push(to, renamed(from, to));
    }
    for more in [
        "\"@signature-params\"",
        "\"@status\"",
        "\"@unknown\"",
        "\"signature\"",
        "\"x\"",
    ] {
        let mut lines = good.clone();
        lines.push((more.to_owned(), String::new()));
        push(&format!("{more} as well"), lines);
    }
    world.hold("S32", rows).await;
}

#[tokio::test]
async fn s35_a_signature_input_without_end() {
    let world = World::start().await;
    let mut rows = Vec::new();
    let good = world.heartbeat(BUSY).header("signature-input");
    let labels = |count: usize| -> String {
        let more: Vec<_> = (0..count).map(|n| format!("l{n}=()")).collect();
        format!("{good}, {}", more.join(", "))
    };
    let components = |count: usize| {
        let more: String = (0..count).map(|n| format!(" \"x{n}\"")).collect();
        good.replacen("\"@method\"", &format!("\"@method\"{more}"), 1)
    };
    let parameters = |count: usize| {
        let more: String = (0..count).map(|n| format!(";p{n}=1")).collect();
        format!("{good}{more}")
    };
    for (what, input, verdict) in [
        ("100 labels", labels(100), Silence),
        ("1,000 labels", labels(1000), NoRequest),
        ("100 components", components(100), Silence),
        ("1,000 components", components(1000), NoRequest),
        ("100 parameters", parameters(100), Silence),
        ("1,000 parameters", parameters(1000), NoRequest),
        ("14 KiB", "a".repeat(14 * 1024), NoRequest),
        ("2,000 brackets", "(".repeat(2000), Silence),
        ("60 KiB", "a".repeat(60 * 1024), Elsewhere(&[431, 0])),
        ("200 KiB", "a".repeat(200 * 1024), Elsewhere(&[431, 0])),
    ] {
        let mut sent = world.heartbeat(BUSY);
        sent.set("signature-input", &input);
        rows.push((what.to_owned(), sent, verdict));
    }
    let mut many = world.heartbeat(BUSY);
    for n in 0..30 {
        many.add("signature-input", &format!("l{n}=()"));
    }
    rows.push(("31 of them".to_owned(), many, Silence));
    world.hold("S35", rows).await;
}
