//! An agent that is killed in the middle of an answer: what the person saw of it is
//! kept once, the next start says that it was cut off, and so do the history, the
//! console's list and what the model is shown next. A command or a call of an MCP server
//! that was under way is ended with it, and told of.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use katachi_protocol::mcp::PutMcp;
use katachi_protocol::record::{Audit, Conversation, Sessions};
use katachi_protocol::run::RunEvent;
use libtest_mimic::Trial;
use serde_json::json;

use crate::support::far::Far;
use crate::support::meeting::{post, run, session_of, text_of};
use crate::support::pair::Pair;
use crate::support::provider::{Provider, says, uses};
use crate::support::up::{PATIENCE, Up, block_on, signal};
use crate::support::{self, needing};

pub(crate) fn trials() -> Vec<Trial> {
    let confine = support::can_confine();
    let case = |name: &str, test: fn()| needing("user namespaces", confine, name, test);
    vec![
        case(
            "an_answer_that_a_crash_cut_off_is_kept_once_and_said_to_be_cut_off",
            an_answer_that_a_crash_cut_off,
        ),
        case(
            "what_was_shown_is_on_disk_though_the_model_says_nothing_more",
            what_was_shown_is_on_disk,
        ),
        case(
            "what_was_under_way_at_a_crash_is_ended_and_told_of_once",
            what_was_under_way,
        ),
    ]
}

impl Pair {
    /// Kills the agent as the machine would and starts it anew; `cut_off` of its
    /// answers are said to be incomplete.
    async fn is_killed(&mut self, cut_off: &str) {
        signal("-KILL", &self.up.child);
        self.up.child.wait().unwrap();
        let mut command = self.place.command();
        command.env("KATACHI_CONFIG", self.place.home().join("../config.toml"));
        let relay = [
            "--relay-url",
            &self.far.url,
            "--relay-ca",
            &self.far.authority,
        ];
        self.up = Up::start_by(command, &relay);
        self.up.wait_for(cut_off);
        self.up.wait_for("Connected.");
        self.meeting.is_online().await;
    }

    /// Sends a message and leaves once its answer has `mark`; its conversation, and
    /// what was seen of it.
    async fn sees(&mut self, text: &str, mark: &str, cut_off: &str) -> (String, String) {
        let mut shown = String::new();
        let events = self
            .meeting
            .follow(&self.device, (None, text), async |event| {
                if let RunEvent::Output { data, .. } = event {
                    shown.push_str(data);
                }
                if !shown.contains(mark) {
                    return true;
                }
                // A moment after it was seen. Stopped, it does not notice who leaves.
                tokio::time::sleep(Duration::from_secs(1)).await;
                signal("-STOP", &self.up.child);
                false
            });
        let events = events.await;
        self.is_killed(cut_off).await;
        (session_of(&events), text_of(&events))
    }

    fn shown(&self, session: &str) -> Vec<serde_json::Value> {
        let shown = self.place.agent(&["history", "show", "--json", session]);
        serde_json::from_str(&shown.ok()).unwrap()
    }
}

fn an_answer_that_a_crash_cut_off() {
    let config = "[ai]\ncommand = [\"sh\", \"ticks.sh\"]\n";
    block_on(async {
        let mut pair = Pair::meet(Far::start(), config, &[]).await;
        let ticks = "cat >/dev/null; n=0; while [ $n -lt 600 ]; do n=$((n+1)); \
                     echo tick $n.; sleep 0.1; done";
        std::fs::write(pair.place.workspace().join("ticks.sh"), ticks).unwrap();
        let (session, seen) = pair.sees("count", "tick 7.", "An answer was cut off").await;
        let shown = pair.shown(&session);
        assert_eq!(shown.len(), 2, "{shown:?}");
        assert_eq!(shown[0]["text"], "count");
        assert_eq!(shown[0]["state"], "complete");
        assert_eq!(shown[1]["state"], "interrupted");
        // All of it that was seen, and each piece once.
        let kept = shown[1]["text"].as_str().unwrap();
        assert!(kept.starts_with(&seen), "{seen:?} {kept:?}");
        let count = kept.lines().count();
        let whole: String = (1..=count).map(|n| format!("tick {n}.\n")).collect();
        assert_eq!(kept, whole);
        let text = pair.place.agent(&["history", "show", &session]).ok();
        assert!(text.contains(" interrupted\ntick 1."), "{text}");
        let list = pair.place.agent(&["history", "list"]).ok();
        assert!(list.contains("2 messages  count  1 interrupted"), "{list}");
        let sessions: Sessions = pair.meeting.read(&pair.device, "/v1/sessions").await;
        assert_eq!(sessions.sessions[0].interrupted, 1);
        let path = format!("/v1/sessions/{session}");
        let said: Conversation = pair.meeting.read(&pair.device, &path).await;
        assert_eq!(said.messages[1].state, "interrupted");
        // It can be found, and the next start has nothing more to say of it.
        let found = pair.place.agent(&["history", "search", "tick"]).ok();
        assert!(found.contains("tick"), "{found}");
        let said = pair.up.stop_and_show();
        assert_eq!(said.matches("cut off").count(), 1, "{said}");
    });
}

fn what_was_shown_is_on_disk() {
    let provider = Provider::start(vec![
        uses("I shall sleep. ", "run", json!({ "argv": ["sleep", "60"] })),
        says("I am awake."),
    ]);
    let config = format!(
        "[ai]\nkind = \"http\"\nmodel = \"claude-sonnet-4-5\"\nbase_url = {:?}\n",
        provider.base_url()
    );
    block_on(async {
        let mut pair = Pair::meet(Far::start(), &config, &[]).await;
        let cut_off = "An answer was cut off";
        let (session, seen) = pair.sees("sleep a little", "I shall sleep.", cut_off).await;
        assert_eq!(seen, "I shall sleep. ");
        let shown = pair.shown(&session);
        assert_eq!(shown[1]["text"], "I shall sleep. ");
        assert_eq!(shown[1]["state"], "interrupted");
        // What the model is told next says so, and nothing is done again by itself.
        assert_eq!(provider.asked().len(), 1);
        let events = pair
            .meeting
            .message(&pair.device, Some(&session), "and?")
            .await;
        assert_eq!(text_of(&events), "I am awake.");
        let asked = provider.asked();
        assert_eq!(asked.len(), 2);
        let told = asked[1].body["messages"].to_string();
        assert!(told.contains("I shall sleep. "), "{told}");
        assert_eq!(told.matches("was interrupted here").count(), 1, "{told}");
        assert_eq!(told.matches("sleep a little").count(), 1, "{told}");
        pair.up.stop();
    });
}

/// Waits until `file` is there, or is not written any more.
async fn beats(file: &Path, beats: bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let before = std::fs::read(file).unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(700)).await;
        let after = std::fs::read(file).unwrap_or_default();
        if (before != after) == beats {
            return;
        }
        assert!(Instant::now() < deadline, "{}: {beats}", file.display());
    }
}

fn what_was_under_way() {
    block_on(async {
        let mut pair = Pair::meet(Far::start(), "", &[]).await;
        let beat =
            |file: &str| format!("while true; do date +%s%N > {file}; sleep 0.1; done # plums");
        let mut config = PutMcp {
            command: ["sh", "-c", &beat("server")].map(str::to_owned).to_vec(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            released_to: vec![pair.meeting.agent.clone()],
            signatures: BTreeMap::new(),
        };
        let signed = pair.device.sign_mcp(&pair.meeting.agent, "silent", &config);
        let signed = (pair.meeting.agent.clone(), signed.unwrap());
        config.signatures = BTreeMap::from([signed]);
        pair.meeting.browser.put_mcp("silent", &config).await;

        let files = ["command", "server"].map(|name| pair.place.workspace().join(name));
        let command = run(&["sh", "-c", &beat("command")]);
        let server = post("/v1/mcp", json!({ "server": "silent" }));
        let mut answers = Vec::new();
        for (asked, file) in [command, server].into_iter().zip(&files) {
            answers.push(pair.meeting.ask(&pair.device, asked).await.unwrap());
            beats(file, true).await;
        }
        // One that has its end is none of them.
        pair.meeting.run(&pair.device, &["true"]).await;
        pair.is_killed("A call of an MCP server was interrupted")
            .await;
        for file in &files {
            beats(file, false).await;
        }
        let outcomes = |place: &crate::support::Place| -> Vec<(String, String)> {
            let log = place.agent(&["audit", "--json", "--limit", "1000"]).ok();
            let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
            let asked = lines.filter(|line: &serde_json::Value| line["direction"] == "in");
            let calls = asked.filter_map(|line| {
                let call = line["call"].as_str()?.strip_prefix("POST /v1/")?.to_owned();
                Some((call, line["outcome"].as_str()?.to_owned()))
            });
            calls.filter(|(call, _)| call != "channel").collect()
        };
        let ended = |call: &str, outcome: &str| (call.to_owned(), outcome.to_owned());
        let interrupted = [ended("run", "interrupted"), ended("mcp", "interrupted")];
        let said = outcomes(&pair.place);
        assert_eq!(said[said.len() - 2..], interrupted, "{said:?}");

        // The relay shows it to whoever looks at the account's activity.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown: Audit = pair.meeting.browser.get("/api/audit").await;
            let told = shown.entries.iter().filter(|entry| {
                entry.action == "run_finished" && entry.detail == "outcome=interrupted"
            });
            let told = told.count();
            if told == 2 {
                break;
            }
            assert!(told < 2 && Instant::now() < deadline, "{shown:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }

        // The next start but one has nothing to say of it.
        pair.is_killed("Commands work in").await;
        assert_eq!(outcomes(&pair.place), said);
        let said = pair.up.stop_and_show();
        assert!(!said.contains("interrupted"), "{said}");
    });
}
