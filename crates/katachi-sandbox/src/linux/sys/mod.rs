//! The edge to the kernel: one file for each family of calls.
//!
//! Everything here takes and gives owned or borrowed descriptors, C strings
//! and plain numbers, and turns a failed call into [`std::io::Error`]. No
//! policy is decided here.
#![allow(unsafe_code)]

pub(super) mod caps;
pub(super) mod fd;
pub(super) mod mount;
pub(super) mod namespace;
pub(crate) mod net;
pub(super) mod notify;
pub(super) mod process;
pub(super) mod seccomp;
pub(super) mod terminal;
pub(super) mod trace;
pub(super) mod watch;

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt as _;

/// The result of a call that returns -1 on failure.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A path or argument for the kernel, which ends at the first zero byte.
pub(super) fn c_string(text: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(text.as_ref().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a zero byte inside"))
}

/// The version of Landlock's interface, zero where it is not there or off.
pub(super) fn landlock_version() -> u32 {
    const CREATE_RULESET_VERSION: u32 = 1;
    let nothing = std::ptr::null::<u8>();
    // SAFETY: with this flag the kernel wants a null pointer and size zero.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            nothing,
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}
