//! Finds out by trying.

use super::{kernel, landlock_version};
use crate::doctor::{Capabilities, Check};
use crate::error::SpawnError;
use crate::plan::{Plan, PlanOptions};
use crate::policy::Policy;
use crate::report::{Enforcement, Tier};

/// Starts `true` in a full sandbox.
pub(crate) fn probe() -> Result<Capabilities, SpawnError> {
    let version = landlock_version();
    let mut checks = vec![Check {
        name: "Landlock".to_owned(),
        works: super::confine::usable_abi(version).is_some(),
        detail: match version {
            0 => "absent; use Linux 6.2 or later with `landlock` in lsm=".to_owned(),
            version => format!("ABI {version}"),
        },
    }];
    let tried = try_once();
    if matches!(tried, Err(SpawnError::HelperNotInstalled)) {
        return Err(SpawnError::HelperNotInstalled);
    }
    checks.push(Check {
        name: "a command in the full sandbox".to_owned(),
        works: tried.is_ok(),
        detail: match &tried {
            Ok(()) => "started and ended".to_owned(),
            Err(error) => error.to_string(),
        },
    });
    Ok(Capabilities {
        tier: if tried.is_ok() { Tier::Namespaces } else { Tier::None },
        kernel: format!("Linux {}", kernel()),
        landlock_abi: version,
        checks,
    })
}

fn try_once() -> Result<(), SpawnError> {
    let request = |error: crate::error::PlanError| SpawnError::Request {
        problem: error.to_string(),
        next_step: "the probe needs the program `true`".to_owned(),
    };
    let plan = Policy::default()
        .read("@system")
        .allow("true")
        .plan(&PlanOptions::new("/"))
        .map_err(request)?;
    let outcome = plan.command(["true"]).spawn()?.wait()?;
    if outcome.success() {
        Ok(())
    } else {
        Err(SpawnError::Helper(format!("`true` ended with {:?}", outcome.ending)))
    }
}

pub(crate) fn witness(plan: &Plan) -> Result<Enforcement, SpawnError> {
    Ok(plan.enforcement())
}
