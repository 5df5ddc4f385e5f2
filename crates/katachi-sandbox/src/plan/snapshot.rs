//! Which directories a plan looked into, and when.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// File systems round times of change down to ticks of the kernel's clock.
const TICK: Duration = Duration::from_millis(20);

/// A moment, by the clock of files and by one that nobody sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    wall: SystemTime,
    steady: Instant,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            wall: SystemTime::now(),
            steady: Instant::now(),
        }
    }

    /// Nanoseconds since 1970 by the clock of files, for whoever comes later.
    #[cfg(target_os = "linux")]
    pub(crate) fn wall(self) -> u64 {
        let since = self.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// A moment that another process noted, and how long ago it is by a clock
    /// that nobody sets, where such a clock still runs.
    #[cfg(target_os = "linux")]
    pub(crate) fn noted(wall: u64, ago: Duration) -> Self {
        let now = Instant::now();
        Self {
            wall: UNIX_EPOCH + Duration::from_nanos(wall),
            steady: now.checked_sub(ago).unwrap_or(now),
        }
    }

    /// The earliest time of change of something that changed after it. If the
    /// clock was set back since, everything may have.
    pub(crate) fn earliest(self) -> SystemTime {
        let passed = SystemTime::now().duration_since(self.wall);
        let set_back = passed.map_or(true, |passed| passed + TICK < self.steady.elapsed());
        match set_back {
            true => UNIX_EPOCH,
            false => self.wall - TICK,
        }
    }
}

/// The directories that a plan looked into.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) since: Moment,
    /// With their number.
    pub(crate) directories: HashMap<PathBuf, u64>,
}

impl Snapshot {
    /// Nothing seen yet.
    pub(super) fn new() -> Self {
        Self {
            since: Moment::now(),
            directories: HashMap::new(),
        }
    }

    /// Notes a directory that is about to be listed.
    #[cfg(unix)]
    pub(super) fn note(&mut self, directory: &Path) {
        use std::os::unix::fs::MetadataExt as _;
        if let Ok(metadata) = directory.symlink_metadata() {
            self.directories
                .insert(directory.to_owned(), metadata.ino());
        }
    }

    #[cfg(not(unix))]
    pub(super) fn note(&mut self, _directory: &Path) {}
}
