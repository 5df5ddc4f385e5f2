//! Notes what a command looked for in vain, for monitor mode.
//!
//! A second filter stops the calls that name files and lets the tracer look
//! at them when they begin and when they returned. It takes nothing away from
//! the first filter and adds nothing to what is allowed: of two filters the
//! kernel follows the stricter, asks the first again after the stop, and
//! without a tracer refuses the call. What is read here may be another thread's
//! lie, so it is a note for the person who writes the policy, and decides
//! nothing.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::sys::process;
use super::sys::seccomp::Heard;
use super::sys::trace::{self, Moment};
use crate::command::Notes;
use crate::message::{Message, Want};

/// The most different notes; what comes later is dropped, which is told.
const MOST_NOTES: usize = 10_000;
/// The most bytes of them.
const MOST_BYTES: usize = 4 << 20;
/// Longest path the kernel takes, with its zero byte.
const LONGEST: usize = 4096;

/// A call that names a file.
pub(super) struct Observed {
    pub(super) call: libc::c_long,
    /// Which argument is the directory a relative path starts from.
    directory: Option<usize>,
    path: usize,
    want: Wants,
}

enum Wants {
    Always(Want),
    /// As these flags of `open` say.
    Flags(usize),
}

const fn observed(
    call: libc::c_long,
    directory: Option<usize>,
    path: usize,
    want: Want,
) -> Observed {
    Observed {
        call,
        directory,
        path,
        want: Wants::Always(want),
    }
}

/// The calls that are looked at.
pub(super) const OBSERVED: &[Observed] = &[
    Observed {
        call: libc::SYS_openat,
        directory: Some(0),
        path: 1,
        want: Wants::Flags(2),
    },
    observed(libc::SYS_newfstatat, Some(0), 1, Want::Look),
    observed(libc::SYS_statx, Some(0), 1, Want::Look),
    observed(libc::SYS_faccessat, Some(0), 1, Want::Look),
    observed(libc::SYS_faccessat2, Some(0), 1, Want::Look),
    observed(libc::SYS_readlinkat, Some(0), 1, Want::Look),
    observed(libc::SYS_chdir, None, 0, Want::Read),
    observed(libc::SYS_execve, None, 0, Want::Execute),
    observed(libc::SYS_execveat, Some(0), 1, Want::Execute),
    observed(libc::SYS_mkdirat, Some(0), 1, Want::Write),
    observed(libc::SYS_unlinkat, Some(0), 1, Want::Write),
    observed(libc::SYS_renameat, Some(2), 3, Want::Write),
    observed(libc::SYS_renameat2, Some(2), 3, Want::Write),
    observed(libc::SYS_linkat, Some(2), 3, Want::Write),
    observed(libc::SYS_symlinkat, Some(1), 2, Want::Write),
    observed(libc::SYS_truncate, None, 0, Want::Write),
    observed(libc::SYS_fchmodat, Some(0), 1, Want::Write),
    #[cfg(target_arch = "x86_64")]
    Observed {
        call: libc::SYS_open,
        directory: None,
        path: 0,
        want: Wants::Flags(1),
    },
    #[cfg(target_arch = "x86_64")]
    observed(libc::SYS_creat, None, 0, Want::Write),
    #[cfg(target_arch = "x86_64")]
    observed(libc::SYS_stat, None, 0, Want::Look),
    #[cfg(target_arch = "x86_64")]
    observed(libc::SYS_lstat, None, 0, Want::Look),
    #[cfg(target_arch = "x86_64")]
    observed(libc::SYS_access, None, 0, Want::Look),
    #[cfg(target_arch = "x86_64")]
    observed(libc::SYS_readlink, None, 0, Want::Look),
    #[cfg(target_arch = "x86_64")]
    observed(libc::SYS_mkdir, None, 0, Want::Write),
    #[cfg(target_arch = "x86_64")]
    observed(libc::SYS_rmdir, None, 0, Want::Write),
    #[cfg(target_arch = "x86_64")]
    observed(libc::SYS_unlink, None, 0, Want::Write),
    #[cfg(target_arch = "x86_64")]
    observed(libc::SYS_rename, None, 1, Want::Write),
    #[cfg(target_arch = "x86_64")]
    observed(libc::SYS_link, None, 1, Want::Write),
    #[cfg(target_arch = "x86_64")]
    observed(libc::SYS_symlink, None, 1, Want::Write),
    #[cfg(target_arch = "x86_64")]
    observed(libc::SYS_chmod, None, 0, Want::Write),
];

/// Looks that shells, `make` and compilers take at a program before they start
/// it, and few others: the values of those arguments.
const LOOKED_UP: &[(libc::c_long, &[(u32, u32)])] = &[
    (
        libc::SYS_newfstatat,
        &[(0, libc::AT_FDCWD.cast_unsigned()), (3, 0)],
    ),
    (libc::SYS_faccessat, &[(2, libc::X_OK as u32)]),
    (libc::SYS_faccessat2, &[(2, libc::X_OK as u32)]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_stat, &[]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_access, &[(1, libc::X_OK as u32)]),
];

/// The calls that are heard of where refusals are noted.
pub(super) fn heard(notes: Notes) -> Vec<Heard> {
    let heard = |observed: &Observed| match (notes, &observed.want) {
        (Notes::Looks, _) => None,
        (_, Wants::Always(Want::Execute)) => Some(&[][..]),
        (Notes::Starts, _) => None,
        (_, Wants::Always(Want::Look)) => {
            let mut looks = LOOKED_UP.iter();
            let found = looks.find(|(call, _)| *call == observed.call);
            found.map(|(_, only)| *only)
        }
        _ => Some(&[][..]),
    };
    OBSERVED
        .iter()
        .filter_map(|observed| {
            Some(Heard {
                call: observed.call,
                only: heard(observed)?,
            })
        })
        .collect()
}

/// Calls that have begun, and what was noted already.
#[derive(Default)]
pub(super) struct Observer {
    begun: HashMap<libc::pid_t, (Want, PathBuf)>,
    noted: HashSet<(Want, PathBuf)>,
    /// How many bytes all of them have.
    bytes: usize,
    /// Whether something was dropped.
    cut: bool,
}

impl Observer {
    /// Looks at a process that stands at one of the calls, and lets it go on.
    pub(super) fn stopped(&mut self, pid: libc::pid_t, status: &File) {
        match trace::moment(pid) {
            Ok(Moment::Begins { call, arguments }) => {
                if let Some(begun) = named(pid, call, arguments) {
                    self.begun.insert(pid, begun);
                    return trace::resume_to_return(pid);
                }
            }
            Ok(Moment::Returned(result)) => {
                if let Some((want, path)) = self.begun.remove(&pid)
                    && was_in_vain(result)
                {
                    self.note(pid, want, path, status);
                }
            }
            _ => {}
        }
        trace::resume(pid, 0);
    }

    /// Forgets a call that does not return.
    pub(super) fn forget(&mut self, pid: libc::pid_t) {
        self.begun.remove(&pid);
    }

    fn note(&mut self, pid: libc::pid_t, want: Want, path: PathBuf, status: &File) {
        let length = path.as_os_str().len();
        let note = (want, path);
        if length > LONGEST || self.noted.contains(&note) {
            return;
        }
        if self.noted.len() == MOST_NOTES || self.bytes + length > MOST_BYTES {
            if !std::mem::replace(&mut self.cut, true) {
                let _ = Message::NotNoted(self.noted.len() as u64).send(&mut &*status);
            }
            return;
        }
        self.bytes += length;
        self.noted.insert(note.clone());
        let (want, path) = note;
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let missed = Message::Missed {
            want,
            path: path.into_os_string(),
            program: program
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        };
        // If the caller is gone there is nobody left to tell.
        let _ = missed.send(&mut &*status);
    }
}

/// Whether something that is not there, or not allowed, was the reason.
fn was_in_vain(result: i64) -> bool {
    let reasons = [libc::ENOENT, libc::EACCES, libc::EROFS, libc::EPERM];
    reasons.iter().any(|reason| result == -i64::from(*reason))
}

/// What a call is about to do with which file.
pub(super) fn named(pid: libc::pid_t, call: u64, arguments: [u64; 6]) -> Option<(Want, PathBuf)> {
    let observed = OBSERVED
        .iter()
        .find(|observed| observed.call.cast_unsigned() == call)?;
    let Some(path) = read_path(pid, arguments[observed.path]) else {
        // Without a name it can be the file that is open under a number.
        let by_number = call == libc::SYS_execveat.cast_unsigned()
            && arguments[4] as i32 & libc::AT_EMPTY_PATH != 0;
        let file = format!("/proc/{pid}/fd/{}", arguments[0] as i32);
        return by_number.then(|| (Want::Execute, file.into()));
    };
    let want = match observed.want {
        Wants::Always(want) => want,
        Wants::Flags(index) => wanted_by(arguments[index]),
    };
    if path.is_absolute() {
        return Some((want, path));
    }
    let from = match observed.directory.map(|index| arguments[index] as i32) {
        None | Some(libc::AT_FDCWD) => format!("/proc/{pid}/cwd"),
        Some(fd) => format!("/proc/{pid}/fd/{fd}"),
    };
    let from = std::fs::read_link(from).ok()?;
    from.is_absolute().then(|| (want, plain(&from.join(path))))
}

fn wanted_by(flags: u64) -> Want {
    const CHANGES: i32 = libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE & !libc::O_DIRECTORY;
    let flags = flags as i32;
    match flags & libc::O_ACCMODE != libc::O_RDONLY || flags & CHANGES != 0 {
        true => Want::Write,
        false if flags & libc::O_PATH != 0 => Want::Look,
        false => Want::Read,
    }
}

/// Without single dots, which mean nothing; double ones are the file system's
/// to follow.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

/// A string in the memory of a process that stands still.
fn read_path(pid: libc::pid_t, address: u64) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    while bytes.len() < LONGEST {
        // Never over the border of a page, behind which nothing may be.
        let at = address.checked_add(bytes.len() as u64)?;
        let mut part = [0; 256];
        let length = (256 - (at % 256)) as usize;
        let length = process::read_memory(pid, at, &mut part[..length]).ok()?;
        let read = &part[..length];
        match read.iter().position(|byte| *byte == 0) {
            Some(end) => {
                bytes.extend(&read[..end]);
                return (!bytes.is_empty()).then(|| OsString::from_vec(bytes).into());
            }
            None if length == 0 => return None,
            None => bytes.extend(read),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_tell_what_is_wanted() {
        for (flags, want) in [
            (libc::O_RDONLY | libc::O_CLOEXEC, Want::Read),
            (libc::O_RDONLY | libc::O_DIRECTORY, Want::Read),
            (libc::O_PATH, Want::Look),
            (libc::O_WRONLY, Want::Write),
            (libc::O_RDWR, Want::Write),
            (libc::O_RDONLY | libc::O_CREAT, Want::Write),
            (libc::O_RDONLY | libc::O_TRUNC, Want::Write),
        ] {
            assert_eq!(wanted_by(flags as u64), want, "{flags:o}");
        }
    }

    #[test]
    fn reads_a_string_of_any_length_and_place() {
        let pid = std::process::id().cast_signed();
        for length in [1, 255, 256, 257, 4000] {
            let path = "p".repeat(length);
            let text = std::ffi::CString::new(path.clone()).unwrap();
            let read = read_path(pid, text.as_ptr() as u64);
            assert_eq!(read, Some(path.into()));
        }
        assert_eq!(read_path(pid, 0), None);
        let endless = [b'p'; 2 * LONGEST];
        assert_eq!(read_path(pid, endless.as_ptr() as u64), None);
    }
}
