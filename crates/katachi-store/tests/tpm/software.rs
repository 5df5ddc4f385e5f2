//! A software TPM with a state of its own, which ends with its test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use katachi_store::tpm::TpmDevice;
use rustix::process::{Pid, Signal, kill_process};

/// A test, and the programs that it needs.
pub type Case = (&'static str, &'static [&'static str], fn());

pub const SWTPM: &[&str] = &["swtpm"];

pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

pub struct SoftwareTpm {
    directory: tempfile::TempDir,
    process: Child,
}

impl SoftwareTpm {
    /// Makes a TPM with a seed of its own.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = launch(directory.path());
        Self { directory, process }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    pub fn device(&self) -> TpmDevice {
        // Patient, since the machine that tests may be busy.
        TpmDevice::unix_socket(self.socket()).with_deadline(Duration::from_secs(30))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Ends it, as a chip that died.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again with what it remembers.
    pub fn restart(&mut self) {
        self.kill();
        std::fs::remove_file(self.socket()).unwrap();
        self.process = launch(self.directory.path());
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn launch(directory: &Path) -> Child {
    let socket = directory.join("socket");
    let process = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", directory.display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", socket.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "swtpm did not start"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    process
}
