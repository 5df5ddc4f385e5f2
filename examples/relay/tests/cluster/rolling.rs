//! A cluster whose nodes are stopped, or killed, and started again one after the other,
//! with many agents that come back and calls that go on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use crate::agent::TestAgent;
use crate::nodes::Cluster;
use crate::relay::Browser;
use crate::returning::{Called, Known, PATIENCE, call, call_one, come_back};

const NODES: usize = 3;
const AGENTS: usize = 24;
/// Agents that one address may connect at once.
const PER_ADDRESS: usize = 8;
/// Time for all agents to be answered by again. They are told to come back within two
/// seconds; a busy machine takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// Agents of one account.
async fn approved(cluster: &Cluster, browser: &Browser) -> Vec<TestAgent> {
    let mut agents = Vec::new();
    for place in 0..AGENTS {
        let mut relay = cluster.again(0);
        let address = u8::try_from(1 + place / PER_ADDRESS).unwrap();
        relay.source = Some(IpAddr::from([127, 1, address, 1]));
        agents.push(TestAgent::approved(&relay, browser).await);
    }
    agents
}

/// Calls every agent at a node until each has answered once.
async fn all_answer(browser: &Browser, agents: &[String], round: &str, began: Instant) {
    let answers = agents.iter().map(async |agent| {
        for attempt in 0.. {
            let id = format!("again-{round}-{agent}-{attempt}");
            let called = tokio::time::timeout(PATIENCE, call_one(browser, agent, &id)).await;
            if called.expect("nobody tells what became of a call") == Called::Answered {
                break;
            }
            assert!(began.elapsed() < DEADLINE, "{agent} is not back at {round}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    // As many at once as a busy machine takes.
    let mut answers = futures_util::stream::iter(answers).buffer_unordered(8);
    while answers.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_stops_or_dies_in_turn_and_no_call_is_lost_or_doubled() {
    let mut cluster = Cluster::start(NODES);
    let first = cluster.node(0).browser_of("ana@example.org").await;
    let agents = approved(&cluster, &first).await;
    let ids: Vec<_> = agents.iter().map(|agent| agent.id.clone()).collect();
    let ids = Arc::new(ids);
    let mut browsers = vec![Arc::new(first)];
    for node in 1..NODES {
        let browser = cluster.node(node).signed_in("ana@example.org").await;
        browsers.push(Arc::new(browser));
    }
    // So many ends in a minute would have them wait for most of it.
    let known = Arc::new(Known {
        longest_wait: Some(Duration::from_secs(2)),
        ..Known::default()
    });
    let relays: Vec<_> = (0..NODES).map(|at| Arc::new(cluster.again(at))).collect();
    for (at, agent) in agents.into_iter().enumerate() {
        // Each begins at another node.
        let mut relays = relays.clone();
        relays.rotate_left(at % NODES);
        tokio::spawn(come_back(agent, relays.into(), Arc::clone(&known)));
    }
    for (node, browser) in browsers.iter().enumerate() {
        let round = format!("start-{node}");
        all_answer(browser, &ids, &round, Instant::now()).await;
    }

    for signal in ["-TERM", "-KILL"] {
        let ends = Arc::new(AtomicBool::new(false));
        let callers = browsers.iter().enumerate().map(|(node, browser)| {
            let (browser, called) = (Arc::clone(browser), Arc::clone(&ids));
            let caller = format!("{signal}-{node}");
            tokio::spawn(call(browser, called, caller, Arc::clone(&ends)))
        });
        let callers: Vec<_> = callers.collect();
        for ended in 0..NODES {
            let began = Instant::now();
            cluster.signal(ended, signal);
            let content = cluster.wait(ended);
            assert_eq!(content, signal == "-TERM", "{signal} of node {ended}");
            cluster.run(ended);
            for (node, browser) in browsers.iter().enumerate() {
                let round = format!("{signal}-{ended}-{node}");
                all_answer(browser, &ids, &round, began).await;
            }
            eprintln!(
                "{signal} of node {ended}: all answer again after {:?}",
                began.elapsed()
            );
        }
        ends.store(true, Ordering::SeqCst);

        let mut became = HashMap::new();
        for caller in callers {
            became.extend(caller.await.unwrap());
        }
        let counted = known.calls.lock().unwrap().clone();
        let count_of = |what| became.values().filter(|became| **became == what).count();
        for (id, became) in &became {
            let came = counted.get(id).copied().unwrap_or_default();
            match became {
                Called::Answered => assert_eq!(came, 1, "{id} was answered"),
                Called::NotBegun => assert_eq!(came, 0, "{id} was not begun"),
                // Its caller knows, and who stops lets what runs end.
                Called::Cut => {
                    assert!(came <= 1 && signal == "-KILL", "{id} came {came} times");
                }
            }
        }
        assert!(count_of(Called::Answered) > 0);
        eprintln!(
            "{signal}: {} of {} calls were answered, {} cut off",
            count_of(Called::Answered),
            became.len(),
            count_of(Called::Cut)
        );
        // Also of those by which it was seen that all are there again.
        assert!(counted.values().all(|came| *came == 1), "a call came twice");
        let list = cluster.key_list();
        assert_eq!(list.matches("\tserving\t").count(), NODES, "{list}");
    }
}
