//! Agents that come back as the real one does, by its own code, and callers that know
//! what became of each call.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Json;
use axum::response::Response;
use axum::routing::post;
use axum::{Router, http::StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use katachi_protocol::agent::Reconnect;
use tokio::sync::watch;

use crate::agent::TestAgent;
use crate::relay::{Browser, NotOpened, TestRelay, channel_with};
use backoff::Backoff;
use config::Limits;

#[path = "../../../agent/src/tunnel/backoff.rs"]
mod backoff;

/// What the waits of the agent are made of.
pub(crate) mod config {
    use std::time::Duration;

    pub(crate) struct Limits {
        pub(crate) first_wait: Duration,
        pub(crate) longest_wait: Duration,
    }

    impl Default for Limits {
        /// As the agent has them.
        fn default() -> Self {
            Self {
                first_wait: Duration::from_millis(500),
                longest_wait: Duration::from_secs(60),
            }
        }
    }
}

/// What all agents know together.
#[derive(Default)]
pub(crate) struct Known {
    /// How often each call came.
    pub(crate) calls: Mutex<HashMap<String, usize>>,
    /// When an agent that was sent away, or cut off, began to dial again.
    pub(crate) dialled: Mutex<Vec<Instant>>,
    /// Those that have a tunnel.
    pub(crate) open: AtomicUsize,
    /// What no wait of theirs is longer than, if not the minute of the real one.
    pub(crate) longest_wait: Option<Duration>,
}

/// Counts the call that is named in the first piece, and answers a moment later.
async fn count(known: Arc<Known>, body: Body) -> Response {
    let answer = async move {
        let first = body.into_data_stream().next().await;
        let id = String::from_utf8(first.unwrap().unwrap().to_vec()).unwrap();
        *known.calls.lock().unwrap().entry(id.clone()).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok::<_, Infallible>(Bytes::from(format!("done {id}")))
    };
    Response::new(Body::from_stream(futures_util::stream::once(answer)))
}

/// An agent for as long as the test runs: it waits and dials as the real one, each time
/// the next of the relays, as a balancer may have it.
pub(crate) async fn come_back(
    mut agent: TestAgent,
    relays: Arc<[Arc<TestRelay>]>,
    known: Arc<Known>,
) {
    let mut next = relays.iter().cycle();
    let mut limits = Limits::default();
    limits.longest_wait = known.longest_wait.unwrap_or(limits.longest_wait);
    let mut backoff = Backoff::new(&limits);
    let mut was_open = false;
    loop {
        if std::mem::take(&mut was_open) {
            known.dialled.lock().unwrap().push(Instant::now());
        }
        let (tell, mut told) = watch::channel(None);
        let counted = Arc::clone(&known);
        let router = Router::new()
            .route(
                "/v1/channel",
                post(move |body| count(Arc::clone(&counted), body)),
            )
            .route(
                "/v1/reconnect",
                post(async move |Json(when): Json<Reconnect>| {
                    let _ = tell.send(Some(when));
                    StatusCode::NO_CONTENT
                }),
            );
        let relay = next.next().expect("there is a relay");
        let opened = agent.try_open_tunnel(relay, router.clone(), None).await;
        let opened = match opened {
            Err(Some((StatusCode::UNAUTHORIZED, problem))) => {
                agent.set_epoch(problem["epoch"].as_str().unwrap());
                agent.try_open_tunnel(relay, router, None).await
            }
            opened => opened,
        };
        let when = match opened {
            Err(_) => None,
            Ok(mut serving) => {
                was_open = true;
                known.open.fetch_add(1, Ordering::SeqCst);
                let when = tokio::select! {
                    biased;
                    when = told.wait_for(Option::is_some) => when.ok().and_then(|when| *when),
                    _ = &mut serving => None,
                };
                known.open.fetch_sub(1, Ordering::SeqCst);
                when
            }
        };
        let wait = match when {
            Some(when) => backoff.told(when, fraction()),
            None => backoff.next(fraction()),
        };
        tokio::time::sleep(wait).await;
    }
}

fn fraction() -> f64 {
    let [byte, other] = katachi_crypto::random::bytes::<2>().unwrap();
    f64::from(u16::from_le_bytes([byte, other])) / f64::from(u16::MAX)
}

/// What became of a call.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Called {
    Answered,
    /// Before it was said.
    NotBegun,
    /// It was said, and its end did not come.
    Cut,
}

/// Time for an answer while everybody comes back at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Calls agents in turn until it is told to end; what became of each call.
pub(crate) async fn call(
    browser: Arc<Browser>,
    agents: Arc<Vec<String>>,
    caller: String,
    ends: Arc<AtomicBool>,
) -> Vec<(String, Called)> {
    let mut calls = Vec::new();
    while !ends.load(Ordering::SeqCst) {
        let id = format!("{caller}-{}", calls.len());
        let agent = &agents[(calls.len() * 7) % agents.len()];
        let became = tokio::time::timeout(PATIENCE, call_one(&browser, agent, &id)).await;
        let became = became.unwrap_or_else(|_| panic!("nobody tells what became of {id}"));
        if became == Called::NotBegun {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        calls.push((id, became));
    }
    calls
}

pub(crate) async fn call_one(browser: &Browser, agent: &str, id: &str) -> Called {
    let mut carried = match browser.try_open(&channel_with(agent)).await {
        Ok(carried) => carried,
        Err(NotOpened::Broken(_)) => return Called::NotBegun,
        Err(NotOpened::Refused(status, problem)) => {
            assert!(status.is_server_error(), "{status}: {problem}");
            return Called::NotBegun;
        }
    };
    match carried.try_send(id).await && carried.whole().await == format!("done {id}") {
        true => Called::Answered,
        false => Called::Cut,
    }
}
