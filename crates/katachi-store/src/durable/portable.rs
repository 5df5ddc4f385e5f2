//! The durable steps by path, for systems without `openat`.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use super::{FileError, Privacy, Stamp};

/// Paths are joined by the caller, so there is nothing to hold open.
#[derive(Debug)]
pub(super) struct Handle(std::path::PathBuf);

pub(super) fn create_directories(path: &Path) -> Result<(), FileError> {
    std::fs::create_dir_all(path).map_err(|error| FileError::io("create", path, error))
}

pub(super) fn open_directory(path: &Path, privacy: Privacy) -> Result<Handle, FileError> {
    let metadata = path
        .symlink_metadata()
        .map_err(|error| FileError::io("open", path, error))?;
    if privacy == Privacy::Private && metadata.is_symlink() {
        return Err(FileError::SymlinkRefused {
            path: path.to_owned(),
        });
    }
    if !path.is_dir() {
        return Err(FileError::WrongType {
            path: path.to_owned(),
            expected: "directory",
        });
    }
    Ok(Handle(path.to_owned()))
}

pub(super) fn open_for_reading(
    _directory: &Handle,
    path: &Path,
    _name: &str,
) -> Result<(File, u64), FileError> {
    let metadata = path
        .symlink_metadata()
        .map_err(|error| FileError::io("open", path, error))?;
    if metadata.is_symlink() {
        return Err(FileError::SymlinkRefused {
            path: path.to_owned(),
        });
    }
    if !metadata.is_file() {
        return Err(FileError::WrongType {
            path: path.to_owned(),
            expected: "file",
        });
    }
    let file = File::open(path).map_err(|error| FileError::io("open", path, error))?;
    Ok((file, metadata.len()))
}

pub(super) fn exists(_directory: &Handle, path: &Path, _name: &str) -> Result<bool, FileError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(FileError::io("inspect", path, error)),
    }
}

pub(super) fn stamp(_directory: &Handle, path: &Path, _name: &str) -> Result<Stamp, FileError> {
    let metadata = path
        .symlink_metadata()
        .map_err(|error| FileError::io("inspect", path, error))?;
    let nanoseconds = |time: io::Result<std::time::SystemTime>| {
        let since = time
            .ok()
            .and_then(|time| time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok());
        since.map_or(0, |since| since.as_nanos() as u64)
    };
    Ok(Stamp([
        metadata.len(),
        nanoseconds(metadata.modified()),
        nanoseconds(metadata.created()),
        0,
        0,
    ]))
}

pub(super) fn create_new(_directory: &Handle, parent: &Path, name: &str) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(parent.join(name))
}

pub(super) fn open_lock(_directory: &Handle, path: &Path, _name: &str) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| FileError::io("open", path, error))
}

pub(super) fn rename(_directory: &Handle, parent: &Path, from: &str, to: &str) -> io::Result<()> {
    std::fs::rename(parent.join(from), parent.join(to))
}

pub(super) fn remove(_directory: &Handle, parent: &Path, name: &str) -> io::Result<()> {
    std::fs::remove_file(parent.join(name))
}

pub(super) fn sync_file(file: &File) -> io::Result<()> {
    file.sync_all()
}

/// Windows writes directory changes through its journal and cannot flush one by handle.
pub(super) fn sync_directory(_directory: &Handle) -> io::Result<()> {
    Ok(())
}

pub(super) fn names(directory: &Handle, _parent: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&directory.0)? {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}
