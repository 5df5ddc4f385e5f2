//! Ends that hang, dawdle or leave: what the tunnel makes of them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Json;
use axum::routing::post;
use axum::{Router, response::Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use http::StatusCode;
use katachi_protocol::agent::Reconnect;
use katachi_relay::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::agent::{TestAgent, wait_until_online};
use crate::relay::{Carried, TestRelay};

/// Says what it is told, and from then on a word every 20 ms; told `flood` it sends
/// as much as it is let, and told `five` it ends with the fifth word.
fn talking(sent: Arc<AtomicUsize>) -> Router {
    let answer = move |body: Body| async move {
        let start = (body.into_data_stream(), None::<Bytes>, 0);
        let pieces = futures_util::stream::unfold(start, move |(mut body, told, count)| {
            let sent = Arc::clone(&sent);
            async move {
                let told = match told {
                    None => body.next().await?.ok()?,
                    Some(told) => told,
                };
                let piece = match &told[..] {
                    b"flood" => Bytes::from(vec![b'x'; 64 * 1024]),
                    b"five" if count == 5 => return None,
                    _ => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Bytes::from_static(b"word ")
                    }
                };
                sent.fetch_add(piece.len(), Ordering::SeqCst);
                Some((Ok::<_, Infallible>(piece), (body, Some(told), count + 1)))
            }
        });
        Response::new(Body::from_stream(pieces))
    };
    Router::new().route("/v1/channel", post(answer))
}

async fn relay_with(adapt: impl FnOnce(&mut Limits)) -> TestRelay {
    let state = Arc::new(tempfile::tempdir().unwrap());
    TestRelay::start_with(state, |config| adapt(&mut config.limits)).await
}

/// Passes TCP on until it is told to swallow what comes, without a word to either
/// end: what a router that forgot a connection does.
struct Passage {
    address: SocketAddr,
    swallows: Arc<AtomicBool>,
}

impl Passage {
    async fn to(there: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let swallows = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&swallows);
        tokio::spawn(async move {
            loop {
                let (here, _) = listener.accept().await.unwrap();
                let (in_here, out_here) = here.into_split();
                let there = TcpStream::connect(there).await.unwrap();
                let (in_there, out_there) = there.into_split();
                tokio::spawn(pass(in_here, out_there, Arc::clone(&flag)));
                tokio::spawn(pass(in_there, out_here, Arc::clone(&flag)));
            }
        });
        Self { address, swallows }
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallows: Arc<AtomicBool>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if swallows.load(Ordering::SeqCst) {
            // Neither end learns of the other's end.
            return std::future::pending().await;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn ends_within(carried: &mut Carried, patience: Duration) -> bool {
    let ended = async { while carried.next().await.is_some() {} };
    tokio::time::timeout(patience, ended).await.is_ok()
}

/// How long a channel goes on once everything on the agent's connection is
/// swallowed, if it ends within `patience`.
async fn swallowed(keep_alive: Duration, patience: Duration) -> Option<Duration> {
    let mut relay = relay_with(|limits| {
        limits.keep_alive = keep_alive;
        limits.keep_alive_timeout = Duration::from_millis(400);
    })
    .await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let passage = Passage::to(relay.address).await;
    relay.entrance = Some(passage.address);
    let sent = Arc::default();
    agent
        .open_tunnel(&relay, talking(sent), None)
        .await
        .unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let mut carried = browser.carry(&agent.id, "talk").await.unwrap();
    carried.next().await.unwrap();

    let began = Instant::now();
    passage.swallows.store(true, Ordering::SeqCst);
    if !ends_within(&mut carried, patience).await {
        return None;
    }
    let noticed = began.elapsed();
    let (status, problem) = browser.carry(&agent.id, "x").await.err().unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    // The agent comes by another way, and is asked there.
    relay.entrance = None;
    let again = talking(Arc::default());
    agent.open_tunnel(&relay, again, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let carried = browser.carry(&agent.id, "five").await.unwrap();
    assert_eq!(carried.whole().await, "word word word word word ");
    Some(noticed)
}

#[tokio::test]
async fn a_connection_that_died_without_a_word_is_noticed_and_its_channel_ends() {
    let (noticed, control) = tokio::join!(
        swallowed(Duration::from_millis(400), Duration::from_secs(4)),
        // Without pings nobody notices.
        swallowed(Duration::from_secs(600), Duration::from_secs(4)),
    );
    let noticed = noticed.expect("the channel hangs");
    assert!(noticed < Duration::from_secs(2), "{noticed:?}");
    assert_eq!(control, None);
}

#[tokio::test]
async fn a_browser_that_speaks_and_does_not_read_is_ended_and_nobody_else() {
    let relay = relay_with(|limits| {
        limits.channel_silence = Duration::from_secs(1);
        limits.channel_ping = Duration::from_millis(300);
    })
    .await;
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let router = talking(Arc::clone(&sent));
    agent.open_tunnel(&relay, router, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    // The control reads and says as little: it goes on beyond the deadline.
    let mut reading = browser.carry(&agent.id, "talk").await.unwrap();
    let mut deaf = browser.carry(&agent.id, "flood").await.unwrap();
    let began = Instant::now();
    let ended = loop {
        assert!(began.elapsed() < Duration::from_secs(8), "it is still open");
        for _ in 0..5 {
            reading.next().await.expect("somebody else's channel ended");
        }
        // It is never silent.
        if !deaf.try_send("more").await {
            break began.elapsed();
        }
    };
    assert!(ended > Duration::from_millis(900), "{ended:?}");
    let held = sent.load(Ordering::SeqCst);
    assert!(held < 32 << 20, "{held} bytes are in between");
    // Its place is free, and what it would have got is gone.
    let carried = browser.carry(&agent.id, "five").await.unwrap();
    assert_eq!(carried.whole().await, "word word word word word ");
}

#[tokio::test]
async fn a_relay_that_stops_says_when_to_come_back_and_finishes_what_runs() {
    const AGENTS: usize = 8;
    let relay = relay_with(|limits| {
        limits.restart = Duration::from_millis(700);
        limits.returns_per_second = 4;
    })
    .await;
    let browser = relay.browser_of("ana@example.org").await;
    let told: Arc<Mutex<Vec<Reconnect>>> = Arc::default();
    let mut agents = Vec::new();
    for _ in 0..AGENTS {
        let told = Arc::clone(&told);
        let hears = move |Json(when): Json<Reconnect>| async move {
            told.lock().unwrap().push(when);
            StatusCode::NO_CONTENT
        };
        let router = talking(Arc::default()).route("/v1/reconnect", post(hears));
        let agent = TestAgent::approved(&relay, &browser).await;
        let serving = agent.open_tunnel(&relay, router, None).await.unwrap();
        wait_until_online(&browser, &agent.id, true).await;
        agents.push((agent, serving));
    }
    let running = browser.carry(&agents[0].0.id, "five").await.unwrap();
    let mut endless = browser.carry(&agents[1].0.id, "talk").await.unwrap();
    endless.next().await.unwrap();
    let stopping = tokio::spawn(relay.stop());
    // What ends in time ends whole; what does not is cut, and its browser sees that.
    assert_eq!(running.whole().await, "word word word word word ");
    assert!(ends_within(&mut endless, Duration::from_secs(7)).await);
    stopping.await.unwrap();
    join_all(agents.into_iter().map(|(_, serving)| serving)).await;
    let when = Reconnect {
        after_ms: 700,
        spread_ms: 2_000,
    };
    assert_eq!(*told.lock().unwrap(), vec![when; AGENTS]);
}
