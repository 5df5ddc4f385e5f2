//! A command's own directory for temporary files.

use std::fs::DirBuilder;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use crate::plan::follow;

/// A directory for temporary files and as a home, gone with the command.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one that nobody else can enter.
    pub(crate) fn make() -> io::Result<Self> {
        let base = follow(&std::path::absolute(std::env::temp_dir())?)?.path;
        #[cfg_attr(not(unix), expect(unused_mut))]
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        for _ in 0..100 {
            let path = base.join(format!("katachi-sandbox-{:016x}", unlikely()));
            // Never one that is there: somebody else could own it.
            match builder.create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is only what its user made unremovable.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A number that nothing else has, most likely.
pub(crate) fn unlikely() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
