//! Handles that are handed over without being inherited.

use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{DUPLICATE_SAME_ACCESS, DuplicateHandle, HANDLE};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcess, PROCESS_DUP_HANDLE};

use super::check;

/// A copy of the handle that process `owner` knows by this number.
///
/// The caller waits for this process, so the number means what it meant when
/// the caller wrote it down.
pub(crate) fn fetch(owner: u32, number: usize) -> io::Result<OwnedHandle> {
    // SAFETY: integers.
    let process = unsafe { OpenProcess(PROCESS_DUP_HANDLE, 0, owner) };
    if process.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened and belongs to nobody else.
    let process = unsafe { OwnedHandle::from_raw_handle(process) };
    copy(
        process.as_raw_handle(),
        std::ptr::without_provenance_mut(number),
        false,
    )
}

/// A copy that a process started with it in its list inherits.
pub(crate) fn inheritable(handle: &OwnedHandle) -> io::Result<OwnedHandle> {
    // SAFETY: it takes nothing; the value is one that means this process.
    copy(unsafe { GetCurrentProcess() }, handle.as_raw_handle(), true)
}

fn copy(owner: HANDLE, handle: HANDLE, inherited: bool) -> io::Result<OwnedHandle> {
    let mut copied: HANDLE = null_mut();
    // SAFETY: both processes are open; a number that is no handle of the owner
    // is an error; the result outlives the call.
    check(unsafe {
        DuplicateHandle(
            owner,
            handle,
            GetCurrentProcess(),
            &mut copied,
            0,
            inherited.into(),
            DUPLICATE_SAME_ACCESS,
        )
    })?;
    // SAFETY: it was just made and belongs to nobody else.
    Ok(unsafe { OwnedHandle::from_raw_handle(copied) })
}
