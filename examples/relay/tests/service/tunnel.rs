//! Through the tunnel: the agent serves HTTP/2 on the connection it opened.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Json, Query};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::StatusCode;
use katachi_protocol::agent::AgentStatus;
use katachi_protocol::problem::Problem;
use katachi_protocol::record::{Denial, Denials, History, HistoryHit};
use katachi_protocol::run::{MessageRequest, OutputStream, RunEvent, RunRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::agent::{TestAgent, wait_until_online};
use crate::relay::{Browser, TestRelay};

#[derive(Deserialize)]
struct Search {
    q: String,
}

/// What a test agent serves. `tick` is the pause between pieces of output.
fn router(tick: Duration, cancelled: Arc<AtomicBool>) -> Router {
    Router::new()
        .route(
            "/v1/run",
            post(
                move |Json(request): Json<RunRequest>| async move { run(request, tick, cancelled) },
            ),
        )
        .route(
            "/v1/message",
            post(|Json(request): Json<MessageRequest>| async move { message(request) }),
        )
        .route(
            "/v1/status",
            get(|| async {
                Json(AgentStatus {
                    version: "9".into(),
                    schema: 1,
                    ..Default::default()
                })
            }),
        )
        .route(
            "/v1/history",
            get(|Query(search): Query<Search>| async move {
                let hit = HistoryHit {
                    session: "s".into(),
                    snippet: search.q,
                    ..Default::default()
                };
                Json(History { hits: vec![hit] })
            }),
        )
        .route(
            "/v1/denials",
            get(|| async {
                let denial = Denial {
                    at: 1,
                    target: "/etc/shadow".into(),
                    ..Default::default()
                };
                Json(Denials {
                    denials: vec![denial],
                })
            }),
        )
}

fn output(data: impl Into<String>) -> RunEvent {
    RunEvent::Output {
        stream: OutputStream::Stdout,
        data: data.into(),
    }
}

fn events(events: Vec<RunEvent>) -> Response {
    let lines = events
        .into_iter()
        .map(|event| Ok::<_, Infallible>(Bytes::from(event.to_line())));
    Body::from_stream(futures_util::stream::iter(lines)).into_response()
}

/// Sets its flag when dropped before it was disarmed.
struct Watch(Arc<AtomicBool>, bool);

impl Watch {
    fn disarm(mut self) {
        self.1 = false;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.1 {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

fn run(request: RunRequest, tick: Duration, cancelled: Arc<AtomicBool>) -> Response {
    if request.argv[0] == "refused" {
        let problem = Problem::new("forbidden", "`refused` is not an allowed command");
        return (StatusCode::FORBIDDEN, Json(problem)).into_response();
    }
    let endless = request.argv[0] == "endless";
    let start = (0_u32, Watch(cancelled, true));
    let lines = futures_util::stream::unfold(start, move |(n, watch)| async move {
        tokio::time::sleep(tick).await;
        let event = match n {
            0 => RunEvent::Started {
                id: "r".into(),
                argv: vec![],
                plan_hash: "h".into(),
                session: None,
            },
            5 if !endless => RunEvent::Exit {
                code: Some(0),
                signal: None,
                seconds: 0.1,
            },
            6 => {
                watch.disarm();
                return None;
            }
            n => output(format!("{n}\n")),
        };
        let next = if endless { 1 } else { n + 1 };
        Some((
            Ok::<_, Infallible>(Bytes::from(event.to_line())),
            (next, watch),
        ))
    });
    Body::from_stream(lines).into_response()
}

fn message(request: MessageRequest) -> Response {
    events(vec![
        output(request.text.to_uppercase()),
        RunEvent::Exit {
            code: Some(0),
            signal: None,
            seconds: 0.0,
        },
    ])
}

async fn connected(tick: Duration) -> (TestRelay, Browser, TestAgent, Arc<AtomicBool>) {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let cancelled = Arc::new(AtomicBool::new(false));
    agent
        .open_tunnel(&relay, router(tick, Arc::clone(&cancelled)), None)
        .await
        .unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    (relay, browser, agent, cancelled)
}

fn path(agent: &TestAgent, rest: &str) -> String {
    format!("/api/agents/{}{rest}", agent.id)
}

#[tokio::test]
async fn a_command_goes_to_the_agent_and_its_output_comes_back() {
    let (_relay, browser, agent, _) = connected(Duration::ZERO).await;
    let answer = browser
        .post(&path(&agent, "/run"), json!({"argv": ["ls"]}))
        .await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let text = answer.text().await.unwrap();
    let events: Vec<RunEvent> = text
        .lines()
        .map(|line| RunEvent::from_line(line).unwrap())
        .collect();
    assert_eq!(events.len(), 6);
    assert!(events[5].is_last());
    let answer = browser
        .post(&path(&agent, "/message"), json!({"text": "hello"}))
        .await;
    assert!(answer.text().await.unwrap().contains("HELLO"));
}

#[tokio::test]
async fn status_denials_and_history_are_answered_by_the_agent() {
    let (_relay, browser, agent, _) = connected(Duration::ZERO).await;
    assert_eq!(browser.json(&path(&agent, "/status")).await["version"], "9");
    assert_eq!(
        browser.json(&path(&agent, "/denials")).await["denials"][0]["target"],
        "/etc/shadow"
    );
    let hits = browser
        .json(&path(&agent, "/history?q=a%26q%3Db%20%C3%A9"))
        .await;
    assert_eq!(hits["hits"][0]["snippet"], "a&q=b é");
}

#[tokio::test]
async fn output_is_not_held_back() {
    let tick = Duration::from_millis(200);
    let (_relay, browser, agent, _) = connected(tick).await;
    let answer = browser
        .post(&path(&agent, "/run"), json!({"argv": ["slow"]}))
        .await;
    let mut pieces = answer.bytes_stream();
    let mut times = Vec::new();
    let mut lines = 0;
    while let Some(piece) = pieces.next().await {
        lines += piece.unwrap().iter().filter(|byte| **byte == b'\n').count();
        times.push(Instant::now());
    }
    assert_eq!(lines, 6);
    assert!(
        times.len() >= 5,
        "the pieces came as {} and not one by one",
        times.len()
    );
    let spread = times[times.len() - 1] - times[0];
    assert!(spread >= tick * 4, "they came within {spread:?}");
}

#[tokio::test]
async fn a_browser_that_leaves_stops_the_agent_s_work() {
    let (_relay, browser, agent, cancelled) = connected(Duration::from_millis(10)).await;
    let answer = browser
        .post(&path(&agent, "/run"), json!({"argv": ["endless"]}))
        .await;
    let mut pieces = answer.bytes_stream();
    pieces.next().await.unwrap().unwrap();
    assert!(!cancelled.load(Ordering::SeqCst));
    let left = Instant::now();
    drop(pieces);
    while !cancelled.load(Ordering::SeqCst) {
        assert!(
            left.elapsed() < Duration::from_secs(5),
            "the agent was not told"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn fifty_requests_share_one_tunnel() {
    let (_relay, browser, agent, _) = connected(Duration::from_millis(5)).await;
    let target = path(&agent, "/run");
    let runs = (0..50).map(|_| async {
        browser
            .post(&target, json!({"argv": ["ls"]}))
            .await
            .text()
            .await
            .unwrap()
    });
    for text in futures_util::future::join_all(runs).await {
        assert_eq!(text.lines().count(), 6);
    }
}

#[tokio::test]
async fn an_agent_has_only_so_many_streams_at_once() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| config.limits.streams_per_agent = 2).await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    agent
        .open_tunnel(
            &relay,
            router(Duration::from_millis(20), Arc::default()),
            None,
        )
        .await
        .unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let run = json!({"argv": ["endless"]});
    let first = browser.post(&path(&agent, "/run"), run.clone()).await;
    let _second = browser.post(&path(&agent, "/run"), run.clone()).await;
    assert_eq!(
        browser
            .post(&path(&agent, "/run"), run.clone())
            .await
            .status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    drop(first);
    // The relay notices in its own time that a place became free.
    let mut status = StatusCode::SERVICE_UNAVAILABLE;
    for _ in 0..100 {
        status = browser
            .post(&path(&agent, "/run"), run.clone())
            .await
            .status();
        if status == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn what_the_agent_refuses_is_told_with_its_reason() {
    let (_relay, browser, agent, _) = connected(Duration::ZERO).await;
    let answer = browser
        .post(&path(&agent, "/run"), json!({"argv": ["refused"]}))
        .await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["message"], "`refused` is not an allowed command");
}

#[tokio::test]
async fn requests_that_no_agent_should_see_end_at_the_relay() {
    let (relay, browser, agent, _) = connected(Duration::ZERO).await;
    for (body, status) in [
        (json!({"argv": []}), 400),
        (json!({"argv": [""]}), 400),
        (json!({"argv": ["a\u{0}b"]}), 400),
        (json!({"argv": "ls"}), 400),
        (json!({"argv": ["ls"], "shell": true}), 400),
        (json!({"argv": vec!["x"; 257]}), 413),
        (json!({"argv": ["x".repeat(40_000)]}), 413),
    ] {
        let answer = browser.post(&path(&agent, "/run"), body).await;
        assert_eq!(answer.status().as_u16(), status);
    }
    let answer = browser
        .post(&path(&agent, "/message"), json!({"text": " "}))
        .await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let other = relay.browser_of("ben@example.org").await;
    let answer = other
        .post(&path(&agent, "/run"), json!({"argv": ["ls"]}))
        .await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    let answer = browser
        .post("/api/agents/..%2f..%2fv1/run", json!({"argv": ["ls"]}))
        .await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_agent_that_went_away_is_offline_at_once() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let answer = browser
        .post(&path(&agent, "/run"), json!({"argv": ["ls"]}))
        .await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json::<Value>().await.unwrap()["error"], "offline");
    let serving = agent
        .open_tunnel(&relay, router(Duration::ZERO, Arc::default()), None)
        .await
        .unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    serving.abort();
    wait_until_online(&browser, &agent.id, false).await;
}

#[tokio::test]
async fn a_stream_that_breaks_is_not_taken_for_complete() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let serving = agent
        .open_tunnel(
            &relay,
            router(Duration::from_millis(20), Arc::default()),
            None,
        )
        .await
        .unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let answer = browser
        .post(&path(&agent, "/run"), json!({"argv": ["endless"]}))
        .await;
    let mut pieces = answer.bytes_stream();
    pieces.next().await.unwrap().unwrap();
    serving.abort();
    let started = Instant::now();
    let broke = loop {
        match pieces.next().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(broke && started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn the_newest_tunnel_wins() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let named = |name: &'static str| {
        Router::new().route(
            "/v1/status",
            get(move || async move {
                Json(AgentStatus {
                    version: name.to_owned(),
                    schema: 1,
                    ..Default::default()
                })
            }),
        )
    };
    let older = agent
        .open_tunnel(&relay, named("older"), None)
        .await
        .unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let _newer = agent
        .open_tunnel(&relay, named("newer"), None)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(5), older)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        browser.json(&path(&agent, "/status")).await["version"],
        "newer"
    );
    wait_until_online(&browser, &agent.id, true).await;
    // Whoever looks sees that there were two: it may be a cloned credential.
    let noticed = async || {
        let audit = browser.json("/api/audit").await;
        let entries = audit["entries"].as_array().unwrap().clone();
        entries
            .iter()
            .any(|entry| entry["action"] == "tunnel_replaced")
    };
    for _ in 0..100 {
        if noticed().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nothing tells of the second tunnel");
}

#[tokio::test]
async fn a_tunnel_is_bound_to_its_own_tls_connection() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    // What a man in the middle could pass on: a good signature over the
    // exporter value of another connection.
    let refused = agent
        .open_tunnel(&relay, Router::new(), Some([7; 32]))
        .await;
    assert_eq!(refused.unwrap_err(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        browser.json("/api/agents").await["agents"][0]["online"],
        false
    );
}

#[tokio::test]
async fn removing_an_agent_closes_its_tunnel() {
    let (_relay, browser, agent, _) = connected(Duration::ZERO).await;
    let answer = browser
        .send(reqwest::Method::DELETE, &path(&agent, ""), None)
        .await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let answer = browser
        .post(&path(&agent, "/run"), json!({"argv": ["ls"]}))
        .await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_agent_that_talks_nonsense_harms_nobody() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let nonsense = Router::new()
        .route("/v1/status", get(|| async { "<script>not json</script>" }))
        .route("/v1/denials", get(|| async { vec![b'x'; 6 * 1024 * 1024] }))
        .route(
            "/v1/run",
            post({
                let calls = Arc::clone(&calls);
                move || async move {
                    calls.fetch_add(1, Ordering::SeqCst);
                    (StatusCode::INTERNAL_SERVER_ERROR, "<h1>oops</h1>")
                }
            }),
        );
    agent.open_tunnel(&relay, nonsense, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    for target in ["/status", "/denials", "/history?q=x"] {
        assert_eq!(
            browser.get(&path(&agent, target)).await.status(),
            StatusCode::BAD_GATEWAY,
            "{target}"
        );
    }
    let answer = browser
        .post(&path(&agent, "/run"), json!({"argv": ["ls"]}))
        .await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert!(!answer.text().await.unwrap().contains("oops"));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_slow_reader_holds_the_agent_back() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let flood = Router::new().route(
        "/v1/run",
        post(move || async move {
            let pieces = futures_util::stream::repeat_with(move || {
                counter.fetch_add(64 * 1024, Ordering::SeqCst);
                Ok::<_, Infallible>(Bytes::from(vec![b'x'; 64 * 1024]))
            });
            Body::from_stream(pieces)
        }),
    );
    agent.open_tunnel(&relay, flood, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let answer = browser
        .post(&path(&agent, "/run"), json!({"argv": ["flood"]}))
        .await;
    // Nobody reads the answer: what the agent could send has an end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after_one = sent.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(sent.load(Ordering::SeqCst), after_one, "it went on sending");
    assert!(
        after_one < 64 * 1024 * 1024,
        "{after_one} bytes are in between"
    );
    drop(answer);
}

#[tokio::test]
async fn stopping_the_relay_closes_tunnels_and_ends() {
    let (relay, _browser, _agent, _) = connected(Duration::ZERO).await;
    let started = Instant::now();
    relay.stop().await;
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn a_tunnel_needs_an_upgrade_and_a_signature() {
    let relay = TestRelay::start().await;
    let answer = relay.browser().get("/v1/tunnel").await;
    assert_eq!(answer.status(), StatusCode::UPGRADE_REQUIRED);
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let request = || TestAgent::request(&relay, http::Method::GET, "/v1/tunnel", None);
    let mut signed = request();
    let binding = agent.sign(&mut signed);
    let answer = agent.send(&relay, signed, &binding).await;
    assert_eq!(answer.status, StatusCode::UPGRADE_REQUIRED);
    let mut unsigned = request();
    unsigned
        .headers_mut()
        .insert("connection", "Upgrade".parse().unwrap());
    unsigned
        .headers_mut()
        .insert("upgrade", "katachi-tunnel/1".parse().unwrap());
    let answer = agent.send(&relay, unsigned, &binding).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_relay_has_only_so_many_tunnels() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| config.limits.tunnels = 1).await;
    let browser = relay.browser_of("ana@example.org").await;
    let first = TestAgent::approved(&relay, &browser).await;
    let second = TestAgent::approved(&relay, &browser).await;
    let _serving = first
        .open_tunnel(&relay, Router::new(), None)
        .await
        .unwrap();
    wait_until_online(&browser, &first.id, true).await;
    let refused = second.open_tunnel(&relay, Router::new(), None).await;
    assert_eq!(refused.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE);
}
