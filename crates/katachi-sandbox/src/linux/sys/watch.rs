//! Being told what changes in directories, and which mount lies at a place.

use std::ffi::{CStr, OsString};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;

use super::check;

/// Something has a name in a watched directory that it did not have, or the
/// directory is gone.
#[derive(Debug)]
pub(in crate::platform) struct Appearance {
    /// The directory, as [`add`] named it.
    pub(in crate::platform) directory: i32,
    pub(in crate::platform) name: OsString,
    pub(in crate::platform) is_directory: bool,
    /// Whether the directory is not watched any more.
    pub(in crate::platform) gone: bool,
}

/// A source of appearances that never blocks.
pub(in crate::platform) fn start() -> io::Result<OwnedFd> {
    // SAFETY: one integer.
    let fd = check(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) }.into())?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Watches a directory; the same one gives the same number again.
pub(in crate::platform) fn add(source: BorrowedFd<'_>, directory: &CStr) -> io::Result<i32> {
    let events = libc::IN_CREATE | libc::IN_MOVED_TO | libc::IN_ONLYDIR | libc::IN_DONT_FOLLOW;
    // SAFETY: the path ends with a zero byte.
    let number = check(
        unsafe { libc::inotify_add_watch(source.as_raw_fd(), directory.as_ptr(), events) }.into(),
    )?;
    Ok(number as i32)
}

/// What appeared since the last call; `None` if the kernel could not keep up.
pub(in crate::platform) fn read(source: &OwnedFd) -> io::Result<Option<Vec<Appearance>>> {
    // wd, mask, cookie and the length of the name (inotify(7)).
    const HEAD: usize = 16;
    let mut buffer = vec![0; 64 << 10];
    let mut file = std::fs::File::from(source.try_clone()?);
    let length = match file.read(&mut buffer) {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(Vec::new())),
        Err(error) => return Err(error),
    };
    let mut rest = &buffer[..length];
    let mut appeared = Vec::new();
    while let Some((head, tail)) = rest.split_at_checked(HEAD) {
        let number = |at: usize| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            u32::from_ne_bytes(bytes)
        };
        let events = number(4);
        let Some((name, tail)) = tail.split_at_checked(number(12) as usize) else {
            break;
        };
        rest = tail;
        if events & libc::IN_Q_OVERFLOW != 0 {
            return Ok(None);
        }
        if events & (libc::IN_CREATE | libc::IN_MOVED_TO | libc::IN_IGNORED) == 0 {
            continue;
        }
        // The name is filled up with zeroes.
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        appeared.push(Appearance {
            directory: number(0).cast_signed(),
            name: OsString::from_vec(name.to_vec()),
            is_directory: events & libc::IN_ISDIR != 0,
            gone: events & libc::IN_IGNORED != 0,
        });
    }
    Ok(Some(appeared))
}

/// The number of the mount that an opened place lies on.
pub(in crate::platform) fn mount_of(place: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: `statx` is plain integers, for which all zeroes is a value.
    let mut seen: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a constant with a zero byte at its end, and `seen`
    // outlives the call.
    let done = unsafe {
        libc::statx(
            place.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_MNT_ID,
            &raw mut seen,
        )
    };
    check(done.into())?;
    Ok(seen.stx_mnt_id)
}
