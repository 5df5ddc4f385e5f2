//! Covers again what the host uncovers while a command runs.
//!
//! A mount over a single file is taken away by the kernel when a program
//! outside replaces the file, as editors and git do, and a file that appears
//! under a name that `filesystem.deny` matches was never covered. The first
//! process sees the same directories, is told by the kernel what appears in
//! them, and covers it. That takes a moment, in which the command can see it;
//! each time is reported.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::root::{Cover, cover};
use super::spec::{Mount, Source, Spec};
use super::sys::{c_string, fd, watch};
use crate::glob::Glob;
use crate::message::Message;
use crate::plan::Late;

/// Most directories that are watched: the kernel lets a user watch a limited
/// number in all, and the command can make directories.
const MOST_WATCHED: usize = 32_768;
/// Most times in a row that the kernel is asked what appeared.
const MOST_ROUNDS: usize = 16;
/// Most reports. All of them fit into the pipe, should nobody read it before
/// the end.
const MOST_TOLD: usize = 50;

pub(super) struct Watcher {
    source: OwnedFd,
    root: File,
    /// An empty file to cover others with.
    nothing: OwnedFd,
    /// What each number of the kernel stands for.
    places: HashMap<i32, PathBuf>,
    /// Mounts that have to be there.
    covers: Vec<(PathBuf, Cover)>,
    late: Vec<(Glob, PathBuf, Vec<PathBuf>)>,
    told: usize,
    /// There are too many directories to watch all of them.
    full: bool,
    /// A directory that cannot be watched, and why.
    unwatched: Option<(PathBuf, io::Error)>,
}

impl Watcher {
    /// `None` if there is nothing to watch. Covers what appeared since the
    /// plan was made.
    pub(super) fn new(spec: &Spec, nothing: OwnedFd) -> io::Result<Option<Self>> {
        let covers: Vec<_> = spec.mounts.iter().filter_map(protecting).collect();
        if covers.is_empty() && spec.late.is_empty() {
            return Ok(None);
        }
        let late = spec.late.iter().map(|Late { pattern, roots }| {
            let glob = Glob::new(pattern);
            let prefix = Path::new("/").join(glob.fixed_prefix());
            (glob, prefix, roots.clone())
        });
        let mut watcher = Self {
            source: watch::start()?,
            root: File::open("/")?,
            nothing,
            places: HashMap::new(),
            late: late.collect(),
            covers,
            told: 0,
            full: false,
            unwatched: None,
        };
        watcher.look_everywhere(None);
        Ok(Some(watcher))
    }

    /// Why not everything is watched.
    pub(super) fn problem(&self) -> Option<String> {
        match &self.unwatched {
            _ if self.full => Some("there are too many directories".to_owned()),
            Some((place, error)) => Some(format!("{}: {error}", place.display())),
            None => None,
        }
    }

    pub(super) fn source(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }

    /// Covers what appeared.
    pub(super) fn react(&mut self, status: Option<&File>) {
        let (full, watched) = (self.full, self.unwatched.is_none());
        // A command that keeps making names does not keep us here for ever.
        for _ in 0..MOST_ROUNDS {
            let appeared = match watch::read(&self.source) {
                Ok(Some(appeared)) if appeared.is_empty() => break,
                Ok(Some(appeared)) => appeared,
                Ok(None) | Err(_) => {
                    self.look_everywhere(status);
                    break;
                }
            };
            for one in appeared {
                if one.gone {
                    self.places.remove(&one.directory);
                    continue;
                }
                let Some(directory) = self.places.get(&one.directory) else {
                    continue;
                };
                let path = directory.join(&one.name);
                self.appeared(&path, one.is_directory, status);
            }
        }
        if self.full && !full {
            let what = Path::new("what appears in directories, which are too many to be watched");
            self.tell(what, Cover::Hidden, false, status);
        }
        let unwatched = self.unwatched.as_ref().filter(|_| watched);
        if let Some(place) = unwatched.map(|(place, _)| place.clone()) {
            self.tell(&place, Cover::Hidden, false, status);
        }
    }

    fn look_everywhere(&mut self, status: Option<&File>) {
        let parents: HashSet<PathBuf> = self
            .covers
            .iter()
            .filter_map(|(path, _)| path.parent().map(Path::to_owned))
            .collect();
        for parent in parents {
            self.watch(&parent);
        }
        for (path, how) in self.covers.clone() {
            self.cover(&path, how, status);
        }
        let roots: Vec<PathBuf> = self
            .late
            .iter()
            .flat_map(|(_, _, roots)| roots.clone())
            .collect();
        for root in roots {
            self.walk(root, status);
        }
    }

    fn appeared(&mut self, path: &Path, is_directory: bool, status: Option<&File>) {
        let below: Vec<_> = self
            .covers
            .iter()
            .filter(|(place, _)| place.starts_with(path))
            .cloned()
            .collect();
        for (place, how) in below {
            if let Some(parent) = place.parent() {
                self.watch(parent);
            }
            self.cover(&place, how, status);
        }
        if self.is_denied(path) {
            self.deny(path, status);
        } else if is_directory && self.leads_somewhere(path) {
            self.walk(path.to_owned(), status);
        }
    }

    fn is_denied(&self, path: &Path) -> bool {
        self.late.iter().any(|(glob, ..)| glob.matches(path))
    }

    /// Whether something in a directory can match.
    fn leads_somewhere(&self, directory: &Path) -> bool {
        self.late.iter().any(|(_, prefix, roots)| {
            roots.iter().any(|root| directory.starts_with(root))
                && (prefix.starts_with(directory) || directory.starts_with(prefix))
        })
    }

    /// Watches a directory and all below it, and covers what matches.
    fn walk(&mut self, directory: PathBuf, status: Option<&File>) {
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            // Once it runs, the command could make more of them all the time.
            if self.full && status.is_some() {
                return;
            }
            // Before it is listed, so that nothing appears in between.
            self.watch(&directory);
            for entry in std::fs::read_dir(&directory)
                .into_iter()
                .flatten()
                .flatten()
            {
                let path = entry.path();
                if self.is_denied(&path) {
                    self.deny(&path, status);
                } else if entry.file_type().is_ok_and(|kind| kind.is_dir())
                    && self.leads_somewhere(&path)
                {
                    pending.push(path);
                }
            }
        }
    }

    fn watch(&mut self, directory: &Path) {
        if self.places.len() >= MOST_WATCHED {
            self.full = true;
            return;
        }
        let number = c_string(directory).and_then(|path| watch::add(self.source.as_fd(), &path));
        match number {
            Ok(number) => {
                self.places.insert(number, directory.to_owned());
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOSPC) => self.full = true,
                // It is gone, or no directory.
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => {}
                _ => {
                    self.unwatched
                        .get_or_insert_with(|| (directory.to_owned(), error));
                }
            },
        }
    }

    /// A link stands for what it leads to.
    fn deny(&mut self, path: &Path, status: Option<&File>) {
        let Ok(metadata) = path.symlink_metadata() else {
            return;
        };
        if !metadata.is_symlink() {
            return self.cover(path, Cover::Hidden, status);
        }
        if let Ok(target) = path.canonicalize() {
            self.cover(&target, Cover::Hidden, status);
        }
    }

    fn cover(&mut self, path: &Path, how: Cover, status: Option<&File>) {
        let Ok(place) = self.open(path) else {
            return;
        };
        let covered = path.parent().is_some_and(|parent| {
            let above = self
                .open(parent)
                .and_then(|parent| watch::mount_of(parent.as_fd()));
            let here = watch::mount_of(place.as_fd());
            matches!((above, here), (Ok(above), Ok(here)) if above != here)
        });
        if covered {
            return;
        }
        let outcome = cover(place, how, self.nothing.as_fd());
        self.tell(path, how, outcome.is_ok(), status);
    }

    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        fd::open_path(self.root.as_fd(), &c_string(relative)?)
    }

    fn tell(&mut self, path: &Path, how: Cover, covered: bool, status: Option<&File>) {
        // Before the start, nobody could see it.
        let Some(mut status) = status else {
            return;
        };
        self.told += 1;
        if self.told > MOST_TOLD {
            return;
        }
        let last = self.told == MOST_TOLD;
        let _ = Message::Uncovered {
            path: match last {
                true => "others".to_owned(),
                false => path.display().to_string(),
            },
            read: how == Cover::Hidden,
            covered,
        }
        .send(&mut status);
    }
}

/// What has to be done again if a mount of the plan is gone.
fn protecting(mount: &Mount) -> Option<(PathBuf, Cover)> {
    let how = match mount.source {
        _ if !mount.protects => return None,
        Source::HiddenDirectory | Source::HiddenFile => Cover::Hidden,
        Source::Host(_) => Cover::Again {
            write: mount.write,
            load: mount.load,
        },
        Source::Private => return None,
    };
    Some((mount.target.clone(), how))
}
