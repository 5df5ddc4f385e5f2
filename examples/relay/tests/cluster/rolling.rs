//! A cluster whose nodes are restarted one after the other, with many agents that come
//! back and calls that go on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
    for agent in agents {
        for attempt in 0.. {
            let id = format!("again-{round}-{agent}-{attempt}");
            let called = tokio::time::timeout(PATIENCE, call_one(browser, agent, &id)).await;
            if called.expect("nobody tells what became of a call") == Called::Answered {
                break;
            }
            assert!(began.elapsed() < DEADLINE, "{agent} is not back at {round}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_restarts_in_turn_and_no_call_is_lost_or_doubled() {
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
    let known = Arc::new(Known::default());
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

    let ends = Arc::new(AtomicBool::new(false));
    let callers = browsers.iter().enumerate().map(|(node, browser)| {
        let (browser, called) = (Arc::clone(browser), Arc::clone(&ids));
        tokio::spawn(call(
            browser,
            called,
            format!("node-{node}"),
            Arc::clone(&ends),
        ))
    });
    let callers: Vec<_> = callers.collect();
    for restarted in 0..NODES {
        let began = Instant::now();
        cluster.signal(restarted, "-TERM");
        assert!(
            cluster.wait(restarted),
            "node {restarted} did not stop in order"
        );
        cluster.run(restarted);
        for (node, browser) in browsers.iter().enumerate() {
            let round = format!("{restarted}-{node}");
            all_answer(browser, &ids, &round, began).await;
        }
        eprintln!(
            "node {restarted}: all answer again after {:?}",
            began.elapsed()
        );
    }
    ends.store(true, Ordering::SeqCst);

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
            // Who stops lets what runs end.
            Called::Cut => panic!("{id} was cut off, and came {came} times"),
        }
        answered += usize::from(*became == Called::Answered);
    }
    assert!(answered > 0);
    eprintln!("{answered} of {} calls were answered", became.len());
    assert!(counted.values().all(|came| *came == 1), "a call came twice");
    let list = cluster.key_list();
    assert_eq!(list.matches("\tserving\t").count(), NODES, "{list}");
}
