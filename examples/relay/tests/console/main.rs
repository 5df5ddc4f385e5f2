//! The console in a real browser: every flow, and each view in both themes, on a
//! screen and a phone, without a fault of accessibility that axe-core sees and
//! without a complaint of the browser. Screenshots are kept in `target/console`.
//!
//! Needs Chromium, node, playwright-core and axe-core (`NODE_PATH`); without them
//! the test is reported as ignored, and fails where `KATACHI_REQUIRE_ALL=1`.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(
    dead_code,
    reason = "the helpers are shared with the tests of the service"
)]

#[path = "../service/agent.rs"]
mod agent;
mod chromium;
mod device;
#[path = "../service/embedded.rs"]
mod embedded;
#[path = "../service/relay.rs"]
mod relay;
mod sites;

use embedded::database;

use std::convert::Infallible;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use katachi_protocol::agent::{AgentState, AgentStatus, CloudflaredCounts, CloudflaredHealth};
use katachi_protocol::record::{
    Conversation, Denial, Denials, History, HistoryHit, Said, SessionEntry, Sessions,
};
use katachi_protocol::run::{MessageRequest, OutputStream, RunEvent, RunRequest};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::task::JoinHandle;

use agent::{TestAgent, poll, start_device};
use device::Keys;
use relay::TestRelay;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

fn main() -> std::process::ExitCode {
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
    let trial = |name: &str, run: fn() -> Result<(), Failed>| match chromium::missing() {
        None => Trial::test(name, run),
        Some(what) => {
            let name = format!("{name} (needs {what})");
            let said = format!("{what} is missing, and KATACHI_REQUIRE_ALL=1");
            Trial::test(name, move || Err(Failed::from(said))).with_ignored_flag(!required)
        }
    };
    let trials = vec![
        trial("a_person_does_everything_in_the_console", || {
            runtime().block_on(browse())
        }),
        trial("no_other_site_acts_or_reads_in_the_console", || {
            runtime().block_on(sites::try_everything())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

async fn browse() -> Result<(), Failed> {
    let relay = TestRelay::start().await;
    let started = start_device(&relay).await;
    let unwanted = start_device(&relay).await;
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap()
        .join("console");
    std::fs::create_dir_all(&shots)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console/console.cjs");
    let keys = Arc::new(Keys::new());
    let mut child = tokio::process::Command::new("node")
        .arg(script)
        .env("NODE_PATH", chromium::node_path().unwrap())
        .env("CHROMIUM", chromium::chromium().unwrap())
        .env("RELAY", &relay.url)
        .env("USER_CODE", started["user_code"].as_str().unwrap())
        .env("UNWANTED_CODE", unwanted["user_code"].as_str().unwrap())
        .env("SHOTS", &shots)
        .env("FRAGMENT", keys.fragment().expose())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut answers = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    let mut machine: Option<(TestAgent, JoinHandle<()>)> = None;
    // The page waits where the machine has to act.
    while let Some(line) =
        tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await??
    {
        let done = match line.as_str() {
            "approved" | "return" => {
                let agent = match machine.take() {
                    Some((agent, _)) => agent,
                    None => {
                        let answer = poll(&relay, started["device_code"].as_str().unwrap()).await;
                        TestAgent::from_token(&answer.json().await?)
                    }
                };
                let carrier = device::carrier(&keys, &relay.url, &agent.id, router());
                let tunnel = agent.open_tunnel(&relay, carrier, None).await;
                let tunnel = tunnel.map_err(|status| format!("tunnel: {status}"))?;
                machine = Some((agent, tunnel));
                "connected\n"
            }
            "leave" => {
                machine.as_ref().ok_or("no machine")?.1.abort();
                "left\n"
            }
            _ => "",
        };
        answers.write_all(done.as_bytes()).await?;
        said.push(line);
    }
    let status = child.wait().await?;
    if status.success() {
        Ok(())
    } else {
        Err(said.join("\n").into())
    }
}

fn router() -> Router {
    Router::new()
        .route(
            "/v1/run",
            post(|Json(request): Json<RunRequest>| async move { run(request) }),
        )
        .route(
            "/v1/message",
            post(|Json(request): Json<MessageRequest>| async move { message(request) }),
        )
        .route("/v1/status", get(|| async { Json(status()) }))
        .route(
            "/v1/denials",
            get(|| async {
                Json(Denials {
                    denials: vec![denial()],
                })
            }),
        )
        .route("/v1/history", get(|| async { Json(history()) }))
        .route("/v1/sessions", get(|| async { Json(sessions()) }))
        .route(
            "/v1/sessions/s1",
            get(|| async { Json(conversation()) }).delete(|| async {
                FORGOTTEN.store(true, Ordering::Relaxed);
                StatusCode::NO_CONTENT
            }),
        )
}

fn stream(events: Vec<RunEvent>) -> Response {
    let lines = futures_util::stream::unfold(events.into_iter(), |mut events| async move {
        let event = events.next()?;
        tokio::time::sleep(Duration::from_millis(120)).await;
        Some((Ok::<_, Infallible>(Bytes::from(event.to_line())), events))
    });
    Body::from_stream(lines).into_response()
}

fn output(stream: OutputStream, data: &str) -> RunEvent {
    RunEvent::Output {
        stream,
        data: data.to_owned(),
    }
}

fn started(argv: &[String], session: Option<&str>) -> RunEvent {
    RunEvent::Started {
        id: "r1".to_owned(),
        argv: argv.to_vec(),
        plan_hash: "8f2c61d0a4b7".to_owned(),
        session: session.map(str::to_owned),
    }
}

fn run(request: RunRequest) -> Response {
    let mut events = vec![started(&request.argv, None)];
    match request.argv[0].as_str() {
        "cat" => {
            let denial = denial();
            events.push(output(
                OutputStream::Stderr,
                "cat: /etc/shadow: Permission denied\n",
            ));
            events.push(RunEvent::Denied {
                control: denial.control,
                operation: denial.operation,
                target: denial.target,
                reason: denial.reason,
                allow_with: denial.allow_with,
            });
            events.push(RunEvent::Exit {
                code: Some(1),
                signal: None,
                seconds: 0.02,
            });
        }
        "sleep" => {
            let ticks = (0..600).map(|n| output(OutputStream::Stdout, &format!("tick {n}\n")));
            events.extend(ticks);
        }
        _ => {
            // A page that parsed this as HTML would run it.
            events.push(output(
                OutputStream::Stdout,
                "<img src=x onerror=\"document.title='owned'\">\n",
            ));
            events.extend((1..4).map(|n| output(OutputStream::Stdout, &format!("line {n}\n"))));
            events.push(RunEvent::Exit {
                code: Some(0),
                signal: None,
                seconds: 0.4,
            });
        }
    }
    stream(events)
}

fn message(request: MessageRequest) -> Response {
    let answer = match request.session.as_deref() {
        None => format!("You wrote: {}", request.text),
        Some(session) => format!("You wrote: {}, and go on with **{session}**", request.text),
    };
    let mut events = vec![started(&["assistant".to_owned()], Some("s1"))];
    events.extend(
        answer
            .split_inclusive(' ')
            .map(|word| output(OutputStream::Stdout, word)),
    );
    events.push(RunEvent::Exit {
        code: Some(0),
        signal: None,
        seconds: 1.2,
    });
    stream(events)
}

fn status() -> AgentStatus {
    AgentStatus {
        version: "0.1.0".to_owned(),
        schema: 1,
        host_name: "testbox".to_owned(),
        workspace: "atlas".to_owned(),
        state: AgentState::Idle,
        sandbox: "full".to_owned(),
        vault: "keychain".to_owned(),
        cloudflared: Some(CloudflaredHealth {
            ready: true,
            counts: Some(CloudflaredCounts {
                connections: 4,
                requests: 17,
                errors: 2,
            }),
        }),
    }
}

fn denial() -> Denial {
    Denial {
        at: 1_790_000_000,
        argv: vec!["cat".to_owned(), "/etc/shadow".to_owned()],
        control: "read".to_owned(),
        operation: "read".to_owned(),
        target: "/etc/shadow".to_owned(),
        reason: "it lies outside what the policy lets be read".to_owned(),
        allow_with: Some("filesystem.read = [\"/etc/shadow\"]".to_owned()),
    }
}

fn history() -> History {
    let hit = |role: &str, snippet: &str| HistoryHit {
        session: "s1".to_owned(),
        message: "m1".to_owned(),
        role: role.to_owned(),
        snippet: snippet.to_owned(),
        at: Some(1_790_000_000),
    };
    History {
        hits: vec![
            hit("user", "where is the parser for plums?"),
            hit("assistant", "The plums parser is in src/parse.rs"),
        ],
    }
}

static FORGOTTEN: AtomicBool = AtomicBool::new(false);

fn sessions() -> Sessions {
    let one = SessionEntry {
        session: "s1".to_owned(),
        title: "where is the parser for plums?".to_owned(),
        messages: 4,
        interrupted: 1,
        at: Some(1_790_000_000),
    };
    let is_left = !FORGOTTEN.load(Ordering::Relaxed);
    Sessions {
        sessions: Vec::from_iter(is_left.then_some(one)),
    }
}

fn conversation() -> Conversation {
    let said = |role: &str, state: &str, text: &str| Said {
        role: role.to_owned(),
        state: state.to_owned(),
        text: text.to_owned(),
        at: Some(1_790_000_000),
    };
    Conversation {
        session: "s1".to_owned(),
        title: "where is the parser for plums?".to_owned(),
        messages: vec![
            said("user", "complete", "where is the parser for plums?"),
            said("assistant", "complete", ANSWER),
            said("user", "complete", "and for apples?"),
            said("assistant", "interrupted", "I was looking in"),
        ],
        more: false,
    }
}

/// What an AI writes when it explains.
const ANSWER: &str = "\
It is in `src/parse.rs`. To try it:

1. Build the **parser**
2. Run its tests:
   ```sh
   cargo test -p plums
   ```

| tree | fruit |
|---|---|
| prunus | plum |
";
