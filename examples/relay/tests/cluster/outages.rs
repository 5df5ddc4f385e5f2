//! The database stops, clocks step, nodes are restarted one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::json;
use tokio::time::timeout;

use crate::agent::TestAgent;
use crate::clock::Clock;
use crate::nodes::Cluster;
use crate::tunnels::{becomes, connected, router};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_nodes_refuse_and_close_their_tunnels_and_then_go_on() {
    let mut cluster = Cluster::start(2);
    let (browsers, mut agent, _) = connected(&cluster, 1, 2).await;
    let mut carried = browsers[0].carry(&agent.id, "endless").await.unwrap();
    carried.next().await.unwrap();
    let mut request = TestAgent::request(
        cluster.node(0),
        Method::POST,
        "/v1/agent/heartbeat",
        Some(&json!({"state": "idle"})),
    );
    let binding = agent.sign(&mut request);
    cluster.postgres.kill();
    let killed = Instant::now();
    for (node, browser) in browsers.iter().enumerate() {
        let answer = agent
            .send(cluster.node(node), request.clone(), &binding)
            .await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        let refused = browser.carry(&agent.id, "x").await.err().unwrap();
        assert_eq!(refused.0, StatusCode::SERVICE_UNAVAILABLE);
        let account = json!({"email": "ana@example.org", "password": "wrong, and not counted"});
        let refused = cluster
            .node(node)
            .browser()
            .post("/api/login", account)
            .await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    let ended = async { while carried.next().await.is_some() {} };
    timeout(Duration::from_secs(3), ended).await.unwrap();
    assert!(killed.elapsed() < Duration::from_secs(3));

    cluster.postgres.run();
    let opened = async || {
        let again = router("again", Arc::default());
        agent
            .open_tunnel(cluster.node(0), again, None)
            .await
            .is_ok()
    };
    // A server that crashed forgot what was accepted: the epoch is another.
    becomes("the nodes do not come back", async || {
        browsers[1].get("/api/me").await.status() == StatusCode::OK
    })
    .await;
    assert!(!opened().await, "an epoch outlived a crash");
    let stale = agent.send(cluster.node(1), request, &binding).await;
    assert_eq!(stale.body["error"], "stale_epoch", "{}", stale.body);
    agent.set_epoch(stale.body["epoch"].as_str().unwrap());
    let began = Instant::now();
    loop {
        let again = router("again", Arc::default());
        agent
            .open_tunnel(cluster.node(0), again, None)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        if let Ok(mut carried) = browsers[1].carry(&agent.id, "x").await {
            assert_eq!(carried.next().await.unwrap(), "again:x");
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_restarted_one_after_the_other_lose_no_call_that_was_accepted() {
    let mut cluster = Cluster::start(3);
    let browser = cluster.node(0).browser_of("ana@example.org").await;
    let agent = Arc::new(TestAgent::approved(cluster.node(0), &browser).await);
    let accepted = Arc::new(AtomicUsize::new(0));
    for at in 0..3 {
        let nodes = Arc::new(cluster);
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = tokio::task::JoinSet::new();
        for first in 0..3 {
            let (nodes, agent) = (Arc::clone(&nodes), Arc::clone(&agent));
            let (stop, accepted) = (Arc::clone(&stop), Arc::clone(&accepted));
            callers.spawn(async move {
                let mut node = first;
                while !stop.load(Ordering::SeqCst) {
                    match call(&nodes, node, &agent).await {
                        Some(StatusCode::OK) => {
                            accepted.fetch_add(1, Ordering::SeqCst);
                        }
                        // The agent has said too much at once.
                        Some(StatusCode::TOO_MANY_REQUESTS) => {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        // Whoever is sent away goes to the next.
                        None if node == at => node = (node + 1) % 3,
                        other => panic!("node {node} while {at} ends: {other:?}"),
                    }
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        nodes.signal(at, "-TERM");
        tokio::time::sleep(Duration::from_millis(700)).await;
        stop.store(true, Ordering::SeqCst);
        callers.join_all().await;
        cluster = Arc::try_unwrap(nodes).ok().unwrap();
        assert!(cluster.wait(at), "node {at} was not content");
        cluster.run(at);
    }
    let noted =
        cluster.sql("SELECT count(*) FROM katachi_relay.audit WHERE action = 'message_answered'");
    let accepted = accepted.load(Ordering::SeqCst);
    assert!(accepted > 30, "{accepted} calls were made");
    let noted: usize = noted.parse().unwrap();
    assert!(noted >= accepted, "{noted} of {accepted} are there");
}

/// One signed call; `None` if the node does not take connections any more.
async fn call(cluster: &Cluster, node: usize, agent: &TestAgent) -> Option<StatusCode> {
    let relay = cluster.node(node);
    tokio::net::TcpStream::connect(relay.address).await.ok()?;
    let activity = json!({"kind": "message_answered"});
    let mut request =
        TestAgent::request(relay, Method::POST, "/v1/agent/activity", Some(&activity));
    let binding = agent.sign(&mut request);
    let answer = agent.try_send(relay, request, &binding).await?;
    Some(answer.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_asked_to_stop_gives_up_its_lease_and_ends_what_runs() {
    let mut cluster = Cluster::start(2);
    let (browsers, agent, _) = connected(&cluster, 1, 2).await;
    let mut carried = browsers[0].carry(&agent.id, "hello").await.unwrap();
    assert_eq!(carried.next().await.unwrap(), "agent:hello");
    cluster.signal(1, "-TERM");
    // At once the agent is nobody's, and may go elsewhere.
    becomes("it keeps its lease", async || {
        let refused = browsers[0].carry(&agent.id, "x").await.err();
        refused.is_some_and(|(_, problem)| problem["error"] == "offline")
    })
    .await;
    // What runs goes on meanwhile, through both nodes.
    for word in ["one", "two", "three"] {
        carried.send(word).await;
        assert_eq!(carried.next().await.unwrap(), word);
    }
    drop(carried);
    assert!(cluster.wait(1));
    assert_eq!(
        cluster.sql("SELECT count(*) FROM katachi_relay.tunnels"),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_steps_stays_what_it_is() {
    let clock = Clock::new();
    let mut cluster = Cluster::start(2);
    assert!({
        cluster.signal(1, "-TERM");
        cluster.wait(1)
    });
    cluster.environment(1, &clock.environment());
    cluster.run(1);
    let (browsers, agent, _) = connected(&cluster, 1, 2).await;
    let mut carried = browsers[0].carry(&agent.id, "endless").await.unwrap();
    let mut spent = Vec::new();
    for step in [3600, -3600, 90, 0] {
        clock.step(step);
        let request = TestAgent::request(
            cluster.node(0),
            Method::POST,
            "/v1/agent/heartbeat",
            Some(&json!({"state": "idle"})),
        );
        let mut request = request;
        let binding = agent.sign(&mut request);
        let elsewhere = agent.send(cluster.node(1), request.clone(), &binding).await;
        if step != 0 {
            assert_eq!(
                elsewhere.body["error"], "skew",
                "{step}: {}",
                elsewhere.body
            );
            let here = agent.send(cluster.node(0), request.clone(), &binding).await;
            assert_eq!(here.status, StatusCode::OK, "{step}: {}", here.body);
        } else {
            assert_eq!(elsewhere.status, StatusCode::OK, "{}", elsewhere.body);
        }
        spent.push((request, binding));
        // For longer than a lease: it lives, and has its tunnel.
        let stepped = Instant::now();
        while stepped.elapsed() < Duration::from_millis(2200) {
            assert_eq!(carried.next().await.unwrap(), "agent", "{step}");
        }
        let list = cluster.key_list();
        assert!(list.contains("b\tserving\t1 tunnels"), "{step}: {list}");
        for (request, binding) in &spent {
            for node in 0..2 {
                let again = agent
                    .send(cluster.node(node), request.clone(), binding)
                    .await;
                assert_ne!(again.status, StatusCode::OK, "{step}");
            }
        }
    }
}
