//! Whether a command may start, decided before anything is started.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::{Found, search};
use crate::guard::{Place, Ruling, allow_with, command_line};
use crate::plan::entry::{Entry, covering};
use crate::plan::{Inner, resolve};
use crate::report::Violation;

/// The answer for one argv.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Start this file.
    Run {
        /// As it was found, so that links and multi-call names keep working.
        program: PathBuf,
        /// With every link followed.
        real: PathBuf,
        /// The rule that allows it; `None` for a file below `exec_from`.
        rule: Option<usize>,
    },
    /// Do not.
    Denied(Violation),
}

impl Inner {
    /// Decides about the command itself. What it may start in turn follows
    /// from the rule.
    pub(crate) fn decide(&self, argv: &[OsString], directory: &Path, approved: bool) -> Decision {
        let Some(word) = argv.first() else {
            return self.denied("", "the command is empty".to_owned(), None);
        };
        let shown = word.to_string_lossy().into_owned();
        let Some(found) = self.find(word, directory) else {
            return self.denied(
                &shown,
                format!(
                    "there is no program {shown:?} in the search path, or it is not executable"
                ),
                None,
            );
        };
        // Asking comes first: a rule to ask about is narrower than the rule
        // that allows.
        let asked = found.found.file_name();
        let named = |rule: &&super::Rule| {
            let mut files = rule.files.iter();
            files.any(|file| {
                file.real == found.real
                    && names(&self.rules, file)
                        .into_iter()
                        .any(|name| Some(name) == asked)
            })
        };
        let by_name = self
            .rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| named(rule));
        let fits = |rule: &super::Rule| rule.rule.matches_arguments(&argv[1..]);
        let ask = by_name.clone().filter(|(_, rule)| rule.ask);
        let mut allow = by_name.clone().filter(|(_, rule)| !rule.ask);
        let allowed = allow.find(|(_, rule)| fits(rule)).map(|(index, _)| index);
        // What another rule allows is asked about wherever the words stand.
        let asks = |rule: &super::Rule| {
            fits(rule) || (allowed.is_some() && rule.rule.is_among(&argv[1..]))
        };
        let asked = ask.clone().find(|(_, rule)| fits(rule));
        let asked = asked.or_else(|| ask.clone().find(|(_, rule)| asks(rule)));
        let mut rule = asked.map(|(index, _)| index).or(allowed);
        if rule.is_none()
            && let Some(place) = self.place(&found.real)
        {
            if let Some(reason) = self.closes(&found.real) {
                return self.denied(&shown, reason, None);
            }
            match self.in_tree(&found.real, argv, place) {
                Ruling::Allow => {
                    return Decision::Run {
                        program: found.found,
                        real: found.real,
                        rule: None,
                    };
                }
                Ruling::Ask(form) => {
                    let text = &form.rule;
                    rule = self.rules.iter().position(|rule| rule.text == *text);
                }
                Ruling::Deny(reason) => {
                    return self.denied(&command_line(argv), reason, Some(allow_with(argv)));
                }
            }
        }
        if let Some(index) = rule {
            if self.rules[index].ask && !approved {
                let reason = format!(
                    "{} needs approval for each start, and nobody gave it",
                    self.rules[index].text
                );
                return self.denied(&command_line(argv), reason, None);
            }
            return Decision::Run {
                program: found.found,
                real: found.real,
                rule: Some(index),
            };
        }
        let near: Vec<&str> = by_name
            .filter(|(_, rule)| !rule.ask)
            .map(|(_, rule)| rule.text.as_str())
            .collect();
        if near.is_empty() {
            let reason = format!("no rule of commands.allow names {}", found.real.display());
            let allow_with = format!("[commands] allow = [{shown:?}]");
            return self.denied(&shown, reason, Some(allow_with));
        }
        let reason = format!("the arguments do not start as {} wants", near.join(" or "));
        self.denied(&command_line(argv), reason, Some(allow_with(argv)))
    }

    /// Where a program lies in a directory whose files can all be executed.
    fn place<'a>(&self, real: &'a Path) -> Option<Place<'a>> {
        let mut trees = self.exec_trees.iter();
        let (tree, _) = trees.find(|(tree, _)| real.starts_with(tree))?;
        Some(match real.file_name() {
            Some(name) if self.is_fixed(tree) => Place::Named(name),
            _ => Place::Tree,
        })
    }

    /// Why a file in such a directory cannot be executed all the same: something
    /// else lies there, or what lies there is not for executing.
    fn closes(&self, real: &Path) -> Option<String> {
        let above = covering(&self.entries, real)?;
        // Without mounts nothing but hiding takes away what the directory has.
        let loads = above.access.load || self.floor.is_some();
        match above.is_hidden() {
            true => Some(format!("{} hides it", above.rule)),
            false if !loads => Some(format!("{} does not let it be executed", above.rule)),
            false => None,
        }
    }

    /// What is decided about it at each start.
    fn in_tree(&self, real: &Path, argv: &[OsString], place: Place<'_>) -> Ruling<'_> {
        let Some(guards) = &self.guards else {
            return Ruling::Allow;
        };
        match crate::plan::files::pin(real) {
            Ok(pin) => guards.rule_on((pin.device, pin.inode), argv, place),
            Err(error) => Ruling::Deny(error.to_string()),
        }
    }

    /// Whether nothing in this directory can be written.
    pub(crate) fn is_fixed(&self, tree: &Path) -> bool {
        let writable = |entry: &Entry| entry.access.write;
        let mut below = self
            .entries
            .iter()
            .filter(|entry| entry.target.starts_with(tree));
        !covering(&self.entries, tree).is_some_and(writable) && !below.any(writable)
    }

    fn find(&self, word: &OsString, directory: &Path) -> Option<Found> {
        if !word.to_string_lossy().contains(std::path::is_separator) {
            // The rules' own directories first, then a look outside for a
            // better reason.
            let name = word.to_str()?;
            return search(&self.search_path, name).or_else(|| {
                let path = std::env::var_os("PATH")?;
                search(&std::env::split_paths(&path).collect::<Vec<_>>(), name)
            });
        }
        let found = directory.join(word);
        let real = resolve::follow(&found).ok()?.path;
        super::is_executable(&real).then_some(Found { found, real })
    }

    fn denied(&self, target: &str, reason: String, allow_with: Option<String>) -> Decision {
        Decision::Denied(Violation {
            control: "exec".to_owned(),
            operation: "exec".to_owned(),
            target: target.to_owned(),
            reason,
            allow_with,
        })
    }
}

/// What a program that a rule names may be called: as the rule does, and as
/// the file it leads to is called, unless that is another program to a rule of
/// its own. `git-receive-pack` leads to `git` and is not all of it.
pub(super) fn names<'a>(rules: &[super::Rule], file: &'a Found) -> Vec<&'a OsStr> {
    let (named, real) = (file.found.file_name(), file.real.file_name());
    let another = || {
        let mut files = rules.iter().flat_map(|rule| &rule.files);
        files.any(|other| other.real == file.real && other.found.file_name() == real)
    };
    let real = real.filter(|_| real != named && !another());
    named.into_iter().chain(real).collect()
}

/// Two ways to the same program. The name counts too: one file can be many
/// programs that go by the name they are called with.
pub(super) fn same(rule: &Found, asked: &Found) -> bool {
    rule.real == asked.real
        && (rule.found.file_name() == asked.found.file_name()
            || rule.real.file_name() == asked.found.file_name())
}
