//! What is left of commands whose callers were killed.

use std::io;

use crate::report::Violation;

/// Finishes what callers that were killed could not: takes the look at what
/// their commands left in writable directories, sets aside what would run
/// programs outside, and says what and where.
///
/// When a command ends, its caller looks at what it left before it tells of the
/// end. Should the caller be killed, or the power be cut, the next plan and the
/// next start of the same user do it first; [`Plan::recovered`](crate::Plan::recovered)
/// and [`Outcome::violations`](crate::Outcome::violations) tell of it. Programs call this when they begin, so that it
/// happens before somebody uses the directories. Commands of callers that live
/// are left alone.
///
/// Records lie in `katachi-sandbox` in `$XDG_STATE_HOME`, in `/var/lib` for
/// root, or else in `~/.local/state`, and where none of these can be had in
/// `/var/tmp`. A policy that would let a command write there is refused.
///
/// Does nothing outside Linux.
///
/// # Errors
///
/// Returns an error if records cannot be read.
pub fn recover() -> io::Result<Vec<Violation>> {
    crate::platform::recover()
}
