//! A command in an AppContainer and a job object, without an administrator's
//! rights.
//!
//! Each command gets an AppContainer of its own: an identity that nothing on the
//! computer has granted anything, but for what is open to every AppContainer. The
//! plan's directories are opened for it by entries in their access lists. Those
//! edits, and the container's name, are written down before they are made; they
//! are taken out when the command ended, and after a crash by the next start that
//! finds the list without its owner. An entry of a container that is gone opens
//! nothing to anybody.

pub(crate) mod acl;
pub(crate) mod job;
#[cfg(windows)]
mod journal;
pub(crate) mod line;
#[cfg(windows)]
pub(super) mod start;
#[cfg(windows)]
pub(crate) mod sys;
