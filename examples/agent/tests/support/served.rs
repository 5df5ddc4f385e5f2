//! A relay of a test's own, by the agent's program.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A running relay; it ends with this.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) url: String,
    /// File of its authority.
    pub(crate) authority: String,
}

impl Served {
    /// One that keeps its state in `state`, and is otherwise as `more` has it.
    pub(crate) fn start(state: &Path, more: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_katachi-agent"));
        command
            .args(["relay", "serve", "--no-keychain", "--ready-json"])
            .args(["--device-interval", "1", "--state-dir"])
            .arg(state)
            // Its end is the end of the relay.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = more(&mut command).spawn().unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self {
            child,
            url: text("public_url"),
            authority: text("ca"),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
