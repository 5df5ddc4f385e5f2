//! The durable steps relative to an open directory, by `openat` and its family.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use super::{FileError, Privacy, Stamp};

pub(super) type Handle = OwnedFd;

const OWNER_ONLY_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
const OWNER_ONLY_DIRECTORY: Mode = Mode::RWXU;

pub(super) fn create_directories(path: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt as _;
    // Recursive creation leaves what exists alone, and gives what it makes
    // this mode from the first moment (a umask can only narrow it).
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => FileError::WrongType {
                path: path.to_owned(),
                expected: "directory",
            },
            _ => FileError::io("create", path, error),
        })
}

pub(super) fn open_directory(path: &Path, privacy: Privacy) -> Result<Handle, FileError> {
    let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if privacy == Privacy::Private {
        flags |= OFlags::NOFOLLOW;
    }
    let handle = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| refusal("open", path, error, "directory"))?;
    if privacy == Privacy::Private {
        let stat = rustix::fs::fstat(&handle)
            .map_err(|error| FileError::io("inspect", path, error.into()))?;
        check_owner_only(&stat, path, true)?;
    }
    Ok(handle)
}

pub(super) fn open_for_reading(
    directory: &Handle,
    path: &Path,
    name: &str,
) -> Result<(File, u64), FileError> {
    // NONBLOCK so that a pipe put in the file's place cannot hang us.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())
        .map_err(|error| refusal("open", path, error, "file"))?;
    let stat =
        rustix::fs::fstat(&file).map_err(|error| FileError::io("inspect", path, error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileError::WrongType {
            path: path.to_owned(),
            expected: "file",
        });
    }
    check_owner_only(&stat, path, false)?;
    Ok((
        File::from(file),
        u64::try_from(stat.st_size).unwrap_or(u64::MAX),
    ))
}

pub(super) fn exists(directory: &Handle, path: &Path, name: &str) -> Result<bool, FileError> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(FileError::io("inspect", path, error.into())),
    }
}

pub(super) fn stamp(directory: &Handle, path: &Path, name: &str) -> Result<Stamp, FileError> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| FileError::io("inspect", path, error.into()))?;
    // A number that is freed may be given to the next file, but not at the same nanosecond.
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_sign_loss,
        reason = "the types differ between systems"
    )]
    Ok(Stamp([
        stat.st_ino as u64,
        stat.st_size as u64,
        stat.st_ctime as u64,
        stat.st_ctime_nsec as u64,
        stat.st_dev as u64,
    ]))
}

pub(super) fn create_new(directory: &Handle, _parent: &Path, name: &str) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, OWNER_ONLY_FILE)?;
    // A umask such as 0777 may have taken even our own permission away.
    rustix::fs::fchmod(&file, OWNER_ONLY_FILE)?;
    Ok(File::from(file))
}

pub(super) fn open_lock(directory: &Handle, path: &Path, name: &str) -> Result<File, FileError> {
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, OWNER_ONLY_FILE)
        .map_err(|error| refusal("open", path, error, "file"))?;
    Ok(File::from(file))
}

pub(super) fn rename(directory: &Handle, _parent: &Path, from: &str, to: &str) -> io::Result<()> {
    Ok(rustix::fs::renameat(directory, from, directory, to)?)
}

pub(super) fn remove(directory: &Handle, _parent: &Path, name: &str) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
}

pub(super) fn sync_file(file: &File) -> io::Result<()> {
    // On Apple systems the standard library asks for F_FULLFSYNC here.
    file.sync_all()
}

pub(super) fn sync_directory(directory: &Handle) -> io::Result<()> {
    match rustix::fs::fsync(directory) {
        // Some network file systems cannot flush a directory; they order renames themselves.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP) => Ok(()),
        other => Ok(other?),
    }
}

pub(super) fn names(directory: &Handle, _parent: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        if let Ok(name) = entry?.file_name().to_str() {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn check_owner_only(stat: &Stat, path: &Path, directory: bool) -> Result<(), FileError> {
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(FileError::OtherOwner {
            path: path.to_owned(),
            owner: stat.st_uid,
        });
    }
    let mode = Mode::from_raw_mode(stat.st_mode);
    let allowed = if directory {
        OWNER_ONLY_DIRECTORY
    } else {
        OWNER_ONLY_FILE.union(Mode::XUSR)
    };
    let wider = mode
        .intersection(Mode::RWXU | Mode::RWXG | Mode::RWXO)
        .difference(allowed);
    if !wider.is_empty() {
        #[allow(clippy::useless_conversion, reason = "16 bits wide on Apple systems")]
        let mode = u32::from(mode.as_raw_mode()) & 0o7777;
        return Err(FileError::Permissions {
            path: path.to_owned(),
            mode,
            directory,
        });
    }
    Ok(())
}

/// Says why the kernel did not open something, a symbolic link above all.
fn refusal(
    action: &'static str,
    path: &Path,
    error: rustix::io::Errno,
    expected: &'static str,
) -> FileError {
    use rustix::io::Errno;
    let is_link = || {
        path.symlink_metadata()
            .is_ok_and(|metadata| metadata.is_symlink())
    };
    match error {
        Errno::LOOP | Errno::MLINK | Errno::NOTDIR if is_link() => FileError::SymlinkRefused {
            path: path.to_owned(),
        },
        Errno::NOTDIR | Errno::ISDIR | Errno::NXIO => FileError::WrongType {
            path: path.to_owned(),
            expected,
        },
        other => FileError::io(action, path, other.into()),
    }
}
