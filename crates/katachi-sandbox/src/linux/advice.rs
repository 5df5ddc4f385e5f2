//! What a person can change where this machine cannot confine.

use super::confine;
use crate::doctor::Check;
use crate::error::SpawnError;

const LANDLOCK: &str = "use Linux 6.2 or later with `landlock` in the kernel's lsm= list";

/// Whether Landlock's version, zero where there is none, can be relied upon.
pub(super) fn landlock(version: u32) -> Result<(), SpawnError> {
    if confine::usable_abi(version).is_some() {
        return Ok(());
    }
    Err(SpawnError::Machine {
        step: "use Landlock".to_owned(),
        detail: format!("its version here is {version}, and 3 is needed"),
        next_step: LANDLOCK.to_owned(),
    })
}

/// The same as a line of `doctor`.
pub(super) fn landlock_check(version: u32) -> Check {
    let works = confine::usable_abi(version).is_some();
    Check {
        name: "Landlock".to_owned(),
        works,
        detail: match version {
            0 => format!("absent; {LANDLOCK}"),
            version if works => format!("ABI {version}"),
            version => format!("ABI {version}, and 3 is needed; {LANDLOCK}"),
        },
    }
}

/// What to do about a step that failed with this error.
pub(super) fn next_step(step: &str, code: i32) -> String {
    let namespaces = step.contains("namespace") || step.contains("map the");
    match code {
        libc::EPERM | libc::EACCES if namespaces => {
            "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu, or a container that permits them)"
        }
        _ if step == "trace the command" => {
            "allow tracing of children (sysctl kernel.yama.ptrace_scope below 3, a container that permits ptrace), or allow the programs with any arguments"
        }
        libc::ENOSPC if namespaces => "raise sysctl user.max_user_namespaces",
        libc::ENOSYS => "use Linux 6.2 or later",
        _ => "nothing was started; `doctor::probe` tries each step by itself",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version of the first kernel that is said to do.
    const FIRST: u32 = 3;

    #[test]
    fn a_machine_without_landlock_is_told_which_kernel_and_setting() {
        for version in 0..FIRST {
            let refused = landlock(version).expect_err("it cannot be relied upon");
            let (said, check) = (refused.to_string(), landlock_check(version));
            assert!(!check.works);
            for text in [&said, &check.detail] {
                assert!(text.contains("Linux 6.2"), "{text}");
                assert!(text.contains("`landlock` in the kernel's lsm="), "{text}");
            }
            assert!(
                said.contains(&format!("version here is {version}")),
                "{said}"
            );
        }
        assert!(landlock_check(0).detail.starts_with("absent"));
        assert!(landlock_check(2).detail.starts_with("ABI 2,"));
        for version in FIRST..12 {
            landlock(version).expect("it can be relied upon");
            assert_eq!(landlock_check(version).detail, format!("ABI {version}"));
        }
    }

    #[test]
    fn what_a_kernel_does_not_know_yet_names_the_kernel_that_does() {
        for step in [
            "enter the root directory",
            "create namespaces",
            "close descriptors",
        ] {
            assert_eq!(next_step(step, libc::ENOSYS), "use Linux 6.2 or later");
        }
    }

    #[test]
    fn each_setting_that_stands_in_the_way_is_named() {
        for (step, code, setting) in [
            ("trace the command", libc::EPERM, "kernel.yama.ptrace_scope"),
            ("trace the command", libc::ENOSYS, "permits ptrace"),
            (
                "create a user namespace",
                libc::EPERM,
                "kernel.unprivileged_userns_clone",
            ),
            (
                "map the user",
                libc::EACCES,
                "kernel.apparmor_restrict_unprivileged_userns",
            ),
            (
                "create namespaces",
                libc::ENOSPC,
                "user.max_user_namespaces",
            ),
        ] {
            let said = next_step(step, code);
            assert!(said.contains(setting), "{step}: {said}");
        }
        // Any other step leads to the one who tries each.
        assert!(next_step("create /proc", libc::EPERM).contains("doctor::probe"));
    }
}
