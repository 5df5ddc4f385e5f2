//! Whether a command may start, and where: the same on every system.

use std::path::{Path, PathBuf};

use crate::approval::Question;
use crate::command::Command;
use crate::error::SpawnError;
use crate::guard::command_line;
use crate::plan::{Decision, Inner, Kind, covering};
use crate::report::Violation;

/// A command that may start.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) directory: PathBuf,
    /// As it was found, so that links and multi-call names keep working.
    pub(crate) program: PathBuf,
    /// With every link followed.
    pub(crate) real: PathBuf,
    /// The rule that allows it; `None` for a file below `exec_from`.
    pub(crate) rule: Option<usize>,
    /// The rule because of which somebody approved it.
    pub(crate) approved: Option<String>,
}

/// Decides, and asks the caller where a rule wants that.
pub(crate) fn admit(command: &Command) -> Result<Admitted, SpawnError> {
    let inner = &command.plan.0;
    let directory = directory(inner, command.current_dir.as_deref())?;
    let may_approve = command.approved || command.approver.is_some();
    let decided = inner.decide(&command.argv, &directory, may_approve);
    let (program, real, rule) = match decided {
        Decision::Run {
            program,
            real,
            rule,
        } => (program, real, rule),
        Decision::Denied(violation) => return Err(SpawnError::Denied(Box::new(violation))),
    };
    let asking = rule.map(|rule| &inner.rules[rule]).filter(|rule| rule.ask);
    if let Some(rule) = asking
        && !command.approved
        && !ask(command, &program, &rule.text)
    {
        return Err(SpawnError::Denied(Box::new(Violation {
            control: "exec".to_owned(),
            operation: "exec".to_owned(),
            target: command_line(&command.argv),
            reason: format!("{} was asked about and refused", rule.text),
            allow_with: None,
        })));
    }
    let approved = asking.map(|rule| rule.text.clone());
    Ok(Admitted {
        directory,
        program,
        real,
        rule,
        approved,
    })
}

/// Asks the caller about the command itself.
fn ask(command: &Command, program: &Path, rule: &str) -> bool {
    let question = Question {
        program: program.to_owned(),
        argv: command.argv.clone(),
        rule: rule.to_owned(),
    };
    command
        .approver
        .as_ref()
        .is_some_and(|approver| approver.approves(&question))
}

/// Where the command starts: inside, and never more than the plan shows.
fn directory(plan: &Inner, wanted: Option<&Path>) -> Result<PathBuf, SpawnError> {
    // Below a private directory, what exists outside does not exist inside.
    let inside = |path: &Path| {
        covering(&plan.entries, path).is_some_and(|entry| match entry.kind {
            Kind::Host(_) => true,
            Kind::Private => entry.target == path,
            _ => false,
        })
    };
    let Some(wanted) = wanted else {
        let leads_somewhere = |path: &Path| {
            plan.entries
                .iter()
                .any(|entry| entry.target != path && entry.target.starts_with(path))
        };
        // A workspace that no rule opens is not there; the root always is.
        return Ok(
            if inside(&plan.workspace) || leads_somewhere(&plan.workspace) {
                plan.workspace.clone()
            } else {
                PathBuf::from(std::path::MAIN_SEPARATOR_STR)
            },
        );
    };
    let request = |problem: String| SpawnError::Request {
        problem,
        next_step: "start in the workspace, or open the directory in the policy".to_owned(),
    };
    let place = plan.workspace.join(wanted);
    let real = crate::plan::follow(&place)
        .map_err(|error| request(format!("{}: {error}", place.display())))?
        .path;
    if inside(&real) {
        Ok(real)
    } else {
        Err(request(format!(
            "the policy does not open {}",
            real.display()
        )))
    }
}
