//! The vault's secret in a real keychain: gnome-keyring on a bus of its own.

use std::process::{Command, Stdio};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::needing;
use crate::support::place::{Place, Said};

pub(crate) fn trials() -> Vec<Trial> {
    let present = ["dbus-run-session", "gnome-keyring-daemon", "gdbus"]
        .into_iter()
        .all(has);
    let keyring = "gnome-keyring with dbus-run-session";
    vec![
        needing(
            keyring,
            present,
            "the_demo_keeps_promises_5_to_7_with_a_keychain_and_leaves_nothing_in_it",
            the_demo_keeps_promises_5_to_7_with_a_keychain_and_leaves_nothing_in_it,
        ),
        needing(
            keyring,
            present,
            "a_vault_whose_keychain_item_is_gone_stays_shut_and_whole",
            a_vault_whose_keychain_item_is_gone_stays_shut_and_whole,
        ),
        needing(
            keyring,
            present,
            "an_older_copy_of_the_vault_is_known_by_the_keychain",
            an_older_copy_of_the_vault_is_known_by_the_keychain,
        ),
    ]
}

fn has(program: &str) -> bool {
    let arguments = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    arguments.is_ok()
}

/// Runs a script with an unlocked, empty keyring; `$AGENT` is the program.
fn with_keyring(place: &Place, script: &str) -> Said {
    let runtime = place.home().join("runtime");
    std::fs::create_dir_all(&runtime).unwrap();
    let script = format!(
        "chmod 700 \"$XDG_RUNTIME_DIR\"\n\
         printf pw | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1\n\
         items() {{ gdbus call --session --dest org.freedesktop.secrets \
           --object-path /org/freedesktop/secrets/collection/login \
           --method org.freedesktop.DBus.Properties.Get org.freedesktop.Secret.Collection Items; }}\n\
         {script}"
    );
    let output = Command::new("dbus-run-session")
        .args(["--", "sh", "-c", &script])
        .env("AGENT", env!("CARGO_BIN_EXE_katachi-agent"))
        .env("HOME", place.home())
        .env("XDG_DATA_HOME", place.home().join("share"))
        .env("XDG_RUNTIME_DIR", &runtime)
        .env("KATACHI_HOME", place.home().join("agent"))
        .env("KATACHI_KEYCHAIN", "auto")
        .current_dir(place.workspace())
        .output()
        .unwrap();
    Said::from(output)
}

fn the_demo_keeps_promises_5_to_7_with_a_keychain_and_leaves_nothing_in_it() {
    let place = Place::new();
    let said = with_keyring(&place, "\"$AGENT\" demo --json || exit 1; items >&2");
    let stderr = said.stderr.clone();
    let report: Value = serde_json::from_str(&said.ok()).unwrap();
    for id in [5, 6, 7] {
        let promise = &report["promises"][id - 1];
        assert_eq!(promise["status"], "kept", "{promise} {stderr}");
    }
    assert!(
        stderr.contains("(<@ao []>,)"),
        "something is left in the keyring: {stderr}"
    );
}

fn a_vault_whose_keychain_item_is_gone_stays_shut_and_whole() {
    let place = Place::new();
    with_keyring(&place, "echo sk-1 | \"$AGENT\" key set demo").ok();
    let vault = std::fs::read(place.home().join("agent/data/vault/vault")).unwrap();
    std::fs::remove_dir_all(place.home().join("share")).unwrap();
    let said = with_keyring(&place, "\"$AGENT\" key list");
    let error = said.refused(2);
    assert!(
        error.contains("keychain") && error.contains("vault recover"),
        "{error}"
    );
    assert_eq!(
        std::fs::read(place.home().join("agent/data/vault/vault")).unwrap(),
        vault
    );
}

fn an_older_copy_of_the_vault_is_known_by_the_keychain() {
    let place = Place::new();
    let script = "echo sk-1 | \"$AGENT\" key set demo || exit 1
        cp -a \"$KATACHI_HOME\" old
        \"$AGENT\" vault recovery-code >/dev/null || exit 1
        rm -r \"$KATACHI_HOME\"; mv old \"$KATACHI_HOME\"
        \"$AGENT\" key list; echo \"refused with $?\"
        \"$AGENT\" vault accept-restore || exit 1
        \"$AGENT\" key list";
    let said = with_keyring(&place, script);
    let stderr = said.stderr.clone();
    let stdout = said.ok();
    for text in ["the keychain remembers a newer one", "vault accept-restore"] {
        assert!(stderr.contains(text), "{stderr}");
    }
    let (refused, accepted) = stdout.split_once("refused with 2").unwrap();
    assert!(!refused.contains("demo"), "{stdout}");
    assert!(accepted.contains("demo"), "{stdout}");
}
