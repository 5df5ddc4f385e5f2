//! A program in the sandbox that is spoken with over its standard input and
//! output, for as long as one message or one call lasts.

use std::io::Read as _;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::bail;
use katachi_protocol::run::{OutputStream, RunEvent};
use katachi_sandbox::child::Ending;
use katachi_sandbox::{Child, Plan, SpawnError, Violation};
use tokio::sync::mpsc::Sender;

use crate::policy::Rules;
use crate::runner::{self, Finished, Job};
use crate::tunnel::{Service, approve};

/// What is shown of its standard error, in bytes.
const MAX_ERRORS: u64 = 64 * 1024;

/// A program that runs. It ends, with everything it started, when this is dropped.
#[derive(Debug)]
pub(crate) struct Partner {
    name: String,
    argv: Vec<String>,
    pub(crate) plan: Plan,
    child: Child,
    errors: Option<JoinHandle<()>>,
}

/// Both ends of what is said.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) input: ChildStdin,
    pub(crate) output: ChildStdout,
}

impl Partner {
    /// Starts `job` under `rules`, approved where these want that; its standard
    /// error is shown. `name` is what it is called in errors.
    ///
    /// # Errors
    ///
    /// Returns an error if it may not start or cannot.
    pub(crate) fn start(
        (service, rules): (&Service, &Rules),
        name: String,
        mut job: Job,
        events: &Sender<RunEvent>,
        finished: &mut Finished,
    ) -> anyhow::Result<(Self, Pipes)> {
        let plan = rules.plan(&service.config)?;
        if let Err(refused) = approve(service, &plan, &mut job, events) {
            finished.denials.extend(refused.denials);
            bail!("{name} was not approved");
        }
        let spawned = runner::command(&plan, &job).stdin(Stdio::piped()).spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(SpawnError::Denied(violation)) => {
                deny(&violation, &job.argv, events, finished);
                bail!("{name} was refused: {violation}");
            }
            Err(error) => return Err(error.into()),
        };
        let shown = events.clone();
        let errors = child.stderr.take().map(|pipe| {
            let mut pipe = pipe;
            std::thread::spawn(move || {
                let shown_part = pipe.by_ref().take(MAX_ERRORS);
                runner::pump(shown_part, OutputStream::Stderr, &shown, &mut |_| {});
                // Read on, so that it neither waits for us nor is ended by a closed pipe.
                let _ = std::io::copy(&mut pipe, &mut std::io::sink());
            })
        });
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the sandbox gave {name} no pipes");
        };
        let partner = Self {
            name,
            argv: job.argv,
            plan,
            child,
            errors,
        };
        Ok((partner, Pipes { input, output }))
    }

    /// Tells that the sandbox refused something to it.
    pub(crate) fn deny(
        &self,
        violation: &Violation,
        events: &Sender<RunEvent>,
        finished: &mut Finished,
    ) {
        deny(violation, &self.argv, events, finished);
    }

    /// Tells that it was started, under `id`.
    pub(crate) fn tell_started(&self, id: &str, session: Option<&str>, events: &Sender<RunEvent>) {
        let started = RunEvent::Started {
            id: id.to_owned(),
            argv: self.argv.clone(),
            plan_hash: self.plan.hash().to_owned(),
            session: session.map(str::to_owned),
        };
        runner::tell(events, started);
    }

    /// Ends it, if it does not by itself within `time`, and tells what the sandbox
    /// refused to it. Returns how it ended, where that is known:
    /// [`Ending::Killed`] if it still ran.
    pub(crate) fn end(
        mut self,
        time: Duration,
        events: &Sender<RunEvent>,
        finished: &mut Finished,
    ) -> Option<Ending> {
        let killer = self.child.killer();
        let (ended, waiting) = channel::<()>();
        std::thread::spawn(move || {
            if waiting.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                killer.kill();
            }
        });
        let outcome = self.child.wait();
        drop(ended);
        let ending = match outcome {
            Ok(outcome) => {
                for violation in &outcome.violations {
                    self.deny(violation, events, finished);
                }
                Some(outcome.ending)
            }
            Err(error) => {
                tracing::warn!("{}: {error}", self.name);
                None
            }
        };
        if let Some(errors) = self.errors.take() {
            // The reader does not panic; if it did, the output so far was sent.
            let _ = errors.join();
        }
        ending
    }
}

fn deny(
    violation: &Violation,
    argv: &[String],
    events: &Sender<RunEvent>,
    finished: &mut Finished,
) {
    runner::tell(events, runner::denied(violation));
    finished.denials.push(runner::denial(violation, argv));
}
