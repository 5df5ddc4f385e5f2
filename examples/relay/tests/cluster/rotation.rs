//! New keys for the accounts of a cluster, while its nodes serve.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use katachi_relay::{DatabaseSource, PostgresUrl};
use serde_json::Value;

use crate::held::{Held, finished, killed, kills};
use crate::nodes::Cluster;
use crate::relay::TestRelay;

fn rotate(cluster: &Cluster) -> Command {
    cluster.key_command(cluster.state(0), &["rotate", "--accounts", "--json"])
}

async fn done(command: Command) -> Value {
    tokio::task::spawn_blocking(move || finished(command))
        .await
        .unwrap()
}

/// The accounts, each held at another node than the one that made it.
async fn accounts(cluster: &Cluster, nodes: usize) -> Vec<Held> {
    let mut all = Vec::new();
    for (at, name) in ["ana", "bob", "eve", "joe"].into_iter().enumerate() {
        let held = Held::new(cluster.node(at % nodes), name).await;
        all.push(held.moved_to(cluster.node((at + 1) % nodes)).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_write_and_read_while_the_keys_of_all_change() {
    let cluster = Cluster::start(3);
    let relays: Vec<_> = (0..3).map(|at| Arc::new(cluster.again(at))).collect();
    let ends = Arc::new(AtomicBool::new(false));
    // Each is written at one node and read at the next, which knew the former key.
    let users = accounts(&cluster, 3).await.into_iter().enumerate();
    let users: Vec<_> = users
        .map(|(at, held)| {
            let (ends, relay) = (Arc::clone(&ends), Arc::clone(&relays[(at + 2) % 3]));
            tokio::spawn(held.use_until(ends, relay))
        })
        .collect();
    for round in 0..4 {
        assert_eq!(done(rotate(&cluster)).await["rotated"], 4);
        if round % 2 == 0 {
            // So does the key above them.
            cluster.key(cluster.state(1), &["rotate"]);
        }
    }
    ends.store(true, Ordering::SeqCst);
    for user in users {
        let held = user.await.unwrap();
        for relay in &relays {
            held.assert_opens(relay).await;
        }
        assert_eq!(held.rotations().await, 4);
        relays[2].signed_in(&held.email).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_leaves_all_readable_on_every_node_and_the_next_one_finishes() {
    let mut cluster = Cluster::start(2);
    let mut all = accounts(&cluster, 2).await;
    let mut ended = 0;
    for round in 0..kills() {
        let command = rotate(&cluster);
        let killed = tokio::task::spawn_blocking(move || killed(command, round));
        ended += usize::from(killed.await.unwrap());
        for held in &mut all {
            held.assert_opens(cluster.node(round % 2)).await;
            held.keep(round as u64 + 2).await;
        }
        if round % 5 == 0 {
            // A node that starts opens the keys of all agents.
            cluster.kill(1);
            cluster.run(1);
        }
    }
    assert!(ended > 0, "none was killed before its end");
    done(rotate(&cluster)).await;
    let left = "SELECT count(*) FROM katachi_relay.key_rotation";
    assert_eq!(cluster.sql(left), "0");
    let wrapped = "SELECT encode(tenant_key, 'hex') FROM katachi_relay.users";
    let former = cluster.sql(wrapped);
    let again = done(rotate(&cluster)).await;
    assert_eq!(
        (&again["continued"], &again["rotated"]),
        (&false.into(), &4.into())
    );
    let now = cluster.sql(wrapped);
    assert!(former.lines().all(|key| !now.contains(key)));
    for held in &all {
        for node in 0..2 {
            held.assert_opens(cluster.node(node)).await;
        }
        cluster.node(1).signed_in(&held.email).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_alone_goes_on_and_who_has_not_its_vault_changes_nothing() {
    let postgres = crate::postgres::Postgres::start(&[]);
    let socket = postgres.socket_directory().to_str().unwrap();
    let socket = socket.replace('/', "%2F");
    let url = format!("postgres://postgres@{socket}:{}/postgres", postgres.port());
    let rotate = |state: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_katachi-relay"));
        command
            .args(["key", "rotate", "--accounts", "--json"])
            .args(["--no-keychain", "--state-dir"])
            .arg(state)
            .env("KATACHI_RELAY_DATABASE", &url);
        command
    };
    let state = Arc::new(tempfile::tempdir().unwrap());
    // Before there is anything.
    let nothing = rotate(state.path()).output().unwrap();
    let said = String::from_utf8_lossy(&nothing.stderr);
    assert!(
        !nothing.status.success() && said.contains("no relay has kept"),
        "{said}"
    );
    let source = DatabaseSource::Postgres(Box::new(PostgresUrl::parse(&url).unwrap()));
    let relay = TestRelay::start_with(Arc::clone(&state), |config| config.database = source).await;
    let mut ana = Held::new(&relay, "ana").await;
    let other = tempfile::tempdir().unwrap();
    let refused = rotate(other.path()).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("another vault"),
        "{said}"
    );
    assert_eq!(ana.rotations().await, 0);
    assert_eq!(done(rotate(state.path())).await["rotated"], 1);
    ana.assert_opens(&relay).await;
    ana.keep(2).await;
    ana.assert_opens(&relay).await;
    assert_eq!(ana.rotations().await, 1);
    relay.stop().await;
}
