//! Starts the agent as a person would, in a home and a workspace of its own.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A temporary home and workspace.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

/// What a finished agent said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("workspace")).unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        Self { dir }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        self.dir.path().join("workspace").canonicalize().unwrap()
    }

    /// A file beside home and workspace.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A policy as the default one, that wants a person asked before `touch`.
    pub(crate) fn asking(&self) -> PathBuf {
        let policy = r#"[filesystem]
read = ["@system"]
write = ["."]
[commands]
allow = ["@system"]
ask = ["touch"]
"#;
        self.file("asking.toml", policy)
    }

    /// The agent in this home, with nothing of the caller's configuration and
    /// without the keychain of whoever runs the tests.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_katachi-agent"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KATACHI_") {
                command.env_remove(name);
            }
        }
        command
            .env("KATACHI_HOME", self.home())
            .env("KATACHI_KEYCHAIN", "off")
            .current_dir(self.workspace());
        command
    }

    pub(crate) fn agent<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Said {
        Said::from(
            self.command()
                .args(args)
                .stdin(Stdio::null())
                .output()
                .unwrap(),
        )
    }

    pub(crate) fn agent_reading(&self, input: &str, args: &[&str]) -> Said {
        let mut child = self
            .command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // An agent that refuses its arguments does not read.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Said::from(child.wait_with_output().unwrap())
    }

    /// Every file below the home with its content.
    pub(crate) fn stored(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        collect(&self.home(), &mut files);
        files.sort();
        files
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Said {
    /// The standard output, of a call that must succeed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The standard error, of a call that must exit with `code` and print
    /// nothing on standard output.
    #[track_caller]
    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "an error belongs on standard error");
        self.stderr
    }
}

/// Whether this machine can confine commands, as the agent itself finds.
pub(crate) fn can_confine() -> bool {
    let said = Place::new().agent(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    report["sandbox"]["tier"] == "namespaces"
}

/// Whether an absent component is a failure, as in CI.
pub(crate) fn must_have_all() -> bool {
    std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1")
}

/// The root of the repository that this package lies in, if it does.
pub(crate) fn repository() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .ok()?;
    root.join(".git").exists().then_some(root)
}

/// One test that needs `component`: ignored by name where it is absent, and a
/// failure there if everything is required.
pub(crate) fn needing(
    component: &str,
    present: bool,
    name: &str,
    test: fn(),
) -> libtest_mimic::Trial {
    let run = move || {
        if !present {
            return Err("the component is absent, and KATACHI_REQUIRE_ALL=1 asks for it".into());
        }
        test();
        Ok(())
    };
    let ignored = !present && !must_have_all();
    let name = match ignored {
        true => format!("{name} (skipped: no {component})"),
        false => name.to_owned(),
    };
    libtest_mimic::Trial::test(name, run).with_ignored_flag(ignored)
}

fn collect(dir: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, files),
            false => files.push((path.clone(), std::fs::read(&path).unwrap())),
        }
    }
}
