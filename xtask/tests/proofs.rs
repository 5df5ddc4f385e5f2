//! `docs/PROOFS.md` and the README's promises: what they name exists, nothing is
//! promised without a test, and no test of an attack is left out.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

static PAGE: LazyLock<String> = LazyLock::new(|| read("docs/PROOFS.md"));
static README: LazyLock<String> = LazyLock::new(|| read("README.md"));
/// The page of `katachi-auth`, which names more tests of the same attacks.
static AUTH: LazyLock<String> = LazyLock::new(|| read("crates/katachi-auth/SECURITY-TESTS.md"));

/// One line of a table: what is promised or attacked, and what is tried.
struct Row {
    id: &'static str,
    /// Name and file of each test, as the page links them.
    tests: Vec<(&'static str, &'static str)>,
    /// What the last cell says where it names no test.
    text: &'static str,
}

impl Row {
    fn is_promise(&self) -> bool {
        self.id.bytes().all(|byte| byte.is_ascii_digit())
    }
}

/// The rows whose first cell is a number, or a letter and a number.
fn rows(page: &'static str) -> Vec<Row> {
    let rows = page.lines().filter_map(|line| {
        let line = line.strip_prefix("| ")?.strip_suffix(" |")?;
        let (id, rest) = line.split_once(" | ")?;
        let number = id.trim_start_matches(|c: char| c.is_ascii_uppercase());
        let is_id = id.len() <= 3 && number.parse::<u8>().is_ok();
        let (_, text) = rest.rsplit_once(" | ")?;
        let tests = text.split("[`").skip(1).map(|link| {
            let (name, rest) = link.split_once("`](../").expect("a link to a file");
            (name, rest.split_once(')').expect("the end of a link").0)
        });
        let tests = tests.collect();
        is_id.then_some(Row { id, tests, text })
    });
    rows.collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Whether `source` has a test of this name: a function with a test's attribute, the
/// name of a case in a harness of our own, or a step of a person in a browser.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let said = format!("\"{name}\"");
    let begins = format!("fn {name}(");
    let is_case = |line: &str| line.contains(&said) && !line.starts_with("//");
    let is_function = |at: usize| {
        let words = lines[at].trim_start_matches("async ");
        let mut above = lines[..at].iter().rev().take_while(|line| {
            line.starts_with("#[") || line.starts_with("///") || line.ends_with(")]")
        });
        words.starts_with(&begins)
            && above.any(|line| line.starts_with("#[test") || line.starts_with("#[tokio::test"))
    };
    (0..lines.len()).any(|at| is_case(lines[at]) || is_function(at))
}

/// Whether the harness beside `file` lists this function of it.
fn is_listed(file: &str, name: &str) -> bool {
    let path = Path::new(file);
    let module = path.file_stem().unwrap().to_str().unwrap();
    let harness = root().join(path.with_file_name("main.rs"));
    let listed = format!("{module}::{name},");
    let lists = |text: String| text.lines().any(|line| line.trim() == listed);
    read(file).contains(&format!("fn {name}(")) && std::fs::read_to_string(harness).is_ok_and(lists)
}

#[test]
fn every_test_that_the_page_names_exists() {
    let rows = rows(&PAGE);
    let named: Vec<_> = rows.iter().flat_map(|row| &row.tests).collect();
    assert!(named.len() > 150, "only {} tests were found", named.len());
    for (name, file) in named {
        let stands = has_test(&read(file), name) || is_listed(file, name);
        assert!(stands, "{file} has no test {name}");
    }
}

/// The ids with which the name of a test begins, such as `d06_d07_` or `s09 s10 `.
fn ids(mut name: &str) -> Vec<String> {
    let mut ids = Vec::new();
    while let Some((id, rest)) = name.split_once(['_', ' ']) {
        let digits = id.strip_prefix(['s', 'd', 'l', 'r', 'e']);
        if !digits.is_some_and(|two| two.len() == 2 && two.parse::<u8>().is_ok()) {
            break;
        }
        ids.push(id.to_uppercase());
        name = rest;
    }
    ids
}

/// What `source` calls its functions and cases, as far as an id begins the name.
fn tests_with_ids(source: &str) -> BTreeSet<&str> {
    let after = |mark: &'static str, end| {
        let found = source.match_indices(mark);
        found.filter_map(move |(at, _)| Some(source[at + mark.len()..].split_once(end)?.0))
    };
    let names = after("fn ", '(').chain(after("\"", '"'));
    names.filter(|name| !ids(name).is_empty()).collect()
}

/// The sources of the crates and programs.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.extension().and_then(|kind| kind.to_str());
        match path.is_dir() {
            true => sources(&path, found),
            false if matches!(kind, Some("rs" | "cjs")) => found.push(path),
            false => {}
        }
    }
}

#[test]
fn every_test_with_the_id_of_an_attack_stands_in_its_row() {
    let rows = rows(&PAGE);
    let mut files = Vec::new();
    for folder in ["crates", "examples"] {
        sources(&root().join(folder), &mut files);
    }
    let mut count = 0;
    for file in files {
        let source = std::fs::read_to_string(&file).unwrap();
        for name in tests_with_ids(&source) {
            for id in ids(name) {
                let place = file.display();
                let row = rows.iter().find(|row| row.id == id);
                let row = row.unwrap_or_else(|| panic!("{id} of {name} ({place}) has no row"));
                let is_here = row.tests.iter().any(|(test, _)| *test == name);
                let elsewhere = AUTH
                    .lines()
                    .find(|line| line.starts_with(&format!("| {id} |")));
                let is_there = elsewhere.is_some_and(|line| line.contains(&format!("`{name}`")));
                assert!(
                    is_here || is_there,
                    "{name} ({place}) is not in the row of {id}"
                );
                count += 1;
            }
        }
    }
    assert!(count > 150, "only {count} were found");
}

#[test]
fn every_attack_on_the_mechanisms_has_a_row_for_the_programs() {
    let rows: BTreeSet<_> = rows(&PAGE).into_iter().map(|row| row.id).collect();
    let named = AUTH
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"));
    let named: BTreeSet<_> = named
        .map(|(id, _)| id)
        .filter(|id| !ids(&format!("{}_", id.to_lowercase())).is_empty())
        .collect();
    assert!(named.len() > 40, "{named:?}");
    let missing: Vec<_> = named.difference(&rows).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_promise_has_a_test_and_every_attack_one_or_a_reason() {
    let rows = rows(&PAGE);
    let ids: BTreeSet<_> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids.len(), rows.len(), "an id stands there twice");
    for row in &rows {
        let reason = row.text.strip_prefix("none: ").unwrap_or_default();
        let is_shown = !row.tests.is_empty() || (!row.is_promise() && reason.len() > 20);
        assert!(is_shown, "{}: {}", row.id, row.text);
    }
    let promised = promises_of_the_readme().map(|(id, _)| id);
    let shown = rows.iter().filter(|row| row.is_promise()).map(|row| row.id);
    assert!(promised.eq(shown), "README and page promise differently");
}

#[test]
fn every_file_that_holds_a_promise_in_the_readme_exists() {
    let mut count = 0;
    for (id, held_by) in promises_of_the_readme() {
        // A name alone lies beside the one before it.
        let mut folder = PathBuf::new();
        let quoted = held_by.split('`').skip(1).step_by(2);
        for name in quoted.filter(|name| name.contains('/') || name.ends_with(".rs")) {
            let path = match name.split_once('/') {
                Some(("crates" | "examples", _)) => PathBuf::from(name),
                _ => folder.join(name),
            };
            assert!(root().join(&path).exists(), "promise {id}: {name}");
            folder = path.parent().unwrap().to_owned();
            count += 1;
        }
    }
    assert!(count > 30, "only {count} files were found");
}

/// Number and last cell of each promise.
fn promises_of_the_readme() -> impl Iterator<Item = (&'static str, &'static str)> {
    let table = README.split_once("| # | promise | held by |").unwrap().1;
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let row = row.trim_matches(['|', ' ']);
        let (id, rest) = row.split_once(" | ").unwrap();
        (id, rest.rsplit_once(" | ").unwrap().1)
    })
}

#[test]
fn a_name_in_a_comment_or_of_a_helper_is_no_test() {
    let source = "#[test]\nfn tried() {}\nfn helper() {}\n// (\"gone\", gone),\n(\"case\", f),\n";
    let found = |name| has_test(source, name);
    assert!(found("tried") && found("case"));
    assert!(!found("helper") && !found("gone") && !found("trie"));
}

#[test]
fn ids_are_read_from_names() {
    assert_eq!(ids("d06_d07_another_client"), ["D06", "D07"]);
    assert_eq!(ids("s09 s10 of many copies"), ["S09", "S10"]);
    for other in ["r2_x", "s1234_x", "x01_y", "e18", "a_s01_b"] {
        assert_eq!(ids(other), [""; 0], "{other}");
    }
    let source = "fn r11_quiet() {}\nfn quiet() {}\ncase(\"e04 waits, twice\", quiet);";
    let found: Vec<_> = tests_with_ids(source).into_iter().collect();
    assert_eq!(found, ["e04 waits, twice", "r11_quiet"]);
}
