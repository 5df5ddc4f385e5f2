//! The embedded relay: this program once more, as a process of its own.
//!
//! It lives as long as the pipe to its standard input stays open, so it ends
//! with us even when we are killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::config::KeychainUse;
use crate::relay_client::Endpoint;

/// Time for the relay to be ready; it may have to create a vault first.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time for the relay to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// The line that a relay prints once it listens.
#[derive(Clone, Debug, Deserialize)]
struct Ready {
    /// The certificate authority to trust, if the relay made its own.
    ca: Option<PathBuf>,
    /// Where browsers and agents reach it.
    public_url: String,
}

/// What a relay is told beside where it listens and keeps its state.
#[derive(Default)]
pub(crate) struct More {
    /// Options of `serve`.
    pub(crate) options: Vec<String>,
    /// Names and values, for what no other user of this machine may see.
    pub(crate) variables: Vec<[String; 2]>,
}

/// A running relay.
#[derive(Debug)]
pub(crate) struct RelayProcess {
    child: Child,
    /// Kept out of `child`, which would close it before it waits.
    lifeline: Option<ChildStdin>,
    ready: Ready,
    endpoint: Endpoint,
}

impl RelayProcess {
    /// Starts a relay that keeps its state in `state_dir`.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not come up, with what it said.
    pub(crate) async fn start(
        listen: SocketAddr,
        state_dir: &Path,
        keychain: KeychainUse,
    ) -> anyhow::Result<Self> {
        Self::start_with(listen, state_dir, keychain, More::default()).await
    }

    /// The same, told `more`.
    ///
    /// # Errors
    ///
    /// As for [`RelayProcess::start`].
    pub(crate) async fn start_with(
        listen: SocketAddr,
        state_dir: &Path,
        keychain: KeychainUse,
        more: More,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        // What is meant for a relay elsewhere must not change this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KATACHI_RELAY_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["relay", "serve", "--ready-json"])
            // It serves this machine alone: a person who approved need not wait.
            .args(["--device-interval", "1", "--listen"])
            .arg(listen.to_string())
            .arg("--state-dir")
            .arg(state_dir)
            .args(match keychain {
                KeychainUse::Auto => None,
                KeychainUse::Off => Some("--no-keychain"),
            })
            .args(more.options)
            .envs(more.variables.into_iter().map(<(String, String)>::from))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the embedded relay")?;
        let lifeline = child.stdin.take();
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            bail!("the embedded relay has no standard output");
        };
        let mut errors = BufReader::new(stderr).lines();
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let ready = match line {
            Ok(Ok(Some(line))) => serde_json::from_str::<Ready>(&line)
                .with_context(|| format!("the embedded relay said `{line}`"))?,
            Ok(Ok(None)) => {
                let mut said = Vec::new();
                while let Ok(Some(line)) = errors.next_line().await {
                    said.push(line);
                }
                bail!("the embedded relay did not start: {}", said.join("\n"));
            }
            Ok(Err(error)) => return Err(error).context("the embedded relay cannot be read"),
            Err(_) => bail!("the embedded relay was not ready within {PATIENCE:?}"),
        };
        // Its log goes to ours; a full pipe would stop it.
        tokio::spawn(async move {
            while let Ok(Some(line)) = errors.next_line().await {
                tracing::info!(target: "relay", "{line}");
            }
        });
        let ca_pem = match &ready.ca {
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?,
            ),
            None => None,
        };
        let url = ready.public_url.clone();
        Ok(Self {
            child,
            lifeline,
            ready,
            endpoint: Endpoint { url, ca_pem },
        })
    }

    /// Where it is reached and whom to believe about it.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// File of the certificate authority, for a person to import.
    pub(crate) fn ca_file(&self) -> Option<&Path> {
        self.ready.ca.as_deref()
    }

    /// Its process number.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Completes when it ends by itself.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be waited for.
    pub(crate) async fn ended(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end, and ends it if it does not.
    pub(crate) async fn stop(mut self) {
        drop(self.lifeline.take());
        if tokio::time::timeout(GRACE, self.child.wait())
            .await
            .is_err()
        {
            // Already gone is as good as killed.
            let _ = self.child.kill().await;
        }
    }
}
