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

    /// Pins by path alone where nothing is started.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self {
            device: 0,
            inode: 0,
            directory: metadata.is_dir(),
            stamp: [0; 3],
            _held: None,
        })
    }
}
