//! What appeared in the writable directories since a plan was made.
//!
//! The plan notes every directory it looked into. Whatever is made, removed or
//! renamed in a directory changes its time of change, which no program can
//! set, so only directories that changed since, or that are not the ones the
//! plan saw, are listed again. What is found is a name; whether it was touched
//! during the run is asked of it by [`touched`].

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::plan::{Moment, PROTECTED_NAMES, Snapshot};

/// Most entries looked at after one command.
const MOST_ENTRIES: usize = 1_000_000;
/// Longest look after one command.
const LONGEST: Duration = Duration::from_secs(10);
/// What has a name that matters.
#[derive(Debug, Default)]
pub(super) struct Appeared {
    /// Directories that git takes for a repository.
    pub(super) repositories: Vec<PathBuf>,
    /// `.git` where it is no directory.
    pub(super) pointers: Vec<PathBuf>,
    /// Names that other programs act upon.
    pub(super) named: Vec<PathBuf>,
    /// Directories that do not show what is in them.
    pub(super) closed: Vec<PathBuf>,
    /// Why not everything was looked at.
    pub(super) incomplete: Option<String>,
}

/// Whether something changed after a moment.
pub(in crate::platform) fn touched(metadata: &Metadata, since: Moment) -> bool {
    let seconds = u64::try_from(metadata.ctime()).unwrap_or(0);
    let nanoseconds = u64::try_from(metadata.ctime_nsec()).unwrap_or(0);
    let changed = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds);
    changed >= since.earliest()
}

struct Look<'a> {
    snapshot: &'a Snapshot,
    /// What the plan protects, which cannot have changed.
    protected: &'a dyn Fn(&Path) -> bool,
    started: Instant,
    seen: usize,
    appeared: Appeared,
}

/// Looks for what appeared since the snapshot.
pub(super) fn look(snapshot: &Snapshot, protected: &dyn Fn(&Path) -> bool) -> Appeared {
    let mut look = Look {
        snapshot,
        protected,
        started: Instant::now(),
        seen: 0,
        appeared: Appeared::default(),
    };
    let mut pending = Vec::new();
    for (path, number) in &snapshot.directories {
        if !look.may_go_on() {
            break;
        }
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        let same = metadata.is_dir() && metadata.ino() == *number;
        // Another one in its place is found from above.
        if same && touched(&metadata, snapshot.since) {
            look.list(path, &mut pending);
        }
    }
    while let Some(directory) = pending.pop() {
        if !look.may_go_on() {
            break;
        }
        look.list(&directory, &mut pending);
    }
    look.appeared
}

impl Look<'_> {
    fn may_go_on(&mut self) -> bool {
        self.seen += 1;
        if self.seen > MOST_ENTRIES {
            self.appeared.incomplete = Some(format!("there are more than {MOST_ENTRIES} entries"));
        } else if self.started.elapsed() > LONGEST {
            self.appeared.incomplete = Some(format!("it took longer than {LONGEST:?}"));
        }
        self.appeared.incomplete.is_none()
    }

    /// Notes what matters in a directory, and directories the plan did not see.
    fn list(&mut self, directory: &Path, pending: &mut Vec<PathBuf>) {
        let list = match std::fs::read_dir(directory) {
            Ok(list) => list,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => {
                self.appeared.closed.push(directory.to_owned());
                return;
            }
        };
        let mut parts = [
            ("HEAD", false),
            ("objects", false),
            ("refs", false),
            ("commondir", false),
        ];
        for entry in list.flatten() {
            if !self.may_go_on() {
                return;
            }
            let (path, name) = (entry.path(), entry.file_name());
            for (part, present) in &mut parts {
                *present |= name == *part;
            }
            if (self.protected)(&path) {
                continue;
            }
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if name == ".git" && !is_directory {
                self.appeared.pointers.push(path);
                continue;
            }
            if PROTECTED_NAMES.iter().any(|known| name == *known) {
                self.appeared.named.push(path.clone());
            }
            if is_directory && !self.is_known(&path) {
                pending.push(path);
            }
        }
        let [head, objects, refs, common] = parts.map(|(_, present)| present);
        if head && (objects && refs || common) && !(self.protected)(directory) {
            self.appeared.repositories.push(directory.to_owned());
        }
    }

    fn is_known(&self, path: &Path) -> bool {
        let known = self.snapshot.directories.get(path);
        known.is_some_and(|number| {
            path.symlink_metadata()
                .is_ok_and(|metadata| metadata.ino() == *number)
        })
    }
}
