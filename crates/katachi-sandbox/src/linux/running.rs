//! The caller's hold on a running sandbox.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::cgroup::Leaf;
use super::listen::Listener;
use super::record::Run;
use crate::child::{Ending, Outcome};
use crate::hold::Hold;
use crate::message::{End, Message};
use crate::proxy::Network;
use crate::report::Violation;
use crate::scratch::Scratch;

/// Everything that has to be let go in the right order.
pub(crate) struct Running {
    pub(crate) hold: Hold,
    /// Until it is waited for.
    pub(super) heard: Option<Listener>,
    pub(super) traces: Traces,
    pub(super) network: Option<Network>,
}

/// What was put into the user's directories for the run, and what was there
/// before.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// Empty directories that hold a place.
    pub(super) placeholders: Vec<Placeholder>,
    /// The look at what appeared, and the note that it is due.
    pub(super) run: Option<Run>,
    /// Why there is no such note.
    pub(super) unrecorded: Option<String>,
    /// What others had left.
    pub(super) recovered: Vec<Violation>,
    /// The command's control group.
    pub(super) leaf: Option<Leaf>,
    /// The directory for its temporary files, where it has no `/tmp` of its own.
    pub(super) scratch: Option<Scratch>,
}

/// An empty directory that holds a place, and the lock that keeps it there.
#[derive(Debug)]
pub(super) struct Placeholder {
    pub(super) path: PathBuf,
    pub(super) held: File,
    /// Whether it was made for this run.
    pub(super) made: bool,
}

impl Drop for Traces {
    fn drop(&mut self) {
        self.settle();
        for place in self.placeholders.drain(..).rev() {
            // Only ever removes an empty directory; whatever is in it now was
            // put there by somebody outside and stays. It stays as well while
            // another sandbox counts on it.
            if place.made && place.held.try_lock().is_ok() {
                let _ = std::fs::remove_dir(place.path);
            }
        }
    }
}

impl Traces {
    /// Looks at what the command left, once nothing of it runs any more.
    fn settle(&mut self) -> Vec<Violation> {
        self.run.take().map_or_else(Vec::new, Run::settle)
    }
}

impl Running {
    pub(crate) fn wait(&mut self) -> io::Result<Outcome> {
        if let Some(outcome) = self.hold.outcome() {
            return Ok(outcome);
        }
        // The pipe closes when helper and first process are gone, which the
        // kernel lets happen only after everything in the namespace is.
        let end = match self.heard.take() {
            Some(listener) => listener.finish()?,
            None => None,
        };
        self.hold.helper.wait()?;
        let leaf = self.traces.leaf.take();
        let out_of_memory = leaf.as_ref().is_some_and(Leaf::ran_out_of_memory);
        let ending = match end {
            // Everything in the group was killed, most likely before it could
            // say anything.
            None | Some(End::Signal(libc::SIGKILL)) if out_of_memory => {
                Ending::LimitExceeded("memory".to_owned())
            }
            end => self.hold.ending(end)?,
        };
        self.network = None;
        let found = self.traces.settle().into_iter();
        found
            .chain(violation_of(&ending))
            .chain(leaf.as_ref().and_then(refused_processes))
            .for_each(|violation| self.hold.feed.add(violation));
        drop(leaf);
        std::mem::take(&mut self.traces);
        Ok(self.hold.finish(ending))
    }
}

/// What the kernel refused by itself, without ending the command.
fn refused_processes(leaf: &Leaf) -> Option<Violation> {
    let count = leaf.refused_processes();
    (count > 0).then(|| Violation {
        control: "limits".to_owned(),
        operation: "use".to_owned(),
        target: "processes".to_owned(),
        reason: format!(
            "{count} times a process or thread was refused because limits.processes were there"
        ),
        allow_with: Some("a larger [limits] processes".to_owned()),
    })
}

/// What a message about a moment without protection means.
pub(super) fn uncovered(message: Message) -> Option<Violation> {
    let Message::Uncovered {
        path,
        read,
        covered,
    } = message
    else {
        return None;
    };
    let (control, operation, what) = match read {
        true => ("files", "read", "what is hidden"),
        false => ("metadata", "write", "what is protected"),
    };
    let until = match covered {
        true => "for a moment, until it was covered",
        false => "until the end, because it could not be covered",
    };
    Some(Violation {
        control: control.to_owned(),
        operation: operation.to_owned(),
        target: path,
        reason: format!(
            "it appeared under a name of {what} while the command ran, which could {operation} it {until}"
        ),
        allow_with: None,
    })
}

fn violation_of(ending: &Ending) -> Option<Violation> {
    let (control, operation, target, reason, allow_with) = match ending {
        Ending::Signal(libc::SIGSYS) => (
            "kernel",
            "system call",
            "of a foreign architecture",
            "the process was killed by the system call filter",
            None,
        ),
        Ending::Signal(libc::SIGXFSZ) => (
            "limits",
            "write",
            "disk",
            "a file grew past limits.disk",
            Some("a larger [limits] disk".to_owned()),
        ),
        other => return other.violation(),
    };
    Some(Violation {
        control: control.to_owned(),
        operation: operation.to_owned(),
        target: target.to_owned(),
        reason: reason.to_owned(),
        allow_with,
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        self.hold.killer.kill();
        // An error here means that the helper is gone already.
        let _ = self.wait();
        self.hold.feed.end();
    }
}
