//! One start: what to run under a plan, with which pipes and variables.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::approval::{Approver, Question};
use crate::child::{Child, Output};
use crate::error::SpawnError;
use crate::plan::{Plan, Records};
use crate::pool::Pool;
use crate::terminal::TerminalSize;

/// Where the standard descriptors lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    /// Nothing in, and the caller's own outputs.
    Usual,
    /// Nothing in, and both outputs piped.
    Piped,
    /// As they were set.
    Chosen,
}

/// Which refusals are noted that the kernel tells nobody about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Notes {
    /// Of programs that were started in vain.
    #[default]
    Starts,
    /// Of files as well, and of programs that were looked up.
    Files,
    /// Of all that was looked for, as the kernel answered.
    Looks,
}

/// A command to start under a [`Plan`].
#[derive(Debug)]
pub struct Command {
    pub(crate) plan: Plan,
    pub(crate) argv: Vec<OsString>,
    pub(crate) env: BTreeMap<OsString, OsString>,
    pub(crate) current_dir: Option<PathBuf>,
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
    /// Which of the standard descriptors were set one by one.
    pub(crate) streams: Streams,
    pub(crate) pool: Option<Pool>,
    pub(crate) terminal: Option<TerminalSize>,
    pub(crate) approved: bool,
    pub(crate) approver: Option<Approver>,
    pub(crate) notes: Notes,
}

impl Command {
    pub(crate) fn new(plan: Plan, argv: Vec<OsString>) -> Self {
        let notes = match plan.0.records {
            Records::Starts => Notes::Starts,
            Records::Files => Notes::Files,
        };
        Self {
            plan,
            argv,
            env: BTreeMap::new(),
            current_dir: None,
            stdin: Stdio::null(),
            stdout: Stdio::inherit(),
            stderr: Stdio::inherit(),
            streams: Streams::Usual,
            pool: None,
            terminal: None,
            approved: false,
            approver: None,
            notes,
        }
    }

    /// Where standard input comes from; by default it is empty.
    ///
    /// A directory is refused. A file that lies in a writable directory can
    /// be opened again for writing by the command, even if the policy
    /// protects it there: hand over a pipe with its content.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self.streams = Streams::Chosen;
        self
    }

    /// Where standard output goes; by default to the caller's own.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = stdout.into();
        self.streams = Streams::Chosen;
        self
    }

    /// Where standard error goes; by default to the caller's own.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = stderr.into();
        self.streams = Streams::Chosen;
        self
    }

    /// Pipes both outputs to the caller.
    #[must_use]
    pub fn piped(mut self) -> Self {
        self.stdout = Stdio::piped();
        self.stderr = Stdio::piped();
        if self.streams == Streams::Usual {
            self.streams = Streams::Piped;
        }
        self
    }

    /// Gives the command a terminal of its own, which takes the place of all
    /// three standard descriptors; the other end is [`Child::terminal`].
    ///
    /// It belongs to the sandbox and leads to no terminal of the host: nothing
    /// can be typed into the caller's from inside.
    #[must_use]
    pub fn terminal(mut self, size: TerminalSize) -> Self {
        self.terminal = Some(size);
        self
    }

    /// Sets a variable beyond those of the policy.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Starts in this directory instead of the workspace. It must be one the
    /// plan makes visible and never widens what is allowed.
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.current_dir = Some(directory.as_ref().to_owned());
        self
    }

    /// States that somebody entitled to decide approved this start, which
    /// programs under `commands.ask` need.
    #[must_use]
    pub fn approved(mut self) -> Self {
        self.approved = true;
        self
    }

    /// Asks this function about every start that a rule of `commands.ask`
    /// names: of the command itself, before anything runs, and of each program
    /// that it or its descendants start. Without it such starts are refused.
    ///
    /// It is called from a thread for each question, and the program that
    /// waits holds up nothing but those that wait for it. `limits.wall_time`
    /// goes on.
    ///
    /// ```no_run
    /// # use katachi_sandbox::{PlanOptions, Policy};
    /// let plan = Policy::default()
    ///     .allow("sh")
    ///     .allow("@git")
    ///     .ask(["git", "push"])
    ///     .plan(&PlanOptions::new("/tmp/work"))?;
    /// plan.command(["sh", "-c", "git push"])
    ///     .ask_with(|question| question.argv.len() == 2)
    ///     .output()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn ask_with(mut self, answer: impl Fn(&Question) -> bool + Send + Sync + 'static) -> Self {
        self.approver = Some(Approver::new(answer));
        self
    }

    /// Notes which files and programs the command looks for in vain because
    /// the policy does not open them: monitor mode. They are among its
    /// violations then, each with the line that would allow it, and
    /// [`learn::Proposal`](crate::learn::Proposal) makes a policy of them.
    ///
    /// The command is confined exactly as without. Calls that name files take
    /// several times as long, and programs inside cannot be debugged.
    #[must_use]
    pub fn observed(mut self) -> Self {
        self.notes = Notes::Looks;
        self
    }

    /// Starts the command, fully confined.
    ///
    /// # Errors
    ///
    /// Returns [`SpawnError::Denied`] if the policy does not allow the
    /// command, and another [`SpawnError`] if it cannot be confined. Nothing
    /// was started then.
    pub fn spawn(self) -> Result<Child, SpawnError> {
        crate::platform::spawn(self)
    }

    /// Starts the command with piped outputs, waits, and returns both.
    ///
    /// # Errors
    ///
    /// As for [`Command::spawn`].
    pub fn output(self) -> Result<Output, SpawnError> {
        Ok(self.piped().spawn()?.wait_with_output()?)
    }
}

impl Command {
    /// Whether a sandbox that waits can be given everything it needs.
    #[cfg(target_os = "linux")]
    pub(crate) fn can_use_pool(&self) -> bool {
        self.streams != Streams::Chosen && self.terminal.is_none() && self.notes != Notes::Looks
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn pipes_outputs(&self) -> bool {
        self.streams == Streams::Piped
    }

    pub(crate) fn take_streams(&mut self) -> [Stdio; 3] {
        [&mut self.stdin, &mut self.stdout, &mut self.stderr]
            .map(|stream| std::mem::replace(stream, Stdio::null()))
    }
}
