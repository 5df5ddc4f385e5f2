//! What a job object is told to hold.

use super::super::spec::{Confinement, Spec};

// winnt.h
const LIMIT_JOB_TIME: u32 = 0x4;
const LIMIT_ACTIVE_PROCESS: u32 = 0x8;
const LIMIT_JOB_MEMORY: u32 = 0x200;
const LIMIT_DIE_ON_UNHANDLED_EXCEPTION: u32 = 0x400;
const LIMIT_KILL_ON_JOB_CLOSE: u32 = 0x2000;
/// Handles of other programs, the clipboard both ways, settings of the system
/// and of the screen, global atoms, desktops, and ending the session.
#[cfg(windows)]
pub(crate) const UI_RESTRICTIONS: u32 = 0xff;

/// Limits of one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) flags: u32,
    /// Processes alive at one time.
    pub(crate) processes: u32,
    /// Bytes, as committed.
    pub(crate) memory: usize,
    /// In steps of 100 ns, of code of the programs themselves; what the kernel
    /// does for them is looked at.
    pub(crate) user_time: i64,
}

impl Limits {
    pub(crate) fn of(spec: &Spec) -> Self {
        let mut limits = Self {
            flags: LIMIT_KILL_ON_JOB_CLOSE | LIMIT_DIE_ON_UNHANDLED_EXCEPTION,
            processes: 0,
            memory: 0,
            user_time: 0,
        };
        let alone = matches!(
            spec.confinement,
            Confinement::Container {
                children: false,
                ..
            }
        );
        let most = match alone {
            true => Some(1),
            false => spec.processes,
        };
        if let Some(most) = most {
            limits.flags |= LIMIT_ACTIVE_PROCESS;
            limits.processes = u32::try_from(most).unwrap_or(u32::MAX);
        }
        if let Some(bytes) = spec.memory {
            limits.flags |= LIMIT_JOB_MEMORY;
            limits.memory = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        if let Some(milliseconds) = spec.cpu_time_ms {
            limits.flags |= LIMIT_JOB_TIME;
            limits.user_time =
                i64::try_from(milliseconds.saturating_mul(10_000)).unwrap_or(i64::MAX);
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_holds_what_the_policy_limits() {
        let nothing = Limits::of(&Spec::default());
        assert_eq!(nothing.flags, 0x2400, "only that everything ends with it");
        let all = Limits::of(&Spec {
            memory: Some(1 << 20),
            processes: Some(7),
            cpu_time_ms: Some(1500),
            ..Spec::default()
        });
        assert_eq!(
            all,
            Limits {
                flags: 0x260c,
                processes: 7,
                memory: 1 << 20,
                user_time: 15_000_000
            }
        );
    }

    #[test]
    fn a_command_without_children_is_alone_whatever_the_policy_says() {
        let of = |children| {
            Limits::of(&Spec {
                processes: Some(7),
                confinement: Confinement::Container {
                    name: String::new(),
                    edits: Vec::new(),
                    children,
                },
                ..Spec::default()
            })
        };
        assert_eq!(of(false).processes, 1);
        assert_eq!(of(true).processes, 7);
    }
}
