//! What a case works with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use katachi_sandbox::plan::Children;
use katachi_sandbox::policy::CommandRule;
use katachi_sandbox::report::Tier;
use katachi_sandbox::{Child, Outcome, Plan, PlanOptions, Policy};

pub(crate) type Verdict = Result<(), String>;

/// A workspace and a directory beside it, gone with the case.
pub(crate) struct Bed {
    _kept: tempfile::TempDir,
    pub(crate) workspace: PathBuf,
    pub(crate) outside: PathBuf,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let kept = tempfile::tempdir().unwrap();
        let (workspace, outside) = (kept.path().join("workspace"), kept.path().join("outside"));
        for directory in [&workspace, &outside] {
            std::fs::create_dir(directory).unwrap();
        }
        std::fs::write(outside.join("secret"), "secret").unwrap();
        Self {
            _kept: kept,
            workspace,
            outside,
        }
    }

    /// This very program, which makes the attempts.
    pub(crate) fn program() -> PathBuf {
        std::env::current_exe().unwrap()
    }

    /// The workspace writable, and this program.
    pub(crate) fn policy() -> Policy {
        let mut policy = Policy::default().read("@system").write(".");
        policy.commands.allow.push(CommandRule::File {
            path: Self::program(),
            sha256: None,
        });
        policy
    }

    /// Accepts whatever confines here.
    pub(crate) fn options(&self) -> PlanOptions {
        PlanOptions::new(&self.workspace).accept(Tier::Unwitnessed)
    }

    pub(crate) fn plan(&self, policy: &Policy) -> Result<Plan, String> {
        policy
            .plan(&self.options())
            .map_err(|error| error.to_string())
    }

    /// A plan whose command may start others, where that has to be said.
    pub(crate) fn plan_of_many(&self, policy: &Policy) -> Result<Plan, String> {
        policy
            .plan(&self.options().children(Children::Any))
            .map_err(|error| error.to_string())
    }

    pub(crate) fn argv(attempt: &[&str]) -> Vec<std::ffi::OsString> {
        let mut argv = vec![Self::program().into_os_string(), "--attempt".into()];
        argv.extend(attempt.iter().map(Into::into));
        argv
    }

    /// The attempt without a sandbox.
    pub(crate) fn unconfined(&self, attempt: &[&str]) -> Command {
        let mut command = Command::new(Self::program());
        command
            .args(&Self::argv(attempt)[1..])
            .current_dir(&self.workspace)
            .stderr(Stdio::null());
        command
    }

    /// The attempt has its effect unconfined.
    pub(crate) fn control(&self, attempt: &[&str]) -> Verdict {
        let status = self.unconfined(attempt).status().unwrap();
        must(
            status.success(),
            &format!("the control shows nothing: {attempt:?} fails unconfined too"),
        )
    }

    pub(crate) fn start(plan: &Plan, attempt: &[&str]) -> Result<Child, String> {
        plan.command(Self::argv(attempt))
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("{attempt:?} did not start: {error}"))
    }

    pub(crate) fn run(plan: &Plan, attempt: &[&str]) -> Result<Outcome, String> {
        let mut child = Self::start(plan, attempt)?;
        child.wait().map_err(|error| error.to_string())
    }

    /// The attempt is refused under `plan`.
    pub(crate) fn denied_by(plan: &Plan, attempt: &[&str]) -> Verdict {
        match Self::run(plan, attempt)?.exit_code() {
            1 => Ok(()),
            0 => Err(format!("{attempt:?} had its effect inside the sandbox")),
            other => Err(format!(
                "{attempt:?} ended with {other}, which is no verdict"
            )),
        }
    }

    /// Possible outside, refused inside.
    pub(crate) fn only_outside(&self, attempt: &[&str]) -> Verdict {
        self.control(attempt)?;
        Self::denied_by(&self.plan(&Self::policy())?, attempt)
    }

    /// What the policy allows works.
    pub(crate) fn works(plan: &Plan, attempt: &[&str]) -> Verdict {
        match Self::run(plan, attempt)?.exit_code() {
            0 => Ok(()),
            other => Err(format!(
                "{attempt:?} should work inside and ended with {other}"
            )),
        }
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub(crate) fn must(condition: bool, message: &str) -> Verdict {
    match condition {
        true => Ok(()),
        false => Err(message.to_owned()),
    }
}
