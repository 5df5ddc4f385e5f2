//! The relay as a process, whose log is kept.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use tempfile::TempDir;

use crate::relay::TestRelay;

/// Ended with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The relay as a process, whose log is kept.
pub(crate) struct Process {
    child: Running,
    pub(crate) relay: TestRelay,
    log: JoinHandle<String>,
}

impl Process {
    pub(crate) fn start(state: &Arc<TempDir>) -> Self {
        Self::start_in(state, Vec::new())
    }

    /// The same with more in its environment.
    pub(crate) fn start_in(state: &Arc<TempDir>, environment: Vec<(String, String)>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_katachi-relay"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KATACHI_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--no-keychain",
                "--ready-json",
                "--tunnel-websocket",
            ])
            .arg("--state-dir")
            .arg(state.path())
            .args(crate::arguments(state.path()))
            .env("KATACHI_RELAY_LOG", "debug")
            .envs(environment)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut log = Vec::new();
            stderr.read_to_end(&mut log).unwrap();
            String::from_utf8(log).unwrap()
        });
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap();
        let relay = TestRelay::of_process(&ready, Arc::clone(state));
        let child = Running(child);
        Self { child, relay, log }
    }

    /// Asks it to stop, and gives what it said.
    pub(crate) fn stop(mut self) -> String {
        let pid = self.child.0.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(told.success());
        assert!(self.child.0.wait().unwrap().success());
        self.log.join().unwrap()
    }
}
