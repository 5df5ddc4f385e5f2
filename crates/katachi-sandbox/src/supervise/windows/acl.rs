//! What is opened for an AppContainer, as entries in access lists.
//!
//! A directory that is opened passes its entries on to what lies in it and to
//! what is made there. What a plan closes inside of it gets an entry that denies,
//! which Windows reads first. Files in a directory that holds no programs are
//! opened without the right to execute them.

use std::path::{Path, PathBuf};

use crate::codec::{Reader, Writer};
use crate::plan::{Access, Entry, Inner, Kind, covering};

/// A file or directory whose access list is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) path: PathBuf,
    pub(crate) directory: bool,
    pub(crate) change: Change,
}

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Opened for reading, and for what is named.
    Open { write: bool, load: bool },
    /// What lies around it is open for more than it is.
    Close { write: bool, load: bool },
    /// Not there for the command.
    Hide,
    /// Neither moved nor removed.
    Stay,
}

/// One entry of a list, for the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ace {
    pub(crate) denies: bool,
    pub(crate) mask: u32,
    /// How it is passed on.
    pub(crate) flags: u32,
}

// winnt.h
const WRITE_DATA: u32 = 0x2;
const APPEND_DATA: u32 = 0x4;
const WRITE_EA: u32 = 0x10;
const EXECUTE: u32 = 0x20;
const DELETE_CHILD: u32 = 0x40;
const WRITE_ATTRIBUTES: u32 = 0x100;
const DELETE: u32 = 0x1_0000;
const WRITE_DAC: u32 = 0x4_0000;
const WRITE_OWNER: u32 = 0x8_0000;
const GENERIC_READ: u32 = 0x12_0089;
const GENERIC_WRITE: u32 = 0x12_0116;
const GENERIC_EXECUTE: u32 = 0x12_00a0;
const ALL: u32 = 0x1f_01ff;
/// To files in it.
const FILES: u32 = 0x1;
/// To directories in it.
const DIRECTORIES: u32 = 0x2;
/// Not to itself.
const INHERIT_ONLY: u32 = 0x8;

/// Everything that changes content, names or rights.
const CHANGING: u32 = WRITE_DATA
    | APPEND_DATA
    | WRITE_EA
    | DELETE_CHILD
    | WRITE_ATTRIBUTES
    | DELETE
    | WRITE_DAC
    | WRITE_OWNER;

impl Edit {
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.path(&self.path).flag(self.directory);
        let (kind, write, load) = match self.change {
            Change::Open { write, load } => (0, write, load),
            Change::Close { write, load } => (1, write, load),
            Change::Hide => (2, false, false),
            Change::Stay => (3, false, false),
        };
        writer.number(kind).flag(write).flag(load);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (path, directory) = (reader.path()?, reader.flag()?);
        let (kind, write, load) = (reader.number()?, reader.flag()?, reader.flag()?);
        let change = match kind {
            0 => Change::Open { write, load },
            1 => Change::Close { write, load },
            2 => Change::Hide,
            3 => Change::Stay,
            _ => return None,
        };
        Some(Self {
            path,
            directory,
            change,
        })
    }

    /// The entries for it.
    pub(crate) fn aces(&self) -> Vec<Ace> {
        let allow = |mask, flags| Ace {
            denies: false,
            mask,
            flags,
        };
        let deny = |mask, flags| Ace {
            denies: true,
            mask,
            flags,
        };
        let both = match self.directory {
            true => FILES | DIRECTORIES,
            false => 0,
        };
        match self.change {
            Change::Hide => vec![deny(ALL, both)],
            Change::Stay => vec![deny(DELETE | WRITE_DAC | WRITE_OWNER, 0)],
            Change::Close { write, load } => {
                let mut aces = Vec::new();
                if write {
                    aces.push(deny(CHANGING, both));
                }
                if load && self.directory {
                    // The same right of a directory lets names in it be used.
                    aces.push(deny(EXECUTE, FILES | INHERIT_ONLY));
                } else if load {
                    aces.push(deny(EXECUTE, 0));
                }
                aces
            }
            Change::Open { write, load } => {
                let mut file = GENERIC_READ;
                if write {
                    file |= GENERIC_WRITE;
                }
                if load {
                    file |= GENERIC_EXECUTE;
                }
                if !self.directory {
                    return vec![allow(file, 0)];
                }
                let directory = file | GENERIC_EXECUTE;
                // The place itself stays where the plan found it.
                let remove = if write { DELETE } else { 0 };
                vec![
                    allow(directory, 0),
                    allow(directory | remove, DIRECTORIES | INHERIT_ONLY),
                    allow(file | remove, FILES | INHERIT_ONLY),
                ]
            }
        }
    }
}

/// The edits for a plan, outermost first. Below `of_the_system` everything is
/// open to every AppContainer, and an ordinary user can change nothing.
pub(crate) fn edits(plan: &Inner, of_the_system: &[PathBuf], scratch: &Path) -> Vec<Edit> {
    let mut edits: Vec<Edit> = Vec::new();
    for (index, entry) in plan.entries.iter().enumerate() {
        let above = covering(&plan.entries[..index], &entry.target)
            .filter(|above| matches!(above.kind, Kind::Host(_)))
            .map(|above| above.access);
        let known = of_the_system
            .iter()
            .any(|directory| entry.target.starts_with(directory));
        edits.extend(changes(entry, above, known).into_iter().map(|change| Edit {
            path: entry.target.clone(),
            directory: entry.is_directory(),
            change,
        }));
    }
    edits.push(Edit {
        path: scratch.to_owned(),
        directory: true,
        change: Change::Open {
            write: true,
            load: false,
        },
    });
    edits
}

/// What a place needs, beside what lies around it.
fn changes(entry: &Entry, above: Option<Access>, known: bool) -> Vec<Change> {
    match entry.kind {
        Kind::Private | Kind::Placeholder => return Vec::new(),
        Kind::HiddenDirectory | Kind::HiddenFile if above.is_none() => return Vec::new(),
        Kind::HiddenDirectory | Kind::HiddenFile => return vec![Change::Hide],
        Kind::Host(_) if known => return Vec::new(),
        Kind::Host(_) => {}
    }
    let Access { write, load } = entry.access;
    let around = above.unwrap_or(Access::READ);
    let mut changes = Vec::new();
    let gains = above.is_none() || (write && !around.write) || (load && !around.load);
    if gains {
        changes.push(Change::Open { write, load });
    }
    let (less_write, less_load) = (around.write && !write, around.load && !load);
    if less_write || less_load {
        changes.push(Change::Close {
            write: less_write,
            load: less_load,
        });
    } else if entry.protects && write {
        changes.push(Change::Stay);
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::LateMatches;
    use crate::policy::GitAccess;
    use crate::{PlanOptions, Policy, Query};

    /// What Windows would decide for the container at `path`: entries of the
    /// place itself first, then those of the nearest directory that passes some
    /// on; in each, what denies comes first.
    fn allows(edits: &[Edit], path: &Path, directory: bool, wanted: u32) -> bool {
        let mut missing = wanted;
        for place in path.ancestors() {
            let own = place == path;
            let mut found: Vec<Ace> = edits
                .iter()
                .filter(|edit| edit.path == place)
                .flat_map(Edit::aces)
                .filter(|ace| match own {
                    true => ace.flags & INHERIT_ONLY == 0,
                    false => ace.flags & if directory { DIRECTORIES } else { FILES } != 0,
                })
                .collect();
            found.sort_by_key(|ace| !ace.denies);
            for ace in found {
                if ace.denies && ace.mask & missing != 0 {
                    return false;
                }
                if !ace.denies {
                    missing &= !ace.mask;
                }
                if missing == 0 {
                    return true;
                }
            }
        }
        false
    }

    #[test]
    fn the_lists_decide_as_the_plan_explains() {
        let kept = tempfile::tempdir().unwrap();
        let base = kept.path().canonicalize().unwrap();
        let workspace = base.join("workspace");
        let git = workspace.join(".git");
        for directory in [
            "docs",
            "target",
            "secrets",
            ".git/hooks",
            ".git/objects",
            ".git/refs",
        ] {
            std::fs::create_dir_all(workspace.join(directory)).unwrap();
        }
        std::fs::create_dir_all(base.join("outside")).unwrap();
        for file in [
            "a",
            "docs/a",
            "target/a",
            "secrets/a",
            ".env",
            ".git/HEAD",
            ".git/config",
            ".git/hooks/a",
            "../outside/a",
        ] {
            std::fs::write(workspace.join(file), "").unwrap();
        }
        for access in [GitAccess::Read, GitAccess::Commit, GitAccess::Hidden] {
            let policy = Policy::default()
                .write(".")
                .deny("secrets")
                .deny("**/.env")
                .exec_from("target")
                .git(access);
            let options = PlanOptions::new(&workspace)
                .home(base.join("none"))
                .late_matches(LateMatches::Watch);
            let plan = policy.plan(&options).unwrap();
            let scratch = base.join("scratch");
            let edits = super::edits(&plan.0, &[], &scratch);
            let files = [
                "a",
                "docs/a",
                "target/a",
                "secrets/a",
                ".env",
                ".git/HEAD",
                ".git/config",
                ".git/hooks/a",
                "../outside/a",
            ];
            for file in files {
                let path = crate::plan::follow(&workspace.join(file)).unwrap().path;
                let read = plan.explain(&Query::Read(path.clone())).allowed;
                let write = plan.explain(&Query::Write(path.clone())).allowed;
                assert_eq!(
                    allows(&edits, &path, false, 0x1),
                    read,
                    "read {file}: {edits:#?}"
                );
                assert_eq!(allows(&edits, &path, false, 0x2), write, "write {file}");
                assert!(!allows(&edits, &path, false, WRITE_DAC), "rights of {file}");
            }
            let executes = |file: &str| allows(&edits, &workspace.join(file), false, 0x21);
            assert!(executes("target/a"));
            assert!(!executes("a"), "what is writable is not executable");
            assert!(
                !allows(&edits, &workspace, true, DELETE),
                "the workspace stays"
            );
            assert!(!allows(&edits, &git, true, DELETE), "a repository stays");
            assert!(allows(&edits, &workspace.join("docs"), true, DELETE));
            assert!(allows(&edits, &scratch.join("t"), false, 0x2));
        }
    }

    /// With directories of Linux in the part of the system's.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_belongs_to_windows_is_left_alone() {
        let kept = tempfile::tempdir().unwrap();
        let workspace = kept.path().canonicalize().unwrap();
        let plan = Policy::default()
            .read("@system")
            .write(".")
            .allow("true")
            .plan(&PlanOptions::new(&workspace))
            .unwrap();
        let system = ["/usr", "/etc", "/lib", "/lib64"].map(PathBuf::from);
        let edits = edits(&plan.0, &system, &workspace.join("scratch"));
        assert!(
            edits.iter().all(|edit| edit.path.starts_with(&workspace)),
            "{edits:#?}"
        );
        assert!(!edits.is_empty());
    }
}
