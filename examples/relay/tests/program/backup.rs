//! A backup of a relay that serves, and the way back on a machine that has nothing
//! but the code.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use serde_json::json;

use crate::program;
use crate::relay::TestRelay;

fn run(arguments: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = program();
    command.args(arguments);
    for (option, path) in paths {
        command.arg(option).arg(path);
    }
    command.arg("--no-keychain").output().unwrap()
}

fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Every file under a directory, one after the other.
fn bytes_of(path: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(bytes_of(&path)),
            false => all.extend(std::fs::read(&path).unwrap()),
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_taken_while_it_serves_comes_back_by_its_code_alone() {
    let relay = TestRelay::start().await;
    let browser = relay.browser_of("canary@example.org").await;
    let config =
        json!({"command": ["x"], "env": {}, "secrets": {"T": "canary"}, "released_to": []});
    let stored = browser
        .send(reqwest::Method::PUT, "/api/mcp/github", Some(config))
        .await;
    assert!(stored.status().is_success());
    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    let backup_of =
        |state: &Path, to: &Path| run(&["backup", to.to_str().unwrap()], &[("--state-dir", state)]);
    let code = said(&backup_of(relay.state.path(), &backup));
    assert_eq!(code.trim().len(), 39, "{code}");
    assert!(
        !backup_of(relay.state.path(), &backup).status.success(),
        "it was overwritten"
    );
    // The next one opens with the same code.
    let next = place.path().join("next");
    assert_eq!(said(&backup_of(relay.state.path(), &next)), "");

    relay.browser_of("later@example.org").await;
    let state = relay.stop().await;
    let found = |text: &[u8]| {
        bytes_of(&backup)
            .windows(text.len())
            .any(|part| part == text)
    };
    assert!(!found(b"canary") && !found(code.trim().as_bytes()));
    // What opens the vault on this machine is not in it.
    for secret in std::fs::read_dir(state.path().join("secrets")).unwrap() {
        assert!(!found(&std::fs::read(secret.unwrap().path()).unwrap()));
    }
    drop(state);

    let (right, wrong) = (place.path().join("code"), place.path().join("wrong"));
    std::fs::write(&right, &code).unwrap();
    std::fs::write(&wrong, "EDMQ-GX35-CNQ2-0RKS-EHJJ-0TV5-F4PW-JDXD").unwrap();
    let again = Arc::new(tempfile::tempdir().unwrap());
    let state = again.path().join("state");
    let restore = |code: &Path| {
        run(
            &["restore", backup.to_str().unwrap()],
            &[("--recovery-code-file", code), ("--state-dir", &state)],
        )
    };
    assert!(!restore(&wrong).status.success());
    assert!(!state.exists(), "half of it is left");
    // A directory that a service manager has made.
    std::fs::create_dir(&state).unwrap();
    assert!(!restore(&wrong).status.success());
    assert_eq!(
        std::fs::read_dir(&state).unwrap().count(),
        0,
        "some is left"
    );
    said(&restore(&right));
    assert!(!restore(&right).status.success(), "it was overwritten");

    let at_home = state.clone();
    let relay = TestRelay::start_with(again, |config| config.state_dir = at_home).await;
    let browser = relay.signed_in("canary@example.org").await;
    assert_eq!(browser.json("/api/audit").await["intact"], true);
    assert_eq!(
        browser.json("/api/mcp").await["configs"][0]["name"],
        "github"
    );
    let later = json!({"email": "later@example.org", "password": crate::PASSWORD});
    let unknown = relay.browser().post("/api/login", later).await;
    assert_eq!(unknown.status(), reqwest::StatusCode::UNAUTHORIZED);
}
