//! AppContainers.
//!
//! Their functions are looked up when they are needed: a system without them is
//! then told so, and a program that only plans starts there all the same.

use std::ffi::c_void;
use std::io;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::HMODULE;
use windows_sys::Win32::Security::{FreeSid, GetLengthSid, PSID};
use windows_sys::Win32::System::LibraryLoader::{
    GetProcAddress, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW,
};

use super::wide;

type Create = unsafe extern "system" fn(
    name: *const u16,
    shown: *const u16,
    description: *const u16,
    capabilities: *const c_void,
    count: u32,
    sid: *mut PSID,
) -> i32;
type Delete = unsafe extern "system" fn(name: *const u16) -> i32;
type Derive = unsafe extern "system" fn(name: *const u16, sid: *mut PSID) -> i32;

/// The functions of `userenv.dll`.
pub(crate) struct Functions {
    create: Create,
    delete: Delete,
    derive: Derive,
}

/// The identity of a container.
#[derive(Debug)]
pub(crate) struct Sid(Vec<u32>);

impl Sid {
    pub(crate) fn as_ptr(&self) -> PSID {
        self.0.as_ptr().cast_mut().cast()
    }

    /// In bytes, rounded up to four.
    pub(crate) fn length(&self) -> usize {
        self.0.len() * 4
    }

    /// One of no container, from its parts.
    #[cfg(test)]
    pub(crate) fn invented(last: u32) -> Self {
        // Revision 1, eight parts, authority 15, the first part 2.
        let mut words = vec![
            u32::from_le_bytes([1, 8, 0, 0]),
            u32::from_le_bytes([0, 0, 0, 15]),
        ];
        words.extend([2, 11, 22, 33, 44, 55, 66, last]);
        Self(words)
    }
}

impl Functions {
    /// # Errors
    ///
    /// Returns an error where Windows has no AppContainers, or is none.
    pub(crate) fn load() -> io::Result<Self> {
        let library = wide("userenv.dll")?;
        // SAFETY: the name ends with a zero; only the system's directory is
        // looked into.
        let library =
            unsafe { LoadLibraryExW(library.as_ptr(), null_mut(), LOAD_LIBRARY_SEARCH_SYSTEM32) };
        if library.is_null() {
            return Err(io::Error::last_os_error());
        }
        let create = find(library, c"CreateAppContainerProfile")?;
        let delete = find(library, c"DeleteAppContainerProfile")?;
        let derive = find(library, c"DeriveAppContainerSidFromAppContainerName")?;
        // SAFETY: these are the functions of those names, whose parameters
        // userenv.h gives; the library is never unloaded.
        unsafe {
            Ok(Self {
                create: std::mem::transmute::<*const c_void, Create>(create),
                delete: std::mem::transmute::<*const c_void, Delete>(delete),
                derive: std::mem::transmute::<*const c_void, Derive>(derive),
            })
        }
    }

    /// Makes a container without any capability.
    pub(crate) fn create(&self, name: &str) -> io::Result<Sid> {
        let name = wide(name)?;
        let mut sid: PSID = null_mut();
        // SAFETY: the texts end with a zero, there are no capabilities, and the
        // result outlives the call.
        let result = unsafe {
            (self.create)(
                name.as_ptr(),
                name.as_ptr(),
                name.as_ptr(),
                null(),
                0,
                &mut sid,
            )
        };
        succeeded(result)?;
        Ok(take(sid))
    }

    /// The identity of a container that exists or existed.
    pub(crate) fn derive(&self, name: &str) -> io::Result<Sid> {
        let name = wide(name)?;
        let mut sid: PSID = null_mut();
        // SAFETY: the name ends with a zero, and the result outlives the call.
        succeeded(unsafe { (self.derive)(name.as_ptr(), &mut sid) })?;
        Ok(take(sid))
    }

    /// Removes a container with its own directory.
    pub(crate) fn delete(&self, name: &str) -> io::Result<()> {
        let name = wide(name)?;
        // SAFETY: the name ends with a zero.
        succeeded(unsafe { (self.delete)(name.as_ptr()) })
    }
}

fn find(library: HMODULE, name: &std::ffi::CStr) -> io::Result<*const c_void> {
    // SAFETY: the library is loaded and the name ends with a zero.
    let found = unsafe { GetProcAddress(library, name.as_ptr().cast()) };
    match found {
        Some(function) => Ok(function as *const c_void),
        None => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("this Windows has no {}", name.to_string_lossy()),
        )),
    }
}

fn succeeded(result: i32) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        failed => Err(io::Error::other(format!(
            "error {:#x}",
            failed.cast_unsigned()
        ))),
    }
}

/// Copies an identity and frees the system's.
fn take(sid: PSID) -> Sid {
    // SAFETY: the call that gave it succeeded, so it is whole.
    let length = unsafe { GetLengthSid(sid) } as usize;
    let mut words = vec![0_u32; length.div_ceil(4)];
    // SAFETY: both have that many bytes and do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(sid.cast::<u8>(), words.as_mut_ptr().cast(), length) };
    // SAFETY: it was allocated for the caller and is not used any more.
    unsafe { FreeSid(sid) };
    Sid(words)
}
