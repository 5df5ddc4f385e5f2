//! What others make of the operator's guide: systemd of its unit, cargo of its command.

use std::path::Path;
use std::process::Command;

use crate::pages::{PROGRAM, code, page, unit};

pub(crate) fn systemd_accepts_the_unit() {
    let place = tempfile::tempdir().unwrap();
    let text = unit().replace(PROGRAM, env!("CARGO_BIN_EXE_katachi-relay"));
    let verify = |text: &str| {
        let file = place.path().join("katachi-relay.service");
        std::fs::write(&file, text).unwrap();
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["verify", "--man=no"]).arg(file);
        let output = analyze.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        // What other units of the machine are wrong about is not ours.
        let ours = said.lines().filter(|line| line.contains("katachi-relay"));
        (output.status.success(), ours.collect::<Vec<_>>().join("\n"))
    };
    assert_eq!(verify(&text), (true, String::new()));
    // The judge sees a mistake where there is one, and a program that is not there.
    let (_, said) = verify(&text.replace("ProtectHome=", "ProtectHomes="));
    assert!(said.contains("ProtectHomes"), "{said}");
    let (accepted, said) = verify(&unit().replace(PROGRAM, "/nowhere/katachi-relay"));
    assert!(!accepted && said.contains("not executable"), "{said}");
}

pub(crate) fn the_guides_command_installs_the_program() {
    let root = tempfile::tempdir().unwrap();
    let code = code(&page("docs/operator-guide.md"));
    let install = code.iter().find(|line| line.starts_with("cargo install"));
    let install = install
        .unwrap()
        .replace("/usr/local", root.path().to_str().unwrap());
    let words: Vec<_> = install.split(' ').skip(1).collect();
    assert!(words.contains(&"--locked"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // What is optimised is installed no otherwise.
    let mut cargo = Command::new(cargo);
    cargo.args(words).arg("--debug");
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    assert!(cargo.status().unwrap().success());
    let program = root.path().join("bin/katachi-relay");
    let version = Command::new(program).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    assert_eq!(
        version.trim(),
        concat!("katachi-relay ", env!("CARGO_PKG_VERSION"))
    );
}
