//! From rules about arguments to the table that is asked at every start.
//!
//! A script never runs itself: what the kernel starts is its interpreter, with
//! the script's path put before the arguments. A rule about a script's
//! arguments therefore becomes a form of the interpreter.

use std::ffi::OsString;
use std::path::Path;

use super::image::Image;
use super::{Found, Gate, Rule, pin, search};
use crate::error::PlanError;
use crate::guard::{Executable, FileNumber, Form, Guards};
use crate::plan::build::Draft;
use crate::plan::options::ArgvRules;
use crate::plan::resolve;
use crate::policy::CommandRule;
use crate::report::Tier;

/// The table, if any rule needs one.
pub(in crate::plan) fn guards(
    draft: &mut Draft<'_>,
    tier: Tier,
) -> Result<Option<Guards>, PlanError> {
    let looks = |rule: &&Rule| {
        rule.ask || matches!(&rule.rule, CommandRule::Argv(words) if words.len() > 1)
    };
    let guarded: Vec<_> = draft.rules.iter().filter(looks).collect();
    // Without namespaces every process is looked at anyway.
    let every = draft.options.argv_rules == ArgvRules::EveryProcess || tier == Tier::Landlock;
    if guarded.is_empty() || !every {
        return Ok(None);
    }
    // By number: one file can have many names, as git's programs do.
    let guarded: Vec<FileNumber> = guarded
        .into_iter()
        .flat_map(|rule| rule.files.iter().map(|file| number(&file.real)))
        .collect::<Result<_, _>>()?;
    let mut guards = known(draft);
    let mut gaps = Vec::new();
    for rule in &draft.rules {
        for file in &rule.files {
            if !guarded.contains(&number(&file.real)?) {
                continue;
            }
            add(draft, &mut guards, rule, file, &mut gaps)?;
        }
    }
    for (tree, other) in &draft.exec_trees {
        let writable = draft
            .write_roots
            .iter()
            .any(|(root, _)| root.starts_with(tree) || tree.starts_with(root));
        let what = match writable {
            true => "a copy of a program as well",
            false => "unless it has the name of a program that a rule about arguments names",
        };
        gaps.push(format!(
            "what lies below {} runs with any arguments, {what}, because of {other}",
            tree.display()
        ));
    }
    gaps.sort();
    gaps.dedup();
    draft.gaps.extend(gaps.into_iter().map(|gap| ("argv", gap)));
    Ok(Some(guards))
}

/// Every program with any arguments: for a tracer that looks at files alone.
pub(in crate::plan) fn known(draft: &Draft<'_>) -> Guards {
    let mut guards = Guards::default();
    for program in &draft.programs {
        let number = (program.pin.device, program.pin.inode);
        guards.entry(number).free |= program.gate == Gate::Always;
    }
    guards
}

fn number(path: &Path) -> Result<FileNumber, PlanError> {
    pin(path).map(|pin| (pin.device, pin.inode))
}

/// Adds what `rule` allows of `file`.
fn add(
    draft: &Draft<'_>,
    guards: &mut Guards,
    rule: &Rule,
    file: &Found,
    gaps: &mut Vec<String>,
) -> Result<(), PlanError> {
    let wanted: Vec<OsString> = match &rule.rule {
        CommandRule::Argv(words) => words.iter().skip(1).map(Into::into).collect(),
        _ => Vec::new(),
    };
    let form = |before: &[&std::ffi::OsStr], script| Form {
        words: before
            .iter()
            .map(|word| (*word).to_owned())
            .chain(wanted.iter().cloned())
            .collect(),
        script,
        ask: rule.ask,
        rule: rule.text.clone(),
        ..Form::default()
    };
    let Image::Script {
        interpreter,
        argument,
        option,
    } = Image::read(&file.real)
    else {
        let executable = guards.entry(number(&file.real)?);
        executable.guarded = true;
        let names = super::decide::names(&draft.rules, file);
        executable.forms.push(Form {
            names: names.into_iter().map(Into::into).collect(),
            ..form(&[], None)
        });
        return Ok(());
    };
    let missing = |problem: String| PlanError::NotEnforceable {
        rule: rule.text.clone(),
        problem,
        next_step: format!("allow {:?} with any arguments", rule.rule.program()),
    };
    let shown = file.real.display();
    let resolved = resolve::follow(&interpreter).map_err(|error| {
        missing(format!(
            "the interpreter of {shown} cannot be found: {error}"
        ))
    })?;
    if matches!(Image::read(&resolved.path), Image::Script { .. }) {
        return Err(missing(format!("the interpreter of {shown} is a script")));
    }
    let first = number(&resolved.path)?;
    let through_env = interpreter.file_name().is_some_and(|name| name == "env");
    // A link that the command can change leads wherever it wants.
    let steady = |path: &&&std::path::PathBuf| {
        !draft
            .write_roots
            .iter()
            .any(|(root, _)| path.starts_with(root))
    };
    let scripts: Vec<_> = [&file.found, &file.real]
        .iter()
        .filter(steady)
        .copied()
        .collect();
    let mut name_gap = |executable: &Executable, path: &Path| {
        if executable.free {
            gaps.push(format!(
                "{}: another rule allows {} with any arguments, so it can read the script and act upon other arguments",
                rule.text,
                path.display()
            ));
        }
    };
    let last = if through_env {
        let name = argument
            .filter(|name| option.as_ref() == Some(name))
            .ok_or_else(|| missing(format!("{shown} calls env with more than a name")))?;
        let found = search(&draft.search_path, &name)
            .ok_or_else(|| missing(format!("{shown} is for {name}, which is not installed")))?;
        if matches!(Image::read(&found.real), Image::Script { .. }) {
            return Err(missing(format!("the interpreter of {shown} is a script")));
        }
        let env = guards.entry(first);
        for script in &scripts {
            // Somebody is asked when the interpreter starts, not before.
            env.forms.push(Form {
                ask: false,
                ..form(&[name.as_ref(), script.as_os_str()], Some(1))
            });
        }
        name_gap(env, &resolved.path);
        let executable = guards.entry(number(&found.real)?);
        for script in &scripts {
            executable.forms.push(form(&[script.as_os_str()], Some(0)));
        }
        (executable, found.real)
    } else {
        let executable = guards.entry(first);
        for script in &scripts {
            let script = script.as_os_str();
            executable.forms.push(match &option {
                Some(option) => form(&[option.as_ref(), script], Some(1)),
                None => form(&[script], Some(0)),
            });
        }
        (executable, resolved.path)
    };
    name_gap(last.0, &last.1);
    Ok(())
}
