//! Operating systems on which nothing is enforced yet, so nothing is started.

use crate::child::{Child, Outcome};
use crate::command::Command;
use crate::doctor::Capabilities;
use crate::error::SpawnError;
use crate::feed::ViolationStream;
use crate::plan::Plan;
use crate::report::{Enforcement, Tier, Violation};

/// Nobody can make one.
pub(crate) enum Running {}

/// Nobody can make one.
pub(crate) enum Prepared {}

impl Prepared {
    pub(crate) fn new(_: &Plan) -> Result<Self, SpawnError> {
        Err(SpawnError::Unsupported(std::env::consts::OS))
    }

    pub(crate) fn fits(_: &crate::plan::Inner) -> bool {
        true
    }

    pub(crate) fn waits(&mut self) -> bool {
        match *self {}
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Killer {}

impl Running {
    pub(crate) fn wait(&mut self) -> std::io::Result<Outcome> {
        match *self {}
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        match *self {}
    }

    pub(crate) fn stream(&self) -> ViolationStream {
        match *self {}
    }

    pub(crate) fn killer(&self) -> Killer {
        match *self {}
    }
}

impl Killer {
    pub(crate) fn signal(&self, _: crate::child::Signal) {
        match *self {}
    }

    pub(crate) fn kill(&self) {
        match *self {}
    }
}

pub(crate) fn resize(_: &std::fs::File, _: crate::terminal::TerminalSize) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

pub(crate) fn run_helper_if_requested() {}

pub(crate) fn spawn(command: Command) -> Result<Child, SpawnError> {
    drop(command);
    Err(SpawnError::Unsupported(std::env::consts::OS))
}

pub(crate) fn probe() -> Result<Capabilities, SpawnError> {
    Ok(Capabilities {
        tier: Tier::None,
        kernel: std::env::consts::OS.to_owned(),
        landlock_abi: 0,
        checks: Vec::new(),
    })
}

pub(crate) fn witness(_plan: &Plan) -> Result<Enforcement, SpawnError> {
    Err(SpawnError::Unsupported(std::env::consts::OS))
}

pub(crate) fn has_namespaces(_: Option<&std::path::Path>) -> bool {
    false
}

pub(crate) fn enforcement(_plan: &Plan) -> (Tier, String, u32) {
    (Tier::None, std::env::consts::OS.to_owned(), 0)
}
