//! Sandboxes that are built before they are needed.

use std::ffi::OsString;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::command::Command;
use crate::error::SpawnError;
use crate::plan::Plan;
use crate::platform::Prepared;

/// How long the next one is not begun where another waits: building takes a processor,
/// and what was just started has mostly ended by then.
const PAUSE: Duration = Duration::from_millis(5);

/// Sandboxes of one plan, built and waiting, for callers that start many
/// commands.
///
/// Each is used once: a command never meets what another left in private
/// directories or in memory. When one is taken, the next is built by a thread, a little
/// later if others wait.
/// A command starts cold, confined all the same, where none is ready, where
/// its standard descriptors are set one by one or it wants a terminal, and
/// where a directory was replaced since the sandbox was built.
///
/// A waiting sandbox shows what the host had mounted when it was built.
///
/// ```no_run
/// use katachi_sandbox::{PlanOptions, Policy, Pool};
///
/// let plan = Policy::default()
///     .read("@system")
///     .allow("true")
///     .plan(&PlanOptions::new("/tmp/work"))?;
/// let pool = Pool::new(&plan, 4)?;
/// assert!(pool.command(["true"]).output()?.outcome.success());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    plan: Plan,
    ready: Mutex<Vec<Prepared>>,
}

impl Pool {
    /// Builds `size` sandboxes, each of which is two waiting processes.
    ///
    /// # Errors
    ///
    /// As for [`Command::spawn`].
    pub fn new(plan: &Plan, size: usize) -> Result<Self, SpawnError> {
        let mut ready = Vec::with_capacity(size);
        let size = if Prepared::fits(&plan.0) { size } else { 0 };
        for _ in 0..size {
            ready.push(Prepared::new(plan)?);
        }
        Ok(Self(Arc::new(Shared {
            plan: plan.clone(),
            ready: Mutex::new(ready),
        })))
    }

    /// A command under the plan, which starts in a sandbox that waits.
    pub fn command<I, S>(&self, argv: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        let mut command = self.0.plan.command(argv);
        command.pool = Some(self.clone());
        command
    }

    /// How many sandboxes wait.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.list().len()
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Prepared>> {
        self.0.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self) -> Option<Prepared> {
        let mut list = self.list();
        // One that somebody ended from outside is of no use.
        std::iter::from_fn(|| list.pop()).find_map(|mut one| one.waits().then_some(one))
    }

    /// Has one built in place of one that was taken.
    pub(crate) fn build_next(&self) {
        let shared = Arc::downgrade(&self.0);
        let another_waits = self.ready() > 0;
        // What stands in the way is told to who starts a command.
        let _ = std::thread::Builder::new().spawn(move || {
            if another_waits {
                std::thread::sleep(PAUSE);
            }
            let Some(plan) = shared.upgrade().map(|shared| shared.plan.clone()) else {
                return;
            };
            if let (Ok(prepared), Some(shared)) = (Prepared::new(&plan), shared.upgrade()) {
                let mut ready = shared.ready.lock().unwrap_or_else(PoisonError::into_inner);
                ready.push(prepared);
            }
        });
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("plan", &self.0.plan.hash())
            .finish_non_exhaustive()
    }
}
