//! Stops the process, or makes the system refuse, at a chosen step of a save.
//!
//! Steps are named where files are saved; they are counted from one in the
//! order in which the process reaches them.

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The environment variable that names the step at which the process dies,
/// as a power cut would end it: no destructor runs, nothing is flushed.
pub const ABORT_AT: &str = "KATACHI_TESTING_ABORT_AT_STEP";

static REACHED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static FAIL_IN: Cell<Option<u64>> = const { Cell::new(None) };
}

/// How many steps the process has reached.
#[must_use]
pub fn steps_reached() -> u64 {
    REACHED.load(Ordering::Relaxed)
}

/// Lets the `steps`-th step of this thread from now on fail as on a full disk.
pub fn fail_in(steps: u64) {
    FAIL_IN.set(Some(steps));
}

/// No step fails from now on. Says whether one was still to fail.
pub fn stop_failing() -> bool {
    FAIL_IN.take().is_some()
}

pub(crate) fn reach(_name: &'static str) -> io::Result<()> {
    static ABORT: OnceLock<Option<u64>> = OnceLock::new();
    let abort_at = *ABORT.get_or_init(|| std::env::var(ABORT_AT).ok()?.parse().ok());
    let reached = REACHED.fetch_add(1, Ordering::Relaxed) + 1;
    if abort_at == Some(reached) {
        std::process::abort();
    }
    match FAIL_IN.get() {
        Some(0 | 1) => {
            FAIL_IN.set(None);
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
        Some(steps) => {
            FAIL_IN.set(Some(steps - 1));
            Ok(())
        }
        None => Ok(()),
    }
}
