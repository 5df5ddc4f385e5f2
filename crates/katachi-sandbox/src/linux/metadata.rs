//! Modes and times of the command's own files, where no mount keeps it from
//! those of others.
//!
//! Landlock does not know these calls. The filter hands them to the first
//! process, which opens the file itself, from copies of the arguments, and acts
//! only on what lies in a writable place and belongs to the command's user.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use super::spec::Place;
use super::sys::notify::{self, Call};
use super::sys::seccomp::DECIDED;
use crate::plan::Reach;

/// Longest path, in bytes, with its end.
const LONGEST: usize = 4096;
/// `fchmodat2`, which libc does not name everywhere.
const FCHMODAT2: libc::c_long = 452;

/// What a call wants, with everything copied from the caller.
struct Wish {
    file: OwnedFd,
    change: Change,
}

enum Change {
    Mode(u32),
    Times(Option<[libc::timespec; 2]>),
}

/// Whether a call that waits is one of these.
pub(super) fn decides(call: &Call) -> bool {
    DECIDED.contains(&call.number)
}

/// Deals with one that waits.
pub(super) fn attend(listener: BorrowedFd<'_>, call: &Call, places: &[Place], user: u32) {
    let result = change(listener, call, places, user);
    notify::answer(listener, call, result);
}

fn change(listener: BorrowedFd<'_>, call: &Call, places: &[Place], user: u32) -> io::Result<()> {
    let wish = read(call)?;
    // What was opened by the caller's number is the caller's.
    if !notify::waits(listener, call) {
        return Err(refused());
    }
    let metadata = File::from(wish.file.try_clone()?).metadata()?;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", wish.file.as_raw_fd()))?;
    let writable = places
        .iter()
        .any(|place| place.reach == Reach::Write && path.starts_with(&place.path));
    if !writable || metadata.uid() != user {
        return Err(refused());
    }
    match wish.change {
        Change::Mode(_) if metadata.is_symlink() => Err(errno(libc::EOPNOTSUPP)),
        // A set-user-id file in the workspace would be one outside too.
        Change::Mode(mode) if mode & (libc::S_ISUID | libc::S_ISGID) != 0 => Err(refused()),
        Change::Mode(mode) => notify::set_mode(wish.file.as_fd(), mode & 0o1777),
        Change::Times(times) => notify::set_times(wish.file.as_fd(), times),
    }
}

fn refused() -> io::Error {
    errno(libc::EPERM)
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn read(call: &Call) -> io::Result<Wish> {
    let [first, second, third, fourth, ..] = call.arguments;
    let here = libc::AT_FDCWD as u64;
    let (file, change) = match call.number {
        libc::SYS_fchmod => (by_number(call, first)?, Change::Mode(second as u32)),
        libc::SYS_fchmodat => (by_path(call, first, second, 0)?, Change::Mode(third as u32)),
        FCHMODAT2 => (
            by_path(call, first, second, fourth as i32)?,
            Change::Mode(third as u32),
        ),
        libc::SYS_utimensat => (
            by_path(call, first, second, fourth as i32)?,
            Change::Times(times(call, third, 1)?),
        ),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => (by_path(call, here, first, 0)?, Change::Mode(second as u32)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_utimes => (
            by_path(call, here, first, 0)?,
            Change::Times(times(call, second, 1000)?),
        ),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_futimesat => (
            by_path(call, first, second, 0)?,
            Change::Times(times(call, third, 1000)?),
        ),
        _ => return Err(refused()),
    };
    Ok(Wish { file, change })
}

/// The file that the caller has open under this number.
fn by_number(call: &Call, number: u64) -> io::Result<OwnedFd> {
    let number = number as i32;
    if number < 0 {
        return Err(errno(libc::EBADF));
    }
    open(&format!("/proc/{}/fd/{number}", call.caller)).map_err(|_| errno(libc::EBADF))
}

fn open(path: &str) -> io::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    Ok(file.into())
}

/// The file of this name, seen from the caller.
fn by_path(call: &Call, base: u64, address: u64, flags: i32) -> io::Result<OwnedFd> {
    let known = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    if flags & !known != 0 {
        return Err(errno(libc::EINVAL));
    }
    // utimensat takes no path as the file itself.
    if address == 0 {
        return by_number(call, base);
    }
    let path = string(call, address)?;
    let absolute = path.as_bytes().first() == Some(&b'/');
    if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
        return by_number(call, base);
    }
    let start = match base as i32 {
        _ if absolute => open("/")?,
        libc::AT_FDCWD => open(&format!("/proc/{}/cwd", call.caller))?,
        _ => by_number(call, base)?,
    };
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    notify::open_path_at(start.as_fd(), &path, follow)
}

fn string(call: &Call, address: u64) -> io::Result<CString> {
    let mut bytes = [0; LONGEST];
    // One page at a time: the next may not be there.
    let mut length = 0;
    while length < LONGEST {
        let at = address.wrapping_add(length as u64);
        let page = 4096 - (at % 4096) as usize;
        let end = LONGEST.min(length + page);
        let got = notify::read_memory(call, at, &mut bytes[length..end])
            .map_err(|_| errno(libc::EFAULT))?;
        if let Some(zero) = bytes[length..length + got]
            .iter()
            .position(|byte| *byte == 0)
        {
            bytes[length + zero..].fill(0);
            let text = &bytes[..length + zero];
            return CString::new(text).map_err(|_| errno(libc::EFAULT));
        }
        if got == 0 {
            return Err(errno(libc::EFAULT));
        }
        length += got;
    }
    Err(errno(libc::ENAMETOOLONG))
}

/// Two times at `address`, in seconds and parts of `scale` nanoseconds; none
/// for now.
fn times(call: &Call, address: u64, scale: i64) -> io::Result<Option<[libc::timespec; 2]>> {
    if address == 0 {
        return Ok(None);
    }
    let mut bytes = [0; 32];
    let got = notify::read_memory(call, address, &mut bytes);
    if got.ok() != Some(bytes.len()) {
        return Err(errno(libc::EFAULT));
    }
    let number = |index: usize| {
        let mut part = [0; 8];
        part.copy_from_slice(&bytes[8 * index..8 * index + 8]);
        i64::from_ne_bytes(part)
    };
    let time = |index: usize| libc::timespec {
        tv_sec: number(index),
        tv_nsec: number(index + 1).wrapping_mul(scale),
    };
    Ok(Some([time(0), time(2)]))
}
