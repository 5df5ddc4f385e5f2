//! `SECURITY-TESTS.md` says the truth: what it names exists, and what exists is named.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::collections::BTreeSet;
use std::path::Path;

const TABLE: &str = include_str!("../SECURITY-TESTS.md");

/// Everything in `src` and `tests`.
fn sources() -> String {
    let mut text = String::new();
    let mut folders: Vec<_> = ["src", "tests"]
        .map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
        .into();
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                text += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    text
}

/// The tests that the table's rows name.
fn named() -> BTreeSet<&'static str> {
    let rows = TABLE.lines().filter(|line| {
        let id = line.trim_start_matches("| ").as_bytes();
        line.starts_with("| ") && id.get(1).is_some_and(u8::is_ascii_digit)
    });
    let tests = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    tests
        .flat_map(|tests| tests.split('`').skip(1).step_by(2))
        .filter(|name| *name != "timing")
        .collect()
}

#[test]
fn every_test_that_the_table_names_exists() {
    let sources = sources();
    let named = named();
    assert!(named.len() > 100, "{} tests", named.len());
    for name in named {
        let stands = [
            format!("fn {name}("),
            format!("\"{name}\""),
            format!("::{name},"),
        ];
        assert!(stands.iter().any(|form| sources.contains(form)), "{name}");
    }
}

#[test]
fn every_test_with_an_id_stands_in_the_table() {
    let sources = sources();
    let named = named();
    let words = sources.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let with_id = words.filter(|word| {
        let bytes = word.as_bytes();
        matches!(
            bytes,
            [b's' | b'd' | b'l', b'0'..=b'9', b'0'..=b'9', b'_', ..]
        ) && bytes.len() > 20
    });
    for name in with_id {
        assert!(named.contains(name), "{name}");
    }
}
