//! Linux: namespaces, a root of its own, Landlock and seccomp.
//!
//! ```text
//! caller --exec--> helper --fork--> first process --fork--> command
//!   |                 |     (pid 1: builds the root,   (gives everything
//!   |  plan, status   |      reaps, watches limits)     up, executes)
//!   +----- pipes -----+
//! ```
//!
//! [`launch`] is the caller's side, [`helper`] the second life of its
//! program, [`init`] and [`root`] the first process, [`confine`] the last
//! steps before the command, [`sys`] the calls all of them make.

mod advice;
mod after;
mod apart;
mod attempts;
mod cgroup;
mod confine;
mod disk;
mod floor;
mod heard;
mod helper;
mod init;
pub(crate) mod inside;
mod launch;
mod listen;
mod members;
mod metadata;
mod missed;
mod notes;
mod observe;
mod prepared;
mod processor;
mod published;
mod record;
mod root;
mod running;
mod spec;
mod strain;
pub(crate) mod sys;
mod tracer;
mod usage;
mod watchdog;
mod watcher;
mod witness;

pub(crate) use crate::killer::Killer;
pub(crate) use cgroup::find as find_cgroup;
pub(crate) use helper::run_helper_if_requested;
pub(crate) use launch::spawn;
pub(crate) use prepared::Prepared;
pub(crate) use record::{Record, recover, state_directory};
pub(crate) use running::Running;
pub(crate) use witness::{probe, witness};

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::OnceLock;

use crate::error::SpawnError;
use crate::plan::Plan;
use crate::report::Tier;
use crate::terminal::TerminalSize;

/// Sets how large a terminal is.
pub(crate) fn resize(terminal: &File, size: TerminalSize) -> std::io::Result<()> {
    sys::terminal::resize(terminal.as_fd(), size.rows, size.columns)
}

/// Landlock's version, zero where there is none.
fn landlock_version() -> u32 {
    static VERSION: OnceLock<u32> = OnceLock::new();
    *VERSION.get_or_init(sys::landlock_version)
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
        |_| "unknown".to_owned(),
        |release| release.trim().to_owned(),
    )
}

/// Whether a command starts in namespaces here; found out once, by starting
/// one. What stands in the way otherwise is told by the start itself.
pub(crate) fn has_namespaces(helper: Option<&Path>) -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    if let Some(works) = WORKS.get() {
        return *works;
    }
    match witness::try_once(helper) {
        // That says nothing about the machine.
        Err(SpawnError::HelperNotInstalled) => true,
        tried => *WORKS.get_or_init(|| !matches!(tried, Err(SpawnError::Machine { .. }))),
    }
}

/// Tier, kernel and Landlock version for a report.
pub(crate) fn enforcement(plan: &Plan) -> (Tier, String, u32) {
    let version = landlock_version();
    let tier = match (confine::usable_abi(version), &plan.0.floor) {
        (Some(_), None) => Tier::Namespaces,
        (Some(_), Some(_)) => Tier::Landlock,
        (None, _) => Tier::None,
    };
    (tier, kernel(), version)
}
