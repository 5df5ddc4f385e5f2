//! nginx as a peer.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The program, and the module that forwards streams.
pub const PROGRAM: &str = "/usr/sbin/nginx";
/// See [`PROGRAM`].
pub const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A running nginx with one worker, gone with this.
#[derive(Debug)]
pub struct Nginx {
    /// Where it listens, on loopback.
    pub port: u16,
    master: Child,
}

impl Nginx {
    /// Starts one with its files in `directory`; `block` has it listen on `port`.
    ///
    /// # Panics
    ///
    /// Panics if it does not start.
    pub fn start(directory: &Path, name: &str, port: u16, module: &str, block: &str) -> Self {
        let pid_file = directory.join(format!("{name}.pid"));
        let config = directory.join(format!("{name}.conf"));
        let text = format!(
            "{module}\ndaemon off;\nuser root;\nworker_processes 1;\npid {};\nerror_log /dev/null;\nevents {{}}\n{block}\n",
            pid_file.display()
        );
        std::fs::write(&config, text).expect("the configuration is written");
        let master = Command::new(PROGRAM)
            .args(["-e", "/dev/null", "-p"])
            .arg(directory)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        let started = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(started, "nginx listens");
        Self { port, master }
    }

    /// The process that does the work.
    ///
    /// # Panics
    ///
    /// Panics if there is none.
    pub fn worker(&self) -> u32 {
        let master = self.master.id();
        let children = format!("/proc/{master}/task/{master}/children");
        std::fs::read_to_string(children)
            .ok()
            .and_then(|text| text.split_whitespace().next()?.parse().ok())
            .expect("nginx has a worker")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It ends its workers when it is asked to, and not when it is killed.
        let _ = Command::new("kill")
            .arg(self.master.id().to_string())
            .status();
        let _ = self.master.wait();
    }
}

/// A port of loopback that nobody listens on.
///
/// # Panics
///
/// Panics if there is none.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback has free ports")
        .port()
}
