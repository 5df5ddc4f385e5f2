//! The running `cloudflared`: how it is called, what it says, how it ends.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use katachi_protocol::Sensitive;
use katachi_protocol::cloudflare::CloudflareTunnel;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::output::one_line;

/// Time for `cloudflared` to end by itself, a little more than it gives its requests.
const GRACE: Duration = Duration::from_secs(7);
/// Time for it to take its token.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest line of its log that is kept, in bytes.
const LONGEST_LINE: usize = 4 * 1024;

/// A running `cloudflared`.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    metrics: SocketAddr,
    said: Arc<Mutex<String>>,
}

impl Process {
    /// Starts `program` for `tunnel`, so that it forwards to `socket` and nowhere else.
    /// The token goes through a pipe: it stands in no argument, no variable, no file.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not start or does not take its token.
    pub(super) async fn start(
        program: &Path,
        dir: &Path,
        socket: &Path,
        tunnel: CloudflareTunnel,
    ) -> anyhow::Result<Self> {
        let config = config_in(dir);
        let metrics = free_port()?;
        write_config(&config, socket, &tunnel.hostname, metrics)?;
        let this = std::env::current_exe().context("cannot find this program's own file")?;
        let mut child = Command::new(this)
            // Its variables are its options too.
            .env_clear()
            .args([
                "tethered",
                "--parent",
                &std::process::id().to_string(),
                "--",
            ])
            .arg(program)
            .args(["tunnel", "--config"])
            .arg(&config)
            .args(["--no-autoupdate", "--metrics", &metrics.to_string()])
            .args(["--output", "json", "--grace-period", "5s"])
            .args(["run", "--token-file", "/dev/stdin"])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start cloudflared")?;
        let (Some(mut stdin), Some(stderr)) = (child.stdin.take(), child.stderr.take()) else {
            bail!("cloudflared has no standard input");
        };
        let said = Arc::new(Mutex::new("nothing".to_owned()));
        tokio::spawn(listen(stderr, secrets(&tunnel.token), Arc::clone(&said)));
        let token = tunnel.token.expose_secret().as_bytes();
        tokio::time::timeout(PATIENCE, stdin.write_all(token))
            .await
            .context("cloudflared does not take its token")?
            .context("cloudflared does not take its token")?;
        Ok(Self {
            child,
            metrics,
            said,
        })
    }

    /// Where it says how it is.
    pub(super) fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be waited for.
    pub(super) fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// The last line of its log.
    pub(super) fn last_words(&self) -> String {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Asks it to end, and ends it if it does not.
    pub(super) async fn stop(mut self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id.and_then(Pid::from_raw) {
            // Already gone is as good as told.
            let _ = kill_process(id, Signal::TERM);
        }
        let ended = tokio::time::timeout(GRACE, self.child.wait()).await;
        if ended.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

fn config_in(dir: &Path) -> PathBuf {
    dir.join("config.yml")
}

/// Where the one that was last started in `dir` says how it is.
pub(super) fn metrics_in(dir: &Path) -> Option<SocketAddr> {
    let config = std::fs::read(config_in(dir)).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&config).ok()?;
    config.get("metrics")?.as_str()?.parse().ok()
}

/// Writes where it forwards to, and where it says how it is. JSON is YAML.
fn write_config(
    path: &Path,
    socket: &Path,
    hostname: &str,
    metrics: SocketAddr,
) -> anyhow::Result<()> {
    let Some(socket) = socket.to_str() else {
        bail!("the path {} is not text", socket.display());
    };
    let config = serde_json::json!({ "metrics": metrics, "ingress": [
        { "hostname": hostname, "service": format!("unix:{socket}") },
        { "service": "http_status:404" },
    ]});
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(config.to_string().as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// A port of loopback that is free now.
fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// What must not be logged: the token, and the secret inside of it.
fn secrets(token: &Sensitive) -> Vec<Sensitive> {
    let inside = STANDARD
        .decode(token.expose_secret())
        .ok()
        .and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok())
        .and_then(|token| Some(Sensitive::new(token.get("s")?.as_str()?)));
    let not_empty = |secret: &Sensitive| !secret.expose_secret().is_empty();
    [Some(token.clone()), inside]
        .into_iter()
        .flatten()
        .filter(not_empty)
        .collect()
}

/// Puts each line of its log into ours, without secrets.
async fn listen(
    mut stderr: impl AsyncRead + Unpin,
    secrets: Vec<Sensitive>,
    said: Arc<Mutex<String>>,
) {
    let (mut line, mut piece) = (Vec::new(), [0; 1024]);
    while let Ok(read @ 1..) = stderr.read(&mut piece).await {
        for &byte in &piece[..read] {
            match byte {
                b'\n' => tell(&std::mem::take(&mut line), &secrets, &said),
                byte if line.len() < LONGEST_LINE => line.push(byte),
                _ => {}
            }
        }
    }
    tell(&line, &secrets, &said);
}

fn tell(line: &[u8], secrets: &[Sensitive], said: &Mutex<String>) {
    let line = String::from_utf8_lossy(line);
    if line.trim().is_empty() {
        return;
    }
    // Before it is cut or parsed: a secret has to be found whole.
    let clean = secrets.iter().fold(line.into_owned(), |line, secret| {
        line.replace(secret.expose_secret(), "[secret]")
    });
    let text = one_line(&words(&clean));
    tracing::info!(target: "cloudflared", "{text}");
    *said.lock().unwrap_or_else(PoisonError::into_inner) = text;
}

/// Message and error of a line of JSON, or the line as it is.
fn words(line: &str) -> String {
    let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else {
        return line.to_owned();
    };
    let field = |name: &str| entry.get(name).and_then(|value| value.as_str());
    match (field("message"), field("error")) {
        (Some(message), Some(error)) => format!("{message}: {error}"),
        (Some(text), None) | (None, Some(text)) => text.to_owned(),
        (None, None) => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_it_says_is_kept_without_secrets() {
        let token = Sensitive::new(STANDARD.encode(r#"{"a":"acc","s":"c2VjcmV0","t":"id"}"#));
        let log = format!(
            "plain\n{{\"level\":\"error\",\"message\":\"no edge\",\"error\":\"token {} and c2VjcmV0\"}}\n",
            token.expose_secret()
        );
        let said = Arc::new(Mutex::new(String::new()));
        listen(log.as_bytes(), secrets(&token), Arc::clone(&said)).await;
        assert_eq!(
            *said.lock().unwrap(),
            "no edge: token [secret] and [secret]"
        );
    }
}
