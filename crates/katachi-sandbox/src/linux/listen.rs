//! Hears what the sandbox says while it runs, and answers its questions.

use std::io::{self, PipeReader};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::message::{End, Message};
use super::running::Killer;
use crate::approval::{Approver, Question};
use crate::report::Violation;

/// The most refusals that are kept; further ones are counted.
const MOST_KEPT: usize = 1000;

/// A thread that reads until nothing of the sandbox is left.
pub(super) struct Listener {
    thread: JoinHandle<io::Result<Option<End>>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    violations: Vec<Violation>,
    more: u64,
}

impl Listener {
    pub(super) fn start(
        mut status: PipeReader,
        killer: Killer,
        approver: Option<Approver>,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let kept = seen.clone();
        let thread = std::thread::spawn(move || {
            let mut end = None;
            while let Some(message) = Message::receive(&mut status)? {
                match message {
                    Message::Ended(how) => end = Some(how),
                    Message::Refused {
                        program,
                        line,
                        reason,
                        allow_with,
                    } => keep(&kept, refusal(program, line, reason, allow_with)),
                    Message::Ask {
                        number,
                        program,
                        argv,
                        rule,
                    } => {
                        let question = Question {
                            program: program.into(),
                            argv,
                            rule,
                        };
                        answer(number, question, approver.clone(), killer.clone());
                    }
                    _ => {}
                }
            }
            Ok(end)
        });
        Self { thread, seen }
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        listed(&self.seen)
    }

    /// How the command ended, and what was refused until then.
    pub(super) fn finish(self) -> io::Result<(Option<End>, Vec<Violation>)> {
        let end = self
            .thread
            .join()
            .map_err(|_| io::Error::other("the listening thread panicked"))??;
        Ok((end, listed(&self.seen)))
    }
}

fn listed(seen: &Mutex<Seen>) -> Vec<Violation> {
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let mut violations = seen.violations.clone();
    if seen.more > 0 {
        violations.push(refusal(
            format!("{} more", seen.more),
            String::new(),
            "only the first are kept".to_owned(),
            String::new(),
        ));
    }
    violations
}

fn keep(seen: &Mutex<Seen>, violation: Violation) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.violations.len() < MOST_KEPT {
        seen.violations.push(violation);
    } else {
        seen.more += 1;
    }
}

fn refusal(program: String, line: String, reason: String, allow_with: String) -> Violation {
    Violation {
        control: "argv".to_owned(),
        operation: "exec".to_owned(),
        target: match line.is_empty() {
            true => program,
            false => format!("{program}: {line}"),
        },
        reason,
        allow_with: Some(allow_with).filter(|line| !line.is_empty()),
    }
}

/// Asks on a thread of its own: an answer may take as long as a person does.
fn answer(number: u64, question: Question, approver: Option<Approver>, killer: Killer) {
    let ask = move || {
        // A panic of the caller's is no approval.
        let asked = std::panic::AssertUnwindSafe(|| {
            approver.is_some_and(|approver| approver.approves(&question))
        });
        killer.answer(number, std::panic::catch_unwind(asked).unwrap_or(false));
    };
    std::thread::spawn(ask);
}
