//! How much a command's writable directories grew.
//!
//! The kernel bounds each file, and nobody but it could bound the sum: quotas
//! belong to users and projects of a file system, and a file system's free
//! space changes by the work of others too. So the files are added up, again
//! and again, while the command runs. Between two sums a command can write
//! more; how much is bounded by how fast it can write.
//!
//! - A sum is taken in slices, so that the first process stays at its other
//!   work and takes a tenth of one processor; up to two thirds while the file
//!   system fills fast, and next to nothing while it does not fill at all.
//! - A file counts what it occupies and at least a block, so that a million
//!   empty ones count too. Links count once, what was there before does not.
//! - Removed files that a process still has open count.
//! - Files that moved in front of a sum count twice, so only a second sum ends
//!   a command.

use std::collections::HashSet;
use std::fs::{Metadata, ReadDir};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::spec::{Source, Spec};
use super::sys::fd::{Filled, filled};

/// Least that a file counts, in bytes.
pub(super) const LEAST: u64 = 4096;
/// Work for each look.
const SLICE: Duration = Duration::from_millis(10);
/// The same while the file system fills fast, and before the command runs.
const LONG_SLICE: Duration = Duration::from_millis(66);
/// Pause between two sums while nothing fills.
const PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Disk {
    limit: u64,
    roots: Vec<PathBuf>,
    /// Mounts below them that the command cannot write.
    others: HashSet<PathBuf>,
    /// When the command began, in seconds and nanoseconds.
    began: (i64, i64),
    /// What was there then, as far as the first sum found it.
    before: u64,
    sum: Sum,
    first: bool,
    /// Sums in a row that were over.
    over: u32,
    /// Growth that the last whole sum found.
    growth: u64,
    filled: Vec<Filled>,
    next: Instant,
}

/// A sum that is being taken.
#[derive(Default)]
struct Sum {
    bytes: u64,
    /// Files with several names that were counted.
    linked: HashSet<(u64, u64)>,
    /// File systems that were met.
    devices: HashSet<u64>,
    directories: Vec<PathBuf>,
    open: Option<(PathBuf, ReadDir)>,
    /// Processes whose open files are still to be counted.
    processes: Option<Vec<String>>,
    worked: Duration,
}

/// How far a slice came.
#[derive(PartialEq, Eq)]
enum Reached {
    TimeIsUp,
    End,
    /// Part of a tree that has no name short enough.
    Unmeasurable,
}

impl Disk {
    pub(super) fn new(limit: u64, spec: &Spec) -> Self {
        let host = |source: &Source| matches!(source, Source::Host(_));
        let (write, rest): (Vec<_>, Vec<_>) = spec
            .mounts
            .iter()
            .partition(|mount| mount.write && host(&mount.source));
        let mut roots: Vec<PathBuf> = Vec::new();
        // By depth: what lies below a root is reached from there.
        for mount in write {
            if !roots.iter().any(|root| mount.target.starts_with(root)) {
                roots.push(mount.target.clone());
            }
        }
        Self {
            limit,
            others: rest.into_iter().map(|mount| mount.target.clone()).collect(),
            sum: Sum::of(&roots),
            roots,
            began: (0, 0),
            before: 0,
            first: true,
            over: 0,
            growth: 0,
            filled: Vec::new(),
            next: Instant::now(),
        }
    }

    /// Sums up what is there, most likely all of it.
    pub(super) fn begin(&mut self) {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.began = (
            i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            i64::from(now.subsec_nanos()),
        );
        self.filled = self.fill_levels();
        if self.work(LONG_SLICE) == Reached::End {
            self.finish();
        }
    }

    /// Takes a slice of the sum.
    pub(super) fn is_over(&mut self) -> bool {
        let fast = self.fills_fast();
        if !fast && Instant::now() < self.next {
            return false;
        }
        let reached = self.work(if fast { LONG_SLICE } else { SLICE });
        let early = !self.first && self.sum.bytes.saturating_sub(self.before) > self.limit;
        match reached {
            Reached::Unmeasurable => return true,
            Reached::TimeIsUp if !early => return false,
            _ => self.finish(),
        }
        self.over > 1
    }

    /// Ends a sum and begins the next.
    fn finish(&mut self) {
        self.first = false;
        let sum = std::mem::replace(&mut self.sum, Sum::of(&self.roots));
        self.growth = sum.bytes.saturating_sub(self.before);
        let now = self.fill_levels();
        let idle = now.iter().zip(&self.filled).all(|(now, then)| now <= then);
        self.filled = now;
        let pause = if self.growth > self.limit {
            self.over += 1;
            Duration::ZERO
        } else {
            self.over = 0;
            if idle { PAUSE } else { sum.worked * 9 }
        };
        self.next = Instant::now() + pause;
    }

    /// Whether others and the command together may have filled what is left.
    fn fills_fast(&self) -> bool {
        let left = self.limit.saturating_sub(self.growth);
        let grown = |(now, then): (&Filled, &Filled)| {
            now.bytes.saturating_sub(then.bytes) > left / 2
                || now.files.saturating_sub(then.files) > left / LEAST / 2
        };
        self.fill_levels().iter().zip(&self.filled).any(grown)
    }

    /// Of file systems that can be asked; the others are as they were.
    fn fill_levels(&self) -> Vec<Filled> {
        let level = |root: &PathBuf| filled(root).unwrap_or_default();
        self.roots.iter().map(level).collect()
    }

    fn work(&mut self, budget: Duration) -> Reached {
        let started = Instant::now();
        let mut steps = 0_u32;
        let reached = loop {
            steps += 1;
            if steps.is_multiple_of(32) && started.elapsed() >= budget {
                break Reached::TimeIsUp;
            }
            match self.step() {
                Some(Reached::TimeIsUp) | None => {}
                Some(reached) => break reached,
            }
        };
        self.sum.worked += started.elapsed();
        reached
    }

    /// Counts one file, or opens one directory. Anything that is gone in
    /// between counts nothing, and so does what not even the first process may
    /// look at, since its command may not either.
    fn step(&mut self) -> Option<Reached> {
        if let Some((directory, list)) = &mut self.sum.open {
            let Some(entry) = list.next() else {
                self.sum.open = None;
                return None;
            };
            let path = directory.join(entry.ok()?.file_name());
            if self.others.contains(&path) {
                return None;
            }
            let metadata = match std::fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if is_too_long(&error) => return Some(Reached::Unmeasurable),
                Err(_) => return None,
            };
            self.count(&metadata);
            if metadata.is_dir() {
                self.sum.directories.push(path);
            }
            return None;
        }
        if let Some(directory) = self.sum.directories.pop() {
            match std::fs::read_dir(&directory) {
                Ok(list) => self.sum.open = Some((directory, list)),
                Err(error) if is_too_long(&error) => return Some(Reached::Unmeasurable),
                Err(_) => {}
            }
            return None;
        }
        let processes = self.sum.processes.get_or_insert_with(all_processes);
        let Some(process) = processes.pop() else {
            return Some(Reached::End);
        };
        self.count_removed(&process);
        None
    }

    fn count(&mut self, metadata: &Metadata) {
        let sum = &mut self.sum;
        sum.devices.insert(metadata.dev());
        let several = !metadata.is_dir() && metadata.nlink() > 1;
        if several && !sum.linked.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        let bytes = metadata.blocks().saturating_mul(512).max(LEAST);
        sum.bytes += bytes;
        if self.first && (metadata.ctime(), metadata.ctime_nsec()) < self.began {
            self.before += bytes;
        }
    }

    /// Files of one process that have no name any more.
    fn count_removed(&mut self, process: &str) {
        let Ok(list) = std::fs::read_dir(format!("/proc/{process}/fd")) else {
            return;
        };
        for entry in list.flatten() {
            let Ok(metadata) = std::fs::metadata(entry.path()) else {
                continue;
            };
            let sum = &mut self.sum;
            if metadata.is_file()
                && metadata.nlink() == 0
                && sum.devices.contains(&metadata.dev())
                && sum.linked.insert((metadata.dev(), metadata.ino()))
            {
                sum.bytes += metadata.blocks().saturating_mul(512);
            }
        }
    }
}

impl Sum {
    fn of(roots: &[PathBuf]) -> Self {
        let device = |root: &PathBuf| Some(std::fs::metadata(root).ok()?.dev());
        Self {
            directories: roots.to_vec(),
            devices: roots.iter().filter_map(device).collect(),
            ..Self::default()
        }
    }
}

fn is_too_long(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENAMETOOLONG)
}

fn all_processes() -> Vec<String> {
    let list = std::fs::read_dir("/proc");
    list.into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "1" && name.bytes().all(|byte| byte.is_ascii_digit()))
        .collect()
}
