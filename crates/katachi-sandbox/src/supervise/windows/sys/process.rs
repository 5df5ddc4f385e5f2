//! Starting a process with what it needs and nothing else.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::path::Path;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Security::SECURITY_CAPABILITIES;
use windows_sys::Win32::System::Threading::{
    CREATE_SUSPENDED, CREATE_UNICODE_ENVIRONMENT, CreateProcessW, DETACHED_PROCESS,
    DeleteProcThreadAttributeList, EXTENDED_STARTUPINFO_PRESENT, GetExitCodeProcess, INFINITE,
    InitializeProcThreadAttributeList, PROC_THREAD_ATTRIBUTE_CHILD_PROCESS_POLICY,
    PROC_THREAD_ATTRIBUTE_HANDLE_LIST, PROC_THREAD_ATTRIBUTE_SECURITY_CAPABILITIES,
    PROCESS_INFORMATION, ResumeThread, STARTF_USESTDHANDLES, STARTUPINFOEXW, TerminateProcess,
    UpdateProcThreadAttribute, WaitForSingleObject,
};

use super::container::Sid;
use super::handle::inheritable;
use super::job::Job;
use super::{check, wide};

/// `PROCESS_CREATION_CHILD_PROCESS_RESTRICTED`
const NO_CHILDREN: u32 = 1;

/// What a process is started with.
pub(crate) struct Start<'a> {
    pub(crate) program: &'a Path,
    pub(crate) line: &'a str,
    /// Without its last zero.
    pub(crate) environment: &'a str,
    pub(crate) directory: &'a Path,
    pub(crate) streams: &'a [OwnedHandle; 3],
    pub(crate) container: Option<&'a Sid>,
    pub(crate) children: bool,
    pub(crate) job: &'a Job,
}

impl Start<'_> {
    /// Starts it, in its job before its first instruction.
    pub(crate) fn run(self) -> io::Result<OwnedHandle> {
        let program = wide(self.program)?;
        let directory = wide(self.directory)?;
        let mut line = wide(self.line)?;
        let mut environment: Vec<u16> = self.environment.encode_utf16().collect();
        // An empty block is two zeroes.
        environment.extend([0, 0]);
        let [stdin, stdout, stderr] = self.streams;
        let streams = [
            inheritable(stdin)?,
            inheritable(stdout)?,
            inheritable(stderr)?,
        ];
        let handles: [HANDLE; 3] = [
            streams[0].as_raw_handle(),
            streams[1].as_raw_handle(),
            streams[2].as_raw_handle(),
        ];
        let policy = NO_CHILDREN;
        let container = self.container.map(|sid| SECURITY_CAPABILITIES {
            AppContainerSid: sid.as_ptr(),
            Capabilities: null_mut(),
            CapabilityCount: 0,
            Reserved: 0,
        });
        let mut attributes = Attributes::new(3)?;
        // SAFETY: handles, policy and container outlive the list, which is
        // dropped at the end of this function, and have the sizes given.
        unsafe {
            attributes.set(
                PROC_THREAD_ATTRIBUTE_HANDLE_LIST,
                handles.as_ptr().cast(),
                size_of_val(&handles),
            )?;
            if !self.children {
                attributes.set(
                    PROC_THREAD_ATTRIBUTE_CHILD_PROCESS_POLICY,
                    (&raw const policy).cast(),
                    size_of_val(&policy),
                )?;
            }
            if let Some(container) = &container {
                attributes.set(
                    PROC_THREAD_ATTRIBUTE_SECURITY_CAPABILITIES,
                    std::ptr::from_ref(container).cast(),
                    size_of_val(container),
                )?;
            }
        }
        // SAFETY: integers and pointers, for which all zeroes is a value.
        let mut startup: STARTUPINFOEXW = unsafe { std::mem::zeroed() };
        startup.StartupInfo.cb = size_of::<STARTUPINFOEXW>() as u32;
        startup.StartupInfo.dwFlags = STARTF_USESTDHANDLES;
        startup.StartupInfo.hStdInput = handles[0];
        startup.StartupInfo.hStdOutput = handles[1];
        startup.StartupInfo.hStdError = handles[2];
        startup.lpAttributeList = attributes.list();
        // SAFETY: as above.
        let mut made: PROCESS_INFORMATION = unsafe { std::mem::zeroed() };
        let flags = EXTENDED_STARTUPINFO_PRESENT
            | CREATE_UNICODE_ENVIRONMENT
            | CREATE_SUSPENDED
            // A console would be the caller's, or a program of its own.
            | DETACHED_PROCESS;
        // SAFETY: every text ends with a zero, the line may be written to, the
        // extended structure is announced by a flag and by its size, and all of
        // it outlives the call.
        check(unsafe {
            CreateProcessW(
                program.as_ptr(),
                line.as_mut_ptr(),
                null(),
                null(),
                1,
                flags,
                environment.as_ptr().cast::<c_void>(),
                directory.as_ptr(),
                (&raw const startup).cast(),
                &mut made,
            )
        })?;
        // SAFETY: both were just made and belong to nobody else.
        let (process, thread) = unsafe {
            (
                OwnedHandle::from_raw_handle(made.hProcess),
                OwnedHandle::from_raw_handle(made.hThread),
            )
        };
        if let Err(error) = self.job.take_in(&process) {
            // SAFETY: it is open, and has run nothing yet.
            unsafe { TerminateProcess(process.as_raw_handle(), 1) };
            return Err(error);
        }
        // SAFETY: it is open.
        match unsafe { ResumeThread(thread.as_raw_handle()) } {
            u32::MAX => Err(io::Error::last_os_error()),
            _ => Ok(process),
        }
    }
}

/// Waits until a process ended.
pub(crate) fn wait(process: &OwnedHandle) {
    // SAFETY: it is open.
    unsafe { WaitForSingleObject(process.as_raw_handle(), INFINITE) };
}

pub(crate) fn exit_code(process: &OwnedHandle) -> io::Result<u32> {
    let mut code = 0;
    // SAFETY: it is open, and the result outlives the call.
    check(unsafe { GetExitCodeProcess(process.as_raw_handle(), &mut code) })?;
    Ok(code)
}

/// A list of attributes for a process that is started.
struct Attributes(Vec<u64>);

impl Attributes {
    fn new(count: u32) -> io::Result<Self> {
        let mut bytes = 0;
        // SAFETY: without a list, the call only says how long one is.
        unsafe { InitializeProcThreadAttributeList(null_mut(), count, 0, &mut bytes) };
        let mut list = Self(vec![0; bytes.div_ceil(8)]);
        // SAFETY: it is as long as the system wants it.
        check(unsafe { InitializeProcThreadAttributeList(list.list(), count, 0, &mut bytes) })?;
        Ok(list)
    }

    fn list(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }

    /// # Safety
    ///
    /// `value` has `size` bytes and outlives the list.
    unsafe fn set(&mut self, name: u32, value: *const c_void, size: usize) -> io::Result<()> {
        // SAFETY: the list was initialised with room for each attribute, and the
        // caller answers for the value.
        check(unsafe {
            UpdateProcThreadAttribute(
                self.list(),
                0,
                name as usize,
                value,
                size,
                null_mut(),
                null(),
            )
        })
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: it was initialised, and no process is being started with it.
        unsafe { DeleteProcThreadAttributeList(self.list()) };
    }
}
