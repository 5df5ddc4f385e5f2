//! What a case works with: a workspace, a directory outside it, and two ways
//! to run an attempt.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::Duration;

use crate::raw;
use crate::verdicts::{self, Seen};
use katachi_sandbox::plan::LateMatches;
use katachi_sandbox::policy::CommandRule;
use katachi_sandbox::report::Tier;
use katachi_sandbox::{Ending, Outcome, Plan, PlanOptions, Policy};

/// One case's directories, gone with it.
pub(crate) struct Bed {
    _kept: tempfile::TempDir,
    pub(crate) workspace: PathBuf,
    pub(crate) outside: PathBuf,
    /// What could not be tried here, though the case went on.
    missing: Mutex<Vec<String>>,
    /// How attempts ended, and what the case says that it shows.
    seen: Mutex<(BTreeSet<Seen>, Option<Seen>)>,
}

/// What the kernel lets callers make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// All namespaces.
    All,
    /// All but user namespaces, which is enough for root.
    NoUsers,
    /// None, so plans accept the lower tier.
    Nothing,
}

static GROUND: OnceLock<Ground> = OnceLock::new();

impl Ground {
    const WORDS: [(Self, &str); 3] = [
        (Self::All, "all"),
        (Self::NoUsers, "no-users"),
        (Self::Nothing, "nothing"),
    ];

    /// As an argument of the process that tries a case.
    pub(crate) fn word(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(ground, _)| *ground == self)
            .unwrap()
            .1
    }

    pub(crate) fn from_word(word: &str) -> Self {
        Self::WORDS
            .iter()
            .find(|(_, known)| *known == word)
            .unwrap()
            .0
    }

    /// Makes this process one for which it is so.
    pub(crate) fn lay(self) {
        let forbidden = match self {
            Self::All => None,
            Self::NoUsers => Some(libc::CLONE_NEWUSER),
            Self::Nothing => Some(libc::CLONE_NEWUSER | libc::CLONE_NEWNS),
        };
        if let Some(kinds) = forbidden {
            raw::forbid_namespaces(kinds).expect("a filter");
        }
        GROUND.set(self).expect("it is set once");
    }

    /// Of this process.
    pub(crate) fn here() -> Self {
        GROUND.get().copied().unwrap_or(Self::All)
    }
}

pub(crate) type Verdict = Result<(), String>;

impl Bed {
    pub(crate) fn new() -> Self {
        let kept = tempfile::tempdir().unwrap();
        let base = kept.path().canonicalize().unwrap();
        let (workspace, outside) = (base.join("workspace"), base.join("outside"));
        std::fs::create_dir(&workspace).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "secret").unwrap();
        std::fs::write(outside.join("victim"), "victim").unwrap();
        Self {
            _kept: kept,
            workspace,
            outside,
            missing: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// This very program, which makes the attempts.
    pub(crate) fn program() -> PathBuf {
        std::env::current_exe().unwrap()
    }

    /// The workspace writable, and this program.
    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy::default().read("@system").write(".");
        policy.commands.allow.push(CommandRule::File {
            path: Self::program(),
            sha256: None,
        });
        policy
    }

    /// The workspace, the tier of this process, and late names watched.
    pub(crate) fn options(&self) -> PlanOptions {
        let tier = match Ground::here() {
            Ground::Nothing => Tier::Landlock,
            Ground::All | Ground::NoUsers => Tier::Namespaces,
        };
        PlanOptions::new(&self.workspace)
            .accept(tier)
            .late_matches(LateMatches::Watch)
    }

    /// A plan whose names are found by `resolver`.
    pub(crate) fn plan_with(
        &self,
        policy: &Policy,
        resolver: impl katachi_sandbox::Resolve + 'static,
    ) -> Result<Plan, String> {
        policy
            .plan(&self.options().resolver(resolver))
            .map_err(|error| self.unplanned(&error))
    }

    pub(crate) fn plan(&self, policy: &Policy) -> Result<Plan, String> {
        policy
            .plan(&self.options())
            .map_err(|error| self.unplanned(&error))
    }

    fn unplanned(&self, error: &katachi_sandbox::PlanError) -> String {
        self.note(Seen::RefusedPlanned);
        error.to_string()
    }

    fn note(&self, seen: Seen) {
        self.seen.lock().unwrap().0.insert(seen);
    }

    /// Says what it means that the case holds, where the ends of the attempts do
    /// not tell.
    pub(crate) fn shows(&self, seen: Seen) {
        self.seen.lock().unwrap().1 = Some(seen);
    }

    /// The attempt must have its effect unconfined.
    pub(crate) fn control(&self, attempt: &[&str]) -> Verdict {
        if self.possible_outside(attempt) {
            Ok(())
        } else {
            Err(format!(
                "the control shows nothing: {attempt:?} fails unconfined too"
            ))
        }
    }

    /// Whether the attempt has its effect unconfined, where that depends on
    /// the machine.
    pub(crate) fn possible_outside(&self, attempt: &[&str]) -> bool {
        let status = Command::new(Self::program())
            .arg("--attempt")
            .args(attempt)
            .current_dir(&self.workspace)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        status.code() == Some(0)
    }

    pub(crate) fn argv(attempt: &[&str]) -> Vec<std::ffi::OsString> {
        let mut argv = vec![Self::program().into_os_string(), "--attempt".into()];
        argv.extend(attempt.iter().map(Into::into));
        argv
    }

    pub(crate) fn run(&self, plan: &Plan, attempt: &[&str]) -> Result<Outcome, String> {
        let mut child = plan
            .command(Self::argv(attempt))
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{attempt:?} did not start: {error}"))?;
        let outcome = child.wait().map_err(|error| error.to_string())?;
        match outcome.ending {
            Ending::Code(0) => self.note(Seen::Works),
            Ending::Code(1) => self.note(Seen::Denied),
            Ending::TimedOut | Ending::LimitExceeded(_) | Ending::Killed => {
                self.note(Seen::Ended);
            }
            _ => {}
        }
        Ok(outcome)
    }

    /// The attempt must be refused under `plan`.
    pub(crate) fn denied_by(&self, plan: &Plan, attempt: &[&str]) -> Verdict {
        match self.run(plan, attempt)?.exit_code() {
            1 => Ok(()),
            0 => Err(format!("{attempt:?} had its effect inside the sandbox")),
            other => Err(format!(
                "{attempt:?} ended with {other}, which is no verdict"
            )),
        }
    }

    /// The attempt must be refused under the usual policy.
    pub(crate) fn denied(&self, attempt: &[&str]) -> Verdict {
        self.denied_by(&self.plan(&self.policy())?, attempt)
    }

    /// The same attempt: possible outside, refused inside.
    pub(crate) fn only_outside(&self, attempt: &[&str]) -> Verdict {
        self.control(attempt)?;
        self.denied(attempt)
    }

    /// The attempt must have its effect under `plan`: what the policy allows
    /// keeps working.
    pub(crate) fn allowed_by(&self, plan: &Plan, attempt: &[&str]) -> Verdict {
        match self.run(plan, attempt)?.exit_code() {
            0 => Ok(()),
            other => Err(format!(
                "{attempt:?} should work inside and ended with {other}"
            )),
        }
    }

    /// Whether there are namespaces here.
    pub(crate) fn has_namespaces(&self) -> bool {
        Ground::here() != Ground::Nothing
    }

    /// Whether there are namespaces to try this in. Where there are none, the
    /// case goes on without it, and says so in the end.
    pub(crate) fn has_namespaces_for(&self, what: &str) -> bool {
        let has = self.has_namespaces();
        if !has {
            self.missing.lock().unwrap().push(what.to_owned());
        }
        has
    }

    /// What the case shows, unless something was not tried for lack of namespaces.
    pub(crate) fn verdict(&self) -> Result<Seen, String> {
        let missing = self.missing.lock().unwrap();
        must(
            missing.is_empty(),
            &format!("unavailable: {}", missing.join("; ")),
        )?;
        let (noted, said) = &*self.seen.lock().unwrap();
        verdicts::shown(*said, noted)
    }

    /// The attempt must have its effect under `plan` where there are
    /// namespaces, and is denied where there are none.
    pub(crate) fn allowed_in_namespaces(&self, plan: &Plan, attempt: &[&str]) -> Verdict {
        match self.has_namespaces_for(&attempt.join(" ")) {
            true => self.allowed_by(plan, attempt),
            false => self.denied_by(plan, attempt),
        }
    }

    /// Whether the attempt has its effect under `plan`.
    pub(crate) fn possible_in(&self, plan: &Plan, attempt: &[&str]) -> bool {
        self.allowed_by(plan, attempt).is_ok()
    }

    /// A path in the workspace, as text.
    pub(crate) fn inside(&self, name: &str) -> String {
        text(&self.workspace.join(name))
    }

    /// A path outside the workspace, as text.
    pub(crate) fn out(&self, name: &str) -> String {
        text(&self.outside.join(name))
    }

    /// A repository in a directory of the workspace.
    pub(crate) fn repository(&self, directory: &str) -> PathBuf {
        let git = self.workspace.join(directory).join(".git");
        for part in ["objects", "refs/heads"] {
            std::fs::create_dir_all(git.join(part)).unwrap();
        }
        std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        std::fs::write(git.join("config"), "[core]\n").unwrap();
        git
    }
}

/// Whether a part of a case can be tried here, which needs something of the
/// machine. Where everything is required, its lack is a failure.
pub(crate) fn offers(has: bool, what: &str) -> Result<bool, String> {
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
    must(
        has || !required,
        &format!("this machine has no {what}, and KATACHI_REQUIRE_ALL=1 asks for all"),
    )?;
    Ok(has)
}

/// Does something that has to end by itself. Where it does not, the case is
/// over: whoever waits for the same would wait for ever.
pub(crate) fn in_time(what: &str, work: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    if ended.recv_timeout(Duration::from_secs(30)).is_err() {
        eprintln!("{what} does not end");
        std::process::exit(1);
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Fails with the message unless the condition holds.
pub(crate) fn must(condition: bool, message: &str) -> Verdict {
    if condition {
        Ok(())
    } else {
        Err(message.to_owned())
    }
}
