//! Two relays that are one cluster, inside of the agent's own program, and a balancer
//! that gives each connection to the first of them that answers.

use std::io::Read as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use tempfile::TempDir;

use crate::outside::in_memory;
use crate::postgres::{Postgres, binaries};
use crate::support::served::Served;

/// Where each listens. The agent takes `katachi.localhost` to be the last of them.
const ADDRESSES: [&str; 2] = ["127.0.0.2", "127.0.0.1"];
const BALANCER: &str = "127.0.0.9";
/// The first argument with which this program does the work of `katachi-relay key`.
const KEY: &str = "katachi-relay-key";

#[derive(Parser)]
struct Keys {
    #[command(flatten)]
    key: katachi_relay::cli::Key,
}

/// Does the work of `katachi-relay key` if this process was started for it.
pub(crate) fn keys() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(KEY) {
        return None;
    }
    let keys = Keys::parse_from([KEY.to_owned()].into_iter().chain(arguments));
    let done = crate::support::up::block_on(keys.key.run());
    done.unwrap();
    Some(ExitCode::SUCCESS)
}

pub(crate) struct Nodes {
    postgres: Postgres,
    states: [TempDir; 2],
    port: u16,
    authority: String,
    running: Vec<Option<Served>>,
}

impl Nodes {
    pub(crate) fn start() -> Self {
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let mut nodes = Self {
            postgres: Postgres::start(&[]),
            states: [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()],
            port,
            authority: String::new(),
            running: Vec::new(),
        };
        let [first, second] = [0, 1].map(|at| nodes.states[at].path());
        let cluster = nodes.key(first, &["init", "a"]);
        let key = nodes.key(second, &["show"]);
        nodes.key(first, &["add-node", "b", &key]);
        for (at, address) in ADDRESSES.into_iter().enumerate() {
            let relay = Served::start(nodes.states[at].path(), |relay| {
                relay
                    .args(["--node-listen", "127.0.0.1:0", "--cluster", &cluster])
                    .args(["--public-url", &nodes.url(), "--listen"])
                    .arg(format!("{address}:{port}"))
                    .env("KATACHI_RELAY_DATABASE", nodes.database())
            });
            relay.authority.clone_into(&mut nodes.authority);
            nodes.running.push(Some(relay));
        }
        nodes
    }

    fn key(&self, state: &Path, arguments: &[&str]) -> String {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .arg(KEY)
            .args(arguments)
            .args(["--no-keychain", "--state-dir"])
            .arg(state);
        if arguments != ["show"] {
            command.env("KATACHI_RELAY_DATABASE", self.database());
        }
        said(&mut command)
    }

    fn database(&self) -> String {
        let socket = self.postgres.socket_directory().to_str().unwrap();
        let socket = socket.replace('/', "%2F");
        format!(
            "postgres://postgres@{socket}:{}/postgres",
            self.postgres.port()
        )
    }

    /// What a query says, as the owner of the database.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let mut psql = Command::new(binaries().unwrap().join("psql"));
        psql.arg("-h")
            .arg(self.postgres.socket_directory())
            .args(["-p", &self.postgres.port().to_string(), "-U", "postgres"])
            .args(["-v", "ON_ERROR_STOP=1", "-Atc", sql]);
        said(&mut psql)
    }

    /// Every row of every table, bytes as hexadecimal digits.
    pub(crate) fn everything(&self) -> String {
        let tables = self.sql(
            "SELECT table_name FROM information_schema.tables \
             WHERE table_schema = 'katachi_relay'",
        );
        let rows = |table: &str| {
            let rows = self.sql(&format!("SELECT t::text FROM katachi_relay.\"{table}\" t"));
            format!("{table}\n{rows}\n")
        };
        tables.lines().map(rows).collect()
    }

    pub(crate) fn url(&self) -> String {
        format!("https://katachi.localhost:{}", self.port)
    }

    /// The authority of the relay that the agent reaches.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// How often the text stands in the memory of the relays that run.
    pub(crate) fn remember(&self, text: &str) -> usize {
        std::thread::scope(|scope| {
            let relays = self.running.iter().flatten().map(|relay| relay.child.id());
            let relays: Vec<_> = relays
                .map(|relay| scope.spawn(move || in_memory(relay, text.as_bytes()).unwrap()))
                .collect();
            relays.into_iter().map(|found| found.join().unwrap()).sum()
        })
    }

    /// Kills the relay that the balancer prefers, as a power cut would.
    pub(crate) fn kill_first(&mut self) {
        drop(self.running[0].take());
    }
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Passes TCP through.
pub(crate) struct Balancer {
    passed: Arc<[AtomicUsize; 2]>,
}

impl Balancer {
    pub(crate) fn start(nodes: &Nodes) -> Self {
        let port = nodes.port;
        let listener = TcpListener::bind((BALANCER, port)).unwrap();
        let passed: Arc<[AtomicUsize; 2]> = Arc::default();
        let counts = Arc::clone(&passed);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let reached = ADDRESSES.iter().enumerate().find_map(|(at, address)| {
                    Some((at, TcpStream::connect((*address, port)).ok()?))
                });
                if let Some((at, node)) = reached {
                    counts[at].fetch_add(1, Ordering::SeqCst);
                    let (back, forth) = (client.try_clone().unwrap(), node.try_clone().unwrap());
                    std::thread::spawn(move || pass(client, forth));
                    std::thread::spawn(move || pass(node, back));
                }
            }
        });
        Self { passed }
    }

    pub(crate) fn address(&self) -> String {
        BALANCER.to_owned()
    }

    /// Connections that went to this node.
    pub(crate) fn passed(&self, node: usize) -> usize {
        self.passed[node].load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    // A connection that breaks ends like one that is closed.
    let _ = std::io::copy(&mut from.by_ref(), &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
