//! Through the tunnel: the agent serves HTTP/2 on the connection it opened.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Json;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::StatusCode;
use katachi_protocol::problem::Problem;
use serde_json::json;

use crate::agent::{TestAgent, wait_until_online};
use crate::relay::{Browser, TestRelay};

/// What a test agent serves: it says again what it was told, and counts to
/// five; told `endless`, it never ends. `tick` is the pause between pieces.
fn router(tick: Duration, cancelled: Arc<AtomicBool>) -> Router {
    Router::new().route(
        "/v1/channel",
        post(move |body: Body| async move { count(body, tick, cancelled) }),
    )
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

fn count(body: Body, tick: Duration, cancelled: Arc<AtomicBool>) -> Response {
    let start = (
        0_u32,
        body.into_data_stream(),
        false,
        Watch(cancelled, true),
    );
    let pieces = futures_util::stream::unfold(start, move |state| async move {
        let (n, mut body, mut endless, watch) = state;
        let piece = match n {
            0 => {
                let told = body.next().await?.ok()?;
                endless = &told[..] == b"endless";
                told
            }
            6 => {
                watch.disarm();
                return None;
            }
            n => Bytes::from(n.to_string()),
        };
        tokio::time::sleep(tick).await;
        let next = if endless { 1 } else { n + 1 };
        Some((Ok::<_, Infallible>(piece), (next, body, endless, watch)))
    });
    Body::from_stream(pieces).into_response()
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
async fn what_a_browser_says_reaches_the_agent_and_its_answer_comes_back() {
    let (_relay, browser, agent, _) = connected(Duration::ZERO).await;
    let carried = browser.carry(&agent.id, "hello").await.unwrap();
    assert_eq!(carried.whole().await, "hello12345");
}

#[tokio::test]
async fn no_route_asks_an_agent_but_for_a_channel() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let listening = Router::new().fallback(move || async move {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    agent.open_tunnel(&relay, listening, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    for rest in ["/run", "/message", "/v1/run", "/devices"] {
        let answer = browser
            .post(&path(&agent, rest), json!({"argv": ["ls"], "text": "x"}))
            .await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{rest}");
    }
    for rest in ["/status", "/history?q=x", "/denials", "/schema"] {
        let answer = browser.get(&path(&agent, rest)).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{rest}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn output_is_not_held_back() {
    let tick = Duration::from_millis(200);
    let (_relay, browser, agent, _) = connected(tick).await;
    let mut carried = browser.carry(&agent.id, "slow").await.unwrap();
    let mut times = Vec::new();
    while carried.next().await.is_some() {
        times.push(Instant::now());
    }
    assert!(
        times.len() >= 5,
        "the pieces came as {} and not one by one",
        times.len()
    );
    let spread = times[times.len() - 1] - times[0];
    assert!(spread >= tick * 4, "they came within {spread:?}");
}

/// Each piece is made when the one before it was read, and comes alone: at no time is
/// there more than one under way, so that none can have waited for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_no_piece_waits_for_the_next() {
    const PIECES: usize = 200;
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let (go, gone) = tokio::sync::mpsc::channel::<()>(1);
    let gone = Arc::new(tokio::sync::Mutex::new(gone));
    let made = Arc::new(AtomicUsize::new(0));
    let maker = Arc::clone(&made);
    let speak = move || async move {
        let pieces = futures_util::stream::unfold((gone, maker), move |(gone, maker)| async move {
            gone.lock().await.recv().await?;
            let piece = format!("piece {}", maker.fetch_add(1, Ordering::SeqCst));
            Some((Ok::<_, Infallible>(Bytes::from(piece)), (gone, maker)))
        });
        Body::from_stream(pieces).into_response()
    };
    let router = Router::new().route("/v1/channel", post(speak));
    agent.open_tunnel(&relay, router, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let mut carried = browser.carry(&agent.id, "go").await.unwrap();
    for n in 0..PIECES {
        go.send(()).await.unwrap();
        let piece = tokio::time::timeout(Duration::from_secs(30), carried.next()).await;
        let piece = piece.unwrap_or_else(|_| panic!("piece {n} waits for the next one"));
        assert_eq!(piece.unwrap(), format!("piece {n}"));
        assert_eq!(
            made.load(Ordering::SeqCst),
            n + 1,
            "the next was made before"
        );
    }
}

#[tokio::test]
async fn a_browser_that_leaves_stops_the_agent_s_work() {
    let (_relay, browser, agent, cancelled) = connected(Duration::from_millis(10)).await;
    let mut carried = browser.carry(&agent.id, "endless").await.unwrap();
    carried.next().await.unwrap();
    assert!(!cancelled.load(Ordering::SeqCst));
    drop(carried);
    becomes_true(&cancelled).await;
}

async fn becomes_true(flag: &AtomicBool) {
    let began = Instant::now();
    while !flag.load(Ordering::SeqCst) {
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "the agent was not told"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn fifty_channels_share_one_tunnel() {
    let (_relay, browser, agent, _) = connected(Duration::from_millis(5)).await;
    let channels = (0..50).map(|n| {
        let (browser, agent) = (&browser, &agent);
        async move {
            let said = format!("{n}:");
            let carried = browser.carry(&agent.id, &said).await.unwrap();
            assert_eq!(carried.whole().await, format!("{n}:12345"));
        }
    });
    futures_util::future::join_all(channels).await;
}

#[tokio::test]
async fn an_agent_has_only_so_many_streams_at_once() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| config.limits.streams_per_agent = 2).await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let counting = router(Duration::from_millis(20), Arc::default());
    agent.open_tunnel(&relay, counting, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let open = async || browser.carry(&agent.id, "endless").await;
    let first = open().await.unwrap();
    let _second = open().await.unwrap();
    let (status, _) = open().await.err().unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    drop(first);
    // The relay notices in its own time that a place became free.
    for _ in 0..100 {
        if open().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no place became free");
}

/// An agent that answers every request for a channel with `answer`.
async fn answering(answer: fn() -> Response) -> (TestRelay, Browser, TestAgent) {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let router = Router::new().route("/v1/channel", post(move || async move { answer() }));
    agent.open_tunnel(&relay, router, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    (relay, browser, agent)
}

#[tokio::test]
async fn what_the_agent_refuses_is_told_with_its_reason() {
    let (_relay, browser, agent) = answering(|| {
        let problem = Problem::new("rate_limited", "too many channels are open");
        (StatusCode::TOO_MANY_REQUESTS, Json(problem)).into_response()
    })
    .await;
    let (status, problem) = browser.carry(&agent.id, "x").await.err().unwrap();
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(problem["message"], "too many channels are open");
}

#[tokio::test]
async fn requests_that_no_agent_should_see_end_at_the_relay() {
    let (relay, browser, agent, _) = connected(Duration::ZERO).await;
    let (device, stream) = ("A".repeat(43), "B".repeat(22));
    for query in [
        String::new(),
        format!("mode=resume&device={device}"),
        format!("mode=plain&device={device}&stream={stream}"),
        format!("mode=resume&device={device}&stream={stream}&shell=1"),
        format!("mode=resume&device={device}A&stream={stream}"),
        format!("mode=resume&device={device}&stream=%2F{stream}"),
    ] {
        let target = path(&agent, &format!("/channel?{query}"));
        let (status, _) = browser.open(&target).await.err().unwrap();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
    }
    let other = relay.browser_of("ben@example.org").await;
    let (status, _) = other.carry(&agent.id, "x").await.err().unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = browser.carry("..%2f..%2fv1", "x").await.err().unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_agent_that_went_away_is_offline_at_once() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let (status, problem) = browser.carry(&agent.id, "x").await.err().unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(problem["error"], "offline");
    let serving = agent
        .open_tunnel(&relay, router(Duration::ZERO, Arc::default()), None)
        .await
        .unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    serving.abort();
    wait_until_online(&browser, &agent.id, false).await;
}

#[tokio::test]
async fn a_tunnel_that_breaks_ends_its_channels_at_once() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let counting = router(Duration::from_millis(20), Arc::default());
    let serving = agent.open_tunnel(&relay, counting, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let mut carried = browser.carry(&agent.id, "endless").await.unwrap();
    carried.next().await.unwrap();
    serving.abort();
    let ended = async { while carried.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(2), ended)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_newest_tunnel_wins() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let named =
        |name: &'static str| Router::new().route("/v1/channel", post(move || async move { name }));
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
    let carried = browser.carry(&agent.id, "x").await.unwrap();
    assert_eq!(carried.whole().await, "newer");
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
async fn removing_an_agent_closes_its_tunnel_and_its_channels() {
    let (_relay, browser, agent, _) = connected(Duration::from_millis(10)).await;
    let mut carried = browser.carry(&agent.id, "endless").await.unwrap();
    carried.next().await.unwrap();
    let answer = browser
        .send(reqwest::Method::DELETE, &path(&agent, ""), None)
        .await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let ended = async { while carried.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(2), ended)
        .await
        .unwrap();
    let (status, _) = browser.carry(&agent.id, "x").await.err().unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_channel_ends_with_the_session_that_opened_it() {
    let (relay, browser, agent, cancelled) = connected(Duration::from_millis(10)).await;
    let elsewhere = relay.signed_in("ana@example.org").await;
    let mut carried = browser.carry(&agent.id, "endless").await.unwrap();
    let mut other = elsewhere.carry(&agent.id, "endless").await.unwrap();
    carried.next().await.unwrap();
    let answer = browser
        .send(reqwest::Method::POST, "/api/logout", None)
        .await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let ended = async { while carried.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(2), ended)
        .await
        .unwrap();
    becomes_true(&cancelled).await;
    // Another session of the same account keeps its own.
    for _ in 0..20 {
        other.next().await.unwrap();
    }
    let (status, _) = browser.carry(&agent.id, "x").await.err().unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn metrics_count_and_name_nobody() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| {
        config.metrics = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let counting = router(Duration::from_millis(10), Arc::default());
    agent.open_tunnel(&relay, counting, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let target = format!("http://{}/metrics", relay.metrics.unwrap());
    let read = async || {
        let answer = relay.client().get(&target).send().await.unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        answer.text().await.unwrap()
    };
    let has = |text: &str, line: &str| text.lines().any(|found| found == line);
    let mut carried = browser.carry(&agent.id, "endless").await.unwrap();
    carried.next().await.unwrap();
    let text = read().await;
    assert!(has(&text, "katachi_relay_tunnels 1"), "{text}");
    assert!(has(&text, "katachi_relay_channels 1"), "{text}");
    assert!(
        !has(&text, "katachi_relay_requests_total{status=\"2xx\"} 0"),
        "{text}"
    );
    for name in ["ana@", &agent.id, agent.key_id.as_str(), "/api"] {
        assert!(!text.contains(name), "{name}: {text}");
    }
    drop(carried);
    let closed = tokio::time::timeout(Duration::from_secs(5), async {
        while !has(&read().await, "katachi_relay_channels 0") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    closed.await.unwrap();
    // The relay itself does not serve them.
    assert_eq!(
        browser.get("/metrics").await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn an_agent_that_talks_nonsense_harms_nobody() {
    let nonsense: [fn() -> Response; 3] = [
        || (StatusCode::INTERNAL_SERVER_ERROR, "<h1>oops</h1>").into_response(),
        || (StatusCode::FORBIDDEN, "<script>oops</script>").into_response(),
        || (StatusCode::FORBIDDEN, vec![b'x'; 6 * 1024 * 1024]).into_response(),
    ];
    for answer in nonsense {
        let (_relay, browser, agent) = answering(answer).await;
        let (status, problem) = browser.carry(&agent.id, "x").await.err().unwrap();
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert!(!problem.to_string().contains("oops"), "{problem}");
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_agent_back() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let flood = Router::new().route(
        "/v1/channel",
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
    let carried = browser.carry(&agent.id, "flood").await.unwrap();
    // Nobody reads the answer: what the agent could send has an end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after_one = sent.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(sent.load(Ordering::SeqCst), after_one, "it went on sending");
    assert!(
        after_one < 64 * 1024 * 1024,
        "{after_one} bytes are in between"
    );
    drop(carried);
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
