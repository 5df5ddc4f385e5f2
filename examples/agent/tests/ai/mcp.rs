//! MCP servers: a real one from npm, in a sandbox of its own, and a relay that
//! would like to start another.

use std::path::PathBuf;

use katachi_protocol::Sensitive;
use katachi_protocol::mcp::{McpServers, PutMcp};
use katachi_protocol::run::{OutputStream, RunEvent};
use libtest_mimic::Trial;
use serde_json::json;

use crate::servers::{self, config, sign};
use crate::support::device::Device;
use crate::support::meeting::{Meeting, events, post};
use crate::support::up::{Up, block_on};
use crate::support::{self, Place, needing};

const CANARY: &str = "canary-outside-7be1";
const SECRET: &str = "mcp-secret-0c5e";

pub(crate) fn trials() -> Vec<Trial> {
    let confine = support::can_confine();
    let server = confine && servers::files().is_some();
    vec![
        needing(
            "user namespaces, node and @modelcontextprotocol/server-filesystem",
            server,
            "a_signed_server_from_npm_works_in_its_sandbox",
            a_signed_server_from_npm_works_in_its_sandbox,
        ),
        needing(
            "user namespaces",
            confine,
            "a_relay_that_changes_a_configuration_starts_nothing",
            a_relay_that_changes_a_configuration_starts_nothing,
        ),
        needing(
            "user namespaces",
            confine,
            "a_server_gets_its_own_variables_and_no_others",
            a_server_gets_its_own_variables_and_no_others,
        ),
    ]
}

/// What the agent said to one call.
struct Said {
    events: Vec<RunEvent>,
    text: String,
}

impl Said {
    fn code(&self) -> Option<i32> {
        match self.events.last() {
            Some(RunEvent::Exit { code, .. }) => *code,
            _ => None,
        }
    }

    fn error(&self) -> &str {
        match self.events.last() {
            Some(RunEvent::Error { message }) => message,
            _ => panic!("{:?}", self.events),
        }
    }
}

async fn call(meeting: &Meeting, device: &Device, body: serde_json::Value) -> Said {
    let answer = meeting.ask(device, post("/v1/mcp", body)).await.unwrap();
    let events = events(answer).await;
    let text = events.iter().filter_map(|event| match event {
        RunEvent::Output {
            stream: OutputStream::Stdout,
            data,
        } => Some(data.as_str()),
        _ => None,
    });
    Said {
        text: text.collect(),
        events,
    }
}

fn a_signed_server_from_npm_works_in_its_sandbox() {
    let place = Place::new();
    std::fs::write(place.workspace().join("plums.txt"), "two plums\n").unwrap();
    let canary = place.file("canary.txt", CANARY);
    // The policy of commands would not let it start: it has one of its own.
    let policies = servers::confine_files(&place);
    std::fs::write(place.home().join("config.toml"), policies).unwrap();
    let mut up = Up::start(
        &place,
        &[
            "--config",
            place.home().join("config.toml").to_str().unwrap(),
        ],
    );
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        servers::sign_files(&meeting, &device).await;

        let listed = call(&meeting, &device, json!({ "server": "files" })).await;
        assert_eq!(listed.code(), Some(0), "{:?}", listed.events);
        assert!(listed.text.contains("read_text_file: "), "{}", listed.text);
        assert!(matches!(
            &listed.events[..],
            [.., RunEvent::Output { .. }, RunEvent::Exit { .. }]
        ));

        let read = async |path: PathBuf| {
            let arguments = json!({ "path": path.to_str().unwrap() });
            let body =
                json!({ "server": "files", "tool": "read_text_file", "arguments": arguments });
            call(&meeting, &device, body).await
        };
        let inside = read(place.workspace().join("plums.txt")).await;
        assert_eq!(inside.code(), Some(0), "{:?}", inside.events);
        assert!(inside.text.contains("two plums"), "{}", inside.text);

        // The file is there and this test can read it; the server cannot.
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), CANARY);
        let outside = read(canary.canonicalize().unwrap()).await;
        assert_eq!(outside.code(), Some(1), "{:?}", outside.events);
        assert!(!format!("{:?}", outside.events).contains(CANARY));
        let denied = outside.events.iter().find_map(|event| match event {
            RunEvent::Denied {
                target,
                reason,
                allow_with,
                ..
            } => Some((target, reason, allow_with)),
            _ => None,
        });
        let (target, reason, allow_with) = denied.expect("the refusal is shown");
        assert!(
            target.ends_with("canary.txt") && !reason.is_empty(),
            "{target} {reason}"
        );
        assert!(
            allow_with.as_ref().unwrap().contains("read = "),
            "{allow_with:?}"
        );
        let write = json!({ "path": place.workspace().join("pear.txt"), "content": "x" });
        let write = json!({ "server": "files", "tool": "write_file", "arguments": write });
        assert_eq!(call(&meeting, &device, write).await.code(), Some(1));
        assert!(!place.workspace().join("pear.txt").exists());
    });
    up.stop();
    assert!(
        place
            .agent(&["audit", "--json"])
            .ok()
            .contains("POST /v1/mcp")
    );
}

/// A program that is no MCP server, but leaves a mark when it is started.
const MARK: &[&str] = &["sh", "-c", "env > started"];

fn a_relay_that_changes_a_configuration_starts_nothing() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let stranger = Device::new(up.fragment.as_ref().unwrap(), "stranger").unwrap();
        let mark = place.workspace().join("started");
        // What this browser session stores without the device's key, a relay can.
        let refused = async |config: &PutMcp, why: &str| {
            meeting.browser.put_mcp("tool", config).await;
            let listed: McpServers = meeting.read(&device, "/v1/mcp").await;
            let refused = listed.servers[0].refused.clone();
            assert!(
                refused.unwrap_or_default().contains(why),
                "{why}: {:?}",
                listed.servers
            );
            let said = call(&meeting, &device, json!({ "server": "tool" })).await;
            assert!(said.error().contains(why), "{why}: {}", said.error());
            assert!(!mark.exists(), "{why}: it was started");
        };
        let mut first = config(&["sh", "-c", "true"], &meeting);
        refused(&first, "no paired device signed it").await;
        sign(&mut first, "tool", &stranger, &meeting);
        refused(&first, "not paired").await;
        sign(&mut first, "another", &device, &meeting);
        refused(&first, "somebody changed it").await;
        sign(&mut first, "tool", &device, &meeting);
        let mut changed = first.clone();
        changed.command = MARK.iter().map(|word| (*word).to_owned()).collect();
        refused(&changed, "somebody changed it").await;
        let mut changed = first.clone();
        changed.env.insert("PATH".to_owned(), "/evil".to_owned());
        refused(&changed, "somebody changed it").await;
        let mut withheld = first.clone();
        withheld.released_to.clear();
        withheld.signatures.clear();
        refused(&withheld, "not released").await;

        // As the device signed it, it is started: this is the control.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        let mut second = config(MARK, &meeting);
        sign(&mut second, "tool", &device, &meeting);
        meeting.browser.put_mcp("tool", &second).await;
        let said = call(&meeting, &device, json!({ "server": "tool" })).await;
        assert!(said.error().contains("does not"), "{}", said.error());
        assert!(mark.exists(), "{}", said.error());
        std::fs::remove_file(&mark).unwrap();
        // From then on what was signed before is too old.
        refused(&first, "went back").await;
    });
    up.stop();
}

fn a_server_gets_its_own_variables_and_no_others() {
    let place = Place::new();
    let mut command = place.command();
    command.env("OUTSIDE_TOKEN", "outside-1f");
    let mut up = Up::start_by(command, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let mut config = config(MARK, &meeting);
        config.env.insert("UNITS".to_owned(), "metric".to_owned());
        config
            .secrets
            .insert("TOKEN".to_owned(), Sensitive::new(SECRET));
        sign(&mut config, "tool", &device, &meeting);
        meeting.browser.put_mcp("tool", &config).await;
        call(&meeting, &device, json!({ "server": "tool" })).await;
        let env = std::fs::read_to_string(place.workspace().join("started")).unwrap();
        assert!(
            env.contains("UNITS=metric") && env.contains(&format!("TOKEN={SECRET}")),
            "{env}"
        );
        assert!(!env.contains("OUTSIDE_TOKEN"), "{env}");
        let commands = meeting.run(&device, &["env"]).await;
        assert!(!format!("{commands:?}").contains(SECRET));
    });
    up.stop();
    for (path, bytes) in place.stored() {
        let found = bytes
            .windows(SECRET.len())
            .any(|window| window == SECRET.as_bytes());
        assert!(!found, "{}", path.display());
    }
}
