//! New keys for the accounts of an embedded database, which a relay serves meanwhile.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::held::{Held, finished, killed, kills};
use crate::relay::TestRelay;
use crate::{failing, program, ready_line};

/// A relay that is a process.
struct Serving {
    child: Child,
    relay: Arc<TestRelay>,
}

impl Serving {
    fn start(state: &Arc<TempDir>) -> Self {
        let mut child = program()
            .args(["serve", "--listen", "127.0.0.1:0", "--no-keychain"])
            .args(["--ready-json", "--state-dir"])
            .arg(state.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ready = ready_line(&mut child);
        let relay = Arc::new(TestRelay::of_process(&ready, Arc::clone(state)));
        Self { child, relay }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rotate(state: &TempDir) -> Command {
    let mut command = program();
    command
        .args(["key", "rotate", "--accounts", "--json"])
        .args(["--no-keychain", "--state-dir"])
        .arg(state.path());
    command
}

async fn done(state: &Arc<TempDir>) -> Value {
    let command = rotate(state);
    tokio::task::spawn_blocking(move || finished(command))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_keys_change_while_the_relay_serves_and_all_is_written() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let serving = Serving::start(&state);
    let ends = Arc::new(AtomicBool::new(false));
    let mut users = Vec::new();
    for name in ["ana", "bob", "eve"] {
        let held = Held::new(&serving.relay, name).await;
        let (ends, relay) = (Arc::clone(&ends), Arc::clone(&serving.relay));
        users.push(tokio::spawn(held.use_until(ends, relay)));
    }
    for _ in 0..4 {
        assert_eq!(done(&state).await["rotated"], 3);
    }
    ends.store(true, Ordering::SeqCst);
    for user in users {
        let held = user.await.unwrap();
        held.assert_opens(&serving.relay).await;
        assert_eq!(held.rotations().await, 4);
        serving.relay.signed_in(&held.email).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_leaves_all_readable_and_the_next_one_finishes() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let mut serving = Serving::start(&state);
    let mut all = Vec::new();
    for name in ["ana", "bob", "eve", "joe"] {
        all.push(Held::new(&serving.relay, name).await);
    }
    let mut ended = 0;
    for round in 0..kills() {
        let command = rotate(&state);
        let killed = tokio::task::spawn_blocking(move || killed(command, round));
        ended += usize::from(killed.await.unwrap());
        for held in &mut all {
            held.assert_opens(&serving.relay).await;
            held.keep(round as u64 + 2).await;
        }
        if round % 5 == 0 {
            // A relay that starts opens the keys of all agents.
            drop(serving);
            serving = Serving::start(&state);
            let mut moved = Vec::new();
            for held in all {
                moved.push(held.moved_to(&serving.relay).await);
            }
            all = moved;
        }
    }
    assert!(ended > 0, "none was killed before its end");
    done(&state).await;
    // Then nothing is left to go on with.
    let again = done(&state).await;
    assert_eq!(
        (&again["continued"], &again["rotated"]),
        (&false.into(), &4.into())
    );
    for held in &all {
        held.assert_opens(&serving.relay).await;
        serving.relay.signed_in(&held.email).await;
    }
}

#[test]
fn what_cannot_be_rotated_says_what_to_give() {
    let place = tempfile::tempdir().unwrap();
    let none = place.path().join("none");
    let none = none.to_str().unwrap();
    let (_, said) = failing(&["key", "rotate", "--accounts", "--state-dir", none]);
    assert!(said.contains("give --state-dir, or --database"), "{said}");
    assert!(!std::path::Path::new(none).exists(), "something was made");
    let (_, said) = failing(&["key", "rotate", "--state-dir", none]);
    assert!(
        said.contains("--database") && said.contains("--accounts"),
        "{said}"
    );
    let (_, said) = failing(&["key", "rotate", "--older-than", "1d"]);
    assert!(said.contains("--accounts"), "{said}");
    let (_, said) = failing(&["key", "rotate", "--accounts", "--older-than", "soon"]);
    assert!(said.contains("such as 90d"), "{said}");
}

#[test]
fn the_help_of_a_rotation_names_what_it_takes() {
    let output = program()
        .args(["key", "rotate", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for name in [
        "--accounts",
        "--older-than <DURATION>",
        "--json",
        "90d",
        "goes on",
    ] {
        assert!(help.contains(name), "{name}: {help}");
    }
}
