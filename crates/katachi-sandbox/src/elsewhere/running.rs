//! The caller's hold on a running sandbox.

use std::io::{self, PipeReader};
use std::process::Child;
use std::time::Instant;

use super::Network;
use crate::child::{Ending, Outcome};
use crate::feed::{Feed, ViolationStream};
use crate::killer::Killer;
use crate::message::{End, Message};
use crate::report::Violation;
use crate::scratch::Scratch;

/// A helper with its command.
pub(crate) struct Running {
    pub(super) helper: Child,
    pub(super) status: PipeReader,
    pub(super) killer: Killer,
    pub(super) started: Instant,
    /// Gone with the command.
    pub(super) scratch: Option<Scratch>,
    /// Its proxy, gone with the command too.
    pub(super) network: Option<Network>,
    pub(super) feed: Feed,
    pub(super) outcome: Option<Outcome>,
}

impl Running {
    pub(crate) fn killer(&self) -> Killer {
        self.killer.clone()
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        match &self.outcome {
            Some(outcome) => outcome.violations.clone(),
            None => self.feed.list(),
        }
    }

    pub(crate) fn stream(&self) -> ViolationStream {
        self.feed.stream()
    }

    pub(crate) fn wait(&mut self) -> io::Result<Outcome> {
        if let Some(outcome) = &self.outcome {
            return Ok(outcome.clone());
        }
        let mut end = None;
        while let Some(message) = Message::receive(&mut self.status)? {
            if let Message::Ended(seen) = message {
                end = Some(seen);
            }
        }
        self.helper.wait()?;
        self.scratch = None;
        self.network = None;
        let ending = match end {
            Some(End::Code(code)) => Ending::Code(code),
            Some(End::Signal(signal)) => Ending::Signal(signal),
            Some(End::TimedOut) => Ending::TimedOut,
            Some(End::Limit(name)) => Ending::LimitExceeded(name),
            None if self.killer.was_used() => Ending::Killed,
            None => return Err(io::Error::other("the sandbox ended without saying how")),
        };
        if let Some(violation) = ending.violation() {
            self.feed.add(violation);
        }
        self.feed.end();
        let outcome = Outcome {
            ending,
            violations: self.feed.list(),
            time: self.started.elapsed(),
        };
        self.outcome = Some(outcome.clone());
        Ok(outcome)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.killer.kill();
        // An error here means that the helper is gone already.
        let _ = self.wait();
        self.feed.end();
    }
}
