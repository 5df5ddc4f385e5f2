//! The edge to Windows: one file for each family of calls.
//!
//! Everything here takes and gives owned handles, paths and plain numbers, and
//! turns a failed call into [`std::io::Error`].
#![allow(unsafe_code)]

pub(crate) mod acl;
pub(crate) mod container;
pub(crate) mod handle;
pub(crate) mod job;
pub(crate) mod process;

use std::ffi::OsStr;
use std::io;
use std::os::windows::ffi::OsStrExt as _;

/// The result of a call that returns zero on failure.
fn check(result: i32) -> io::Result<()> {
    match result {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The result of a call that returns an error's number.
fn check_code(code: u32) -> io::Result<()> {
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.cast_signed())),
    }
}

/// Text that ends at its first zero.
fn wide(text: impl AsRef<OsStr>) -> io::Result<Vec<u16>> {
    let mut units: Vec<u16> = text.as_ref().encode_wide().collect();
    if units.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a zero inside"));
    }
    units.push(0);
    Ok(units)
}
