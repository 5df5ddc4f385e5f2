//! Relay processes that are one cluster, on a PostgreSQL of their own. All have one
//! port and one name, each an address of its own on loopback.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::postgres::{Postgres, binaries};
use crate::relay::TestRelay;

/// A cluster whose nodes are called `a`, `b` and so on.
pub(crate) struct Cluster {
    pub(crate) postgres: Postgres,
    pub(crate) id: String,
    database: String,
    port: u16,
    nodes: Vec<Node>,
}

struct Node {
    state: Arc<TempDir>,
    environment: Vec<(String, String)>,
    process: Option<Child>,
    relay: Option<TestRelay>,
    ready: Value,
}

impl Cluster {
    /// Makes a cluster and starts `count` nodes of it.
    pub(crate) fn start(count: usize) -> Self {
        let postgres = Postgres::start(&[]);
        let state = Arc::new(tempfile::tempdir().unwrap());
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let mut cluster = Self {
            id: String::new(),
            database: "postgres".to_owned(),
            port,
            nodes: Vec::new(),
            postgres,
        };
        cluster.id = cluster.key(&state, &["init", "a"]);
        cluster.enlist(state);
        for at in 1..count {
            let name = char::from(b'a' + u8::try_from(at).unwrap()).to_string();
            let state = Arc::new(tempfile::tempdir().unwrap());
            let key = said(&key_show(&state));
            let printed = cluster.key(&cluster.nodes[0].state, &["add-node", &name, &key]);
            assert_eq!(printed, cluster.id);
            cluster.enlist(state);
        }
        for at in 0..count {
            cluster.run(at);
        }
        cluster
    }

    fn enlist(&mut self, state: Arc<TempDir>) {
        self.nodes.push(Node {
            state,
            environment: Vec::new(),
            process: None,
            relay: None,
            ready: Value::Null,
        });
    }

    /// Starts a node with an environment of its own from now on.
    pub(crate) fn environment(&mut self, at: usize, variables: &[(String, String)]) {
        self.nodes[at].environment = variables.to_vec();
    }

    /// Starts a node, again if need be.
    pub(crate) fn run(&mut self, at: usize) {
        let (mut child, line) = self.spawn(at);
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            let mut said = String::new();
            child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut said)
                .unwrap();
            panic!("node {at} does not start: {said}");
        };
        // Its log is read, so that it never waits for somebody to do so.
        let mut log = child.stderr.take().unwrap();
        let shown = std::env::var_os("KATACHI_TEST_LOG").is_some();
        std::thread::spawn(move || match shown {
            true => std::io::copy(&mut log, &mut std::io::stderr()),
            false => std::io::copy(&mut log, &mut std::io::sink()),
        });
        let node = &mut self.nodes[at];
        node.relay = Some(TestRelay::of_process(&ready, Arc::clone(&node.state)));
        node.ready = ready;
        node.process = Some(child);
    }

    fn spawn(&self, at: usize) -> (Child, String) {
        let node = &self.nodes[at];
        let mut child = program(&node.state)
            .args(["--no-keychain", "--ready-json", "--cluster", &self.id])
            .args(["--node-listen", "127.0.0.1:0", "--listen"])
            .arg(format!("127.0.0.{}:{}", at + 1, self.port))
            .args(["--public-url", &self.public_url()])
            .env("KATACHI_RELAY_DATABASE", self.url())
            .envs(node.environment.iter().cloned())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        (child, line)
    }

    pub(crate) fn public_url(&self) -> String {
        format!("https://katachi.localhost:{}", self.port)
    }

    /// What a node says that does not start.
    pub(crate) fn refused(&self, state: &TempDir) -> String {
        let output = program(state)
            .args(["--no-keychain", "--ready-json", "--cluster", &self.id])
            .args(["--node-listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"])
            .env("KATACHI_RELAY_DATABASE", self.url())
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn node(&self, at: usize) -> &TestRelay {
        self.nodes[at].relay.as_ref().unwrap()
    }

    /// The same node, for a task that outlives the borrow.
    pub(crate) fn again(&self, at: usize) -> TestRelay {
        let node = &self.nodes[at];
        TestRelay::of_process(&node.ready, Arc::clone(&node.state))
    }

    pub(crate) fn state(&self, at: usize) -> &TempDir {
        &self.nodes[at].state
    }

    /// Runs `key` with the vault in `state`; what it prints.
    pub(crate) fn key(&self, state: &TempDir, arguments: &[&str]) -> String {
        said(&self.try_key(state, arguments))
    }

    /// What `key list` prints, without any vault.
    pub(crate) fn key_list(&self) -> String {
        let list = Command::new(env!("CARGO_BIN_EXE_katachi-relay"))
            .args(["key", "list"])
            .env("KATACHI_RELAY_DATABASE", self.url())
            .output();
        said(&list.unwrap())
    }

    pub(crate) fn try_key(&self, state: &TempDir, arguments: &[&str]) -> Output {
        self.key_command(state, arguments).output().unwrap()
    }

    pub(crate) fn key_command(&self, state: &TempDir, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_katachi-relay"));
        command
            .arg("key")
            .args(arguments)
            .args(["--no-keychain", "--state-dir"])
            .arg(state.path())
            .env("KATACHI_RELAY_DATABASE", self.url());
        command
    }

    pub(crate) fn signal(&self, at: usize, signal: &str) {
        let process = self.nodes[at].process.as_ref().unwrap().id();
        let sent = Command::new("kill")
            .args([signal, &process.to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Kills a node as a power cut would.
    pub(crate) fn kill(&mut self, at: usize) {
        let mut process = self.nodes[at].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Waits until a node has ended by itself; whether it was content.
    pub(crate) fn wait(&mut self, at: usize) -> bool {
        let mut process = self.nodes[at].process.take().unwrap();
        let asked = Instant::now();
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                return status.success();
            }
            assert!(asked.elapsed() < Duration::from_secs(20), "it goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs SQL as the owner of the database; what it prints.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.tool("psql", &["-v", "ON_ERROR_STOP=1", "-Atc", sql])
    }

    /// Runs a program of PostgreSQL; what it prints.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(binaries().unwrap().join(program))
            .arg("-h")
            .arg(self.postgres.socket_directory())
            .args(["-p", &self.postgres.port().to_string(), "-U", "postgres"])
            .args(arguments)
            .output()
            .unwrap();
        said(&output)
    }

    /// Another database of the same server from now on.
    pub(crate) fn use_database(&mut self, name: &str) {
        self.database = name.to_owned();
    }

    pub(crate) fn url(&self) -> String {
        let socket = self.postgres.socket_directory().to_str().unwrap();
        format!(
            "postgres://postgres@{}:{}/{}",
            socket.replace('/', "%2F"),
            self.postgres.port(),
            self.database
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

fn program(state: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_katachi-relay"));
    command
        .args(["serve", "--state-dir"])
        .arg(state.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(crate) fn key_show(state: &TempDir) -> Output {
    Command::new(env!("CARGO_BIN_EXE_katachi-relay"))
        .args(["key", "show", "--no-keychain", "--state-dir"])
        .arg(state.path())
        .output()
        .unwrap()
}

pub(crate) fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone())
        .unwrap()
        .trim_end()
        .to_owned()
}

/// Never asked: the nodes are processes of their own.
pub(crate) fn database(_state: &Path) -> katachi_relay::DatabaseSource {
    katachi_relay::DatabaseSource::Embedded
}
