//! The identity of a file or directory at the time of planning.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Which file or directory a path meant when the plan was made.
///
/// A directory is held open, so that its number cannot be given to another
/// one; a file is known by number, size and time of last change.
#[derive(Clone, Debug)]
pub(crate) struct Pin {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) directory: bool,
    /// Size, then seconds and nanoseconds of the last change of content; zero
    /// for directories, whose content changes.
    pub(crate) stamp: [i64; 3],
    _held: Option<Arc<File>>,
}

impl Pin {
    /// Pins what is at `path` now, without following a link at its end.
    #[cfg(target_os = "linux")]
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

        let file = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)?;
        let metadata = file.metadata()?;
        let directory = metadata.is_dir();
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            directory,
            stamp: if directory {
                [0; 3]
            } else {
                [
                    i64::try_from(metadata.size()).unwrap_or(i64::MAX),
                    metadata.mtime(),
                    metadata.mtime_nsec(),
                ]
            },
            _held: directory.then(|| Arc::new(file)),
        })
    }

    /// Pins by what the system tells of the path: other systems have no
    /// descriptor that only refers.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        let directory = metadata.is_dir();
        #[cfg(unix)]
        let (device, inode) = {
            use std::os::unix::fs::MetadataExt as _;
            (metadata.dev(), metadata.ino())
        };
        // A file's number can be asked for by its handle alone.
        #[cfg(windows)]
        let (device, inode) = {
            use std::os::windows::fs::MetadataExt as _;
            (0, metadata.creation_time())
        };
        #[cfg(not(any(unix, windows)))]
        let (device, inode) = (0, 0);
        let changed = metadata.modified().ok();
        let changed = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let changed = changed.unwrap_or_default();
        let stamp = match directory {
            true => [0; 3],
            false => [
                i64::try_from(metadata.len()).unwrap_or(i64::MAX),
                i64::try_from(changed.as_secs()).unwrap_or(i64::MAX),
                changed.subsec_nanos().into(),
            ],
        };
        Ok(Self {
            device,
            inode,
            directory,
            stamp,
            _held: None,
        })
    }

    /// Whether `path` leads to the same file or directory, and to the same
    /// content of a program.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn is_at(&self, path: &Path, program: bool) -> bool {
        Self::new(path).is_ok_and(|now| {
            (now.device, now.inode, now.directory) == (self.device, self.inode, self.directory)
                && (!program || now.stamp == self.stamp)
        })
    }
}
