//! The tunnel through a `cloudflared` that this program starts and supervises.
//!
//! The relay makes a tunnel at Cloudflare for this machine and hands out its token.
//! `cloudflared` gets it through a pipe, keeps the connection to Cloudflare, and forwards
//! what comes from there to one unix socket of ours, where nothing is served but the
//! relay's signed request to open the tunnel. From then on everything is as on a
//! connection of our own: the same HTTP/2, the same single route, Noise inside of it.
//!
//! As long as it carries the tunnel it is asked whether it has a connection to
//! Cloudflare: once it has lost that, the tunnel is opened anew, with a `cloudflared` that
//! starts afresh if the first does not find back by itself.
//!
//! Where it forwards to stands in a file that we write: a tunnel whose configuration
//! lies at Cloudflare would let the account's owner choose among this machine's ports.

mod counts;
mod metrics;
mod origin;
mod process;
mod program;
pub(crate) mod tether;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper_util::rt::TokioIo;
use katachi_protocol::agent::CloudflaredHealth;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::{Cloudflared, Config};
use crate::tunnel::Service;
use origin::{Origin, Stream};
use process::Process;

/// Time for `cloudflared` to reach Cloudflare.
const READY: Duration = Duration::from_secs(10);
/// The same for one that had reached it, and has already been waited for a while.
const READY_AGAIN: Duration = Duration::from_secs(5);
/// How often it is asked whether it has.
const EVERY: Duration = Duration::from_millis(200);
/// The same while it carries a tunnel.
const WATCH: Duration = Duration::from_secs(2);
/// After so many answers in a row that say no, or none, its connection is lost.
const LOST: u32 = 2;
/// Time for the relay to come through, once it says that it has.
const ARRIVAL: Duration = Duration::from_secs(5);
/// After so many vain calls of the relay in a row `cloudflared` starts afresh, with
/// whatever tunnel the relay then has.
const MOST_VAIN: u32 = 3;

/// The supervised program, running or not.
#[derive(Debug)]
pub(crate) struct Carrier {
    wanted: Cloudflared,
    dir: PathBuf,
    running: Option<Running>,
    /// Ends by itself in a row.
    ended: u32,
    /// Calls of the relay in a row that did not arrive.
    vain: u32,
    /// Whether the one that runs had a connection and lost it.
    lost: bool,
    /// Where others see how it is, as long as it runs.
    health: watch::Sender<Option<CloudflaredHealth>>,
}

#[derive(Debug)]
struct Running {
    process: Process,
    origin: Origin,
}

/// Looks at the wanted program, and at the one of `config` if that runs: what is there,
/// and if its connection to Cloudflare is not, why.
///
/// # Errors
///
/// Returns an error if the wanted program may not be started.
pub(crate) async fn look(
    config: &Config,
    wanted: &Cloudflared,
    runs: bool,
) -> anyhow::Result<(String, Option<anyhow::Error>)> {
    let program = program::find(wanted).await?;
    let found = program.display().to_string();
    let address = process::metrics_in(&config.paths.cloudflared());
    let Some(address) = address.filter(|_| runs) else {
        return Ok((format!("{found}, which does not run now"), None));
    };
    let counts = metrics::counts(address).await;
    let counted = counts.map_or_else(|error| format!("{error:#}"), |counts| counts.to_string());
    let found = format!("{found}; {counted}");
    Ok((found, metrics::ready(address).await.err()))
}

impl Carrier {
    /// Finds the program and checks it; nothing is started.
    ///
    /// # Errors
    ///
    /// Returns an error if there is none, or not the one that is wanted.
    pub(crate) async fn new(service: &Service, wanted: &Cloudflared) -> anyhow::Result<Self> {
        program::find(wanted).await?;
        let dir = service.config.paths.cloudflared();
        origin::check_length(&dir)?;
        Ok(Self {
            wanted: wanted.clone(),
            dir,
            running: None,
            ended: 0,
            vain: 0,
            lost: false,
            health: service.cloudflared.clone(),
        })
    }

    /// Has the relay open a tunnel to `service`, starting `cloudflared` where it does not
    /// run.
    ///
    /// # Errors
    ///
    /// Returns an error if any of that does not work; it may be tried again.
    pub(crate) async fn open(&mut self, service: &Arc<Service>) -> anyhow::Result<TokioIo<Stream>> {
        self.still_runs()?;
        if self.running.is_none() {
            self.running = Some(self.start(service).await?);
        }
        self.until_ready().await?;
        let Some(running) = &mut self.running else {
            bail!("cloudflared does not run");
        };
        let arrived = running.origin.called(service.client(), ARRIVAL).await;
        match arrived {
            Ok(stream) => {
                (self.ended, self.vain) = (0, 0);
                Ok(TokioIo::new(stream))
            }
            Err(error) => {
                self.vain += 1;
                if self.vain >= MOST_VAIN {
                    self.vain = 0;
                    self.stop().await;
                }
                Err(error)
            }
        }
    }

    /// Completes when `cloudflared` has lost its connection to Cloudflare, or ended; says
    /// so.
    pub(crate) async fn lost(&mut self) -> String {
        let (mut refused, mut known) = (0, 0);
        loop {
            let Some(running) = &mut self.running else {
                return "cloudflared does not run".to_owned();
            };
            // How it ended is told by the next try to open.
            if !matches!(running.process.ended(), Ok(None)) {
                return "cloudflared ended by itself".to_owned();
            }
            let address = running.process.metrics();
            let counted = metrics::counts(address).await.ok();
            // One that counts nothing may be ready all the same.
            let counts = counted.unwrap_or_default();
            if counts.connections != known {
                tracing::info!("cloudflared: {counts}");
                known = counts.connections;
            }
            let state = metrics::ready(address).await;
            self.health.send_replace(Some(CloudflaredHealth {
                ready: state.is_ok(),
                counts: counted,
            }));
            match state {
                Ok(()) => refused = 0,
                Err(error) => {
                    refused += 1;
                    if refused == LOST {
                        self.lost = true;
                        let said = running.process.last_words();
                        return format!(
                            "cloudflared lost its connection to Cloudflare: {error:#} ({counts}); it last said: {said}"
                        );
                    }
                    tracing::warn!("cloudflared has no connection to Cloudflare: {error:#}");
                }
            }
            tokio::time::sleep(WATCH).await;
        }
    }

    /// Ends `cloudflared`, gently at first.
    pub(crate) async fn stop(&mut self) {
        self.lost = false;
        self.health.send_replace(None);
        if let Some(running) = self.running.take() {
            running.process.stop().await;
        }
    }

    async fn start(&self, service: &Arc<Service>) -> anyhow::Result<Running> {
        // Once more: the file may have been replaced since.
        let program = program::find(&self.wanted).await?;
        let tunnel = service.client().cloudflare().await?;
        let origin = Origin::listen(&self.dir, &tunnel.hostname, service)?;
        let process = Process::start(&program, &self.dir, origin.socket(), tunnel).await?;
        Ok(Running { process, origin })
    }

    /// Waits until `cloudflared` says that it reached Cloudflare.
    async fn until_ready(&mut self) -> anyhow::Result<()> {
        let patience = match self.lost {
            true => READY_AGAIN,
            false => READY,
        };
        let deadline = Instant::now() + patience;
        let mut every = tokio::time::interval(EVERY);
        loop {
            every.tick().await;
            self.still_runs()?;
            let Some(running) = &self.running else {
                bail!("cloudflared does not run");
            };
            let state = metrics::ready(running.process.metrics()).await;
            if state.is_ok() {
                self.lost = false;
                return Ok(());
            }
            if Instant::now() < deadline {
                continue;
            }
            let said = running.process.last_words();
            // One that never had a connection is left to try on by itself.
            let then = match self.lost {
                true => {
                    self.stop().await;
                    "; it is started afresh"
                }
                false => "",
            };
            return state.with_context(|| {
                format!("cloudflared has no connection to Cloudflare{then}; it last said: {said}")
            });
        }
    }

    /// Says so if `cloudflared` has ended by itself.
    fn still_runs(&mut self) -> anyhow::Result<()> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let Some(status) = running.process.ended()? else {
            return Ok(());
        };
        let said = running.process.last_words();
        self.running = None;
        self.lost = false;
        self.health.send_replace(None);
        self.ended += 1;
        match self.ended {
            1 => bail!("cloudflared ended by itself ({status}); it last said: {said}"),
            times => bail!(
                "cloudflared ended by itself {times} times in a row ({status}); it last said: {said}"
            ),
        }
    }
}
