//! Looks at every program before its first instruction.
//!
//! The kernel stops a traced process once the new program is in place. Its
//! memory belongs to it alone then, and none of its instructions has run, so
//! the file and the words that are read here are those that it would run
//! with, whatever others wrote while it was starting.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::observe::Observer;
use super::spec::Spec;
use super::sys::process;
use super::sys::trace::{self, Stop};
use crate::guard::{Guards, Place, Ruling, allow_with, command_line};
use crate::message::{LONGEST_QUESTION, Message};

/// The most programs that wait for an answer at one time.
const MOST_WAITING: usize = 64;
/// The most bytes of arguments that are looked at; forms are shorter.
const MOST_WORDS: u64 = 1 << 18;

/// Follows the command and all it starts.
pub(super) struct Tracer<'a> {
    spec: &'a Spec,
    guards: Option<&'a Guards>,
    observer: Observer,
    command: libc::pid_t,
    /// The rule under which the command's own start is approved already.
    approved: Option<&'a str>,
    /// Questions without an answer, and who waits.
    waiting: Vec<(u64, libc::pid_t)>,
    asked: u64,
}

impl<'a> Tracer<'a> {
    pub(super) fn new(spec: &'a Spec, command: libc::pid_t) -> Self {
        Self {
            spec,
            guards: spec.guards.as_ref(),
            observer: Observer::default(),
            command,
            approved: spec.approved.as_deref(),
            waiting: Vec::new(),
            asked: 0,
        }
    }

    /// Deals with a process that stands still.
    pub(super) fn stopped(&mut self, pid: libc::pid_t, stop: Stop, status: &File) {
        match stop {
            Stop::Signal(signal) => trace::resume(pid, signal),
            Stop::Group => trace::leave_stopped(pid),
            Stop::Called => self.observer.stopped(pid, status),
            Stop::Executed => {
                // The call that did it does not return here.
                self.observer.forget(pid);
                self.executed(pid, status);
            }
        }
    }

    /// Forgets what a process that is gone waited for.
    pub(super) fn ended(&mut self, pid: libc::pid_t) {
        self.waiting.retain(|(_, waits)| *waits != pid);
        self.observer.forget(pid);
    }

    /// Takes an answer of the caller's.
    pub(super) fn answered(&mut self, number: u64, yes: bool, status: &File) {
        let place = self.waiting.iter().position(|(asked, _)| *asked == number);
        if let Some(place) = place {
            let (_, pid) = self.waiting.swap_remove(place);
            if yes {
                trace::resume(pid, 0);
            } else {
                self.refuse(pid, "the caller was asked and refused it", status);
            }
        }
    }

    fn executed(&mut self, pid: libc::pid_t, status: &File) {
        let Some(guards) = self.guards else {
            return trace::resume(pid, 0);
        };
        let image = match Image::of(pid) {
            Ok(image) => image,
            // It is being killed, or cannot be looked at.
            Err(error) => {
                return self.refuse(pid, &format!("it cannot be looked at: {error}"), status);
            }
        };
        match guards.rule_on(image.file, &image.argv, self.place(&image)) {
            Ruling::Allow => trace::resume(pid, 0),
            Ruling::Deny(reason) => self.refuse(pid, &reason, status),
            Ruling::Ask(form) => {
                let rule = form.rule.clone();
                if pid == self.command && self.approved == Some(rule.as_str()) {
                    self.approved = None;
                    return trace::resume(pid, 0);
                }
                self.ask(pid, image, rule, status);
            }
        }
    }

    fn place<'i>(&self, image: &'i Image) -> Place<'i> {
        let mut trees = self.spec.exec_trees.iter();
        let tree = trees.find(|tree| image.program.starts_with(&tree.path));
        match (tree, image.program.file_name()) {
            (Some(_), _) if image.deleted => Place::Elsewhere,
            (Some(tree), Some(name)) if tree.fixed => Place::Named(name),
            (Some(_), _) => Place::Tree,
            (None, _) => Place::Elsewhere,
        }
    }

    fn ask(&mut self, pid: libc::pid_t, image: Image, rule: String, status: &File) {
        let length: usize = image.argv.iter().map(|word| word.len() + 8).sum();
        let problem = if !self.spec.asks {
            Some("and nobody could be asked")
        } else if image.cut || length + image.program.as_os_str().len() > LONGEST_QUESTION {
            Some("and its arguments are too long to be shown")
        } else if self.waiting.len() == MOST_WAITING {
            Some("and too many others wait for an answer")
        } else {
            None
        };
        if let Some(problem) = problem {
            let reason = format!("{rule} needs approval for each start, {problem}");
            return self.refuse(pid, &reason, status);
        }
        self.asked += 1;
        let question = Message::Ask {
            number: self.asked,
            program: image.program.into_os_string(),
            argv: image.argv,
            rule,
        };
        if question.send(&mut &*status).is_err() {
            return process::kill(pid);
        }
        self.waiting.push((self.asked, pid));
    }

    /// Kills a process that has not begun, and says why.
    fn refuse(&self, pid: libc::pid_t, reason: &str, status: &File) {
        let image = Image::of(pid).ok();
        process::kill(pid);
        let Some(image) = image else { return };
        let mut suggested = image.argv.clone();
        if let Some(first) = suggested.first_mut() {
            *first = image.name();
        }
        let refused = Message::Refused {
            program: image.program.display().to_string(),
            line: command_line(&image.argv),
            reason: reason.to_owned(),
            allow_with: allow_with(&suggested),
        };
        // If the caller is gone there is nobody left to tell.
        let _ = refused.send(&mut &*status);
    }
}

/// A program in place that has not begun.
struct Image {
    file: (u64, u64),
    program: PathBuf,
    /// Whether the file has no name any more, as one in memory.
    deleted: bool,
    argv: Vec<OsString>,
    /// Whether there is more of them.
    cut: bool,
}

impl Image {
    /// What a rule would call it: as it was called, if that is a name of this
    /// very file beside it, and else as the file is called.
    fn name(&self) -> OsString {
        let called = self.argv.first().map(PathBuf::from);
        let beside = called
            .as_deref()
            .and_then(std::path::Path::file_name)
            .map(|name| self.program.with_file_name(name));
        let same = |path: &PathBuf| {
            std::fs::metadata(path)
                .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file)
        };
        let named = beside.filter(same).unwrap_or_else(|| self.program.clone());
        named
            .file_name()
            .map_or_else(OsString::new, OsStr::to_owned)
    }

    fn of(pid: libc::pid_t) -> io::Result<Self> {
        let link = format!("/proc/{pid}/exe");
        let metadata = std::fs::metadata(&link)?;
        let program = std::fs::read_link(&link)?;
        let mut bytes = Vec::new();
        File::open(format!("/proc/{pid}/cmdline"))?
            .take(MOST_WORDS)
            .read_to_end(&mut bytes)?;
        let cut = bytes.last() != Some(&0);
        let mut argv: Vec<OsString> = bytes
            .split(|byte| *byte == 0)
            .map(|word| OsStr::from_bytes(word).to_owned())
            .collect();
        // What follows the last zero byte: nothing, or a part of a word.
        argv.pop();
        Ok(Self {
            file: (metadata.dev(), metadata.ino()),
            deleted: metadata.nlink() == 0,
            program,
            argv,
            cut,
        })
    }
}
