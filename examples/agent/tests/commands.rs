//! What the commands say, and that a mistake harms nothing.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

#[path = "support/place.rs"]
#[allow(dead_code, reason = "these tests use a part of this")]
mod place;

use place::Place;

const KEY: &str = "sk-live-5f0e7c21";

#[test]
fn a_key_is_set_by_a_pipe_and_stands_in_no_file() {
    let place = Place::new();
    let said = place.agent_reading(&format!("{KEY}\n"), &["key", "set", "anthropic"]);
    assert!(!said.stderr.contains(KEY) && !said.stdout.contains(KEY));
    said.ok();
    let listed = place.agent(&["key", "list", "--json"]).ok();
    let keys: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(keys[0]["name"], "anthropic");
    for (path, bytes) in place.stored() {
        let found = bytes
            .windows(KEY.len())
            .any(|window| window == KEY.as_bytes());
        assert!(!found, "{} holds the key", path.display());
    }
    place.agent(&["key", "rm", "anthropic"]).ok();
    assert_eq!(place.agent(&["key", "list", "--json"]).ok().trim(), "[]");
}

#[test]
fn a_key_on_the_command_line_is_refused_and_not_repeated() {
    let place = Place::new();
    let error = place.agent(&["key", "set", "anthropic", KEY]).refused(2);
    assert!(
        error.contains("never taken from the command line"),
        "{error}"
    );
    assert!(!error.contains(KEY), "{error}");
    assert!(
        place.stored().is_empty(),
        "a refused command stored something"
    );
}

#[test]
fn an_empty_value_and_a_bad_name_are_refused_with_the_next_step() {
    let place = Place::new();
    let empty = place
        .agent_reading("\n", &["key", "set", "anthropic"])
        .refused(2);
    assert!(empty.contains("next:"), "{empty}");
    let name = place
        .agent_reading("x", &["key", "set", "Not A Name"])
        .refused(2);
    assert!(
        name.contains("Not A Name") && name.contains("next:"),
        "{name}"
    );
    let missing = place.agent(&["key", "rm", "nope"]).refused(2);
    assert!(
        missing.contains("nope") && missing.contains("key list"),
        "{missing}"
    );
}

#[test]
fn mistakes_in_the_configuration_name_file_line_and_next_step_and_harm_nothing() {
    let place = Place::new();
    place.agent_reading(KEY, &["key", "set", "anthropic"]).ok();
    place.agent(&["memory", "set", "plums", "in summer"]).ok();
    let config = place.home().join("config.toml");
    let before = place.stored();
    for (text, line, word) in [
        ("[relay]\nurll = \"https://a\"\n", ":2", "urll"),
        ("\n[ai]\ncommand = \"claude\"\n", ":3", "command"),
        ("[relay]\nurl = \"http://a\"\n", "relay.url", "https://"),
        (
            "[relay]\nurl = \"https://me@a\"\n",
            "relay.url",
            "user name",
        ),
        (
            "[relay]\nlisten = \"0.0.0.0:1\"\n",
            "relay.listen",
            "loopback",
        ),
        (
            "[sandbox]\nworkspace = \"/does/not/exist\"\n",
            "sandbox.workspace",
            "next:",
        ),
        ("[vault]\nkeychain = \"maybe\"\n", ":2", "maybe"),
        ("[relay\n", ":1", "relay"),
    ] {
        std::fs::write(&config, text).unwrap();
        let error = place.agent(&["key", "list"]).refused(2);
        assert!(error.contains("config.toml"), "{error}");
        assert!(
            error.contains(line) && error.contains(word) && error.contains("next:"),
            "{text}: {error}"
        );
        assert_eq!(
            place.agent(&["run", "--", "true"]).code,
            Some(125),
            "{text}"
        );
    }
    std::fs::remove_file(&config).unwrap();
    assert_eq!(place.stored(), before, "a mistake changed what was stored");
    assert!(place.agent(&["key", "list"]).ok().contains("anthropic"));
}

#[cfg(unix)]
#[test]
fn a_home_that_everybody_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;

    let place = Place::new();
    let open = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(place.home(), permissions).unwrap();
    };
    open(0o777);
    let error = place.agent(&["key", "list"]).refused(2);
    assert!(error.contains("chmod o-w"), "{error}");
    assert_eq!(place.agent(&["run", "--", "true"]).code, Some(125));
    open(0o700);
    place.agent(&["key", "list"]).ok();
    let config = place.home().join("config.toml");
    std::fs::write(&config, "").unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = place.agent(&["key", "list"]).refused(2);
    assert!(error.contains("config.toml"), "{error}");
}

#[test]
fn flags_stand_above_variables_and_those_above_the_file() {
    let place = Place::new();
    std::fs::write(
        place.home().join("config.toml"),
        "[relay]\nurl = \"http://from-file\"\n",
    )
    .unwrap();
    let file = place.agent(&["key", "list"]).refused(2);
    assert!(file.contains("from-file"), "{file}");
    let variable = place
        .command()
        .args(["key", "list"])
        .env("KATACHI_RELAY_URL", "http://from-variable")
        .output()
        .unwrap();
    let variable = String::from_utf8(variable.stderr).unwrap();
    assert!(
        variable.contains("from-variable") && variable.contains("KATACHI_RELAY_URL"),
        "{variable}"
    );
    let flag = place
        .command()
        .args(["key", "list", "--relay-url", "https://flag.example"])
        .env("KATACHI_RELAY_URL", "http://from-variable")
        .output()
        .unwrap();
    assert!(flag.status.success());
}

#[test]
fn a_named_configuration_that_is_missing_is_an_error() {
    let place = Place::new();
    let error = place
        .agent(&["--config", "nowhere.toml", "key", "list"])
        .refused(2);
    assert!(
        error.contains("nowhere.toml") && error.contains("next:"),
        "{error}"
    );
}

#[test]
#[cfg(target_os = "linux")] // elsewhere no policy is planned yet
fn mistakes_in_a_policy_name_file_line_key_and_next_step() {
    let place = Place::new();
    for (text, line, word) in [
        ("[filesystem]\nraed = [\".\"]\n", ":2", "read"),
        (
            "[commands]\nallow = [\"git status\"]\n",
            ":2",
            "[\"git\", \"status\"]",
        ),
        ("[limits]\nmemory = \"2 gigs\"\n", ":2", "size"),
        ("[filesystem\n", ":1", "next:"),
        (
            "[filesystem]\nread = [\"/does/not/exist\"]\n",
            "policy.toml",
            "/does/not/exist",
        ),
    ] {
        let policy = place.file("policy.toml", text);
        for command in [&["run", "--policy"][..], &["why", "--policy"]] {
            let mut args: Vec<&str> = command.to_vec();
            args.push(policy.to_str().unwrap());
            if command[0] == "run" {
                args.extend(["--", "true"]);
            }
            let code = if command[0] == "run" { 125 } else { 2 };
            let error = place.agent(&args).refused(code);
            assert!(error.contains("policy.toml"), "{error}");
            assert!(
                error.contains(line) && error.contains(word) && error.contains("next:"),
                "{text}: {error}"
            );
        }
    }
}

#[test]
fn mistakes_on_the_command_line_are_named() {
    let place = Place::new();
    for (args, word) in [
        (&["rnu"][..], "rnu"),
        (&["dmeo"], "demo"),
        (&["run"], "COMMAND"),
        (&["run", "--polcy", "x", "--", "true"], "--policy"),
        (&["why", "connect", "example.com"], "example.com:443"),
        (&["history", "show", "plums"], "history list"),
        (&["history", "show", "7"], "history list"),
        (&["memory", "get", "plums"], "memory search"),
        (&["login"], "--relay-url"),
        (&["run", "--key", "nonsense", "--", "true"], "VARIABLE=NAME"),
        (
            &["key", "list", "--ai-command", "x", "--ai-key", "y"],
            "VARIABLE=NAME",
        ),
        (&["up", "--listen", "0.0.0.0:0"], "loopback"),
        (&["vault", "recover"], "there is no vault"),
        (
            &[
                "login",
                "--relay-url",
                "https://127.0.0.1:9",
                "--relay-ca",
                "nowhere.pem",
            ],
            "nowhere.pem",
        ),
    ] {
        let said = place.agent(args);
        assert!(
            matches!(said.code, Some(2 | 125)),
            "{args:?}: {}",
            said.stderr
        );
        assert!(said.stderr.contains(word), "{args:?}: {}", said.stderr);
        assert_eq!(said.stdout, "", "{args:?}");
    }
}

#[test]
fn login_without_a_terminal_asks_for_the_account_to_expect() {
    let place = Place::new();
    let error = place
        .agent(&["login", "--relay-url", "https://127.0.0.1:9"])
        .refused(2);
    assert!(error.contains("--expect-account"), "{error}");
}

#[test]
fn a_relay_that_does_not_answer_is_a_plain_error() {
    let place = Place::new();
    let said = place.agent(&[
        "login",
        "--relay-url",
        "https://127.0.0.1:9",
        "--expect-account",
        "a@b.example",
    ]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("https://127.0.0.1:9"),
        "{}",
        said.stderr
    );
}

#[test]
fn memory_comes_back_by_key_and_by_word_and_stays_in_its_workspace() {
    let place = Place::new();
    place
        .agent(&[
            "memory",
            "set",
            "pruning",
            "plums are pruned in summer",
            "--tag",
            "garden",
        ])
        .ok();
    place
        .agent_reading("line one\nline two\n", &["memory", "set", "notes"])
        .ok();
    assert_eq!(
        place.agent(&["memory", "get", "pruning"]).ok(),
        "plums are pruned in summer\n"
    );
    assert_eq!(
        place.agent(&["memory", "get", "notes"]).ok(),
        "line one\nline two\n"
    );
    let found = place.agent(&["memory", "search", "--json", "summer"]).ok();
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found[0]["key"], "pruning");
    assert_eq!(found[0]["tags"][0], "garden");
    let other = place.home();
    let elsewhere = place.agent(&[
        "--workspace",
        other.to_str().unwrap(),
        "memory",
        "get",
        "pruning",
    ]);
    assert_eq!(elsewhere.code, Some(2));
    let database = std::fs::read(place.home().join("data/agent.db")).unwrap();
    assert!(!database.starts_with(b"SQLite format 3"));
}

#[test]
fn memory_is_pictured_by_workspace_with_this_one_first() {
    let place = Place::new();
    assert!(
        place
            .agent(&["memory", "list"])
            .stderr
            .contains("memory set")
    );
    let other = place.home();
    let elsewhere = ["--workspace", other.to_str().unwrap()];
    let much = "x".repeat(4000);
    place
        .agent(&[&elsewhere[..], &["memory", "set", "big", &much]].concat())
        .ok();
    for key in ["pruning", "notes"] {
        place
            .agent(&["memory", "set", key, "short", "--tag", "garden"])
            .ok();
    }
    let picture = place.agent(&["memory", "list"]).ok();
    let lines: Vec<&str> = picture.lines().collect();
    assert!(lines[0].contains("2 entries"), "{picture}");
    assert!(
        lines[0].contains("·█  ▏"),
        "today, and a small share: {picture}"
    );
    assert!(lines[1].contains("1 entries"), "{picture}");
    assert!(lines[1].contains("████████████"), "the largest: {picture}");
    assert!(picture.contains("3.9 KiB (1% full)"), "{picture}");
    assert!(picture.contains("pruning #garden") && !picture.contains("big"));

    let json = place
        .agent(&["memory", "list", "--json", "--tag", "garden"])
        .ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["namespaces"].as_array().unwrap().len(), 2);
    assert_eq!(json["entries"][0]["key"], "notes");
    assert_eq!(json["entries"].as_array().unwrap().len(), 2);
}

#[test]
fn a_recovery_code_opens_the_vault_where_nothing_else_does() {
    let place = Place::new();
    place.agent_reading(KEY, &["key", "set", "anthropic"]).ok();
    let code = place.agent(&["vault", "recovery-code"]).ok();
    // As on another machine: the secret of this one is not there.
    std::fs::remove_dir_all(place.home().join("state/vault-secret")).unwrap();
    let shut = place.agent(&["key", "list"]).refused(2);
    assert!(shut.contains("vault recover"), "{shut}");
    let before = place.stored();
    let (first, rest) = code.split_at(1);
    let mistyped = format!("{}{rest}", if first == "Q" { "R" } else { "Q" });
    assert_ne!(
        place.agent_reading(&mistyped, &["vault", "recover"]).code,
        Some(0)
    );
    assert_eq!(place.stored(), before, "a wrong code changed something");
    place
        .agent_reading(&code.to_lowercase(), &["vault", "recover"])
        .ok();
    assert!(place.agent(&["key", "list"]).ok().contains("anthropic"));
}

#[test]
fn looking_never_makes_anything() {
    let place = Place::new();
    for args in [
        &["history", "list"][..],
        &["history", "search", "x"],
        &["memory", "search", "x"],
        &["key", "list"],
        &["audit"],
        &["doctor"],
        &["why"],
        &["unregister"],
    ] {
        place.agent(args);
        assert!(place.stored().is_empty(), "{args:?} wrote something");
    }
}

#[test]
fn an_altered_vault_is_refused_and_left_alone() {
    let place = Place::new();
    place.agent_reading(KEY, &["key", "set", "anthropic"]).ok();
    let vault = place.home().join("data/vault/vault");
    let mut bytes = std::fs::read(&vault).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&vault, &bytes).unwrap();
    let error = place.agent(&["key", "list"]).refused(1);
    assert!(error.contains("vault"), "{error}");
    assert_eq!(
        std::fs::read(&vault).unwrap(),
        bytes,
        "a vault that does not open was replaced"
    );
    bytes[last] ^= 1;
    std::fs::write(&vault, &bytes).unwrap();
    assert!(place.agent(&["key", "list"]).ok().contains("anthropic"));
}

#[test]
#[cfg(target_os = "linux")] // elsewhere no policy is planned yet
fn why_answers_with_rule_and_exit_code() {
    let place = Place::new();
    std::fs::write(place.workspace().join("a.txt"), "x").unwrap();
    let inside = place.agent(&["why", "read", "a.txt"]);
    assert!(
        inside.stdout.contains("filesystem.write"),
        "{}",
        inside.stdout
    );
    inside.ok();
    let outside = place.agent(&["why", "--json", "read", "/etc/shadow"]);
    assert_eq!(outside.code, Some(1));
    let answer: serde_json::Value = serde_json::from_str(&outside.stdout).unwrap();
    assert_eq!(answer["allowed"], false);
    assert!(answer["rule"].as_str().unwrap().contains("filesystem.read"));
    assert_eq!(
        place.agent(&["why", "connect", "example.com:443"]).code,
        Some(1)
    );
    let whole = place.agent(&["why"]).ok();
    assert!(
        whole.contains("[filesystem]") && whole.contains("default policy"),
        "{whole}"
    );
}

#[test]
fn doctor_speaks_json_alone_on_standard_output() {
    let place = Place::new();
    let said = place.agent(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let about: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["about"].as_str().unwrap())
        .collect();
    for part in ["sandbox", "keychain", "fingerprint", "vault", "relay"] {
        assert!(about.contains(&part), "{about:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn doctor_tries_the_tier_below_too() {
    let place = Place::new();
    let said = place.agent(&["doctor", "--json", "--witness"]);
    let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let files = |part: &str| {
        let controls = report[part]["controls"].as_array().unwrap();
        let files = controls.iter().find(|control| control["id"] == "files");
        files.unwrap().clone()
    };
    assert_eq!(report["without_namespaces"]["tier"], "landlock");
    assert_eq!(files("without_namespaces")["witnessed"], true);
    assert!(files("without_namespaces")["enforced"]["partial"].is_string());
    let text = place.agent(&["doctor", "--witness"]).stdout;
    assert!(text.contains("kernel.unprivileged_userns_clone"), "{text}");
}

#[test]
fn output_to_a_pipe_has_no_colour() {
    let place = Place::new();
    for args in [&["doctor"][..], &["why", "read", "/etc/shadow"], &["rnu"]] {
        let said = place.agent(args);
        assert!(
            !said.stdout.contains('\u{1b}') && !said.stderr.contains('\u{1b}'),
            "{args:?}"
        );
    }
}

/// A program that keeps keys, started as an ordinary user, who is refused its
/// memory as the same user. Root is not refused, so the test gives it up.
#[cfg(target_os = "linux")]
#[test]
fn a_program_of_the_same_user_cannot_read_its_memory() {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::fs::{PermissionsExt as _, chown};
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    const NOBODY: u32 = 65534;
    let dir = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    // Where it was built need not be open to that user.
    let copy = dir.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_katachi-agent"), &copy).unwrap();
    let is_root = chown(&state, Some(NOBODY), Some(NOBODY)).is_ok();
    let as_user = |mut command: Command| {
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.current_dir("/").stdin(Stdio::piped());
        command.stdout(Stdio::piped());
        command
    };
    let mut command = Command::new(&copy);
    command
        .args(["relay", "serve"])
        .args(["--listen", "127.0.0.1:0", "--no-keychain", "--ready-json"])
        .arg("--state-dir")
        .arg(&state)
        .stderr(Stdio::null());
    let mut hardened = as_user(command).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(hardened.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("listening"), "{line}");
    let mut ordinary = as_user(Command::new("cat")).spawn().unwrap();
    // Until its own program is loaded, the child is still ours.
    std::thread::sleep(Duration::from_millis(200));
    let maps = |pid: u32| {
        let mut command = as_user(Command::new("cat"));
        let output = command.arg(format!("/proc/{pid}/maps")).output().unwrap();
        output.status.success() && !output.stdout.is_empty()
    };
    let seen = (maps(ordinary.id()), maps(hardened.id()));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", hardened.id())).unwrap();
    for child in [&mut hardened, &mut ordinary] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(seen, (true, false), "whose memory could be read");
    let core = limits.lines().find(|line| line.contains("core")).unwrap();
    let core: Vec<_> = core.split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "{limits}");
}
