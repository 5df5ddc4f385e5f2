//! What a command looked for in vain, seen from outside: whether it is there
//! at all, and whether it was the policy that hid it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::message::Want;
use crate::plan::{Answer, Plan, Query};
use crate::report::Violation;

/// The refusal, if there was one.
pub(super) fn missed(plan: &Plan, want: Want, path: &Path, program: &str) -> Option<Violation> {
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
        true => Some(format!("[filesystem] {key} = [{opens:?}]")),
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
    let by_path = plan.explain(&Query::Exec(vec![path.into()]));
    let Answer { rule, .. } = by_path;
    let real = path.canonicalize().ok()?;
    if plan.0.programs.iter().any(|known| known.path == real) {
        return None;
    }
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
        allow_with: Some(format!("[commands] allow = [{word:?}]")),
    })
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
