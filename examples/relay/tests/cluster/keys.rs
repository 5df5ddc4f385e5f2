//! Who has the keys of a cluster, and who has not.

use std::sync::Arc;

use http::StatusCode;
use katachi_relay::{Config, DatabaseSource, KeychainUse, PostgresUrl};
use serde_json::json;

use crate::agent::wait_until_online;
use crate::nodes::{Cluster, key_show, said};
use crate::relay::TestRelay;
use crate::tunnels::{becomes, connected};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_not_added_reads_nothing() {
    let cluster = Cluster::start(1);
    let stranger = tempfile::tempdir().unwrap();
    let refused = cluster.refused(&stranger);
    let key = said(&key_show(&stranger));
    assert!(refused.contains("is not of the cluster"), "{refused}");
    assert!(
        refused.contains(&format!("add-node NAME {key}")),
        "{refused}"
    );
    // Nor with the copy of the node that was.
    cluster.sql(&format!(
        "INSERT INTO katachi_relay.nodes (name, public_key, keyset)
         SELECT 'x', decode('{}', 'hex'), keyset FROM katachi_relay.nodes",
        hex_of(&key)
    ));
    let refused = cluster.refused(&stranger);
    assert!(refused.contains("cannot be used"), "{refused}");
    // Nor can it change the key, or take others in.
    for command in [&["rotate"][..], &["add-node", "y", &key]] {
        assert!(!cluster.try_key(&stranger, command).status.success());
    }
    // Another cluster's name is not believed by one that was added.
    let other = "0".repeat(32);
    cluster.sql(&format!(
        "UPDATE katachi_relay.service SET cluster = '{other}'"
    ));
    let refused = cluster.refused(cluster.state(0));
    assert!(refused.contains("another cluster"), "{refused}");
}

/// The bytes of a node's printed key.
fn hex_of(key: &str) -> String {
    use base64::Engine as _;
    let key = key.strip_prefix("katachi-node-").unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(key);
    bytes
        .unwrap()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_changes_while_the_nodes_serve_and_a_removed_node_ends() {
    let mut cluster = Cluster::start(3);
    let (browsers, agent, _) = connected(&cluster, 1, 3).await;
    let wrapped = "SELECT string_agg(encode(tenant_key, 'hex'), '') FROM katachi_relay.users";
    let former = cluster.sql(wrapped);
    cluster.key(cluster.state(0), &["rotate"]);
    assert_ne!(cluster.sql(wrapped), former);
    for (node, browser) in browsers.iter().enumerate() {
        assert_eq!(browser.json("/api/me").await["email"], "ana@example.org");
        // What one wraps now, the others open.
        let email = format!("new-{node}@example.org");
        cluster.node(node).browser_of(&email).await;
        cluster.node((node + 1) % 3).signed_in(&email).await;
        let mut carried = browser.carry(&agent.id, "x").await.unwrap();
        assert_eq!(carried.next().await.unwrap(), "agent:x");
    }
    let copy =
        cluster.sql("SELECT encode(keyset, 'hex') FROM katachi_relay.nodes WHERE name = 'c'");
    let key = said(&key_show(cluster.state(2)));
    cluster.key(cluster.state(0), &["remove-node", "c"]);
    assert!(!cluster.wait(2), "it went on");
    let refused = cluster.refused(cluster.state(2));
    assert!(refused.contains("is not of the cluster"), "{refused}");
    // Its former copy opens nothing of what is wrapped now.
    cluster.sql(&format!(
        "INSERT INTO katachi_relay.nodes (name, public_key, keyset)
         VALUES ('c', decode('{}', 'hex'), decode('{copy}', 'hex'))",
        hex_of(&key)
    ));
    let refused = cluster.refused(cluster.state(2));
    assert!(refused.contains("cannot be used"), "{refused}");
    // The others go on, also between each other.
    wait_until_online(&browsers[0], &agent.id, true).await;
    let mut carried = browsers[0].carry(&agent.id, "y").await.unwrap();
    assert_eq!(carried.next().await.unwrap(), "agent:y");
    let list = cluster.key_list();
    assert!(
        list.contains("a\tserving") && list.contains("b\tserving\t1 tunnels"),
        "{list}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_that_was_alone_becomes_the_first_node() {
    let postgres = crate::postgres::Postgres::start(&[]);
    let state = Arc::new(tempfile::tempdir().unwrap());
    let socket = postgres
        .socket_directory()
        .to_str()
        .unwrap()
        .replace('/', "%2F");
    let url = format!("postgres://postgres@{socket}:{}/postgres", postgres.port());
    let source = || DatabaseSource::Postgres(Box::new(PostgresUrl::parse(&url).unwrap()));
    let relay =
        TestRelay::start_with(Arc::clone(&state), |config| config.database = source()).await;
    let browser = relay.browser_of("ana@example.org").await;
    let config = json!({"command": ["x"], "env": {}, "secrets": {"T": "s"}, "released_to": []});
    let stored = browser
        .send(http::Method::PUT, "/api/mcp/github", Some(config))
        .await;
    assert_eq!(stored.status(), StatusCode::OK);
    let state = relay.stop().await;

    let key = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_katachi-relay"))
            .arg("key")
            .args(arguments)
            .args(["--no-keychain", "--state-dir"])
            .arg(state.path())
            .env("KATACHI_RELAY_DATABASE", &url)
            .output();
        output.unwrap()
    };
    let id = said(&key(&["init", "first"]));
    assert!(
        !key(&["init", "second"]).status.success(),
        "a second cluster"
    );
    // Alone it is refused now, with what to give.
    let mut alone = Config::local(state.path());
    alone.keychain = KeychainUse::Never;
    alone.database = source();
    let refused = katachi_relay::Relay::bind(alone).await.unwrap_err();
    assert!(
        refused.to_string().contains(&format!("--cluster {id}")),
        "{refused}"
    );

    let relay = TestRelay::start_with(Arc::clone(&state), |config| {
        config.database = source();
        config.cluster = Some(katachi_relay::ClusterConfig {
            id: id.parse().unwrap(),
            listen: "127.0.0.1:0".parse().unwrap(),
            address: None,
        });
    })
    .await;
    let browser = relay.signed_in("ana@example.org").await;
    let audit = browser.json("/api/audit").await;
    assert_eq!(audit["intact"], true, "{audit}");
    assert_eq!(
        browser.json("/api/mcp").await["configs"][0]["name"],
        "github"
    );
    becomes("it is not listed", async || {
        let list = std::process::Command::new(env!("CARGO_BIN_EXE_katachi-relay"))
            .args(["key", "list", "--database", &url])
            .output();
        said(&list.unwrap()).contains("first\tserving")
    })
    .await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_is_restored_elsewhere_opens_for_the_nodes_it_was_of() {
    let mut cluster = Cluster::start(2);
    let browser = cluster.node(1).browser_of("ana@example.org").await;
    drop(browser);
    let file = cluster.postgres.socket_directory().join("relay.dump");
    let file = file.to_str().unwrap().to_owned();
    cluster.tool(
        "pg_dump",
        &["-n", "katachi_relay", "-Fc", "-f", &file, "postgres"],
    );
    cluster.node(1).browser_of("later@example.org").await;
    for node in 0..2 {
        cluster.kill(node);
    }
    cluster.tool("createdb", &["restored"]);
    cluster.tool("pg_restore", &["-d", "restored", &file]);
    cluster.use_database("restored");
    for node in 0..2 {
        cluster.run(node);
    }
    for node in 0..2 {
        let browser = cluster.node(node).signed_in("ana@example.org").await;
        assert_eq!(browser.json("/api/audit").await["intact"], true);
    }
    let later = json!({"email": "later@example.org", "password": crate::relay::PASSWORD});
    let unknown = cluster.node(0).browser().post("/api/login", later).await;
    assert_eq!(unknown.status(), StatusCode::UNAUTHORIZED);
}
