//! The calls that the command's filter hands to the first process.
//!
//! Without namespaces some of them are decided by it, see [`metadata`]. All
//! others it merely hears of, see [`notes`](super::notes).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::metadata;
use super::notes::Recorder;
use super::spec::Spec;
use super::sys::{fd, net, notify};

/// Says that the listener comes with it.
pub(super) const LISTENER: &[u8; 1] = b"f";
/// Says that there is none, because one is all that the kernel gives.
pub(super) const NO_LISTENER: &[u8; 1] = b"n";

/// Where they are heard, and what is made of them.
pub(super) struct Calls<'a> {
    listener: OwnedFd,
    spec: &'a Spec,
    /// Whose files are changed by what is decided.
    user: u32,
    /// Once the command itself is started.
    notes: Option<Box<Recorder<'a>>>,
}

/// What the process that becomes the command has to say about it.
pub(super) enum Heard<'a> {
    Calls(Calls<'a>),
    /// Somebody else hears of the calls of all that this process starts.
    TakenBefore,
    /// It says why by another pipe, or the caller is gone.
    Nothing,
}

impl<'a> Calls<'a> {
    /// Waits for the listener, and not for a caller that is gone.
    pub(super) fn take(
        spec: &'a Spec,
        user: u32,
        begin: BorrowedFd<'_>,
        control: BorrowedFd<'_>,
    ) -> io::Result<Heard<'a>> {
        let [command, caller] = fd::poll([begin, control], -1)?;
        if caller.closed && !command.readable {
            return Ok(Heard::Nothing);
        }
        let mut word = [0];
        let (count, fds) = net::receive(begin, &mut word)?;
        Ok(match fds.into_iter().next() {
            Some(listener) => Heard::Calls(Self {
                listener,
                spec,
                user,
                notes: None,
            }),
            None if count == 1 && word == *NO_LISTENER => Heard::TakenBefore,
            None => Heard::Nothing,
        })
    }

    pub(super) fn source(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Deals with one call that waits.
    pub(super) fn attend(&mut self, status: &File) {
        let listener = self.listener.as_fd();
        let Some(call) = notify::receive(listener) else {
            return;
        };
        if let Some(places) = self.spec.floor.as_deref()
            && metadata::decides(&call)
        {
            return metadata::attend(listener, &call, places, self.user);
        }
        match &mut self.notes {
            Some(notes) => notes.attend(listener, &call, status),
            None => notify::go_on(listener, &call),
        }
    }

    /// Takes notes from now on.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        self.notes = match self.spec.observes() {
            true => None,
            false => Some(Box::new(Recorder::new(self.spec)?)),
        };
        Ok(())
    }
}
