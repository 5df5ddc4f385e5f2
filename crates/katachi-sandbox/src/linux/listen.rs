//! Hears what the sandbox says while it runs, and answers its questions.

use std::io::{self, PipeReader};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use super::missed::Refusals;
use super::running::uncovered;
use crate::approval::{Approver, Question};
use crate::killer::Killer;
use crate::message::{End, Message};
use crate::report::Violation;

/// A thread that reads until nothing of the sandbox is left.
pub(super) struct Listener {
    thread: JoinHandle<io::Result<Option<End>>>,
}

/// What there is to hear, and who is told.
pub(super) struct Heard {
    pub(super) status: PipeReader,
    pub(super) killer: Killer,
    pub(super) approver: Option<Approver>,
    pub(super) refusals: Refusals,
}

/// The thread, before there is anything to hear: where the caller can have no
/// thread, nothing is to run.
pub(super) struct Waiting {
    begin: mpsc::SyncSender<Heard>,
    listener: Listener,
}

impl Waiting {
    pub(super) fn begin(self, heard: Heard) -> Listener {
        // It waits until this is sent or dropped.
        let _ = self.begin.send(heard);
        self.listener
    }
}

impl Listener {
    /// Starts the thread.
    pub(super) fn prepare() -> io::Result<Waiting> {
        let (begin, begun) = mpsc::sync_channel(1);
        let thread = Builder::new().spawn(move || {
            // Nothing was started.
            let Ok(heard) = begun.recv() else {
                return Ok(None);
            };
            let Heard {
                mut status,
                killer,
                approver,
                mut refusals,
            } = heard;
            let mut end = None;
            while let Some(message) = Message::receive(&mut status)? {
                match message {
                    Message::Ended(how) => end = Some(how),
                    Message::Refused {
                        program,
                        line,
                        reason,
                        allow_with,
                    } => refusals.add(refusal(program, line, reason, allow_with)),
                    Message::Missed {
                        want,
                        path,
                        program,
                    } => refusals.missed(want, path.as_ref(), &program),
                    Message::NotStarted {
                        path,
                        there,
                        program,
                    } => refusals.not_started(path.as_ref(), there, &program),
                    Message::Flood { program } => refusals.flood(&program),
                    Message::NotNoted(count) => refusals.add(not_noted(count)),
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
                    message => uncovered(message)
                        .into_iter()
                        .for_each(|violation| refusals.add(violation)),
                }
            }
            Ok(end)
        })?;
        Ok(Waiting {
            begin,
            listener: Self { thread },
        })
    }

    /// How the command ended.
    pub(super) fn finish(self) -> io::Result<Option<End>> {
        self.thread
            .join()
            .map_err(|_| io::Error::other("the listening thread panicked"))?
    }
}

fn not_noted(count: u64) -> Violation {
    Violation {
        control: "learn".to_owned(),
        operation: "look".to_owned(),
        target: "others".to_owned(),
        reason: format!(
            "{count} different files were looked for in vain; what was looked for later is not noted, so observe it again once these are decided"
        ),
        allow_with: None,
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
    let other = killer.clone();
    let ask = move || {
        // A panic of the caller's is no approval.
        let asked = std::panic::AssertUnwindSafe(|| {
            approver.is_some_and(|approver| approver.approves(&question))
        });
        killer.answer(number, std::panic::catch_unwind(asked).unwrap_or(false));
    };
    if Builder::new().spawn(ask).is_err() {
        // Nobody can be asked.
        other.answer(number, false);
    }
}
