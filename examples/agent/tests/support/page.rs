//! The console in Chromium, driven by scripts.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What has to be here.
pub(crate) const NEEDED: &str = "chromium with node, playwright-core and axe-core";

/// Whether it is.
pub(crate) fn is_possible() -> bool {
    chromium().is_some() && find("node").is_some() && node_path().is_some()
}

/// Plays the person who opens `link`; returns what the pages showed.
pub(crate) fn browse(link: &str) -> Vec<(String, String)> {
    browse_by("console.cjs", link)
}

/// Where pictures of what people see are kept.
pub(crate) fn pictures() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("console");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The same by another script.
pub(crate) fn browse_by(script: &str, link: &str) -> Vec<(String, String)> {
    let output = node(script).arg(link).arg(pictures()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said: Vec<_> = text.lines().map(parts).collect();
    assert!(
        !said.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// A person who does the next thing when told to.
pub(crate) struct Person {
    child: Child,
    ears: Option<ChildStdin>,
    mouth: BufReader<ChildStdout>,
}

impl Person {
    pub(crate) fn starts(script: &str, arguments: &[&str]) -> Self {
        let mut child = node(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (ears, mouth) = (child.stdin.take(), child.stdout.take());
        Self {
            child,
            ears,
            mouth: BufReader::new(mouth.unwrap()),
        }
    }

    pub(crate) fn told(&mut self, word: &str) {
        writeln!(self.ears.as_mut().unwrap(), "{word}").unwrap();
    }

    /// Nothing more will be told.
    pub(crate) fn told_all(&mut self) {
        self.ears = None;
    }

    /// What the page showed next, which has to be `what`.
    pub(crate) fn says(&mut self, what: &str) -> String {
        let mut line = String::new();
        self.mouth.read_line(&mut line).unwrap();
        let (said, text) = parts(&line);
        assert_eq!(said, what, "{text}");
        text
    }

    /// The browser was closed and nothing else was to be told.
    pub(crate) fn ends(mut self) {
        let mut rest = String::new();
        self.mouth.read_line(&mut rest).unwrap();
        assert_eq!(rest, "");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn node(script: &str) -> Command {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support");
    let mut node = Command::new("node");
    node.arg(scripts.join(script))
        .env("NODE_PATH", node_path().unwrap())
        .env("CHROMIUM", chromium().unwrap());
    node
}

fn parts(line: &str) -> (String, String) {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let part = |key: &str| line[key].as_str().unwrap().to_owned();
    (part("what"), part("text"))
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
    places.into_iter().find(|dir| {
        ["playwright-core", "axe-core"]
            .iter()
            .all(|one| dir.join(one).is_dir())
    })
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}
