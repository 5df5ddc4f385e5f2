//! What a crowd can make the program hold: memory and threads, counted from outside.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use http::StatusCode;
use serde_json::{Value, json};

use crate::program;
use crate::relay::{PASSWORD, TestRelay};

const MIB: usize = 1024 * 1024;

pub(crate) struct Process {
    child: Child,
    /// What it said when it listened.
    pub(crate) ready: Value,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    pub(crate) fn start() -> (Self, TestRelay) {
        let state = Arc::new(tempfile::tempdir().unwrap());
        let mut child = program()
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--no-keychain",
                "--ready-json",
            ])
            .arg("--state-dir")
            .arg(state.path())
            .env("KATACHI_RELAY_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let relay = TestRelay::of_process(&ready, state);
        (Self { child, ready }, relay)
    }

    /// A number of `/proc/PID/status`.
    fn status(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Memory of its own, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.status("RssAnon") * 1024
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l12_of_five_hundred_logins_at_once_four_are_hashed_and_others_are_served() {
    const LOGINS: usize = 500;
    let (process, mut relay) = Process::start();
    let ana = Arc::new(relay.browser_of("ana@example.org").await);
    let before = (process.memory(), process.status("Threads"));
    // From a place of each, so that nothing but the number holds them back.
    let mut crowd = Vec::new();
    for n in 0..LOGINS {
        let [high, low] = u16::try_from(n / 10).unwrap().to_be_bytes();
        relay.source = Some([127, 3, high, low].into());
        crowd.push((n, relay.browser()));
    }
    // They are there already: how many handshakes a machine does in the time that one
    // may take is not asked here.
    let coming = crowd.iter().map(|(_, browser)| browser.get("/healthz"));
    let mut coming = futures_util::stream::iter(coming).buffer_unordered(8);
    while let Some(answer) = coming.next().await {
        assert_eq!(answer.status(), StatusCode::OK);
    }
    drop(coming);
    let (done, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (flag, count) = (Arc::clone(&done), Arc::clone(&served));
    let asking = tokio::spawn(async move {
        while !flag.load(Ordering::SeqCst) {
            assert_eq!(ana.get("/api/agents").await.status(), StatusCode::OK);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let logins = crowd.into_iter().map(|(n, browser)| {
        tokio::spawn(async move {
            let body = json!({"email": format!("person-{n}@example.org"), "password": PASSWORD});
            browser.post("/api/login", body).await.status().as_u16()
        })
    });
    let mut logins = std::pin::pin!(futures_util::future::join_all(logins));
    let (mut memory, mut threads) = (0, 0);
    let answers = loop {
        tokio::select! {
            answers = &mut logins => break answers,
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                memory = memory.max(process.memory());
                threads = threads.max(process.status("Threads"));
            }
        }
    };
    done.store(true, Ordering::SeqCst);
    asking.await.unwrap();
    let answers: Vec<u16> = answers.into_iter().map(Result::unwrap).collect();
    let of = |status| answers.iter().filter(|answer| **answer == status).count();
    assert_eq!(of(401) + of(503), LOGINS, "{answers:?}");
    assert!(of(401) >= 4, "some were looked at");
    assert!(served.load(Ordering::SeqCst) > 0, "nobody else was served");
    // Four times 19 MiB, five hundred connections, and what else there is.
    let grown = memory.saturating_sub(before.0) / MIB;
    assert!(grown < 4 * 19 + 100, "{grown} MiB");
    // Those who wait for a place wait without a thread.
    let more = threads.saturating_sub(before.1);
    assert!(more < 60, "{more} threads more");
    println!(
        "{} of {LOGINS} were looked at; {grown} MiB, {more} threads more",
        of(401)
    );
}
