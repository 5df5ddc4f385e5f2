//! `service`: what it writes is judged by those who will read it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;

use crate::support::up::{Up, block_on};
use crate::support::{Place, needing};

pub(crate) fn trials() -> Vec<Trial> {
    let runs = |program: &str, argument: &str| {
        let asked = Command::new(program).arg(argument).output();
        asked.is_ok_and(|output| output.status.success())
    };
    vec![
        needing(
            "systemd-analyze",
            runs("systemd-analyze", "--version"),
            "systemd_accepts_the_unit",
            systemd_accepts_the_unit,
        ),
        needing(
            "Linux",
            cfg!(target_os = "linux"),
            "the_unit_starts_the_program_as_it_stands_there",
            the_unit_starts_the_program_as_it_stands_there,
        ),
        needing(
            "Linux",
            cfg!(target_os = "linux"),
            "every_option_of_the_call_stands_in_the_unit_and_is_taken",
            every_option_of_the_call_stands_in_the_unit_and_is_taken,
        ),
        needing(
            "python3",
            runs("python3", "--version"),
            "the_property_list_says_what_was_meant",
            the_property_list_says_what_was_meant,
        ),
        needing(
            "Linux",
            cfg!(target_os = "linux"),
            "it_is_installed_and_removed_and_no_other_file_is_touched",
            it_is_installed_and_removed_and_no_other_file_is_touched,
        ),
    ]
}

/// A directory that a careless writer would quote wrongly.
fn awkward(place: &Place) -> PathBuf {
    let directory = place.workspace().join("plum & <pear> $HOME %h \"x\"");
    std::fs::create_dir(&directory).unwrap();
    directory
}

fn print(place: &Place, manager: &str, workspace: &str) -> String {
    place
        .agent(&[
            "--workspace",
            workspace,
            "service",
            "print",
            "--manager",
            manager,
        ])
        .ok()
}

fn verify(place: &Place, text: &str) -> (bool, String) {
    let unit = place.file("katachi-agent.service", text);
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["verify", "--user", "--man=no"]).arg(unit);
    // A session's directory, which a machine without sessions has not.
    analyze.env("XDG_RUNTIME_DIR", place.home());
    let output = analyze.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    // What other units of the machine are wrong about is not ours.
    let ours = said.lines().filter(|line| line.contains("katachi-agent"));
    (output.status.success(), ours.collect::<Vec<_>>().join("\n"))
}

fn systemd_accepts_the_unit() {
    let place = Place::new();
    let workspace = awkward(&place);
    let text = print(&place, "systemd", workspace.to_str().unwrap());
    assert_eq!(verify(&place, &text), (true, String::new()), "{text}");
    for line in [
        "NoNewPrivileges=yes",
        "UMask=0077",
        "LimitCORE=0",
        "WantedBy=default.target",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    // The judge sees a mistake where there is one.
    let (_, said) = verify(
        &place,
        &text.replace("LockPersonality=yes", "LockPersonalty=yes"),
    );
    assert!(said.contains("LockPersonalty"), "{said}");
}

/// The value of `key` in a unit.
fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let line = |line: &'a str| line.strip_prefix(key)?.strip_prefix('=');
    unit.lines().find_map(line).expect(key)
}

/// The words of `ExecStart` as systemd reads them: each in quotes, systemd.service(5).
fn words(unit: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = value(unit, "ExecStart").chars().peekable();
    while rest.next_if_eq(&'"').is_some() {
        let mut word = String::new();
        loop {
            match rest.next().expect("the end of a word") {
                '"' => break,
                '\\' => word.extend(rest.next()),
                twice @ ('%' | '$') => {
                    assert_eq!(rest.next(), Some(twice), "something is filled in");
                    word.push(twice);
                }
                other => word.push(other),
            }
        }
        words.push(word);
        rest.next_if_eq(&' ');
    }
    assert_eq!(rest.next(), None, "something stands there without quotes");
    words
}

/// As the manager of a session starts it.
fn started(place: &Place, words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .env_clear()
        .env("HOME", place.home())
        .env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command
}

fn the_unit_starts_the_program_as_it_stands_there() {
    let place = Place::new();
    let workspace = awkward(&place);
    place.file("home/config.toml", "[relay]\nlisten = \"127.0.0.1:0\"\n");
    let unit = print(&place, "systemd", workspace.to_str().unwrap());
    let words = words(&unit);
    let agent = Path::new(env!("CARGO_BIN_EXE_katachi-agent"));
    let agent = agent.canonicalize().unwrap();
    let (home, directory) = (place.home(), value(&unit, "WorkingDirectory"));
    assert_eq!(Path::new(&directory.replace("%%", "%")), workspace);
    let expected = [
        agent.as_path(),
        Path::new("up"),
        Path::new("--home"),
        &home,
        Path::new("--workspace"),
        &workspace,
        Path::new("--keychain"),
        Path::new("off"),
    ];
    assert_eq!(words.iter().map(Path::new).collect::<Vec<_>>(), expected);
    // A service cannot ask who approves it.
    let mut first = Up::start(&place, &[]);
    block_on(first.approved());
    first.stop();
    let mut command = started(&place, &words);
    command.current_dir(&workspace);
    let mut up = Up::run(command);
    up.wait_for("Connected.");
    // As the unit ends it.
    up.stop();
}

const ACP: &str = "[ai]\nkind = \"acp\"\n";

fn every_option_of_the_call_stands_in_the_unit_and_is_taken() {
    let place = Place::new();
    let file = |name: &str| {
        // Only an AI that speaks ACP has times of its own.
        let file = place.file(name, if name == "config.toml" { ACP } else { "" });
        file.to_str().unwrap().to_owned()
    };
    let (home, workspace) = (place.home(), place.workspace());
    let digest = "ab".repeat(32);
    let call = [
        ("--home", home.to_str().unwrap()),
        ("--config", &file("config.toml")),
        ("--workspace", workspace.to_str().unwrap()),
        ("--policy", &file("policy.toml")),
        ("--relay-ca", &file("ca.pem")),
        ("--ai-policy", &file("ai.toml")),
        ("--cloudflared", &file("cloudflared")),
        ("--relay-url", "https://relay.example"),
        ("--ai-command", "cat --plain"),
        ("--cloudflared-sha256", &digest),
        ("--ai-key", "KEY=name"),
        ("--ai-start-time", "7"),
        ("--ai-answer-time", "70"),
        ("--tunnel-carrier", "cloudflared"),
        ("--accept-tier", "landlock"),
        ("--records", "starts"),
        ("--keychain", "off"),
    ];
    let help = place.agent(&["service", "install", "--help"]).ok();
    let known: BTreeSet<_> = help
        .split_whitespace()
        .filter(|word| word.starts_with("--") && *word != "--help" && !word.ends_with(']'))
        .collect();
    let said: BTreeSet<_> = call.iter().map(|(flag, _)| *flag).collect();
    assert_eq!(known, said, "the options that a call can have");
    let call: Vec<&str> = call
        .iter()
        .flat_map(|(flag, value)| [*flag, *value])
        .collect();
    let unit = place.agent(&[&["service", "print", "--manager", "systemd"], &call[..]].concat());
    let mut words = words(&unit.ok());
    assert_eq!(words[1], "up");
    assert_eq!(words[2..], call);
    // Of what follows the help is given for what is right alone.
    let taken = |words: &[String]| {
        let mut command = started(&place, words);
        command.arg("--help").output().unwrap().status.code()
    };
    assert_eq!(taken(&words), Some(0));
    words[2] = "--hom".to_owned();
    assert_eq!(taken(&words), Some(2));
}

fn the_property_list_says_what_was_meant() {
    let place = Place::new();
    let workspace = awkward(&place);
    let text = print(&place, "launchd", workspace.to_str().unwrap());
    let file = place.file("agent.plist", &text);
    let read =
        "import json, plistlib, sys; print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
    let output = Command::new("python3")
        .args(["-c", read])
        .arg(file)
        .output()
        .unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let agent = std::path::Path::new(env!("CARGO_BIN_EXE_katachi-agent"));
    let home = place.home();
    assert_eq!(
        found,
        serde_json::json!({
            "Label": "dev.katachi.agent",
            "ProgramArguments": [agent.canonicalize().unwrap(), "up", "--home", home, "--workspace", workspace, "--keychain", "off"],
            "WorkingDirectory": workspace,
            "RunAtLoad": true,
            "KeepAlive": { "SuccessfulExit": false },
            "ThrottleInterval": 10,
            "ProcessType": "Background",
            "Umask": 0o077,
            "HardResourceLimits": { "Core": 0 },
            "StandardErrorPath": home.join("state/service.log"),
        })
    );
}

fn it_is_installed_and_removed_and_no_other_file_is_touched() {
    let place = Place::new();
    let units = place.home().join("units");
    let agent = |arguments: &[&str]| {
        let mut command = place.command();
        command.env("XDG_CONFIG_HOME", &units).args(arguments);
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let unit = units.join("systemd/user/katachi-agent.service");
    // Nobody could approve it.
    let (code, said) = agent(&["service", "install"]);
    assert!(
        code == Some(2) && said.contains("not registered"),
        "{code:?} {said}"
    );
    assert!(!unit.exists());

    std::fs::create_dir_all(place.home().join("data")).unwrap();
    std::fs::write(place.home().join("data/relay.sealed"), "").unwrap();
    let (code, said) = agent(&["service", "install"]);
    assert!(
        code == Some(0) && said.contains("systemctl --user enable"),
        "{code:?} {said}"
    );
    let text = std::fs::read_to_string(&unit).unwrap();
    assert_eq!(
        text,
        print(&place, "systemd", place.workspace().to_str().unwrap())
    );
    assert_eq!(agent(&["service", "install"]).0, Some(0));
    assert_eq!(agent(&["service", "remove"]).0, Some(0));
    assert!(!unit.exists());

    std::fs::write(&unit, "[Service]\nExecStart=/bin/true\n").unwrap();
    for action in ["install", "remove"] {
        let (code, said) = agent(&["service", action]);
        assert!(
            code == Some(2) && said.contains("was not written by"),
            "{code:?} {said}"
        );
    }
    assert_eq!(
        std::fs::read_to_string(&unit).unwrap(),
        "[Service]\nExecStart=/bin/true\n"
    );
}
