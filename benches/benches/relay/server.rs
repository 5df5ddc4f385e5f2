//! The server of a bench, in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// That of the program `katachi-relay`; the plain route has it too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A server, gone with this.
pub(super) struct Server {
    process: Child,
    pub(super) url: String,
}

impl Server {
    /// Starts this program again as `which`, with its state in `state`.
    pub(super) fn start(which: &str, state: &Path) -> Result<Self, Failure> {
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

    /// Processor time so far, of all threads, in nanoseconds.
    pub(super) fn used(&self) -> Result<f64, Failure> {
        Ok(katachi_benches::processor_time(self.process.id())?)
    }

    /// Memory of its own that lies in RAM, in bytes.
    pub(super) fn resident(&self) -> Result<f64, Failure> {
        let path = format!("/proc/{}/smaps_rollup", self.process.id());
        let mut kilobytes = 0_u64;
        for line in std::fs::read_to_string(path)?.lines() {
            if let Some(size) = line.strip_prefix("Private_") {
                let size = size.split_whitespace().nth(1);
                kilobytes += size.ok_or("a line without a size")?.parse::<u64>()?;
            }
        }
        Ok(kilobytes as f64 * 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One worker, and the cryptography of every TLS here.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "a provider of cryptography was installed before")?;
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?)
}

/// The relay as its program runs it, with room for more connections than it has
/// by default.
pub(super) async fn relay(state: &Path) -> Result<(), Failure> {
    let mut config = katachi_relay::Config::local(state);
    config.keychain = katachi_relay::KeychainUse::Never;
    config.limits.connections = 20_000;
    let relay = katachi_relay::Relay::bind(config).await?;
    println!("{}", relay.public_url());
    relay.serve(std::future::pending()).await?;
    Ok(())
}
