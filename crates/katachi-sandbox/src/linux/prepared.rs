//! A sandbox that is built and waits for its command.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, Stdio};
use std::time::Instant;

use super::advice;
use super::landlock_version;
use super::launch::{self, Ends, Helper};
use super::listen::Listener;
use super::running::Traces;
use super::spec::Spec;
use super::sys::net;
use crate::child::Child;
use crate::command::Command;
use crate::error::SpawnError;
use crate::message::Message;
use crate::plan::{Gate, Inner, Kind, Pin, Plan};

/// The helper, the first process and the one that becomes the command, all
/// waiting. Dropping it ends them.
pub(crate) struct Prepared {
    spec: Spec,
    helper: Option<Helper>,
    traces: Traces,
    gaps: Vec<(String, String)>,
}

impl Prepared {
    pub(crate) fn new(plan: &Plan) -> Result<Self, SpawnError> {
        crate::helper::check(&plan.0)?;
        advice::landlock(landlock_version())?;
        let mut traces = Traces::default();
        let mut spec = launch::plan_spec(&plan.0, None, &mut traces)?;
        spec.guards = plan.0.guards.clone();
        spec.waits = true;
        let nothing = [Stdio::null(), Stdio::null(), Stdio::null()];
        let mut helper = launch::start_helper(&plan.0, &spec, nothing)?;
        let gaps = match helper.answer(Path::new(""))? {
            Message::Prepared(gaps) | Message::Started(gaps) => gaps,
            _ => Vec::new(),
        };
        Ok(Self {
            spec,
            helper: Some(helper),
            traces,
            gaps,
        })
    }

    /// Whether it is still there.
    pub(crate) fn waits(&mut self) -> bool {
        let helper = self.helper.as_mut();
        helper.is_some_and(|helper| matches!(helper.process.try_wait(), Ok(None)))
    }

    /// Whether one sandbox does for every command of the plan.
    pub(crate) fn fits(plan: &Inner) -> bool {
        plan.floor.is_none()
            && !plan
                .programs
                .iter()
                .any(|program| matches!(program.gate, Gate::Rules(_)))
    }

    /// Whether everything that is mounted in it is still what the plan pinned.
    pub(super) fn is_current(&self, plan: &Inner) -> bool {
        plan.entries.iter().all(|entry| {
            let Kind::Host(pin) = &entry.kind else {
                return true;
            };
            let program = plan
                .programs
                .iter()
                .any(|program| program.path == entry.target);
            Pin::new(&entry.target).is_ok_and(|now| {
                (now.device, now.inode) == (pin.device, pin.inode)
                    && (!program || now.stamp == pin.stamp)
            })
        })
    }

    /// Starts the command in it.
    pub(super) fn start(
        mut self,
        command: Command,
        start: &Spec,
        program: &Path,
    ) -> Result<Child, SpawnError> {
        let started = Instant::now();
        let ends = Ends {
            published: launch::published(&self.spec, &command)?,
            listener: Listener::prepare()?,
            network: launch::network(&self.spec)?,
            started,
        };
        let mut helper = self
            .helper
            .take()
            .ok_or_else(|| SpawnError::Helper("it was used before".to_owned()))?;
        let mut traces = std::mem::take(&mut self.traces);
        launch::look_around(&command.plan.0, &mut traces);
        let streams = match hand_over(&helper, &command, start) {
            Ok(streams) => streams,
            Err(error) => {
                let _ = helper.end();
                return Err(SpawnError::Io(error));
            }
        };
        let mut child = launch::finish(helper, command, &self.spec, traces, ends, program)?;
        (child.stdout, child.stderr) = streams;
        for (control, reason) in &self.gaps {
            child.enforcement.add_gap(control, reason);
        }
        Ok(child)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(helper) = &mut self.helper {
            let _ = helper.end();
        }
    }
}

type Streams = (Option<ChildStdout>, Option<ChildStderr>);

/// Sends what to start and the descriptors to start it with.
fn hand_over(helper: &Helper, command: &Command, start: &Spec) -> std::io::Result<Streams> {
    let channel = helper
        .channel
        .as_ref()
        .ok_or_else(|| std::io::Error::other("there is no channel"))?;
    let plan = launch::in_memory(start)?;
    let null = std::fs::File::open("/dev/null")?;
    let pipes = match command.pipes_outputs() {
        true => Some((std::io::pipe()?, std::io::pipe()?)),
        false => None,
    };
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let (out, err): (BorrowedFd<'_>, BorrowedFd<'_>) = match &pipes {
        Some(((_, out), (_, err))) => (out.as_fd(), err.as_fd()),
        None => (stdout.as_fd(), stderr.as_fd()),
    };
    net::send(
        channel.as_fd(),
        b"g",
        &[plan.as_fd(), null.as_fd(), out, err],
    )?;
    Ok(match pipes {
        Some(((out, _), (err, _))) => (
            Some(ChildStdout::from(OwnedFd::from(out))),
            Some(ChildStderr::from(OwnedFd::from(err))),
        ),
        None => (None, None),
    })
}
