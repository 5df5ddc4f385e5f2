//! Errors, sorted by whose fault they are.

use std::path::PathBuf;

use crate::report::Violation;

/// Why a policy cannot become a plan here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The policy names something that does not exist.
    #[error("{rule}: {problem}; {next_step}")]
    Missing {
        /// The rule as written, with its key.
        rule: String,
        /// What is missing.
        problem: String,
        /// What to do.
        next_step: String,
    },
    /// The policy opens so much that nothing would be confined.
    #[error("{rule}: {problem}; {next_step}")]
    TooWide {
        /// The rule as written, with its key.
        rule: String,
        /// What would be opened.
        problem: String,
        /// What to write instead.
        next_step: String,
    },
    /// Two rules contradict each other.
    #[error("{rule} contradicts {other}: {problem}; {next_step}")]
    Contradiction {
        /// The first rule.
        rule: String,
        /// The second rule.
        other: String,
        /// Why both cannot hold.
        problem: String,
        /// What to write instead.
        next_step: String,
    },
    /// A rule has a shape that means nothing.
    #[error("{rule}: {problem}; {next_step}")]
    Malformed {
        /// The rule as written, with its key.
        rule: String,
        /// What is wrong.
        problem: String,
        /// What to write instead.
        next_step: String,
    },
    /// A rule cannot be enforced by this version or on this machine.
    #[error("{rule} cannot be enforced: {problem}; {next_step}")]
    NotEnforceable {
        /// The rule as written, with its key.
        rule: String,
        /// What is lacking.
        problem: String,
        /// What to do.
        next_step: String,
    },
    /// The machine refused to answer.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// What was read.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// Why a command did not start. It was then not started at all, never half
/// confined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The policy does not allow this command.
    #[error("{0}")]
    Denied(Box<Violation>),
    /// The caller's request means nothing.
    #[error("{problem}; {next_step}")]
    Request {
        /// What is wrong.
        problem: String,
        /// What to do.
        next_step: String,
    },
    /// The program does not call [`helper::run_if_requested`](crate::helper::run_if_requested)
    /// and names no helper.
    #[error(
        "the sandbox helper is not installed; make \
         `katachi_sandbox::helper::run_if_requested();` the first line of `main`, or name the \
         program katachi-sandbox-helper with `PlanOptions::helper`"
    )]
    HelperNotInstalled,
    /// A file or directory is no longer the one the plan pinned.
    #[error("{} is not what the plan pinned ({detail}); make the plan again", path.display())]
    Replaced {
        /// The path.
        path: PathBuf,
        /// What differs.
        detail: String,
    },
    /// This machine lacks something the sandbox needs.
    #[error("this machine cannot confine the command: {step} failed: {detail}; {next_step}")]
    Machine {
        /// The step that failed.
        step: String,
        /// The system's error.
        detail: String,
        /// What to change.
        next_step: String,
    },
    /// Nobody has seen the sandbox of this operating system hold, and the caller
    /// did not accept that.
    #[error(
        "nobody has seen commands confined on {0}, so none is started; to start them all the \
         same, accept Tier::Unwitnessed with PlanOptions::accept"
    )]
    Unwitnessed(&'static str),
    /// The sandbox is not built for this operating system.
    #[error("commands cannot be confined on {0} yet, so none is started")]
    Unsupported(&'static str),
    /// The command was confined and its program then could not be executed.
    #[error("{} could not be executed: {source}", path.display())]
    Exec {
        /// The program.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The helper ended without an answer.
    #[error("the sandbox helper ended before the command started ({0})")]
    Helper(String),
    /// A system call of the caller's own process failed.
    #[error("cannot start the sandbox helper: {0}")]
    Io(#[from] std::io::Error),
}

impl SpawnError {
    /// The refusal, when the policy refused the command.
    #[must_use]
    pub fn denial(&self) -> Option<&Violation> {
        match self {
            Self::Denied(violation) => Some(violation),
            _ => None,
        }
    }
}
