//! Processor time of a server for each call: of the relay for signed calls of
//! an agent, and of a plain axum route over the same TLS that reads the same
//! rows and checks nothing. Each server is a process of its own with one
//! worker, and the same client calls either over one kept connection.
//!
//! Prints one line of JSON for each figure, in nanoseconds.

mod agent;
mod plain;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use agent::Agent;

/// Calls that are counted, and those before them for the caches.
const CALLS: u32 = 20_000;
const WARM_UP: u32 = 1_000;
/// The clock of `/proc/PID/stat` on every Linux.
const NANOSECONDS_A_TICK: f64 = 1e7;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let state = arguments.get(2).map(Path::new);
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "a provider of cryptography was installed before")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    match (arguments.get(1).map(String::as_str), state) {
        (Some("--relay"), Some(state)) => runtime.block_on(relay(state)),
        (Some("--plain"), Some(state)) => runtime.block_on(plain::serve(state)),
        _ => runtime.block_on(measure()),
    }
}

async fn measure() -> Result<(), Failure> {
    let home = tempfile::tempdir()?;
    let relay = Server::start("--relay", &home.path().join("relay"))?;
    let agent = Agent::register(&relay.url).await?;
    for _ in 0..WARM_UP {
        agent.call().await?;
    }
    let before = relay.ticks()?;
    for _ in 0..CALLS {
        agent.call().await?;
    }
    print("relay", relay.ticks()? - before);

    let plain = Server::start("--plain", &home.path().join("plain"))?;
    let http = agent::client()?;
    for _ in 0..WARM_UP {
        plain::call(&http, &plain.url).await?;
    }
    let before = plain.ticks()?;
    for _ in 0..CALLS {
        plain::call(&http, &plain.url).await?;
    }
    print("plain", plain.ticks()? - before);
    Ok(())
}

fn print(figure: &str, ticks: u64) {
    let nanoseconds = ticks as f64 * NANOSECONDS_A_TICK / f64::from(CALLS);
    println!("{{\"figure\":\"{figure}\",\"ns\":{nanoseconds}}}");
}

/// The relay as its program runs it, with its state in `state`.
async fn relay(state: &Path) -> Result<(), Failure> {
    let mut config = katachi_relay::Config::local(state);
    config.keychain = katachi_relay::KeychainUse::Never;
    let relay = katachi_relay::Relay::bind(config).await?;
    println!("{}", relay.public_url());
    relay.serve(std::future::pending()).await?;
    Ok(())
}

/// A server in a process of its own, gone with it.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(which: &str, state: &Path) -> Result<Self, Failure> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(which)
            .arg(state)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut url = String::new();
        let stdout = process.stdout.take().ok_or("the server has no output")?;
        BufReader::new(stdout).read_line(&mut url)?;
        let url = url.trim().to_owned();
        match url.is_empty() {
            true => Err(format!("the server {which} did not start").into()),
            false => Ok(Self { process, url }),
        }
    }

    /// Processor time so far, of all threads.
    fn ticks(&self) -> Result<u64, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let (_, fields) = stat.rsplit_once(") ").ok_or("no name in stat")?;
        let mut fields = fields.split(' ').skip(11);
        let mut next = || fields.next().ok_or("stat is too short");
        let (user, system): (u64, u64) = (next()?.parse()?, next()?.parse()?);
        Ok(user + system)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
