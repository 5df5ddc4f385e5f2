//! The look at what a command left in the writable directories.
//!
//! What existed when the plan was made is protected by mounts. What the
//! command itself makes cannot be held while it runs without breaking `git
//! clone`, so it is looked at once nothing of the command runs any more and
//! before its end is told: in new repositories, at any depth and under any
//! name, everything that would run programs is set aside, and so is new
//! configuration that other programs act upon.

mod config;
mod ground;
mod redirects;
mod repository;
mod scan;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use self::ground::Ground;
use self::repository::SetAside;
use self::scan::Appeared;
pub(super) use self::scan::touched;
use crate::plan::{Moment, NewConfiguration};
use crate::report::Violation;

/// Most findings of one kind that are told one by one.
const MOST_TOLD: usize = 100;
/// Most files looked at in one new directory with a protected name.
const MOST_FILES: usize = 10_000;

/// What is needed for the look.
#[derive(Debug)]
pub(super) struct After {
    ground: Arc<Ground>,
    started: Moment,
    /// Files that redirect git and that were not there.
    absent: Vec<PathBuf>,
}

impl After {
    /// Before the command starts.
    pub(super) fn new(ground: Arc<Ground>) -> Self {
        // What exists already is the user's own.
        let gone = |path: &&PathBuf| path.symlink_metadata().is_err();
        Self {
            started: Moment::now(),
            absent: ground.absent.iter().filter(gone).cloned().collect(),
            ground,
        }
    }

    /// For a command that somebody else started, who cannot look any more.
    pub(super) fn of_another(ground: Arc<Ground>, started: Moment) -> Self {
        let new = |path: &&PathBuf| {
            path.symlink_metadata()
                .is_ok_and(|metadata| touched(&metadata, started))
        };
        Self {
            started,
            absent: ground.absent.iter().filter(new).cloned().collect(),
            ground,
        }
    }

    pub(super) fn started(&self) -> Moment {
        self.started
    }

    /// After all of the command is gone.
    pub(super) fn settle(&self) -> Vec<Violation> {
        let protected = |path: &Path| self.ground.protected.contains(path);
        let appeared = scan::look(&self.ground.snapshot, &protected);
        let mut found = redirects::take_back(&self.absent);
        found.extend(self.links());
        if !self.ground.full {
            found.extend(self.repositories(&appeared, &protected));
        }
        // Last, since it moves directories that repositories may lie in.
        found.extend(self.names(&appeared));
        found.extend(appeared.closed.iter().take(MOST_TOLD).map(|directory| {
            let reason = "what is in it was not looked at, because it cannot be listed; do so before you use it";
            finding("look", directory, reason.to_owned())
        }));
        found.extend(appeared.incomplete.map(|why| {
            finding(
                "look",
                "the writable directories",
                format!("not all of what the command made was looked at: {why}; look for repositories and tool configuration before you use them"),
            )
        }));
        found
    }

    /// Links with protected names, which are no place for a mount.
    fn links(&self) -> Vec<Violation> {
        let links = self.ground.named_links.iter();
        links
            .filter(|(path, target)| fs::read_link(path).ok().as_ref() != Some(target))
            .map(|(path, _)| {
                let reason = "the command replaced or removed a link that programs outside act upon; look at it before you use the directory";
                finding("create", path, reason.to_owned())
            })
            .collect()
    }

    /// Whether it is a link that was there, and leads where it led.
    fn is_as_planned(&self, pointer: &Path) -> bool {
        let target = fs::read_link(pointer).ok();
        let mut links = self.ground.named_links.iter();
        links.any(|(link, planned)| link == pointer && target.as_ref() == Some(planned))
    }

    fn names(&self, appeared: &Appeared) -> Vec<Violation> {
        let named = appeared.named.iter();
        let mut new: Vec<&PathBuf> = named
            .filter(|path| {
                !self
                    .ground
                    .named_links
                    .iter()
                    .any(|(link, _)| link == *path)
            })
            .filter(|path| self.touched_within(path, &mut 0))
            .collect();
        new.sort();
        // What lies in another of them goes with it; sorted, it comes after it.
        new.dedup_by(|path, above| path.starts_with(above));
        let more = new.len().saturating_sub(MOST_TOLD);
        let mut found: Vec<Violation> = new
            .into_iter()
            .map(|path| {
                let reason = match self.becomes(path, appeared) {
                    Becomes::Aside(why) => {
                        format!("{why}; {}", told(repository::rename_aside(path)))
                    }
                    Becomes::Told => "the command created or changed a name that programs outside act upon; look at it before you use the directory".to_owned(),
                };
                finding("create", path, reason)
            })
            .collect();
        found.truncate(MOST_TOLD);
        if more > 0 {
            found.push(finding(
                "create",
                format!("{more} more"),
                "only the first are told".to_owned(),
            ));
        }
        found
    }

    fn becomes(&self, path: &Path, appeared: &Appeared) -> Becomes {
        // A list of submodules is git's, and harmless if it only says where they are.
        if path.ends_with(".gitmodules") {
            return match names_programs(path) {
                true => Becomes::Aside("it names programs that git outside would run"),
                false => Becomes::Told,
            };
        }
        match self.ground.configuration {
            NewConfiguration::SetAside if !self.comes_with_a_clone(path, appeared) => {
                Becomes::Aside("the command made what programs outside act upon")
            }
            _ => Becomes::Told,
        }
    }

    /// Whether it lies in a new directory that is a repository's working tree.
    fn comes_with_a_clone(&self, path: &Path, appeared: &Appeared) -> bool {
        path.ancestors().skip(1).any(|place| {
            !self.ground.snapshot.directories.contains_key(place)
                && appeared.repositories.contains(&place.join(".git"))
        })
    }

    /// Whether it or, up to a number of files, anything in it changed.
    fn touched_within(&self, path: &Path, seen: &mut usize) -> bool {
        *seen += 1;
        let Ok(metadata) = path.symlink_metadata() else {
            return false;
        };
        if touched(&metadata, self.started) || *seen > MOST_FILES {
            return true;
        }
        metadata.is_dir()
            && fs::read_dir(path).is_ok_and(|list| {
                list.flatten()
                    .any(|entry| self.touched_within(&entry.path(), seen))
            })
    }

    /// Takes the danger out of new repositories and removes what points to
    /// others.
    fn repositories(
        &self,
        appeared: &Appeared,
        protected: &dyn Fn(&Path) -> bool,
    ) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut looked_at: HashSet<PathBuf> = HashSet::new();
        let mut pending: Vec<PathBuf> = appeared.repositories.clone();
        while let Some(repository) = pending.pop() {
            let Some(root) = self.root_of(&repository) else {
                continue;
            };
            let known = looked_at.contains(&repository) || protected(&repository);
            if known || !repository::is_touched(&repository, self.started) {
                continue;
            }
            let worktree = |path: &str| {
                let place = repository.join(path).canonicalize();
                place.is_ok_and(|place| place.starts_with(root))
            };
            let cleaned = repository::clean(&repository, &worktree);
            found.extend(told_of_repository(&repository, cleaned));
            // A linked working tree shares what lies above it, which has no
            // need of a `HEAD` of its own.
            if repository.join("commondir").is_file()
                && let Some(shared) = repository.ancestors().nth(2)
            {
                pending.push(shared.to_owned());
            }
            looked_at.insert(repository);
        }
        for pointer in &appeared.pointers {
            let changed = pointer
                .symlink_metadata()
                .is_ok_and(|metadata| touched(&metadata, self.started));
            if !changed
                || self.is_as_planned(pointer)
                || points_to(pointer).is_some_and(|place| looked_at.contains(&place))
            {
                continue;
            }
            let outcome = told(repository::rename_aside(pointer));
            let reason = format!(
                "it leads git outside to a repository that the command did not make; {outcome}"
            );
            found.push(finding("create", pointer, reason));
        }
        found
    }

    fn root_of(&self, place: &Path) -> Option<&PathBuf> {
        let mut roots = self.ground.watched.iter();
        roots.find(|root| place.starts_with(root))
    }
}

/// What becomes of a new name that programs outside act upon.
enum Becomes {
    /// Set aside, and why.
    Aside(&'static str),
    Told,
}

/// Where a file named `.git` points. A link is never made by git.
fn points_to(pointer: &Path) -> Option<PathBuf> {
    let metadata = pointer.symlink_metadata().ok()?;
    let text = (metadata.is_file() && metadata.len() <= 4096)
        .then(|| fs::read_to_string(pointer).ok())??;
    let place = text.strip_prefix("gitdir:")?.trim();
    pointer.parent()?.join(place).canonicalize().ok()
}

/// Whether a list of submodules asks for more than git needs to fetch them.
fn names_programs(path: &Path) -> bool {
    let small = path
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= 1 << 20);
    let Some(text) = small.then(|| fs::read(path).ok()).flatten() else {
        return true;
    };
    let removed = config::sift(&text, &|_| false).removed;
    let harmless = [".path", ".ignore"];
    removed
        .iter()
        .any(|key| !harmless.iter().any(|known| key.ends_with(known)))
}

fn told(renamed: io::Result<PathBuf>) -> String {
    match renamed {
        Ok(place) => format!(
            "it is now {}; to accept it, look at it and move it back",
            place.display()
        ),
        Err(error) => format!("it could not be set aside: {error}"),
    }
}

fn told_of_repository(
    repository: &Path,
    cleaned: io::Result<Option<SetAside>>,
) -> Option<Violation> {
    let reason = match cleaned {
        Ok(None) => return None,
        Ok(Some(SetAside { what, place })) => format!(
            "git outside would have run what the command chose: {}; it is now in {}; to accept something of it, look at it and move it back",
            what.join(", "),
            place.display()
        ),
        Err(error) => format!(
            "what runs programs could not be taken out of it ({error}); {}",
            match repository::disable(repository) {
                Ok(head) => format!(
                    "so that git does not use it, its HEAD is now {}",
                    head.display()
                ),
                Err(error) => format!("it could not be disabled either: {error}"),
            }
        ),
    };
    Some(Violation {
        allow_with: Some("[filesystem] git = \"full\"".to_owned()),
        ..finding("create", repository, reason)
    })
}

pub(super) fn finding(operation: &str, target: impl AsRef<Path>, reason: String) -> Violation {
    Violation {
        control: "metadata".to_owned(),
        operation: operation.to_owned(),
        target: target.as_ref().display().to_string(),
        reason,
        allow_with: None,
    }
}
