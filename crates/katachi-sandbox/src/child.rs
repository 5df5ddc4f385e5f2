//! A running command: its pipes, its end, and its enforcement report.

use std::fmt;
use std::io::Read as _;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::feed::ViolationStream;
use crate::report::{Enforcement, Violation};
use crate::terminal::Terminal;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ending {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// `limits.wall_time` was over.
    TimedOut,
    /// It used more than the named limit.
    LimitExceeded(String),
    /// The caller killed it.
    Killed,
}

impl Ending {
    /// The limit that ended it, as a report shows it.
    pub(crate) fn violation(&self) -> Option<Violation> {
        let (operation, name, reason) = match self {
            Self::TimedOut => ("run", "wall_time", "limits.wall_time was over".to_owned()),
            Self::LimitExceeded(name) => (
                "use",
                name.as_str(),
                format!("more than limits.{name} was used"),
            ),
            _ => return None,
        };
        Some(Violation {
            control: "limits".to_owned(),
            operation: operation.to_owned(),
            target: name.to_owned(),
            reason,
            allow_with: Some(format!("a larger [limits] {name}")),
        })
    }
}

/// The end of a command and what was seen until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// What was refused or found changed, as far as it can be known.
    pub violations: Vec<Violation>,
    /// Time from start to end.
    pub time: Duration,
}

impl Outcome {
    /// Whether the command exited with code zero.
    #[must_use]
    pub fn success(&self) -> bool {
        self.ending == Ending::Code(0)
    }

    /// The exit code as a shell would give it: the command's own, 128 and the
    /// signal, 124 after a timeout, 137 after a limit or kill.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self.ending {
            Ending::Code(code) => code,
            Ending::Signal(signal) => 128 + signal,
            Ending::TimedOut => 124,
            Ending::LimitExceeded(_) | Ending::Killed => 137,
        }
    }
}

/// Everything a finished command left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub outcome: Outcome,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

/// A running, confined command.
///
/// Dropping it kills the command and everything it started; the drop returns
/// when none of it is left. The pipes are ordinary
/// [`std::process`] ones: read them from threads, or hand them to an async
/// runtime (`tokio::process::ChildStdout::from_std`).
pub struct Child {
    /// The command's standard input, if piped.
    pub stdin: Option<ChildStdin>,
    /// The command's standard output, if piped.
    pub stdout: Option<ChildStdout>,
    /// The command's standard error, if piped.
    pub stderr: Option<ChildStderr>,
    /// The other end of the command's terminal, if it was given one.
    pub terminal: Option<Terminal>,
    pub(crate) enforcement: Enforcement,
    pub(crate) running: crate::platform::Running,
}

impl Child {
    /// What is enforced on this command.
    #[must_use]
    pub fn enforcement(&self) -> &Enforcement {
        &self.enforcement
    }

    /// What was refused so far, as far as it can be known: complete after
    /// [`Child::wait`].
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.running.hold.violations()
    }

    /// The refusals, each as it happens; see [`ViolationStream`].
    #[must_use]
    pub fn violation_stream(&self) -> ViolationStream {
        self.running.hold.stream()
    }

    /// A handle that ends this command from another thread or task while one
    /// waits for it.
    #[must_use]
    pub fn killer(&self) -> Killer {
        Killer(self.running.hold.killer.clone())
    }

    /// Kills the command and everything it started.
    pub fn kill(&self) {
        self.killer().kill();
    }

    /// Sends a signal to the command; see [`Killer::signal`].
    pub fn signal(&self, signal: Signal) {
        self.killer().signal(signal);
    }

    /// Waits for the end of the command. Close or take `stdin` first if the
    /// command reads it to its end; this closes it when still held.
    ///
    /// # Errors
    ///
    /// Returns the system's error if the helper cannot be waited for.
    pub fn wait(&mut self) -> std::io::Result<Outcome> {
        self.stdin = None;
        self.running.wait()
    }

    /// Waits and collects what the command wrote to its piped outputs, or to
    /// its terminal as standard output.
    ///
    /// # Errors
    ///
    /// Returns the system's error if a pipe or the helper cannot be read.
    pub fn wait_with_output(mut self) -> std::io::Result<Output> {
        self.stdin = None;
        let mut stdout = Vec::new();
        let mut stderr = Vec::new();
        let (out, err) = (self.stdout.take(), self.stderr.take());
        let terminal = self.terminal.take();
        std::thread::scope(|scope| {
            let errors = scope.spawn(|| match err {
                Some(mut pipe) => pipe.read_to_end(&mut stderr),
                None => Ok(0),
            });
            if let Some(mut pipe) = out {
                pipe.read_to_end(&mut stdout)?;
            }
            if let Some(mut terminal) = terminal {
                terminal.read_to_end(&mut stdout)?;
            }
            errors
                .join()
                .unwrap_or_else(|_| Err(std::io::Error::other("a reader panicked")))
        })?;
        Ok(Output {
            outcome: self.running.wait()?,
            stdout,
            stderr,
        })
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("plan", &self.enforcement.plan_hash)
            .finish_non_exhaustive()
    }
}

/// A signal that a caller may send to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// What Ctrl-C sends.
    Interrupt,
    /// A request to end.
    Terminate,
    /// The terminal went away; many servers read their configuration again.
    Hangup,
    /// What Ctrl-\ sends.
    Quit,
    /// For the program to give a meaning to.
    User1,
    /// For the program to give a meaning to.
    User2,
}

/// Ends or signals one command. Cheap to clone; does nothing once the command
/// ended.
#[derive(Clone, Debug)]
pub struct Killer(crate::platform::Killer);

impl Killer {
    /// Kills the command and everything it started.
    pub fn kill(&self) {
        self.0.kill();
    }

    /// Sends a signal to the command and the processes of its group, as a
    /// terminal would. What it started in groups of its own is not reached, and
    /// nothing is made to end: that is [`Killer::kill`].
    pub fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }
}
