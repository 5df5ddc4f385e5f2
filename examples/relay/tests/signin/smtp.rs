//! A real SMTP server, PyPI aiosmtpd, by the script of katachi-auth's own test.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

/// Time for a mail to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes mail over STARTTLS from `katachi` with `mail password`.
pub(crate) struct Server {
    pub(crate) port: u16,
    /// Its certificate, as PEM.
    pub(crate) root: String,
    lines: Receiver<String>,
    child: Child,
    _folder: tempfile::TempDir,
}

fn python() -> Command {
    Command::new(std::env::var_os("KATACHI_PYTHON").unwrap_or_else(|| "python3".into()))
}

/// Whether it is installed.
pub(crate) fn installed() -> bool {
    let found = python()
        .args(["-c", "import aiosmtpd"])
        .stderr(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

impl Server {
    pub(crate) fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("cert"), folder.path().join("key"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../crates/katachi-auth/tests/smtp/server.py"
        );
        let mut child = python()
            .arg(script)
            .args([&certificate, &key])
            .arg("starttls")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let (sender, mails) = channel();
        std::thread::spawn(move || {
            let mut lines = lines.lines().map_while(Result::ok);
            lines.try_for_each(|line| sender.send(line))
        });
        Self {
            port: line.trim().parse().expect("the server starts"),
            root: made.cert.pem(),
            lines: mails,
            child,
            _folder: folder,
        }
    }

    /// The next mail that it took.
    pub(crate) fn next(&mut self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE);
        let line = line.expect("the SMTP server was given no mail in time");
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
