//! Job objects.

use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::ptr::null;
use std::time::{Duration, Instant};

use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOBOBJECT_BASIC_ACCOUNTING_INFORMATION,
    JOBOBJECT_BASIC_UI_RESTRICTIONS, JOBOBJECT_EXTENDED_LIMIT_INFORMATION,
    JobObjectBasicAccountingInformation, JobObjectBasicUIRestrictions,
    JobObjectExtendedLimitInformation, QueryInformationJobObject, SetInformationJobObject,
    TerminateJobObject,
};

use super::check;
use crate::supervise::windows::job::{Limits, UI_RESTRICTIONS};

/// How long ended processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// A job: processes that live, are bounded and end together.
#[derive(Debug)]
pub(crate) struct Job(OwnedHandle);

impl Job {
    pub(crate) fn make(limits: Limits) -> io::Result<Self> {
        // SAFETY: both may be null: no name, and rights for this user alone.
        let job = unsafe { CreateJobObjectW(null(), null()) };
        if job.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just made and belongs to nobody else.
        let job = Self(unsafe { OwnedHandle::from_raw_handle(job) });
        // SAFETY: plain integers, for which all zeroes is a value.
        let mut held: JOBOBJECT_EXTENDED_LIMIT_INFORMATION = unsafe { std::mem::zeroed() };
        held.BasicLimitInformation.LimitFlags = limits.flags;
        held.BasicLimitInformation.ActiveProcessLimit = limits.processes;
        held.BasicLimitInformation.PerJobUserTimeLimit = limits.user_time;
        held.JobMemoryLimit = limits.memory;
        // SAFETY: the class names this structure, whose size is passed.
        check(unsafe {
            SetInformationJobObject(
                job.0.as_raw_handle(),
                JobObjectExtendedLimitInformation,
                (&raw const held).cast(),
                size_of_val(&held) as u32,
            )
        })?;
        let restricted = JOBOBJECT_BASIC_UI_RESTRICTIONS {
            UIRestrictionsClass: UI_RESTRICTIONS,
        };
        // SAFETY: the class names this structure, whose size is passed.
        check(unsafe {
            SetInformationJobObject(
                job.0.as_raw_handle(),
                JobObjectBasicUIRestrictions,
                (&raw const restricted).cast(),
                size_of_val(&restricted) as u32,
            )
        })?;
        Ok(job)
    }

    pub(crate) fn take_in(&self, process: &OwnedHandle) -> io::Result<()> {
        // SAFETY: both are open.
        check(unsafe { AssignProcessToJobObject(self.0.as_raw_handle(), process.as_raw_handle()) })
    }

    /// Ends every process in it.
    pub(crate) fn end(&self) {
        // SAFETY: it is open. An error means that nothing is in it.
        unsafe { TerminateJobObject(self.0.as_raw_handle(), 1) };
    }

    /// Waits until nothing of it runs.
    pub(crate) fn wait_until_empty(&self) {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            match self.accounting() {
                Ok(seen) if seen.ActiveProcesses > 0 => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => return,
            }
        }
    }

    /// Time that its processes, also those that ended, have computed.
    pub(crate) fn processor_time(&self) -> io::Result<Duration> {
        let seen = self.accounting()?;
        let steps = seen.TotalUserTime.saturating_add(seen.TotalKernelTime);
        Ok(Duration::from_nanos(
            u64::try_from(steps).unwrap_or(0) * 100,
        ))
    }

    fn accounting(&self) -> io::Result<JOBOBJECT_BASIC_ACCOUNTING_INFORMATION> {
        // SAFETY: plain integers, for which all zeroes is a value.
        let mut seen: JOBOBJECT_BASIC_ACCOUNTING_INFORMATION = unsafe { std::mem::zeroed() };
        // SAFETY: the class names this structure, whose size is passed.
        check(unsafe {
            QueryInformationJobObject(
                self.0.as_raw_handle(),
                JobObjectBasicAccountingInformation,
                (&raw mut seen).cast(),
                size_of_val(&seen) as u32,
                std::ptr::null_mut(),
            )
        })?;
        Ok(seen)
    }
}
