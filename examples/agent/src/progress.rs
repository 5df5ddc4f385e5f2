//! Numbered steps on standard error.

use std::fmt::Display;
use std::time::Instant;

use crate::output::{BOLD, GOOD, QUIET, note, paint};

/// Tells a person what is happening, step by step.
#[derive(Debug)]
pub(crate) struct Progress {
    total: usize,
    done: usize,
    began: Instant,
}

impl Progress {
    /// Starts counting `total` steps.
    pub(crate) fn new(total: usize) -> Self {
        Self {
            total,
            done: 0,
            began: Instant::now(),
        }
    }

    /// Begins the next step.
    pub(crate) fn step(&mut self, title: impl Display) {
        self.done += 1;
        let label = format!("[{}/{}]", self.done, self.total);
        let clock = format!("{:5.1} s", self.began.elapsed().as_secs_f64());
        note(format_args!(
            "{} {} {}",
            paint(QUIET, clock),
            paint(BOLD, label),
            paint(BOLD, title)
        ));
    }

    /// Shows a detail of the current step.
    pub(crate) fn detail(&self, text: impl Display) {
        note(format_args!("              {text}"));
    }

    /// Shows something of the current step that went as promised.
    pub(crate) fn good(&self, text: impl Display) {
        note(format_args!("            {} {text}", paint(GOOD, "✓")));
    }

    /// Seconds since the first step could begin.
    pub(crate) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}
