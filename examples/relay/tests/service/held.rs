//! Accounts with something of everything that a relay seals, seen as their owners and
//! their agents see it, and rotations that are ended in the middle.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::agent::TestAgent;
use crate::relay::{Browser, TestRelay};

/// One account.
pub(crate) struct Held {
    pub(crate) email: String,
    browser: Browser,
    agent: TestAgent,
    /// The number in its secret: the last one that the relay said it had kept.
    kept: u64,
}

impl Held {
    pub(crate) async fn new(relay: &TestRelay, name: &str) -> Self {
        let email = format!("{name}@example.org");
        let browser = relay.browser_of(&email).await;
        let agent = TestAgent::approved(relay, &browser).await;
        let mut held = Self {
            email,
            browser,
            agent,
            kept: 0,
        };
        held.keep(1).await;
        held
    }

    /// The same account where the relay was started again, or at another node.
    pub(crate) async fn moved_to(mut self, relay: &TestRelay) -> Self {
        self.browser = self.browser.moved_to(relay);
        let said = self.browser.json("/v1/epoch").await;
        self.agent.set_epoch(said["epoch"].as_str().unwrap());
        self
    }

    /// Puts another number into the secret.
    pub(crate) async fn keep(&mut self, number: u64) {
        let config = json!({
            "command": ["x", self.email],
            "env": {},
            "secrets": {"T": number.to_string()},
            "released_to": [self.agent.id],
        });
        let stored = self
            .browser
            .send(Method::PUT, "/api/mcp/github", Some(config))
            .await;
        assert_eq!(
            stored.status(),
            StatusCode::OK,
            "{} was not kept",
            self.email
        );
        self.kept = number;
    }

    /// Opens all that is sealed of the account, at `relay`.
    pub(crate) async fn assert_opens(&self, relay: &TestRelay) {
        let email = self.email.as_str();
        assert_eq!(self.browser.json("/api/me").await["email"], email);
        let agents = self.browser.json("/api/agents").await;
        assert_eq!(agents["agents"][0]["host_name"], "testbox", "{email}");
        assert_eq!(self.browser.json("/api/audit").await["intact"], true);
        let answer = self
            .agent
            .call(relay, Method::GET, "/v1/agent/mcp", None)
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{email}: {}", answer.body);
        let config = &answer.body["configs"][0];
        assert_eq!(config["command"][1], email);
        assert_eq!(config["secrets"]["T"], self.kept.to_string(), "{email}");
    }

    /// How often its log says that its key was rotated.
    pub(crate) async fn rotations(&self) -> usize {
        let log = self.browser.json("/api/audit").await;
        let entries = log["entries"].as_array().unwrap();
        let rotated = entries
            .iter()
            .filter(|entry| entry["action"] == "key_rotated");
        rotated.count()
    }

    /// Writes and reads until `ends`; nothing may be refused or lost.
    pub(crate) async fn use_until(mut self, ends: Arc<AtomicBool>, relay: Arc<TestRelay>) -> Self {
        while !ends.load(Ordering::SeqCst) {
            self.keep(self.kept + 1).await;
            self.assert_opens(&relay).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self
    }
}

/// How many rotations are killed.
pub(crate) fn kills() -> usize {
    match std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1") {
        true => 100,
        false => 10,
    }
}

/// Starts a rotation and kills it: now and then while it starts, or else a moment after
/// it has said that some accounts are done. Whether that was before its end.
pub(crate) fn killed(mut command: Command, round: usize) -> bool {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    // Another moment in each round.
    let moment = (round as u64 * 7919) % 100;
    if round % 5 == 4 {
        std::thread::sleep(Duration::from_millis(moment * 4));
    } else {
        let mut seen = 0;
        while seen <= round % 5 {
            let mut line = String::new();
            if said.read_line(&mut line).unwrap() == 0 {
                break;
            }
            seen += usize::from(line.contains(" accounts"));
        }
        std::thread::sleep(Duration::from_micros(moment * 80));
    }
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

/// What a rotation prints that comes to its end.
pub(crate) fn finished(mut command: Command) -> Value {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(done["failed"], 0, "{said}");
    assert!(
        said.contains(&format!("{0} of {0} accounts", done["rotated"])),
        "{said}"
    );
    done
}
