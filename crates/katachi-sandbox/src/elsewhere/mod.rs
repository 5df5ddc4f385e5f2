//! macOS and Windows: what confines there has not been seen to hold on a real
//! one, so nothing starts unless the caller accepts that.
//!
//! [`launch`] is the caller's side; [`crate::supervise`] is the helper's.

mod helper;
mod launch;
mod running;

pub(crate) use crate::killer::Killer;
pub(crate) use helper::run_helper_if_requested;
pub(crate) use launch::spawn;
pub(crate) use running::Running;

use crate::doctor::{Capabilities, Check};
use crate::error::SpawnError;
use crate::plan::{Inner, Plan, System};
use crate::report::{Enforcement, Tier};
use crate::terminal::TerminalSize;

#[cfg(unix)]
use crate::proxy::Network;
/// Nobody can make one: nothing could connect to it.
#[cfg(not(unix))]
pub(crate) enum Network {}

/// Nobody can make one: nothing is built before its command here.
pub(crate) enum Prepared {}

impl Prepared {
    pub(crate) fn new(_: &Plan) -> Result<Self, SpawnError> {
        Err(SpawnError::Unsupported(std::env::consts::OS))
    }

    pub(crate) fn fits(_: &Inner) -> bool {
        false
    }

    pub(crate) fn waits(&mut self) -> bool {
        match *self {}
    }
}

/// Nothing is recorded here.
pub(crate) fn recover() -> std::io::Result<Vec<crate::report::Violation>> {
    Ok(Vec::new())
}

pub(crate) fn state_directory() -> std::io::Result<Option<std::path::PathBuf>> {
    Ok(None)
}

pub(crate) fn resize(_: &std::fs::File, _: TerminalSize) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Says what there is, without having seen any of it hold.
pub(crate) fn probe() -> Result<Capabilities, SpawnError> {
    let Some(system) = System::here() else {
        return Ok(Capabilities {
            tier: Tier::None,
            kernel: std::env::consts::OS.to_owned(),
            landlock_abi: 0,
            checks: Vec::new(),
        });
    };
    let found = means();
    Ok(Capabilities {
        tier: match found.works {
            true => Tier::Unwitnessed,
            false => Tier::None,
        },
        kernel: system.name().to_owned(),
        landlock_abi: 0,
        checks: vec![
            found,
            Check {
                name: "seen to hold on a real computer".to_owned(),
                works: false,
                detail: "unwitnessed; commands start only where the caller accepts that (Tier::Unwitnessed)".to_owned(),
            },
        ],
    })
}

#[cfg(windows)]
fn means() -> Check {
    let loaded = crate::supervise::windows::sys::container::Functions::load();
    Check {
        name: "AppContainer".to_owned(),
        works: loaded.is_ok(),
        detail: match loaded {
            Ok(_) => "there".to_owned(),
            Err(error) => error.to_string(),
        },
    }
}

#[cfg(not(windows))]
fn means() -> Check {
    Check {
        name: "Seatbelt".to_owned(),
        works: true,
        detail: "part of every macOS".to_owned(),
    }
}

pub(crate) fn witness(_plan: &Plan) -> Result<Enforcement, SpawnError> {
    Err(SpawnError::Machine {
        step: "the self-test".to_owned(),
        detail: format!("there is none on {}", std::env::consts::OS),
        next_step: "`cargo test -p katachi-sandbox --test portable` tries what can be tried"
            .to_owned(),
    })
}

/// Tier and system for a report.
pub(crate) fn enforcement(plan: &Plan) -> (Tier, String, u32) {
    (
        crate::plan::unwitnessed_tier(&plan.0),
        std::env::consts::OS.to_owned(),
        0,
    )
}

pub(crate) fn has_namespaces(_: Option<&std::path::Path>) -> bool {
    false
}
