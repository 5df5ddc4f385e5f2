//! What a caller holds of a running command, on every system.

use std::io;
use std::process::Child;
use std::time::Instant;

use crate::child::{Ending, Outcome};
use crate::feed::{Feed, ViolationStream};
use crate::killer::Killer;
use crate::message::End;
use crate::report::Violation;

/// The helper, the way to end it, and what was seen so far.
pub(crate) struct Hold {
    pub(crate) helper: Child,
    pub(crate) killer: Killer,
    pub(crate) feed: Feed,
    started: Instant,
    outcome: Option<Outcome>,
}

impl Hold {
    pub(crate) fn new(helper: Child, killer: Killer, feed: Feed, started: Instant) -> Self {
        Self {
            helper,
            killer,
            feed,
            started,
            outcome: None,
        }
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

    /// Once it was told.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.outcome.clone()
    }

    /// How it ended, by what the helper said last.
    pub(crate) fn ending(&self, end: Option<End>) -> io::Result<Ending> {
        Ok(match end {
            Some(End::Code(code)) => Ending::Code(code),
            Some(End::Signal(signal)) => Ending::Signal(signal),
            Some(End::TimedOut) => Ending::TimedOut,
            Some(End::Limit(name)) => Ending::LimitExceeded(name),
            None if self.killer.was_used() => Ending::Killed,
            None => return Err(io::Error::other("the sandbox ended without saying how")),
        })
    }

    /// Ends the stream of violations, and remembers all of it.
    pub(crate) fn finish(&mut self, ending: Ending) -> Outcome {
        self.feed.end();
        let outcome = Outcome {
            ending,
            violations: self.feed.list(),
            time: self.started.elapsed(),
        };
        self.outcome = Some(outcome.clone());
        outcome
    }
}
