//! Starts the agent as a person would, in a home and a workspace of its own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A temporary home and workspace.
#[derive(Debug)]
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

fn collect(dir: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, files),
            false => files.push((path.clone(), std::fs::read(&path).unwrap())),
        }
    }
}
