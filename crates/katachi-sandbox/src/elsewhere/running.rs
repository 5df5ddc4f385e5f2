//! The caller's hold on a running sandbox.

use std::io::{self, PipeReader};

use super::Network;
use crate::child::Outcome;
use crate::hold::Hold;
use crate::message::Message;
use crate::scratch::Scratch;

/// A helper with its command.
pub(crate) struct Running {
    pub(crate) hold: Hold,
    pub(super) status: PipeReader,
    /// Gone with the command.
    pub(super) scratch: Option<Scratch>,
    /// Its proxy, gone with the command too.
    pub(super) network: Option<Network>,
}

impl Running {
    pub(crate) fn wait(&mut self) -> io::Result<Outcome> {
        if let Some(outcome) = self.hold.outcome() {
            return Ok(outcome);
        }
        let mut end = None;
        while let Some(message) = Message::receive(&mut self.status)? {
            if let Message::Ended(seen) = message {
                end = Some(seen);
            }
        }
        self.hold.helper.wait()?;
        self.scratch = None;
        self.network = None;
        let ending = self.hold.ending(end)?;
        if let Some(violation) = ending.violation() {
            self.hold.feed.add(violation);
        }
        Ok(self.hold.finish(ending))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.hold.killer.kill();
        // An error here means that the helper is gone already.
        let _ = self.wait();
        self.hold.feed.end();
    }
}
