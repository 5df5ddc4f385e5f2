//! The same for programs that run on tokio.
//!
//! A start takes some milliseconds of system calls and a wait takes as long as
//! the command does, so both happen on threads that tokio keeps for such work;
//! the pipes are tokio's own. What is confined, and how, is no different.
//!
//! ```no_run
//! use katachi_sandbox::{PlanOptions, Policy};
//! use tokio::io::AsyncReadExt as _;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let plan = Policy::default()
//!     .read("@system")
//!     .allow("ls")
//!     .plan(&PlanOptions::new("/tmp/work"))?;
//! let mut child = plan.command(["ls"]).piped().spawn_async().await?;
//! let mut listed = String::new();
//! if let Some(pipe) = &mut child.stdout {
//!     pipe.read_to_string(&mut listed).await?;
//! }
//! assert!(child.wait().await?.success());
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::child::{Killer, Outcome, Output, Signal};
use crate::command::Command;
use crate::error::SpawnError;
use crate::feed::ViolationStream;
use crate::report::{Enforcement, Violation};
use crate::terminal::Terminal;

impl Command {
    /// As [`Command::spawn`], without holding up the runtime.
    ///
    /// A future that is dropped before it is done leaves nothing running.
    ///
    /// # Errors
    ///
    /// As for [`Command::spawn`].
    pub async fn spawn_async(self) -> Result<Child, SpawnError> {
        let started = spawn_blocking(move || self.spawn()).await;
        Ok(Child::new(started.map_err(io::Error::other)??)?)
    }

    /// As [`Command::output`], without holding up the runtime.
    ///
    /// # Errors
    ///
    /// As for [`Command::spawn`].
    pub async fn output_async(self) -> Result<Output, SpawnError> {
        let child = self.piped().spawn_async().await?;
        Ok(child.wait_with_output().await?)
    }
}

/// A running, confined command with tokio's pipes.
///
/// Dropping it kills the command and everything it started, and does not wait
/// for that: [`Child::wait`] after [`Child::kill`] does.
pub struct Child {
    /// The command's standard input, if piped.
    pub stdin: Option<ChildStdin>,
    /// The command's standard output, if piped.
    pub stdout: Option<ChildStdout>,
    /// The command's standard error, if piped.
    pub stderr: Option<ChildStderr>,
    /// The other end of the command's terminal, if it was given one. Reading it
    /// blocks: do so on a thread of its own.
    pub terminal: Option<Terminal>,
    enforcement: Enforcement,
    killer: Killer,
    refusals: ViolationStream,
    state: State,
}

/// Who holds the command.
enum State {
    /// Nobody waits yet.
    Held(Box<crate::Child>),
    /// A thread waits, whether or not anybody asks it.
    Waiting(JoinHandle<io::Result<Outcome>>),
    /// It ended.
    Ended(Outcome),
    /// It could not be waited for.
    Lost,
}

impl Child {
    fn new(mut child: crate::Child) -> io::Result<Self> {
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        Ok(Self {
            stdin: stdin.map(ChildStdin::from_std).transpose()?,
            stdout: stdout.map(ChildStdout::from_std).transpose()?,
            stderr: stderr.map(ChildStderr::from_std).transpose()?,
            terminal: child.terminal.take(),
            enforcement: child.enforcement().clone(),
            killer: child.killer(),
            refusals: child.violation_stream(),
            state: State::Held(Box::new(child)),
        })
    }

    /// What is enforced on this command.
    #[must_use]
    pub fn enforcement(&self) -> &Enforcement {
        &self.enforcement
    }

    /// What was refused so far: complete after [`Child::wait`].
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        match &self.state {
            State::Held(child) => child.violations(),
            State::Ended(outcome) => outcome.violations.clone(),
            State::Waiting(_) | State::Lost => self.refusals.so_far(),
        }
    }

    /// The refusals, each as it happens: [`ViolationStream::recv`].
    #[must_use]
    pub fn violation_stream(&self) -> ViolationStream {
        self.refusals.clone()
    }

    /// A handle that ends or signals this command from elsewhere.
    #[must_use]
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Kills the command and everything it started.
    pub fn kill(&self) {
        self.killer.kill();
    }

    /// Sends a signal to the command; see [`Killer::signal`].
    pub fn signal(&self, signal: Signal) {
        self.killer.signal(signal);
    }

    /// Waits for the end of the command and closes `stdin` when still held.
    ///
    /// The future may be dropped, as `select!` and timeouts do, and another be
    /// made later: the command goes on meanwhile.
    ///
    /// # Errors
    ///
    /// Returns the system's error if the helper cannot be waited for.
    pub async fn wait(&mut self) -> io::Result<Outcome> {
        self.stdin = None;
        let outcome = match std::mem::replace(&mut self.state, State::Lost) {
            State::Held(mut child) => {
                // Dropped by the thread that waited, which it would hold up.
                self.state = State::Waiting(spawn_blocking(move || child.wait()));
                self.waited().await
            }
            State::Waiting(thread) => {
                self.state = State::Waiting(thread);
                self.waited().await
            }
            State::Ended(outcome) => Ok(outcome),
            State::Lost => Err(io::Error::other("the command was lost before")),
        }?;
        self.state = State::Ended(outcome.clone());
        Ok(outcome)
    }

    async fn waited(&mut self) -> io::Result<Outcome> {
        let State::Waiting(thread) = &mut self.state else {
            return Err(io::Error::other("nobody waits for the command"));
        };
        let outcome = thread.await;
        self.state = State::Lost;
        outcome.map_err(io::Error::other)?
    }

    /// Waits and collects what the command wrote to its piped outputs.
    ///
    /// # Errors
    ///
    /// Returns the system's error if a pipe or the helper cannot be read.
    pub async fn wait_with_output(mut self) -> io::Result<Output> {
        let (mut out, mut err) = (self.stdout.take(), self.stderr.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let read_out = async {
            match &mut out {
                Some(pipe) => pipe.read_to_end(&mut stdout).await,
                None => Ok(0),
            }
        };
        let read_err = async {
            match &mut err {
                Some(pipe) => pipe.read_to_end(&mut stderr).await,
                None => Ok(0),
            }
        };
        self.stdin = None;
        tokio::try_join!(read_out, read_err)?;
        let outcome = self.wait().await?;
        Ok(Output {
            outcome,
            stdout,
            stderr,
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.killer.kill();
        if let State::Held(child) = std::mem::replace(&mut self.state, State::Lost) {
            // Its end is waited for on a thread that may wait; where no runtime
            // is left, here.
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(move || drop(child))),
                Err(_) => drop(child),
            }
        }
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("plan", &self.enforcement.plan_hash)
            .finish_non_exhaustive()
    }
}
