//! `run --learn`: a policy proposed from what a command was refused.

use std::path::Path;

use anyhow::Context as _;
use katachi_sandbox::learn::Proposal;
use katachi_sandbox::{Plan, PlanOptions, Policy, Violation};

use super::place::FilePlace;
use crate::config::Config;
use crate::mistake::Mistake;
use crate::output::{WEAK, note, paint, printable};
use crate::policy::{Rules, options};

/// One run to learn from.
#[derive(Debug)]
pub(super) struct Lesson {
    place: FilePlace,
    /// As its file has it, without what the agent adds.
    policy: Policy,
    options: PlanOptions,
}

impl Lesson {
    /// Settles where the proposal goes, before the command runs.
    ///
    /// # Errors
    ///
    /// Returns a [`Mistake`] if the command itself could write there, and an
    /// error if nobody can.
    pub(super) fn begin(
        file: &Path,
        rules: &Rules,
        plan: &Plan,
        config: &Config,
    ) -> anyhow::Result<Self> {
        let place = FilePlace::of(file)?;
        if plan.can_change(place.path()) {
            return Err(Mistake::new(
                format!("--learn {}", file.display()),
                "the command could write there itself, and so choose its own policy",
                "name a file outside what filesystem.write opens",
            )
            .into());
        }
        Ok(Self {
            place,
            policy: rules.policy.clone(),
            options: options(config),
        })
    }

    /// Writes the proposal and says what is in it.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be written.
    pub(super) fn end(self, violations: &[Violation]) -> anyhow::Result<()> {
        let proposal = Proposal::new(&self.policy, &self.options, violations);
        let path = self.place.path().display().to_string();
        self.place
            .write(&proposal.to_toml())
            .with_context(|| format!("cannot write {path}"))?;
        note(format_args!(
            "{} {} lines proposed in {}, {} more for you to decide",
            paint(WEAK, "note:"),
            proposal.added(),
            printable(&path),
            proposal.held_back(),
        ));
        Ok(())
    }
}
