//! What a command looked for in vain, seen from outside: whether it is there
//! at all, and whether it was the policy that hid it.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::apart::Apart;
use crate::command::Notes;
use crate::feed::Feed;
use crate::message::Want;
use crate::plan::{Answer, Gate, Plan, Query, shorten};
use crate::report::Violation;
use crate::suggest::quoted;

/// The most different refusals of one program that are kept one by one, so that
/// those of others are not lost among them.
const MOST: usize = 50;

/// Makes refusals of what the first process noticed.
pub(super) struct Refusals {
    feed: Feed,
    plan: Plan,
    notes: Notes,
    /// How many each program has.
    of: HashMap<String, usize>,
    /// Programs that were started in vain and by which, whatever the name.
    starts: HashSet<(String, PathBuf)>,
    apart: Apart,
}

impl Refusals {
    pub(super) fn new(feed: Feed, plan: Plan, notes: Notes) -> Self {
        Self {
            feed,
            plan,
            notes,
            of: HashMap::new(),
            starts: HashSet::new(),
            apart: Apart::default(),
        }
    }

    pub(super) fn add(&self, violation: Violation) {
        self.feed.add(violation);
    }

    /// A file that the command does not see or may not change.
    pub(super) fn missed(&mut self, want: Want, path: &Path, program: &str) {
        if let Some(path) = self.apart.outside(path) {
            let found = missed(&self.plan, want, &path, program);
            self.keep(program, found);
        }
    }

    /// A program that the kernel did not start.
    pub(super) fn not_started(&mut self, path: &Path, there: bool, program: &str) {
        let found = match there {
            true if is_its_own(&self.plan, path) => Some(own(&self.plan, path, program)),
            _ => self
                .apart
                .outside(path)
                .filter(|path| is_program(path))
                .and_then(|path| program_missed(&self.plan, &path, program)),
        };
        self.keep(program, found);
    }

    fn keep(&mut self, program: &str, found: Option<Violation>) {
        let Some(violation) = found else { return };
        // One file is found in `/bin` and in `/usr/bin`.
        if violation.control == "exec" {
            let path = PathBuf::from(&violation.target);
            let real = path.canonicalize().unwrap_or(path);
            if !self.starts.insert((program.to_owned(), real)) {
                return;
            }
        }
        // Who learns wants all, and hears where that ends.
        if self.notes != Notes::Looks {
            let count = self.of.entry(program.to_owned()).or_default();
            *count += 1;
            if *count > MOST {
                return self.flood(program);
            }
        }
        self.add(violation);
    }

    /// Says that not all is told of a program.
    pub(super) fn flood(&self, program: &str) {
        self.feed.add_once(Violation {
            control: "records".to_owned(),
            operation: "note".to_owned(),
            target: program.to_owned(),
            reason: format!(
                "{program} was refused more than is told one by one; what comes after {MOST} of one program is not"
            ),
            allow_with: None,
        });
    }
}

/// Whether the command could have made this file itself.
fn is_its_own(plan: &Plan, path: &Path) -> bool {
    // Without a name it lies in memory.
    let nowhere = path.to_string_lossy().ends_with(" (deleted)");
    nowhere || plan.explain(&Query::Write(path.into())).allowed
}

fn own(plan: &Plan, path: &Path, program: &str) -> Violation {
    // Private directories and files in memory have no such line.
    let directory = path
        .parent()
        .filter(|directory| directory.starts_with(plan.workspace()));
    Violation {
        control: "exec".to_owned(),
        operation: "exec".to_owned(),
        target: path.display().to_string(),
        reason: format!("{program} wanted it; what the command can write is not executable"),
        allow_with: directory.map(|directory| {
            let directory = shorten(&plan.0, directory);
            format!("[filesystem] exec_from = [{}]", quoted(&directory))
        }),
    }
}

/// The refusal, if there was one.
fn missed(plan: &Plan, want: Want, path: &Path, program: &str) -> Option<Violation> {
    let shown = path.to_str()?;
    // A program is looked for in every directory of the search path, by some
    // with other calls first.
    let wanted_program = match want {
        Want::Execute => is_program(path),
        Want::Look => {
            is_program(path)
                && path
                    .parent()
                    .is_some_and(|parent| plan.0.searched.iter().any(|known| known == parent))
        }
        _ => false,
    };
    if wanted_program {
        return program_missed(plan, path, program);
    }
    let (answer, key, done) = match want {
        Want::Execute => return None,
        Want::Write => {
            // What it wanted to make need not be there, but where.
            path.parent()?.canonicalize().ok()?;
            (plan.explain(&Query::Write(path.into())), "write", "write")
        }
        Want::Read | Want::Look => {
            path.canonicalize().ok()?;
            let done = if want == Want::Read { "read" } else { "look" };
            (plan.explain(&Query::Read(path.into())), "read", done)
        }
    };
    let violation = answer.violation()?;
    // What is not there yet is made in a directory, which is what a rule names.
    let opens = match path.symlink_metadata() {
        Err(_) if want == Want::Write => path.parent()?.to_str()?,
        _ => shown,
    };
    // A hidden or protected place is so on purpose; another line is none.
    let opened = violation
        .allow_with
        .as_ref()
        .is_some_and(|line| line.starts_with('['));
    let allow_with = match opened {
        true => Some(format!("[filesystem] {key} = [{}]", quoted(opens))),
        false => violation.allow_with,
    };
    Some(Violation {
        operation: done.to_owned(),
        target: shown.to_owned(),
        reason: format!("{program} wanted it; {}", violation.reason),
        allow_with,
        ..violation
    })
}

fn program_missed(plan: &Plan, path: &Path, program: &str) -> Option<Violation> {
    // Its line would be of no use where another rule hides it.
    let read = plan.explain(&Query::Read(path.into()));
    let hides = |line: &String| !line.starts_with('[');
    if read.allow_with.as_ref().is_some_and(hides) {
        let rule = read.rule;
        return Some(Violation {
            control: "exec".to_owned(),
            operation: "exec".to_owned(),
            target: path.display().to_string(),
            reason: format!("{program} wanted it; {rule}"),
            allow_with: read.allow_with,
        });
    }
    let by_path = plan.explain(&Query::Exec(vec![path.into()]));
    let Answer { rule, .. } = by_path;
    let real = path.canonicalize().ok()?;
    let mut known = plan.0.programs.iter();
    let known = known.find(|known| known.path == real);
    let rule = match known.map(|known| &known.gate) {
        None => rule,
        Some(Gate::Rules(_)) => {
            "only commands that start under a rule that names it may start it".to_owned()
        }
        Some(_) => return None,
    };
    let name = path.file_name()?.to_str()?;
    let mut found = plan.0.searched.iter().map(|directory| directory.join(name));
    let first = found.find(|found| is_program(found));
    // A name means the first of that name.
    let word = match first {
        Some(first) if first == path => name,
        Some(first) if first.canonicalize().is_ok_and(|first| first == real) => name,
        _ => path.to_str()?,
    };
    Some(Violation {
        control: "exec".to_owned(),
        operation: "exec".to_owned(),
        target: path.display().to_string(),
        reason: format!("{program} wanted it; {rule}"),
        allow_with: Some(format!("[commands] allow = [{}]", quoted(word))),
    })
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
