//! Hundreds of agents and a relay that is stopped, or killed, and started again.
//!
//! The agents wait as the real one does, by its own code. `KATACHI_LONG=1` brings more
//! of them, and five storms in place of two.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use http::StatusCode;
use serde_json::Value;
use tempfile::TempDir;

use crate::agent::TestAgent;
use crate::program;
use crate::relay::TestRelay;
use crate::returning::{Called, Known, PATIENCE, call, call_one, come_back};

/// When the relay tells its agents to come back, and how many of them in a second.
const RESTART: Duration = Duration::from_millis(500);
const RETURNS_PER_SECOND: u32 = 25;
/// Agents that one address may connect at once, and one account may have.
const PER_ADDRESS: usize = 8;
const PER_ACCOUNT: usize = 200;
/// What the relay, as it is built for tests, may hold for each agent at its worst
/// moment, in bytes.
const MOST_MEMORY: u64 = 400 * 1024;

/// A relay that is a process, always on the same port.
pub(crate) struct Node {
    child: Child,
    ready: Value,
    pub(crate) relay: Arc<TestRelay>,
}

impl Node {
    pub(crate) fn start(state: Arc<TempDir>, port: u16) -> Self {
        let mut child = program()
            .args(["serve", "--no-keychain", "--ready-json"])
            .args(["--max-connections", "20000"])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--restart", &RESTART.as_secs_f64().to_string()])
            .args(["--returns-per-second", &RETURNS_PER_SECOND.to_string()])
            .arg("--state-dir")
            .arg(state.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let relay = Arc::new(TestRelay::of_process(&ready, state));
        Self {
            child,
            ready,
            relay,
        }
    }

    /// The same relay for clients of the address `source`.
    pub(crate) fn seen_from(&self, source: [u8; 4]) -> TestRelay {
        let mut relay = TestRelay::of_process(&self.ready, Arc::clone(&self.relay.state));
        relay.source = Some(source.into());
        relay
    }

    /// Ends it by a signal and starts it again.
    fn again(mut self, signal: &str) -> Self {
        let pid = self.child.id().to_string();
        let mut kill = std::process::Command::new("kill");
        assert!(kill.args([signal, &pid]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        assert_eq!(status.success(), signal == "-TERM", "{status}");
        let state = Arc::clone(&self.relay.state);
        Self::start(state, self.relay.address.port())
    }

    /// Memory of its own that lies in RAM, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    /// How many files and connections the program has open.
    pub(crate) fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        open.unwrap().count()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The slowest of the answers that other routes gave until `ends`.
async fn slowest_of_others(relay: Arc<TestRelay>, ends: Arc<AtomicBool>) -> Duration {
    let client = relay.client();
    let mut slowest = Duration::ZERO;
    while !ends.load(Ordering::SeqCst) {
        for path in ["/healthz", "/readyz", "/v1/epoch"] {
            let began = Instant::now();
            let answer = client.get(format!("{}{path}", relay.url)).send();
            let answer = tokio::time::timeout(PATIENCE, answer).await;
            let answer = answer.unwrap_or_else(|_| panic!("{path} hangs")).unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
            slowest = slowest.max(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    slowest
}

/// The most of `times` that lie within `window`.
fn busiest(mut times: Vec<Instant>, window: Duration) -> usize {
    times.sort();
    let within =
        |(at, first): (usize, &Instant)| times.partition_point(|time| *time < *first + window) - at;
    times
        .iter()
        .enumerate()
        .map(within)
        .max()
        .unwrap_or_default()
}

/// Agents that were approved, those of the first account before the others.
pub(crate) async fn approved(node: &Node, count: usize) -> Vec<TestAgent> {
    let mut agents = Vec::new();
    while agents.len() < count {
        let email = format!("ana{}@example.org", agents.len());
        let browser = node.relay.browser_of(&email).await;
        let places = agents.len()..count.min(agents.len() + PER_ACCOUNT);
        let new = places.map(|place| {
            let [high, low] = u16::try_from(place / PER_ADDRESS).unwrap().to_be_bytes();
            let relay = node.seen_from([127, 1 + high, low, 1]);
            let browser = &browser;
            async move { TestAgent::approved(&relay, browser).await }
        });
        let new = futures_util::stream::iter(new).buffer_unordered(8);
        agents.extend(new.collect::<Vec<_>>().await);
    }
    agents
}

/// Waits until `there`, and gives the most memory that `node` had meanwhile.
async fn most_memory_until(node: &Node, there: impl Fn() -> bool) -> u64 {
    let began = Instant::now();
    let mut most = node.memory();
    while !there() {
        assert!(began.elapsed() < 6 * PATIENCE, "they do not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
        most = most.max(node.memory());
    }
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_come_back_to_a_relay_that_stops_or_dies_and_no_call_is_lost_or_doubled() {
    let is_long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
    let count = if is_long { 400 } else { 48 };
    let mut node = Node::start(Arc::new(tempfile::tempdir().unwrap()), 0);
    let agents = approved(&node, count).await;
    let called = agents.iter().take(PER_ACCOUNT);
    let called: Vec<_> = called.map(|agent| agent.id.clone()).collect();
    let called = Arc::new(called);
    let browser = Arc::new(node.relay.signed_in("ana0@example.org").await);
    let known = Arc::new(Known::default());
    let relays: Arc<[_]> = Arc::new([Arc::clone(&node.relay)]);
    for agent in agents {
        let relays = Arc::clone(&relays);
        tokio::spawn(come_back(agent, relays, Arc::clone(&known)));
    }
    let is_open = |known: &Known| known.open.load(Ordering::SeqCst) == count;
    most_memory_until(&node, || is_open(&known)).await;

    // A relay that stops says how far they are to spread; after one that is killed
    // they spread over the second of their waits.
    let told = Duration::from_secs(1) * u32::try_from(count).unwrap() / RETURNS_PER_SECOND;
    let storms = [("-TERM", told), ("-KILL", Duration::from_millis(900))];
    let storms = storms.into_iter().cycle();
    for (storm, (signal, spread)) in storms.take(if is_long { 5 } else { 2 }).enumerate() {
        known.dialled.lock().unwrap().clear();
        let ends = Arc::new(AtomicBool::new(false));
        let callers = (0..4).map(|caller| {
            let (browser, called) = (Arc::clone(&browser), Arc::clone(&called));
            let caller = format!("{signal}-{storm}-{caller}");
            tokio::spawn(call(browser, called, caller, Arc::clone(&ends)))
        });
        let callers: Vec<_> = callers.collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let stopped = Instant::now();
        node = tokio::task::spawn_blocking(move || node.again(signal))
            .await
            .unwrap();
        let alone = node.memory();
        let relay = Arc::clone(&node.relay);
        let others = tokio::spawn(slowest_of_others(relay, Arc::clone(&ends)));
        let all_dialled = || known.dialled.lock().unwrap().len() >= count;
        let most = most_memory_until(&node, || all_dialled() && is_open(&known)).await;
        let returned = stopped.elapsed();
        tokio::time::sleep(Duration::from_millis(300)).await;
        ends.store(true, Ordering::SeqCst);

        let times = known.dialled.lock().unwrap().clone();
        let busiest = busiest(times, spread / 4);
        let slowest = others.await.unwrap();
        let mut became = HashMap::new();
        for caller in callers {
            became.extend(caller.await.unwrap());
        }
        let counted = known.calls.lock().unwrap().clone();
        let mut answered = 0;
        for (id, became) in &became {
            let came = counted.get(id).copied().unwrap_or_default();
            match became {
                Called::Answered => assert_eq!(came, 1, "{id} was answered"),
                Called::NotBegun => assert_eq!(came, 0, "{id} was not begun"),
                // Its caller knows, and a relay that stops lets it end.
                Called::Cut => assert!(came <= 1 && signal == "-KILL", "{id} came {came} times"),
            }
            answered += usize::from(*became == Called::Answered);
        }
        // R10: after it each of them is reached again, by a call of its own.
        let after = called.iter().map(|agent| {
            let (browser, id) = (&browser, format!("{storm}-after-{agent}"));
            async move {
                let became = call_one(browser, agent, &id);
                tokio::time::timeout(PATIENCE, became).await == Ok(Called::Answered)
            }
        });
        let after = futures_util::stream::iter(after).buffer_unordered(16);
        let reached = after
            .filter(|reached| std::future::ready(*reached))
            .count()
            .await;
        assert_eq!(reached, called.len(), "of {} agents", called.len());
        eprintln!(
            "{storm} {signal}: {count} agents in {returned:?}, {busiest} of them in {:?}; others waited \
             {slowest:?} at most; {answered} of {} calls; {} KiB for each agent",
            spread / 4,
            became.len(),
            most.saturating_sub(alone) / 1024 / count as u64,
        );
        assert!(busiest * 5 < count * 3, "{busiest} of {count} at once");
        assert!(most < alone + MOST_MEMORY * count as u64, "{most} bytes");
        assert!(answered > 0);
        let list = browser.json("/api/agents").await;
        let list = list["agents"].as_array().unwrap();
        assert!(list.iter().all(|agent| agent["online"] == true), "{list:?}");
    }
}
