//! Finds out what this machine can enforce, by trying.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::report::{Enforcement, Tier};
use crate::{Plan, SpawnError};

/// What this machine can enforce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// The best tier that was really reached.
    pub tier: Tier,
    /// Operating system and kernel release.
    pub kernel: String,
    /// Landlock ABI, zero where there is none.
    pub landlock_abi: u32,
    /// Each ability that was tried.
    pub checks: Vec<Check>,
}

/// One ability of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Check {
    /// What was tried.
    pub name: String,
    /// Whether it works.
    pub works: bool,
    /// What was seen, or what to change where it does not work.
    pub detail: String,
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sandbox tier: {} ({})", self.tier, self.kernel)?;
        for check in &self.checks {
            let mark = if check.works { "yes" } else { "NO " };
            writeln!(f, "  {mark} {}: {}", check.name, check.detail)?;
        }
        Ok(())
    }
}

/// Tries what the sandbox needs, in throw-away processes.
///
/// # Errors
///
/// Returns [`SpawnError::HelperNotInstalled`] if nothing can be tried because
/// the program does not call [`helper::run_if_requested`](crate::helper::run_if_requested).
pub fn probe() -> Result<Capabilities, SpawnError> {
    crate::platform::probe()
}

/// Starts a self-test under `plan` that attempts what each control forbids: reads,
/// writes, executions, connections, calls, what the caller has open and in its
/// variables, arguments that a rule refuses, a process that stays. Returns the report
/// with each control that refused marked as witnessed.
///
/// Limits of memory, processes, disk, bytes of the network, wall time and processor
/// time are tried with small values in sandboxes of their own, at one time and within
/// a second: that shows that what holds them does. For the network one has a server of
/// the self-test as its only host. Behind each published port a server inside is
/// visited from the host's loopback, where it has to be heard at that port and nowhere
/// else; one that is not heard is named, and then `network` is not witnessed.
/// `limits.cpus` is not tried, and where the policy has it the report says so. A
/// control for which the policy has no rule (`argv`) has nothing to show.
///
/// With a plan for [`PlanOptions::only`](crate::PlanOptions::only) the tier below
/// is tried in the same way, where the better one works too.
///
/// # Errors
///
/// Returns [`SpawnError`] if the self-test cannot be started.
pub fn witness(plan: &Plan) -> Result<Enforcement, SpawnError> {
    crate::platform::witness(plan)
}
