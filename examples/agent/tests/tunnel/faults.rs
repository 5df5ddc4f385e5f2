//! The agent's own end of a connection that dies without a word, heartbeats that are
//! lost while the tunnel holds, a tunnel that nobody uses for a while, and what agent
//! and relay hold after a long time of calls, cuts and returns (`KATACHI_LONG=1`, for
//! `KATACHI_SOAK_SECONDS` or 20 minutes).

use std::path::Path;
use std::time::{Duration, Instant};

use katachi_protocol::channel::ChannelRequest;
use libtest_mimic::Trial;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::soak;
use crate::support::device::Answer;
use crate::support::far::Far;
use crate::support::meeting::{get, run};
use crate::support::pair::Pair;
use crate::support::up::{PATIENCE, block_on};
use crate::support::{self, needing};

pub(crate) fn trials() -> Vec<Trial> {
    let confine = support::can_confine();
    let mut trials = vec![
        needing(
            "user namespaces",
            confine,
            "the_agent_notices_a_connection_that_died_and_its_request_ends",
            the_agent_notices_a_connection_that_died_and_its_request_ends,
        ),
        needing(
            "user namespaces",
            confine,
            "a_heartbeat_that_is_lost_does_not_end_the_tunnel",
            a_heartbeat_that_is_lost_does_not_end_the_tunnel,
        ),
        needing(
            "user namespaces",
            confine,
            "r11_an_agent_that_nobody_asks_anything_is_still_reached",
            an_agent_that_nobody_asks_anything_is_still_reached,
        ),
    ];
    if is_long() {
        trials.push(needing(
            "user namespaces",
            confine,
            "neither_end_grows_with_time",
            soak::neither_end_grows_with_time,
        ));
    }
    trials
}

fn is_long() -> bool {
    std::env::var_os("KATACHI_LONG").is_some_and(|value| value == "1")
}

impl Pair {
    /// They meet through a router; `keep_alive` in seconds is when the agent asks a
    /// silent relay whether it is there.
    pub(crate) async fn meets(keep_alive: f64) -> Self {
        let config = format!("[tunnel]\nkeep_alive = {keep_alive}\nkeep_alive_timeout = 2\n");
        Self::meet(Far::start(), &config, &[]).await
    }

    /// Starts a command that says and writes down something ten times a second.
    pub(crate) async fn beating(&self) -> Answer<TlsStream<TcpStream>> {
        let mut answer = self.meeting.ask(&self.device, beat()).await.unwrap();
        while !self.place.workspace().join("beat").exists() {
            answer.piece().await.unwrap().unwrap();
        }
        answer
    }

    /// Heartbeats so far with this outcome, as the agent wrote them down.
    fn heartbeats_that(&self, outcome: &str) -> usize {
        let log = self.place.agent(&["audit", "--json", "--limit", "1000"]);
        let entries = log.ok();
        let entries = entries
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let counted = entries.filter(|entry| {
            entry["call"] == "POST /v1/agent/heartbeat"
                && entry["outcome"].as_str().unwrap().starts_with(outcome)
        });
        counted.count()
    }

    /// Waits until there are as many of them as `count`.
    async fn heartbeats(&self, outcome: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.heartbeats_that(outcome) < count {
            assert!(Instant::now() < deadline, "no heartbeat {outcome}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn beat() -> ChannelRequest {
    let beat = "while true; do date +%s%N > beat; echo beat; sleep 0.1; done";
    run(&["sh", "-c", beat])
}

/// Reads until the answer ends, in whatever way; what came.
pub(crate) async fn whole(answer: &mut Answer<TlsStream<TcpStream>>) -> String {
    let mut whole = String::new();
    while let Ok(Some(piece)) = answer.piece().await {
        whole += std::str::from_utf8(&piece).unwrap();
    }
    whole
}

async fn goes_on(beat: &Path) -> bool {
    let before = std::fs::read(beat).unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    std::fs::read(beat).unwrap() != before
}

fn the_agent_notices_a_connection_that_died_and_its_request_ends() {
    block_on(async {
        let (noticing, control) = tokio::join!(Pair::meets(0.5), Pair::meets(600.0));
        tokio::join!(notices(noticing), hangs(control));
    });
}

async fn notices(mut pair: Pair) {
    let mut answer = pair.beating().await;
    let began = Instant::now();
    pair.far.forget();
    let said = tokio::time::timeout(PATIENCE, whole(&mut answer)).await;
    let said = said.expect("the browser is told nothing");
    // It sees that the end is missing.
    assert!(!said.contains("\"event\":\"exit\""), "{said}");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let why = pair.up.wait_for("Not connected:");
    assert!(why.contains("the tunnel broke"), "{why}");
    pair.up.wait_for("Connected.");
    pair.meeting.is_online().await;
    // By the new connection all is as it was, and what ran on the old one was ended.
    let answer = pair.meeting.ask(&pair.device, get("/v1/status")).await;
    assert_eq!(answer.unwrap().status, 200);
    assert!(!goes_on(&pair.place.workspace().join("beat")).await);
    let log = pair.place.agent(&["audit"]).ok();
    assert!(log.contains("cancelled"), "{log}");
    pair.up.stop();
}

/// Without being asked, a relay that is gone is one that has nothing to say.
async fn hangs(pair: Pair) {
    let mut answer = pair.beating().await;
    pair.far.forget();
    let said = tokio::time::timeout(Duration::from_secs(3), whole(&mut answer)).await;
    assert!(said.is_err(), "{said:?}");
    let beat = pair.place.workspace().join("beat");
    let again = async { while !goes_on(&beat).await {} };
    let again = tokio::time::timeout(PATIENCE, again).await;
    again.expect("the command was ended");
}

fn a_heartbeat_that_is_lost_does_not_end_the_tunnel() {
    block_on(async {
        let pair = Pair::meets(0.5).await;
        let _answer = pair.beating().await;
        pair.far.turn_away(true);
        pair.heartbeats("failed", 2).await;
        pair.far.turn_away(false);
        let before = pair.heartbeats_that("answered");
        pair.heartbeats("answered", before + 1).await;
        // The command would have ended with the tunnel in which it began.
        assert!(goes_on(&pair.place.workspace().join("beat")).await);
        let said = pair.up.stop_and_show();
        assert!(!said.contains("Not connected"), "{said}");
    });
}

/// Nothing but heartbeats, of which this relay wants one in five seconds, for several of
/// them; in a long run for ten minutes.
fn an_agent_that_nobody_asks_anything_is_still_reached() {
    block_on(async {
        let pair = Pair::meets(600.0).await;
        pair.heartbeats("answered", 1).await;
        let before = pair.heartbeats_that("answered");
        let quiet = match is_long() {
            true => Duration::from_secs(600),
            false => Duration::from_secs(20),
        };
        tokio::time::sleep(quiet).await;
        assert!(pair.meeting.browser.agents().await.agents[0].online);
        let answer = pair.meeting.ask(&pair.device, get("/v1/status")).await;
        assert_eq!(answer.unwrap().status, 200);
        assert!(pair.heartbeats_that("answered") > before);
        let said = pair.up.stop_and_show();
        assert!(!said.contains("Not connected"), "{said}");
    });
}
