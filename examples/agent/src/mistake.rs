//! Errors that the person at the keyboard can mend.

use std::fmt;

/// Something written by the user that has to change before a command can work.
///
/// It always says where, what, and the next step.
#[derive(Debug)]
pub(crate) struct Mistake {
    place: String,
    problem: String,
    next: String,
}

impl Mistake {
    /// Describes a mistake at `place` (a file and line, a flag, a variable).
    pub(crate) fn new(
        place: impl Into<String>,
        problem: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            place: place.into(),
            problem: problem.into(),
            next: next.into(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  next: {}", self.place, self.problem, self.next)
    }
}

impl std::error::Error for Mistake {}
