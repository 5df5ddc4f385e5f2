//! What passes on loopback, as somebody with a cable in between would keep it.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use memchr::memmem;

/// Whether tcpdump is here and this process may listen (`CAP_NET_RAW`).
pub(crate) fn is_possible() -> bool {
    let listed = Command::new("tcpdump").arg("--list-interfaces").output();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|held| u64::from_str_radix(held.trim(), 16).ok());
    listed.is_ok() && held.is_some_and(|held| held & (1 << 13) != 0)
}

/// A running capture of every packet.
pub(crate) struct Capture {
    tcpdump: Child,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Capture {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("loopback.pcap");
        let tcpdump = Command::new("tcpdump")
            // As whoever starts it, each packet whole and at once.
            .args(["-Z", "root", "-i", "lo", "-s", "0", "-U", "-w"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut capture = Self {
            tcpdump,
            file,
            _dir: dir,
        };
        // It runs once it has seen something that certainly passed.
        assert!(capture.sees("capture begins"), "nothing is captured");
        capture
    }

    /// Ends it; gives every byte that went from or to `port`: others use the same
    /// interface, and speak as they like.
    pub(crate) fn end(mut self, port: u16) -> Packets {
        assert!(self.sees("capture ends"), "the capture broke off");
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
        let chosen = Command::new("tcpdump")
            .args(["-Z", "root", "-w", "-", "-r"])
            .arg(&self.file)
            .args(["port", &port.to_string()])
            .output()
            .unwrap();
        Packets(chosen.stdout)
    }

    /// Sends `mark` in plain text until the file holds it.
    fn sees(&mut self, mark: &str) -> bool {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = socket.local_addr().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && matches!(self.tcpdump.try_wait(), Ok(None)) {
            socket.send_to(mark.as_bytes(), own).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            let seen = std::fs::read(&self.file).map(Packets);
            if seen.is_ok_and(|packets| packets.hold(mark)) {
                return true;
            }
        }
        false
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

/// What was captured.
pub(crate) struct Packets(Vec<u8>);

impl Packets {
    pub(crate) fn hold(&self, text: &str) -> bool {
        memmem::find(&self.0, text.as_bytes()).is_some()
    }
}
