//! A running `up` and who opens its link.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use katachi_protocol::channel::PairingFragment;

use super::Place;
use super::browser::{Browser, EMAIL};

/// Longest time for anything here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `up`.
pub(crate) struct Up {
    pub(crate) child: Child,
    lines: Receiver<String>,
    /// What the link carried behind its `#`.
    pub(crate) fragment: Option<PairingFragment>,
    seen: Vec<String>,
}

impl Up {
    pub(crate) fn start(place: &Place, options: &[&str]) -> Self {
        Self::start_by(place.command(), options)
    }

    /// The same by a command that knows its home.
    pub(crate) fn start_by(mut command: Command, options: &[&str]) -> Self {
        command
            .args(["up", "--listen", "127.0.0.1:0", "--expect-account", EMAIL])
            .args(options);
        Self::run(command)
    }

    /// The same by a command that says all of it.
    pub(crate) fn run(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let pipe = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            pipe.lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self {
            child,
            lines,
            fragment: None,
            seen: Vec::new(),
        }
    }

    /// The rest of the first line that contains `mark`, after it.
    pub(crate) fn wait_for(&mut self, mark: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("`{mark}` did not come: {:#?}", self.seen);
            };
            self.seen.push(line.clone());
            if let Some((_, rest)) = line.split_once(mark) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Opens the link as a person would, without approving yet.
    pub(crate) fn browser(&mut self) -> (Browser, String) {
        let ca = std::fs::read_to_string(self.wait_for("its authority is")).unwrap();
        let link = format!("https://{}", self.wait_for("https://"));
        let code = self.wait_for("code ");
        let (_, fragment) = link.split_once('#').unwrap();
        self.fragment = PairingFragment::parse(fragment);
        assert!(self.fragment.is_some(), "{link}");
        let origin = link.split("/device").next().unwrap();
        (Browser::new(origin, &ca), code)
    }

    /// Signs up, approves, and waits for the connection.
    pub(crate) async fn approved(&mut self) -> (Browser, String) {
        let (browser, code) = self.browser();
        browser.sign_up(EMAIL).await;
        browser.approve(&code).await;
        self.wait_for("Connected.");
        // The agent says so as soon as the relay has let it in, which is a moment
        // before the relay can ask it.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let agents = browser.agents().await.agents;
            if agents[0].online {
                return (browser, agents[0].id.clone());
            }
            assert!(Instant::now() < deadline, "{agents:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Memory of the agent that belongs to no file, in bytes.
    pub(crate) fn memory(&self) -> usize {
        memory(self.child.id())
    }

    /// The process of its relay.
    pub(crate) fn relay(&self) -> u32 {
        let up = self.child.id();
        let children = format!("/proc/{up}/task/{up}/children");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // Any of its threads may have started it.
            let found = std::fs::read_dir(format!("/proc/{up}/task"))
                .unwrap()
                .flatten()
                .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
                .find_map(|pids| pids.split_whitespace().next()?.parse().ok());
            if let Some(relay) = found {
                return relay;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{children} names no relay");
    }

    pub(crate) fn ends(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("`up` did not end: {:#?}", self.seen);
    }

    /// Ends it; returns everything that it wrote on its standard error.
    pub(crate) fn stop_and_show(mut self) -> String {
        signal("-TERM", &self.child);
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        let seen = self.seen.join("\n");
        assert_eq!(self.ends(), Some(0));
        seen
    }

    pub(crate) fn stop(self) {
        signal("-TERM", &self.child);
        assert_eq!(self.ends(), Some(0));
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind; one that did not has ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Memory of a process that belongs to no file, in bytes.
pub(crate) fn memory(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let size = line.unwrap().trim().trim_end_matches(" kB");
    size.parse::<usize>().unwrap() * 1024
}

pub(crate) fn signal(name: &str, child: &Child) {
    let status = Command::new("kill")
        .args([name, &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

pub(crate) fn block_on<F: std::future::Future>(future: F) -> F::Output {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}
