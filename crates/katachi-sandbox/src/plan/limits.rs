//! Who holds each limit: a control group, or what there is without one.

use std::path::PathBuf;

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
}

impl Cgroup {
    /// How many limits it holds.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn holds(&self) -> usize {
        [self.memory, self.processes]
            .into_iter()
            .filter(|held| *held)
            .count()
    }
}

/// Looks for a control group.
pub(super) fn cgroup(limits: &Limits) -> Option<Cgroup> {
    #[cfg(target_os = "linux")]
    return crate::platform::find_cgroup(limits);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = limits;
        None
    }
}

/// What holds the limits of a policy, in words.
pub(super) fn mechanism(limits: &Limits, cgroup: Option<&Cgroup>) -> String {
    let (memory, processes) = held(cgroup);
    let by = |held: bool, group: &str, otherwise: &str| match held {
        true => format!("cgroup {group}"),
        false => otherwise.to_owned(),
    };
    let parts = [
        limits
            .memory
            .map(|_| format!("memory: {}", by(memory, "memory.max", "rlimit, watchdog"))),
        limits.processes.map(|_| {
            format!(
                "processes: {}",
                by(processes, "pids.max", "rlimit, watchdog")
            )
        }),
        limits
            .disk
            .map(|_| "disk: rlimit, size of private directories".to_owned()),
        limits.network.map(|_| "network: the proxy".to_owned()),
        limits.wall_time.map(|_| "wall_time: a timer".to_owned()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => "nothing is limited".to_owned(),
        false => parts.join("; "),
    }
}

/// Whether a group holds memory, and processes.
pub(super) fn held(cgroup: Option<&Cgroup>) -> (bool, bool) {
    cgroup.map_or((false, false), |group| (group.memory, group.processes))
}

/// Where the limits have a gap.
pub(super) fn gaps(limits: &Limits, cgroup: Option<&Cgroup>) -> Vec<String> {
    let (memory_held, processes_held) = held(cgroup);
    let mut gaps = Vec::new();
    if limits.disk.is_some() {
        gaps.push(
            "disk bounds one file and the private directories, not the sum of what is written to the workspace".to_owned(),
        );
    }
    let summed: Vec<&str> = [
        (limits.memory.is_some() && !memory_held).then_some("memory"),
        (limits.processes.is_some() && !processes_held).then_some("processes"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !summed.is_empty() {
        gaps.push(format!(
            "{} summed up ten times a second, so a peak between two looks can pass; no control group is offered for it here",
            match summed.len() {
                1 => format!("{} is", summed[0]),
                _ => format!("{} are", summed.join(" and ")),
            }
        ));
    }
    if limits.memory.is_some() && !memory_held {
        gaps.push(
            "memory does not count files in the private directories, each of which may grow to it once, nor what the kernel keeps for pipes and sockets".to_owned(),
        );
    }
    gaps
}
