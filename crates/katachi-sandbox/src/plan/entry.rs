//! One place in the command's file system.

use std::path::{Path, PathBuf};

use super::pin::Pin;

/// What is found at one path inside.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) target: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) access: Access,
    /// Whether it guards something inside a writable directory, and is a mount
    /// of its own even where it changes no access: a mount cannot be renamed.
    pub(crate) protects: bool,
    /// The rule that put it there, as the policy wrote it.
    pub(crate) rule: String,
}

/// What is hidden when it appears.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Late {
    /// For absolute paths.
    pub(crate) pattern: String,
    /// Visible directories in which it can appear.
    pub(crate) roots: Vec<PathBuf>,
}

/// Where the content comes from.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// The file or directory of the same path outside.
    Host(Pin),
    /// A directory of the same path outside that does not exist yet: made
    /// empty for the run and removed afterwards.
    Placeholder,
    /// An empty directory in memory, gone with the command.
    Private,
    /// Something unreadable and empty in place of a directory.
    HiddenDirectory,
    /// Something unreadable and empty in place of a file.
    HiddenFile,
}

/// What may be done below an entry. Reading is always included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) write: bool,
    /// Files can be mapped as code: loaded as libraries and, where a program
    /// rule or `exec_from` says so, executed.
    pub(crate) load: bool,
}

impl Access {
    pub(crate) const READ: Self = Self {
        write: false,
        load: false,
    };
    pub(crate) const WRITE: Self = Self {
        write: true,
        load: false,
    };
    pub(crate) const LOAD: Self = Self {
        write: false,
        load: true,
    };
}

impl Entry {
    pub(crate) fn is_hidden(&self) -> bool {
        matches!(self.kind, Kind::HiddenDirectory | Kind::HiddenFile)
    }

    /// Whether the entry is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        match &self.kind {
            Kind::Host(pin) => pin.directory,
            Kind::Placeholder | Kind::Private | Kind::HiddenDirectory => true,
            Kind::HiddenFile => false,
        }
    }
}

/// The deepest of `entries` at or above `path`. They are sorted by depth, and
/// of two for one target the later one lies on top.
pub(crate) fn covering<'a>(entries: &'a [Entry], path: &Path) -> Option<&'a Entry> {
    entries
        .iter()
        .filter(|entry| path.starts_with(&entry.target))
        .max_by_key(|entry| depth(&entry.target))
}

/// Components of an absolute path.
pub(crate) fn depth(path: &Path) -> usize {
    path.components().count()
}
