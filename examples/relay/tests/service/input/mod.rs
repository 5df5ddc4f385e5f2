//! Every route of the relay asked badly: it answers without a fault of its own, in the
//! form of all its refusals, with one line in its log that says which path it was and
//! nothing that it was told, and changes nothing.
//!
//! The routes are read out of the router's own source, so that one without a row in
//! the table of [`routes`] fails the test.

mod bodies;
pub(crate) mod process;
mod requests;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use katachi_protocol::routes as paths;

use crate::agent::{Device, START, TestAgent};
use crate::relay::{Browser, PASSWORD};
use process::Process;
use requests::{Bad, Verdict};
use routes::table;

/// Stands in everything that is told, and must not stand in the log.
const CANARY: &str = "canary-7f3d";

struct World {
    relay: Process,
    cookie: String,
    second_cookie: String,
    agent: TestAgent,
    /// What another account has: what it is, and its name or identifier.
    others: Vec<(&'static str, String)>,
}

/// The tables, without what only tells when somebody was last here and what counts
/// tries.
fn kept(state: &TempDir) -> Vec<(String, Vec<Value>)> {
    let mut tables = crate::tables(state.path());
    assert!(tables.len() > 10);
    tables.retain(|(table, _)| table != "throttles");
    for (_, rows) in tables.iter_mut().filter(|(table, _)| table == "sessions") {
        rows.iter_mut().for_each(|row| drop(row["seen_ms"].take()));
    }
    tables
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_route_is_asked_it_answers_says_so_once_and_changes_nothing() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = Process::start(&state);
    let browser = relay.relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay.relay, &browser).await;
    let keeps = async |browser: &Browser, path: &str, agent: &TestAgent| {
        let config =
            json!({"command": ["x"], "env": {}, "secrets": {"T": "x"}, "released_to": [agent.id]});
        let stored = browser.send(Method::PUT, path, Some(config)).await;
        assert!(stored.status().is_success());
    };
    keeps(&browser, "/api/mcp/kept", &agent).await;
    let other = relay.relay.browser_of("ben@example.org").await;
    let theirs = TestAgent::approved(&relay.relay, &other).await;
    keeps(&other, "/api/mcp/theirs", &theirs).await;
    let id = other.json("/api/me").await["id"].clone();
    let others = vec![
        ("an agent", theirs.id.clone()),
        ("a key", theirs.key_id.to_string()),
        ("the identifier", id.as_str().unwrap().to_owned()),
        ("a configuration", "theirs".to_owned()),
    ];
    Device::new(&relay.relay, 3)
        .post(paths::DEVICE_AUTHORIZATION, &START)
        .await;
    let cookie = browser.cookie().to_owned();
    let second = relay.relay.signed_in("ana@example.org").await;
    let world = World {
        relay,
        cookie,
        second_cookie: second.cookie().to_owned(),
        agent,
        others,
    };
    // For who has them, they are there.
    assert_eq!(other.get("/api/mcp/theirs/sealed").await.status(), 200);
    assert_eq!(other.carry(&theirs.id, "").await.err().unwrap().0, 503);
    let before = kept(&state);

    let rows = table();
    let mut paths = BTreeSet::new();
    let mut asked = Asked::default();
    for row in &rows {
        // What is signed is good for a minute.
        asked.all(&world, world.bad(row)).await;
        if paths.insert(row.path) {
            asked
                .all(&world, world.wrong_methods(&rows, row.path))
                .await;
        }
    }
    let Asked {
        count,
        faults,
        lines,
    } = asked;
    assert!(
        faults.is_empty(),
        "{} of {}:\n{}",
        faults.len(),
        count,
        faults.join("\n\n")
    );
    assert_eq!(kept(&state), before, "something was changed");
    // It still serves, and the control changes what is compared.
    let answer = world.agent.call(
        &world.relay.relay,
        Method::POST,
        paths::HEARTBEAT,
        Some(json!({"state": "busy"})),
    );
    assert!(answer.await.signed);
    assert_ne!(kept(&state), before);

    let log = world.relay.stop();
    let mut written: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let fields = &line["fields"];
        if fields["message"] == "request" {
            let text = |name: &str| fields[name].as_str().unwrap().to_owned();
            if text("peer").starts_with("127.9.") {
                *written.entry((text("method"), text("path"))).or_default() += 1;
            }
        }
    }
    assert_eq!(written, lines, "one line for each request");
    let cookie = world.cookie.split('=').nth(1).unwrap();
    for secret in [CANARY, PASSWORD, cookie] {
        let leak = log.lines().find(|line| line.contains(secret));
        assert!(leak.is_none(), "{secret}: {leak:?}");
    }
}

/// What was asked so far.
#[derive(Default)]
struct Asked {
    count: u16,
    faults: Vec<String>,
    /// How many lines the log must have for each method and path.
    lines: BTreeMap<(String, String), usize>,
}

impl Asked {
    async fn all(&mut self, world: &World, requests: Vec<Bad>) {
        for bad in requests {
            self.count += 1;
            let answer = world.send(&bad, self.count).await;
            self.judge(&bad, &answer);
            if !matches!(bad.verdict, Verdict::NoRequest) {
                let path = bad.path[..bad.path.len().min(256)].to_owned();
                *self.lines.entry((bad.method, path)).or_default() += 1;
            }
        }
    }

    fn judge(&mut self, bad: &Bad, answer: &[u8]) {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(2000)]).into_owned();
        let status = shown.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.unwrap_or(0);
        let says_why = shown.contains("content-type: application/json")
            && (shown.contains("\"message\":") || shown.contains("\"error_description\":"));
        let explains = status < 400 || says_why || is_page(bad, status);
        // RFC 9110 section 15.5.6: what the path takes instead.
        let explains = explains && (status != 405 || shown.contains("allow: "));
        let fine = match bad.verdict {
            Verdict::Is(expected) => explains && status == expected,
            Verdict::IsOrCut(expected) => explains && status == expected || status == 0,
            Verdict::NoRequest => status == 400,
        };
        if !fine {
            let Bad {
                what,
                method,
                path,
                verdict,
                ..
            } = bad;
            let path = &path[..path.len().min(80)];
            self.faults
                .push(format!("{method} {path}, {what}, {verdict:?}: {shown}"));
        }
    }
}

/// Where a provider sends people back to, a refusal is a page for them.
fn is_page(bad: &Bad, status: u16) -> bool {
    bad.path.starts_with("/signin/") && (400..500).contains(&status)
}
