//! Which policy a command runs under.

use std::path::{Path, PathBuf};

use katachi_sandbox::plan::LateMatches;
use katachi_sandbox::report::Tier;
use katachi_sandbox::{Plan, PlanError, PlanOptions, Policy};

use crate::config::Config;
use crate::mistake::Mistake;
use crate::shield::shield;

/// The policy where none is given: the workspace read-write, the system's
/// ordinary tools and git (where it is installed), no network.
const DEFAULT: &str = r#"[filesystem]
read = ["@system"]
write = ["."]
deny = ["**/.env"]
git = "read"

[commands]
allow = ["@system", "@git"]

[env]
pass = ["LANG", "TERM"]

[limits]
processes = 512
wall_time = "30m"
"#;

/// A policy and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    /// The file, or `None` for the default.
    pub(crate) file: Option<PathBuf>,
}

impl Rules {
    /// Reads `file`, or takes the default policy.
    ///
    /// # Errors
    ///
    /// Returns a [`Mistake`] naming the file, line and key.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self, Mistake> {
        let (text, name) = match file {
            None => (DEFAULT.to_owned(), "the default policy".to_owned()),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    Mistake::new(
                        path.display().to_string(),
                        format!("cannot be read: {error}"),
                        "give a readable policy file; the package's README shows one",
                    )
                })?;
                (text, path.display().to_string())
            }
        };
        let mut policy = Policy::from_toml(&text, &name).map_err(|error| {
            let place = match error.line {
                Some(line) => format!("{}:{line}", error.file),
                None => error.file.clone(),
            };
            Mistake::new(place, error.problem, error.next_step)
        })?;
        if file.is_none() && !is_installed("git") {
            // A bundle of which nothing is installed is an error in a person's
            // own policy; nobody asked for this one.
            policy
                .commands
                .allow
                .retain(|rule| rule.program() != "@git");
        }
        Ok(Self {
            policy,
            file: file.map(Path::to_owned),
        })
    }

    /// Where the policy came from, for people.
    pub(crate) fn source(&self) -> String {
        match &self.file {
            Some(path) => path.display().to_string(),
            None => "the default policy".to_owned(),
        }
    }

    /// Resolves the policy on this machine, with our own files shielded.
    ///
    /// # Errors
    ///
    /// Returns an error naming the policy's source and the rule at fault.
    pub(crate) fn plan(&self, config: &Config) -> anyhow::Result<Plan> {
        self.plan_with(config, &options(config))
    }

    /// The same for a machine where nobody can make namespaces.
    ///
    /// # Errors
    ///
    /// As [`Rules::plan`]; also if a rule cannot be held there.
    pub(crate) fn plan_without_namespaces(&self, config: &Config) -> anyhow::Result<Plan> {
        self.plan_with(config, &options(config).only(Tier::Landlock))
    }

    fn plan_with(&self, config: &Config, options: &PlanOptions) -> anyhow::Result<Plan> {
        let mut policy = self.policy.clone();
        shield(&mut policy, config)?;
        policy.plan(options).map_err(|error| match error {
            error @ PlanError::Unreadable { .. } => anyhow::Error::new(error),
            error => {
                let text = error.to_string();
                let (problem, next) = text.rsplit_once("; ").unwrap_or((&text, "see the README"));
                Mistake::new(self.source(), problem, next).into()
            }
        })
    }
}

/// The workspace, how little of a sandbox is accepted, which refusals are recorded, and that denied names which
/// appear later are watched for: a person's `.env` is denied wherever it is made.
pub(crate) fn options(config: &Config) -> PlanOptions {
    PlanOptions::new(&config.workspace)
        .accept(config.accept_tier.into())
        .late_matches(LateMatches::Watch)
        .records(config.records.into())
}

/// Whether the search path has a program of this name.
pub(crate) fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_is_valid_and_opens_no_network() {
        let rules = Rules::load(None).unwrap();
        assert!(rules.policy.network.allow.is_empty());
        assert!(rules.policy.network.unix.is_empty());
        assert_eq!(rules.policy.filesystem.write, ["."]);
    }

    #[test]
    fn a_typo_is_named_with_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.toml");
        std::fs::write(&file, "[filesystem]\nraed = [\".\"]\n").unwrap();
        let message = Rules::load(Some(&file)).unwrap_err().to_string();
        assert!(
            message.contains("mine.toml:2") && message.contains("raed"),
            "{message}"
        );
    }

    #[test]
    fn the_example_of_the_readme_is_read() {
        let readme = include_str!("../README.md");
        let example = readme.split("```toml\n").nth(2).unwrap();
        let example = example.split("```").next().unwrap();
        let policy = Policy::from_toml(example, "README.md").unwrap();
        assert_eq!(policy.filesystem.exec_from, ["target"]);
    }
}
