//! What a signature covers, and what was added or left out.

use http::Method;

use super::Verdict::{Elsewhere, NoRequest, Silence, Taken, Told};
use super::{BUSY, IDLE, World};

#[tokio::test]
async fn s18_a_signature_that_leaves_something_out() {
    let world = World::start().await;
    let mut rows = Vec::new();
    let good = world.heartbeat(BUSY).lines();
    let mut lists = vec![("()".to_owned(), Vec::new())];
    for missing in 0..good.len() {
        let mut fewer = good.clone();
        let (name, _) = fewer.remove(missing);
        lists.push((format!("without {name}"), fewer));
    }
    let mut twice = good.clone();
    twice.push(good[0].clone());
    lists.push(("one twice".to_owned(), twice));
    let mut swapped = good.clone();
    swapped.swap(0, 1);
    lists.push(("another order".to_owned(), swapped));
    for (what, lines) in lists {
        let mut sent = world.heartbeat(BUSY);
        // Its own values: a digest and an epoch do not change between two requests.
        let tail = sent.tail();
        world.resign(&mut sent, &lines, &tail);
        rows.push((what, sent, Silence));
    }
    world.hold("S18", rows).await;
}

#[tokio::test]
async fn s21_a_body_where_none_was_signed() {
    let world = World::start().await;
    let mcp = || world.signed(Method::GET, "/v1/agent/mcp", "");
    let unregister = || world.signed(Method::DELETE, "/v1/agent", "");
    let mut rows = vec![("nothing".to_owned(), mcp(), Taken)];
    for (what, mut sent) in [("GET", mcp()), ("DELETE", unregister())] {
        sent.body = "x".to_owned();
        rows.push((format!("a body on {what}"), sent.clone(), Told("refused")));
        sent.add("transfer-encoding", "chunked");
        let fresh = if what == "GET" { mcp() } else { unregister() };
        sent.set("signature-input", &fresh.header("signature-input"));
        sent.set("signature", &fresh.header("signature"));
        rows.push((format!("a chunked body on {what}"), sent, Told("refused")));
    }
    // Two lengths, of which a proxy may believe the other.
    for (name, value) in [
        ("content-length", "0"),
        ("transfer-encoding", "chunked, identity"),
        ("transfer-encoding", "xchunked"),
    ] {
        let mut sent = unregister();
        sent.body = "x".to_owned();
        sent.add(name, value);
        rows.push((
            format!("also {name}: {value}"),
            sent,
            Elsewhere(&[400, 501]),
        ));
    }
    // No signature is over the body of a request that opens a tunnel.
    let mut tunnel = world.signed(Method::GET, "/v1/tunnel", "");
    tunnel.add("connection", "upgrade, close");
    tunnel.add("upgrade", "katachi-tunnel/1");
    tunnel.body = "x".to_owned();
    rows.push(("a body on the tunnel".to_owned(), tunnel, NoRequest));
    world.hold("S21", rows).await;
}

#[tokio::test]
async fn s22_a_header_that_somebody_added() {
    let world = World::start().await;
    let mut rows = Vec::new();
    for (name, value) in [
        ("content-encoding", "gzip"),
        ("content-encoding", "identity"),
        ("content-type", "application/json"),
        ("content-type", "text/plain"),
        ("idempotency-key", "\"1\""),
        ("authorization", "Bearer x"),
        ("katachi-epoch", "AAAAAAAAAAAAAAAAAAAAAA"),
        ("content-digest", "sha-256=:AAAA:"),
    ] {
        let mut sent = world.heartbeat(BUSY);
        sent.add(name, value);
        rows.push((format!("{name}: {value}"), sent, Silence));
    }
    let mut removed = world.heartbeat(BUSY);
    removed.remove("content-type");
    rows.push(("content-type removed".to_owned(), removed, Silence));
    // What is not signed is not honoured: the agent is still there, and idle.
    for (name, value) in [
        ("x-http-method-override", "DELETE"),
        ("x-http-method", "DELETE"),
        ("x-original-url", "/v1/agent"),
        ("x-rewrite-url", "/v1/agent"),
        ("x-forwarded-host", "attacker.example"),
        ("forwarded", "host=attacker.example"),
    ] {
        let mut sent = world.heartbeat(IDLE);
        sent.add(name, value);
        rows.push((format!("{name}: {value}"), sent, Taken));
    }
    world.hold("S22", rows).await;
}

#[tokio::test]
async fn s23_something_else_in_place_of_a_signature() {
    let world = World::start().await;
    let mut rows = Vec::new();
    for stripped in [
        &["signature"][..],
        &["signature-input"],
        &["signature", "signature-input"],
        &[
            "signature",
            "signature-input",
            "content-digest",
            "katachi-epoch",
        ],
    ] {
        for (name, value) in [
            ("x-nothing", String::new()),
            ("authorization", "Bearer token".to_owned()),
            ("authorization", format!("Bearer {}", world.agent.key_id)),
            // The owner's session opens the owner's routes, and not the agent's.
            ("cookie", world.cookie.clone()),
        ] {
            let mut sent = world.heartbeat(BUSY);
            stripped.iter().for_each(|name| sent.remove(name));
            sent.add(name, &value);
            rows.push((format!("{name} without {stripped:?}"), sent, Silence));
        }
    }
    world.hold("S23", rows).await;
}
