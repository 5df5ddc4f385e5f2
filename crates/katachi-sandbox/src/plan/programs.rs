//! From the rules of `commands` to the files the kernel lets be executed.
//!
//! A program needs more than its own file: a script needs its interpreter, a
//! dynamic program its loader. Those are added with the rule that needs them,
//! and a loader that the policy does not make visible is an error now and not
//! a puzzle at run time.

mod decide;
mod forms;
mod image;

pub(crate) use decide::Decision;
pub(super) use forms::{guards, known};

use std::path::{Path, PathBuf};

use super::build::Draft;
use super::entry::{Access, Kind, covering};
use super::files::{find_bundle, pin, sorted};
use super::options::ArgvRules;
use super::pin::Pin;
use super::resolve;
use crate::error::PlanError;
use crate::policy::CommandRule;
use crate::suggest::closest;
use image::Image;

/// A file that can be executed.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Canonical.
    pub(crate) path: PathBuf,
    pub(crate) pin: Pin,
    pub(crate) gate: Gate,
    pub(crate) rule: String,
}

/// When a program can be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// By the command and all it starts.
    Always,
    /// Only in a run that started under one of these rules.
    Rules(Vec<usize>),
    /// By everything, if its arguments pass a check at each start.
    Checked,
    /// By the kernel, to start another program; by name it is checked too.
    Loader,
}

impl Gate {
    pub(crate) fn opens_for(&self, rule: usize) -> bool {
        match self {
            Self::Always | Self::Checked | Self::Loader => true,
            Self::Rules(rules) => rules.contains(&rule),
        }
    }

    fn widen(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Always, _) => {}
            (_, Self::Always) => *self = Self::Always,
            (Self::Rules(mine), Self::Rules(others)) => mine.extend(others),
            // Kept from others it could start nothing for them.
            (Self::Loader, Self::Rules(_)) | (_, Self::Loader) => {}
            (_, Self::Checked) => *self = Self::Checked,
            (Self::Checked, Self::Rules(_)) => {}
        }
    }
}

/// One rule of `commands.allow` or `commands.ask`.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) rule: CommandRule,
    /// With its key, as errors and reports show it.
    pub(crate) text: String,
    /// Whether it stands under `ask`.
    pub(crate) ask: bool,
    pub(crate) files: Vec<Found>,
}

/// A program as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// In the search path, or as the rule names it.
    pub(crate) found: PathBuf,
    /// With every link followed.
    pub(crate) real: PathBuf,
}

pub(super) fn resolve(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let commands = &draft.policy.commands;
    let asked = asked(draft)?;
    let rules = commands.allow.iter().map(|rule| (rule, false));
    for (rule, ask) in rules.chain(commands.ask.iter().map(|rule| (rule, true))) {
        let text = format!("commands.{} = {rule}", if ask { "ask" } else { "allow" });
        let limited = matches!(rule, CommandRule::Argv(words) if words.len() > 1);
        let index = draft.rules.len();
        let everywhere = draft.options.argv_rules == ArgvRules::EveryProcess;
        let gate = match ask || limited {
            true if everywhere => Gate::Checked,
            true => Gate::Rules(vec![index]),
            false => Gate::Always,
        };
        let files = files_of(draft, rule, &text)?;
        for file in &files {
            // Asking narrows: a program that needs approval is not opened for
            // everything else by a rule beside it.
            if ask || !asked.iter().any(|program| decide::same(program, file)) {
                admit(draft, &file.found, &gate, &text, 0)?;
            }
        }
        if limited && !everywhere {
            draft.gaps.push((
                "argv",
                format!("{text}: the arguments of the command itself are checked, those of programs it starts are not"),
            ));
        }
        draft.rules.push(Rule {
            rule: rule.clone(),
            text,
            ask,
            files,
        });
    }
    report_unasked(draft);
    Ok(())
}

fn files_of(
    draft: &mut Draft<'_>,
    rule: &CommandRule,
    text: &str,
) -> Result<Vec<Found>, PlanError> {
    Ok(match rule {
        CommandRule::Name(name) if name.starts_with('@') => bundle(draft, name, text)?,
        CommandRule::File { path, sha256 } => {
            let path = draft.workspace.join(path);
            let found = at(&path, text)?;
            check_digest(&found.real, sha256.as_deref(), text)?;
            vec![found]
        }
        named => vec![lookup(draft, named.program(), text)?],
    })
}

/// Programs that need approval whatever their arguments.
fn asked(draft: &mut Draft<'_>) -> Result<Vec<Found>, PlanError> {
    let mut asked = Vec::new();
    for rule in &draft.policy.commands.ask {
        if !matches!(rule, CommandRule::Argv(words) if words.len() > 1) {
            asked.extend(files_of(draft, rule, &format!("commands.ask = {rule}"))?);
        }
    }
    Ok(asked)
}

/// Says which programs that need approval can be started by others without.
fn report_unasked(draft: &mut Draft<'_>) {
    for rule in draft.rules.iter().filter(|rule| rule.ask) {
        for file in &rule.files {
            let opened_by = draft
                .programs
                .iter()
                .filter(|_| draft.options.argv_rules == ArgvRules::FirstProcess)
                .find(|program| program.path == file.real && program.gate == Gate::Always)
                .map(|program| &program.rule);
            let tree = draft
                .exec_trees
                .iter()
                .find(|(tree, _)| file.real.starts_with(tree))
                .map(|(_, rule)| rule);
            if let Some(other) = opened_by.or(tree) {
                draft.gaps.push((
                    "exec",
                    format!(
                        "{}: other programs can start {} without approval, because of {other}",
                        rule.text,
                        file.real.display()
                    ),
                ));
            }
        }
    }
}

fn bundle(draft: &mut Draft<'_>, name: &str, text: &str) -> Result<Vec<Found>, PlanError> {
    let bundle = find_bundle(name, text)?;
    draft.open_bundle(bundle, text)?;
    let files: Vec<Found> = bundle
        .programs
        .iter()
        .filter_map(|name| search(&draft.search_path, name))
        .collect();
    let writable: Vec<PathBuf> = draft
        .write_roots
        .iter()
        .map(|(root, _)| root.clone())
        .collect();
    let files: Vec<Found> = files
        .into_iter()
        .filter(|file| !writable.iter().any(|root| file.real.starts_with(root)))
        .collect();
    if files.is_empty() {
        return Err(PlanError::Missing {
            rule: text.to_owned(),
            problem: format!(
                "none of its programs ({}) is installed",
                bundle.programs.join(", ")
            ),
            next_step: "install what it is about, or remove the rule".to_owned(),
        });
    }
    Ok(files)
}

fn lookup(draft: &Draft<'_>, name: &str, text: &str) -> Result<Found, PlanError> {
    if name.contains(std::path::is_separator) {
        return at(&draft.absolute(name, text)?, text);
    }
    search(&draft.search_path, name).ok_or_else(|| {
        let mut known: Vec<String> = Vec::new();
        for directory in &draft.search_path {
            let list = std::fs::read_dir(directory).into_iter().flatten().flatten();
            known.extend(list.filter_map(|entry| entry.file_name().into_string().ok()));
        }
        let next_step = match closest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("write {near:?}, or install {name}"),
            None => "install it, or name it by its absolute path".to_owned(),
        };
        PlanError::Missing {
            rule: text.to_owned(),
            problem: format!("there is no program {name:?} in the search path"),
            next_step,
        }
    })
}

fn at(path: &Path, text: &str) -> Result<Found, PlanError> {
    match resolve::follow(path) {
        Ok(resolved) if is_executable(&resolved.path) => Ok(Found {
            found: path.to_owned(),
            real: resolved.path,
        }),
        Ok(_) => Err(PlanError::Missing {
            rule: text.to_owned(),
            problem: format!("{} is not an executable file", path.display()),
            next_step: format!("chmod +x {}, or name another file", path.display()),
        }),
        Err(_) => Err(PlanError::Missing {
            rule: text.to_owned(),
            problem: format!("{} does not exist", path.display()),
            next_step: "install it, or name another file".to_owned(),
        }),
    }
}

pub(super) fn search(search_path: &[PathBuf], name: &str) -> Option<Found> {
    // Windows looks for both.
    let spelled = [name.to_owned(), format!("{name}.exe")];
    let names = &spelled[..1 + usize::from(cfg!(windows))];
    let mut places = search_path
        .iter()
        .flat_map(|directory| names.iter().map(|name| directory.join(name)));
    places.find_map(|found| {
        let real = resolve::follow(&found).ok()?.path;
        is_executable(&real).then_some(Found { found, real })
    })
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Scripts are left out: what they are started by reads their arguments as it
/// likes.
#[cfg(not(unix))]
fn is_executable(path: &Path) -> bool {
    let programs = ["exe", "com"];
    path.is_file()
        && path.extension().is_some_and(|extension| {
            programs
                .iter()
                .any(|known| extension.eq_ignore_ascii_case(known))
        })
}

fn check_digest(path: &Path, wanted: Option<&str>, text: &str) -> Result<(), PlanError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let content = std::fs::read(path).map_err(|source| PlanError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let seen = crate::digest::hex(&content);
    if seen.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    Err(PlanError::Contradiction {
        rule: text.to_owned(),
        other: path.display().to_string(),
        problem: format!("the file's SHA-256 is {seen}"),
        next_step: "find out why it changed; if it is right, write this digest".to_owned(),
    })
}

/// Makes one program executable, with its interpreter.
fn admit(
    draft: &mut Draft<'_>,
    path: &Path,
    gate: &Gate,
    rule: &str,
    depth: u8,
) -> Result<(), PlanError> {
    let resolved = resolve::follow(path).map_err(|source| PlanError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let real = resolved.path;
    let writable = draft
        .write_roots
        .iter()
        .find(|(root, _)| real.starts_with(root));
    let may_be_written = draft
        .exec_trees
        .iter()
        .any(|(tree, _)| real.starts_with(tree));
    if let Some((_, other)) = writable.filter(|_| !may_be_written) {
        return Err(PlanError::Contradiction {
            rule: rule.to_owned(),
            other: other.clone(),
            problem: format!("the command could replace {}", real.display()),
            next_step: "move the program out of the writable directory, or name its directory in \
                        filesystem.exec_from"
                .to_owned(),
        });
    }
    draft.links.extend(resolved.links);
    if let Some(known) = draft
        .programs
        .iter_mut()
        .find(|program| program.path == real)
    {
        known.gate.widen(gate);
    } else {
        let pin = pin(&real)?;
        let loadable = covering(&sorted(&draft.entries), &real)
            .is_some_and(|entry| matches!(entry.kind, Kind::Host(_)) && entry.access.load);
        if !loadable {
            draft.add(real.clone(), Kind::Host(pin.clone()), Access::LOAD, rule);
        }
        draft.programs.push(Program {
            path: real.clone(),
            pin,
            gate: gate.clone(),
            rule: rule.to_owned(),
        });
    }
    if depth == 4 {
        return Ok(());
    }
    match Image::read(&real) {
        Image::Script {
            interpreter,
            argument,
            option: _,
        } => {
            let reason = format!("{rule}, as the interpreter of {}", real.display());
            if !interpreter.exists() {
                return Err(PlanError::Missing {
                    rule: rule.to_owned(),
                    problem: format!(
                        "{} is a script for {}, which does not exist",
                        real.display(),
                        interpreter.display()
                    ),
                    next_step: "install the interpreter".to_owned(),
                });
            }
            admit(draft, &interpreter, gate, &reason, depth + 1)?;
            let through_env = interpreter.file_name().is_some_and(|name| name == "env");
            if let Some(found) = argument
                .filter(|_| through_env)
                .and_then(|name| search(&draft.search_path, &name))
            {
                admit(draft, &found.found, gate, &reason, depth + 1)?;
            }
        }
        Image::Dynamic { loader } => {
            if let Ok(resolved) = resolve::follow(&loader) {
                draft.links.extend(resolved.links);
                let known = draft
                    .programs
                    .iter()
                    .any(|program| program.path == resolved.path);
                if !known {
                    draft.programs.push(Program {
                        pin: pin(&resolved.path)?,
                        path: resolved.path,
                        gate: Gate::Loader,
                        rule: format!("{rule}, as the loader of {}", real.display()),
                    });
                }
            }
        }
        Image::Other => {}
    }
    Ok(())
}

/// Every program's loader must be visible, and loadable, inside.
pub(super) fn check_loaders(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let entries = sorted(&draft.entries);
    for program in &draft.programs {
        let visible = covering(&entries, &program.path)
            .is_some_and(|entry| matches!(entry.kind, Kind::Host(_)) && entry.access.load);
        if !visible {
            return Err(PlanError::Contradiction {
                rule: program.rule.clone(),
                other: "filesystem.read".to_owned(),
                problem: format!("{} is needed and not readable", program.path.display()),
                next_step: "add \"@system\" to filesystem.read".to_owned(),
            });
        }
    }
    Ok(())
}
