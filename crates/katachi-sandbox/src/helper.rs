//! The process that builds the sandbox.
//!
//! Namespaces, Landlock and seccomp belong to one thread or one process, and
//! between `fork` and `exec` a program with threads may do next to nothing.
//! So the program executes itself once more as a helper that has one thread,
//! builds the sandbox and becomes its first process. [`run_if_requested`] is
//! where that second life begins.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::SpawnError;
use crate::plan::Inner;

/// What a helper is called. One of another version does not know it, and never
/// reads a plan that it would misunderstand.
pub(crate) const MARKER: &str = concat!("katachi-sandbox-helper ", env!("CARGO_PKG_VERSION"));

/// Whether `run_if_requested` was called, so that a helper would be one.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Something has to become the helper.
pub(crate) fn check(plan: &Inner) -> Result<(), SpawnError> {
    match plan.helper.is_some() || INSTALLED.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err(SpawnError::HelperNotInstalled),
    }
}

/// Becomes the sandbox helper if this process was started as one, and
/// otherwise returns at once.
///
/// Make it the first line of `main`, before threads, arguments or logging:
///
/// ```no_run
/// katachi_sandbox::helper::run_if_requested();
/// // the program
/// ```
///
/// A program that never calls it and names no helper with
/// [`PlanOptions::helper`](crate::PlanOptions::helper) gets
/// [`SpawnError::HelperNotInstalled`]
/// instead of a second copy of itself.
pub fn run_if_requested() {
    INSTALLED.store(true, Ordering::Relaxed);
    crate::platform::run_helper_if_requested();
}
