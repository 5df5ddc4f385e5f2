//! Asking the caller about one start.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A start that a rule of `commands.ask` leaves to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Question {
    /// The file that would run.
    pub program: PathBuf,
    /// Its words, the first one being its name. They are final: the program
    /// is in place and waits before its first instruction.
    pub argv: Vec<OsString>,
    /// The rule that asks, with its key.
    pub rule: String,
}

type Answer = dyn Fn(&Question) -> bool + Send + Sync;

#[derive(Clone)]
pub(crate) struct Approver(Arc<Answer>);

impl Approver {
    pub(crate) fn new(answer: impl Fn(&Question) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(answer))
    }

    pub(crate) fn approves(&self, question: &Question) -> bool {
        (self.0)(question)
    }
}

impl fmt::Debug for Approver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Approver { .. }")
    }
}
