//! A file that is written after a command ran.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Where a file goes, settled before the command runs: its name may lie in
/// the workspace, and be a link to another file once the command ended.
#[derive(Debug)]
pub(super) enum FilePlace {
    /// A terminal or a pipe of ours.
    Device(PathBuf),
    /// A file, which is replaced and never written into.
    File { directory: PathBuf, path: PathBuf },
}

impl FilePlace {
    pub(super) fn of(file: &Path) -> anyhow::Result<Self> {
        let absolute = std::path::absolute(file)?;
        if absolute.starts_with("/dev") || absolute.starts_with("/proc") {
            return Ok(Self::Device(absolute));
        }
        let directory = absolute.parent().unwrap_or(&absolute).canonicalize();
        let directory = directory.with_context(|| format!("cannot write {}", file.display()))?;
        let Some(name) = absolute.file_name() else {
            anyhow::bail!("cannot write {}: it is a directory", file.display());
        };
        Ok(Self::File {
            path: directory.join(name),
            directory,
        })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Device(path) | Self::File { path, .. } => path,
        }
    }

    pub(super) fn write(&self, text: &str) -> anyhow::Result<()> {
        match self {
            Self::Device(path) => std::fs::write(path, text)?,
            Self::File { directory, path } => {
                if directory.canonicalize()? != *directory {
                    anyhow::bail!("its directory was moved while the command ran");
                }
                let mut fresh = tempfile::NamedTempFile::new_in(directory)?;
                fresh.write_all(text.as_bytes())?;
                fresh.persist(path)?;
            }
        }
        Ok(())
    }
}
