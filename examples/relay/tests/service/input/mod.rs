//! Every route of the relay asked badly: it answers without a fault of its own, in the
//! form of all its refusals, with one line in its log that says which path it was and
//! nothing that it was told, and changes nothing; with mail and without.
//!
//! The routes are read out of the router's own source, so that one without a row in
//! the table of [`routes`] fails the test.

mod bodies;
pub(crate) mod process;
mod requests;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use katachi_protocol::routes as paths;

use crate::agent::{Device, START, TestAgent};
use crate::relay::{Browser, PASSWORD};
use process::Process;
use requests::{Bad, Verdict};
use routes::{Row, mail_table, table};

/// Stands in everything that is told, and must not stand in the log.
const CANARY: &str = "canary-7f3d";

struct World {
    relay: Process,
    cookie: String,
    second_cookie: String,
    /// Of another account.
    other_cookie: String,
    sends_mail: bool,
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
        other_cookie: other.cookie().to_owned(),
        sends_mail: false,
        agent,
        others,
    };
    // For who has them, they are there.
    assert_eq!(other.get("/api/mcp/theirs/sealed").await.status(), 200);
    assert_eq!(other.carry(&theirs.id, "").await.err().unwrap().0, 503);
    let before = kept(&state);

    let lines = world.asked(&table()).await;
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
    let secrets = [CANARY, PASSWORD, value(&world.cookie)];
    has_one_line_each(&log, &lines, &secrets);

    // The same relay once it sends mail, to accounts whose addresses are confirmed: then
    // asking for another link leaves nothing behind.
    let folder = state.path().join("mail");
    let environment = [
        ("MAIL_DIR", folder.to_str().unwrap()),
        ("MAIL_FROM", "relay@example.org"),
    ];
    let environment = environment.map(|(name, is)| (format!("KATACHI_RELAY_{name}"), is.into()));
    let world = World {
        relay: Process::start_in(&state, environment.into()),
        sends_mail: true,
        ..world
    };
    let browser = browser.moved_to(&world.relay.relay);
    for (browser, email) in [
        (&browser, "ana@example.org"),
        (&other.moved_to(&world.relay.relay), "ben@example.org"),
    ] {
        let asked = browser.post(paths::VERIFY_SEND, json!({})).await;
        assert_eq!(asked.status(), 202);
        let token = token(&folder, email).await;
        let confirmed = browser.post(paths::VERIFY, json!({"token": token})).await;
        assert_eq!(confirmed.status(), 204);
    }
    let before = kept(&state);
    let lines = world.asked(&mail_table()).await;
    assert_eq!(kept(&state), before, "something was changed");
    let out = browser.post(paths::LOG_OUT, json!({})).await;
    assert_eq!(out.status(), 204);
    assert_ne!(kept(&state), before);
    let log = world.relay.stop();
    let secrets = [CANARY, PASSWORD, value(&world.cookie)];
    has_one_line_each(&log, &lines, &secrets);
}

fn value(cookie: &str) -> &str {
    cookie.split('=').nth(1).unwrap()
}

/// The token of the link that was mailed to `email`.
async fn token(folder: &Path, email: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mails = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let whole = mails.filter(|mail| mail.path().extension().is_some_and(|of| of == "eml"));
        for mail in whole {
            let text = std::fs::read_to_string(mail.path()).unwrap();
            let text = text.replace("=\r\n", "");
            if let Some((_, token)) = text.split_once("/#verify/")
                && text.contains(&format!("To: {email}"))
            {
                return token.chars().take(43).collect();
            }
        }
        assert!(Instant::now() < deadline, "no mail to {email}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many lines the log must have for each method and path.
type Lines = BTreeMap<(String, String), usize>;

/// The log has these lines of what was asked badly, and none of `secrets`.
fn has_one_line_each(log: &str, lines: &Lines, secrets: &[&str]) {
    let mut written = Lines::new();
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
    assert_eq!(&written, lines, "one line for each request");
    for secret in secrets {
        let leak = log.lines().find(|line| line.contains(secret));
        assert!(leak.is_none(), "{secret}: {leak:?}");
    }
}

impl World {
    /// Asks everything that is wrong of `rows`; how many lines the log must have of it.
    async fn asked(&self, rows: &[Row]) -> Lines {
        let mut paths = BTreeSet::new();
        let mut asked = Asked::default();
        for row in rows {
            // What is signed is good for a minute.
            asked.all(self, self.bad(row)).await;
            if paths.insert(row.path) {
                asked.all(self, self.wrong_methods(rows, row.path)).await;
            }
        }
        let Asked {
            count,
            faults,
            lines,
        } = asked;
        let failed = faults.len();
        assert!(
            faults.is_empty(),
            "{failed} of {count}:\n{}",
            faults.join("\n\n")
        );
        lines
    }
}

/// What was asked so far.
#[derive(Default)]
struct Asked {
    count: u16,
    faults: Vec<String>,
    lines: Lines,
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
