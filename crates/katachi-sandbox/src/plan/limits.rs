//! Who holds each limit: a control group, or what there is without one.

use std::path::PathBuf;

use crate::error::PlanError;
use crate::policy::Limits;

/// A place where a control group for each command can be made, and which
/// limits it holds there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cgroup {
    pub(crate) parent: PathBuf,
    pub(crate) memory: bool,
    pub(crate) processes: bool,
    /// What bounds the caller's own group, which the command leaves.
    pub(crate) most_processes: Option<u64>,
    pub(crate) cpus: bool,
    pub(crate) cpu_time: bool,
}

impl Cgroup {
    /// How many limits it holds.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn holds(&self) -> usize {
        [self.memory, self.processes, self.cpus, self.cpu_time]
            .into_iter()
            .filter(|held| *held)
            .count()
    }
}

/// Looks for a control group.
pub(super) fn cgroup(limits: &Limits) -> Result<Option<Cgroup>, PlanError> {
    #[cfg(target_os = "linux")]
    let found = crate::platform::find_cgroup(limits);
    #[cfg(not(target_os = "linux"))]
    let found: Option<Cgroup> = None;
    match limits.cpus {
        Some(cpus) if !found.as_ref().is_some_and(|group| group.cpus) => {
            Err(PlanError::NotEnforceable {
                rule: format!("limits.cpus = {cpus}"),
                problem: "no control group (version 2) with the controller `cpu` may be made here"
                    .to_owned(),
                next_step: "start the program where one is handed over (`systemd-run --user \
                            --scope -p Delegate=yes`, or a service with `Delegate=cpu` and \
                            `DelegateSubgroup=`), or write limits.cpu_time"
                    .to_owned(),
            })
        }
        _ => Ok(found),
    }
}

/// What holds the limits of a policy, in words.
pub(super) fn mechanism(limits: &Limits, cgroup: Option<&Cgroup>) -> String {
    let none = Cgroup::default();
    let group = cgroup.unwrap_or(&none);
    let by = |held: bool, file: &str, otherwise: &str| match held {
        true => format!("cgroup {file}"),
        false => otherwise.to_owned(),
    };
    let parts = [
        limits.memory.map(|_| {
            let by = by(group.memory, "memory.max", "rlimit, watchdog");
            format!("memory: {by}")
        }),
        limits.processes.map(|_| {
            let by = by(group.processes, "pids.max", "rlimit, watchdog");
            format!("processes: {by}")
        }),
        limits.cpu_time.map(|_| {
            let by = by(group.cpu_time, "cpu.stat", "rlimit");
            format!("cpu_time: {by}, watchdog")
        }),
        limits.cpus.map(|_| "cpus: cgroup cpu.max".to_owned()),
        limits
            .disk
            .map(|_| "disk: rlimit, size of private directories, watchdog".to_owned()),
        limits.network.map(|_| "network: the proxy".to_owned()),
        limits.wall_time.map(|_| "wall_time: a timer".to_owned()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => "nothing is limited".to_owned(),
        false => parts.join("; "),
    }
}

/// Where the limits have a gap.
pub(super) fn gaps(limits: &Limits, cgroup: Option<&Cgroup>) -> Vec<String> {
    let none = Cgroup::default();
    let group = cgroup.unwrap_or(&none);
    let watched = |limited: bool, held: bool| limited && !held;
    let memory = watched(limits.memory.is_some(), group.memory);
    let processes = watched(limits.processes.is_some(), group.processes);
    let mut gaps = Vec::new();
    if limits.disk.is_some() {
        gaps.push(
            "disk is added up again and again, so what is written meanwhile can pass; a removed file that is only mapped, or whose descriptor only lies in a socket, is not seen",
        );
    }
    if memory || processes {
        gaps.push(match (memory, processes) {
            (true, true) => {
                "memory and processes are summed up ten times a second, so a peak between two looks can pass them"
            }
            (true, _) => {
                "memory is summed up ten times a second, so a peak between two looks can pass it"
            }
            _ => {
                "processes are summed up ten times a second, so a peak between two looks can pass"
            }
        });
    }
    if memory {
        gaps.push(
            "memory does not count files in the private directories, each of which may grow to it once, nor what the kernel keeps for pipes and sockets",
        );
    }
    if watched(limits.cpu_time.is_some(), group.cpu_time) {
        gaps.push(
            "cpu_time misses processes that end between two of ten looks a second and whose parent does not wait for them",
        );
    }
    gaps.into_iter().map(str::to_owned).collect()
}
