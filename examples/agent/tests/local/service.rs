//! `service`: what it writes is judged by those who will read it.

use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::Trial;

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
