//! Files that have more than one name.
//!
//! What is written under one name is read under all, so a file can be written only
//! where each of its names can, and what is denied under one is denied under all that
//! the policy would show.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::FileType;
use std::path::{Path, PathBuf};

use super::build::Draft;
use super::entry::{Access, Entry, Kind};
use super::files::{hide, pin, refuse_to_hide, sorted};
use super::protect::{WALK_LIMIT, Walk};
use super::resolve;
use crate::error::PlanError;
use crate::glob::Glob;

/// Files that get a mount of their own, before whole directories are made read-only
/// instead.
const MOUNTS: usize = 200;

/// A file by its device and inode.
type Inode = (u64, u64);
/// A name by the directory that it stands in, so that a place which is seen by two paths
/// is one.
type Name = (Inode, OsString);

/// Files with more than one name, as a look through the writable directories finds them.
#[derive(Debug, Default)]
pub(super) struct Linked(BTreeMap<Inode, File>);

#[derive(Debug, Default)]
struct File {
    /// How many names it has, wherever they are.
    names: u64,
    seen: BTreeMap<PathBuf, Name>,
}

impl Linked {
    /// Takes a file that was seen.
    pub(super) fn note(&mut self, path: &Path) {
        let (Some((inode, names)), Some(parent), Some(name)) =
            (look(path), path.parent(), path.file_name())
        else {
            return;
        };
        if let (true, Some((parent, _))) = (names > 1, look(parent)) {
            let file = self.0.entry(inode).or_default();
            file.names = names;
            file.seen.insert(path.to_owned(), (parent, name.to_owned()));
        }
    }
}

#[cfg(unix)]
fn look(path: &Path) -> Option<(Inode, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some(((metadata.dev(), metadata.ino()), metadata.nlink()))
}

#[cfg(not(unix))]
fn look(_path: &Path) -> Option<(Inode, u64)> {
    None
}

/// Guards what was seen, once everything else has its entries.
pub(super) fn guard(draft: &mut Draft<'_>, linked: &Linked) -> Result<(), PlanError> {
    hide_names(draft)?;
    keep_names(draft, linked)
}

/// The deepest entry at or above a path.
struct Covers<'a>(HashMap<&'a Path, &'a Entry>);

impl<'a> Covers<'a> {
    /// Of two `entries` for one target the later lies on top.
    fn of(entries: &'a [Entry]) -> Self {
        let all = entries.iter();
        Self(all.map(|entry| (entry.target.as_path(), entry)).collect())
    }

    fn at(&self, path: &Path) -> Option<&'a Entry> {
        path.ancestors()
            .find_map(|above| self.0.get(above))
            .copied()
    }
}

/// Hides the other names of what the policy denies under one.
fn hide_names(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let hidden = denied_files(draft)?;
    if hidden.is_empty() {
        return Ok(());
    }
    let mut names = Vec::new();
    let mut walk = Walk::of(draft);
    let mut complete = true;
    let roots = draft.read_roots.iter().chain(&draft.write_roots);
    for (root, _) in roots.chain(&draft.exec_trees) {
        let mut visit = |path: &Path, kind: FileType| {
            let file = look(path).filter(|_| kind.is_file());
            names.extend(
                file.and_then(|(inode, _)| Some((path.to_owned(), hidden.get(&inode)?.clone()))),
            );
            true
        };
        match root.symlink_metadata() {
            Ok(kind) if kind.is_file() => {
                visit(root, kind.file_type());
            }
            _ => complete &= walk.below(root, &mut visit),
        }
    }
    if !complete {
        return Err(too_many());
    }
    for (path, rule) in names {
        refuse_to_hide(draft, &path, &rule)?;
        hide(draft, path, &rule)?;
    }
    Ok(())
}

fn too_many() -> PlanError {
    PlanError::NotEnforceable {
        rule: "filesystem.deny".to_owned(),
        problem: format!(
            "a denied file has other names, which could not be found among more than {WALK_LIMIT} files"
        ),
        next_step:
            "name the directories that the command needs, or copy the file so that it has one name"
                .to_owned(),
    }
}

/// Files with more than one name that a rule denies, with that rule.
fn denied_files(draft: &Draft<'_>) -> Result<BTreeMap<Inode, String>, PlanError> {
    let mut found = BTreeMap::new();
    let mut note = |path: &Path, kind: FileType, rule: &str| {
        if let Some((inode, 2..)) = look(path).filter(|_| kind.is_file()) {
            found.insert(inode, rule.to_owned());
        }
    };
    for text in &draft.policy.filesystem.deny {
        let rule = format!("filesystem.deny = {text:?}");
        if Glob::is_pattern(text) {
            continue;
        }
        // Also where the place itself is not seen.
        let place = resolve::follow_existing(&draft.absolute(text, &rule)?);
        if let Ok(kind) = place.symlink_metadata() {
            note(&place, kind.file_type(), &rule);
        }
    }
    let denied = |entry: &&Entry| entry.is_hidden() && entry.rule.starts_with("filesystem.deny");
    let mut walk = Walk::default();
    for entry in draft.entries.iter().filter(denied) {
        let Ok(kind) = entry.target.symlink_metadata() else {
            continue;
        };
        note(&entry.target, kind.file_type(), &entry.rule);
        let mut visit = |path: &Path, kind: FileType| {
            note(path, kind, &entry.rule);
            true
        };
        if kind.is_dir() && !walk.below(&entry.target, &mut visit) {
            return Err(too_many());
        }
    }
    Ok(found)
}

/// Makes files read-only that have a name which cannot be written, or was not seen.
fn keep_names(draft: &mut Draft<'_>, linked: &Linked) -> Result<(), PlanError> {
    let entries = sorted(&draft.entries);
    let covers = Covers::of(&entries);
    let mut kept: Vec<(&PathBuf, &Entry)> = Vec::new();
    for file in linked.0.values() {
        let writable: Vec<_> = file
            .seen
            .iter()
            .filter_map(|(path, name)| Some((path, name, covers.at(path)?)))
            .filter(|(_, _, entry)| entry.access.write)
            .collect();
        let names: BTreeSet<&Name> = writable.iter().map(|(_, name, _)| *name).collect();
        if file.names > names.len() as u64 {
            kept.extend(writable.iter().map(|(path, _, entry)| (*path, *entry)));
        }
    }
    let whole = kept.len() > MOUNTS;
    let mut places: BTreeMap<PathBuf, bool> = BTreeMap::new();
    for (path, above) in kept {
        let place = match whole {
            true => below(&above.target, path),
            false => path.clone(),
        };
        let load = draft.exec_trees.iter().any(|(tree, _)| *tree == place);
        places.insert(place, if whole { load } else { above.access.load });
    }
    for (place, load) in places {
        if place.is_dir() {
            draft.gaps.push((
                "files",
                format!(
                    "{} is read-only although it lies in a writable directory: many of its files have other names elsewhere",
                    place.display()
                ),
            ));
        }
        let (pin, access) = (pin(&place)?, Access { write: false, load });
        let rule = "always, because the file has another name that cannot be written";
        draft.protect(place, Kind::Host(pin), access, rule);
    }
    Ok(())
}

/// The path to `path` cut after the first name below `top`.
fn below(top: &Path, path: &Path) -> PathBuf {
    let rest = path.strip_prefix(top).ok();
    let name = rest.and_then(|rest| rest.components().next());
    name.map_or_else(|| path.to_owned(), |name| top.join(name))
}
