//! The console in Chromium, driven by `console.cjs`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether node, playwright-core and Chromium are here.
pub(crate) fn is_possible() -> bool {
    chromium().is_some() && find("node").is_some() && node_path().is_some()
}

/// Plays the person who opens `link`; returns what the pages showed.
pub(crate) fn browse(link: &str) -> Vec<(String, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/console.cjs");
    let output = Command::new("node")
        .arg(script)
        .arg(link)
        .arg(env!("CARGO_TARGET_TMPDIR"))
        .env("NODE_PATH", node_path().unwrap())
        .env("CHROMIUM", chromium().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said: Vec<_> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let part = |key: &str| line[key].as_str().unwrap().to_owned();
            (part("what"), part("text"))
        })
        .collect();
    assert!(
        !said.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

fn chromium() -> Option<PathBuf> {
    let given = std::env::var_os("KATACHI_CHROMIUM").map(PathBuf::from);
    let names = ["chromium", "chromium-browser", "google-chrome"];
    given.or_else(|| names.into_iter().find_map(find))
}

fn node_path() -> Option<PathBuf> {
    let given = std::env::var_os("NODE_PATH").map(PathBuf::from);
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/node/node_modules");
    let places = given.into_iter().chain([local]);
    places
        .into_iter()
        .find(|dir| dir.join("playwright-core").is_dir())
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}
