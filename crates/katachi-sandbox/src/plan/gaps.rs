//! The report for a plan: each control with its mechanism, and each gap.

use super::{Plan, elsewhere, limits};
use crate::network::rule::Rule;
use crate::report::{Control, Enforced, Enforcement, Tier};

/// Controls every command has, with what holds them.
const CONTROLS: &[(&str, &str, &str)] = &[
    (
        "files",
        "only what filesystem.read and write name",
        "mount namespace, pinned directories, Landlock",
    ),
    (
        "metadata",
        "repositories and tool configuration stay as they are",
        "read-only mounts, comparison afterwards",
    ),
    (
        "exec",
        "only programs of commands.allow and filesystem.exec_from",
        "Landlock execute list, noexec mounts, seccomp on memfd",
    ),
    ("argv", "arguments as the rules want", "check before start"),
    (
        "network",
        "none",
        "network namespace without a route, seccomp",
    ),
    (
        "unix",
        "only sockets of network.unix",
        "seccomp, mount namespace",
    ),
    (
        "processes",
        "only the command's own are seen or reached",
        "pid namespace, Landlock scope, seccomp",
    ),
    (
        "kernel",
        "no dangerous system calls, one architecture",
        "seccomp",
    ),
    (
        "privileges",
        "no capabilities, nothing to gain",
        "user namespace, capability sets, no_new_privs",
    ),
    ("environment", "only named variables", "built from nothing"),
    ("descriptors", "only the three standard ones", "close_range"),
    ("lifetime", "nothing outlives the command", "pid namespace"),
    ("limits", "as the policy says", ""),
];

pub(super) fn enforcement(plan: &Plan) -> Enforcement {
    report(plan, crate::platform::enforcement(plan))
}

/// The same for a machine with this tier, kernel and version of Landlock.
pub(super) fn report(plan: &Plan, machine: (Tier, String, u32)) -> Enforcement {
    let inner = &plan.0;
    let (tier, kernel, landlock_abi) = machine;
    let gaps = match inner.system {
        Some(system) => elsewhere::gaps(inner, system),
        None => {
            let mut gaps = inner.gaps.clone();
            gaps.extend(standing_gaps(plan, landlock_abi));
            gaps
        }
    };
    let controls = CONTROLS
        .iter()
        .map(|(id, requested, mechanism)| {
            // What our own process does is no question of the system.
            let seen = inner.system.is_none() || *id == "environment";
            let unseen = (!seen).then_some("unwitnessed");
            let found = gaps
                .iter()
                .filter(|(gap, _)| gap == id)
                .map(|(_, reason)| reason.as_str());
            let reasons: Vec<&str> = unseen.into_iter().chain(found).collect();
            let enforced = if tier == Tier::None {
                Enforced::Off(not_started(inner))
            } else if reasons.is_empty() {
                Enforced::Full
            } else {
                Enforced::Partial(reasons.join("; "))
            };
            let by_system = inner
                .system
                .map(|system| elsewhere::mechanism(inner, system, id));
            let (requested, mechanism) = match *id {
                "network" if let Some(mechanism) = by_system => (network(inner).0, mechanism),
                _ if let Some(mechanism) = by_system => ((*requested).to_owned(), mechanism),
                "network" if tier != Tier::Landlock => network(inner),
                "limits" => (
                    (*requested).to_owned(),
                    limits::mechanism(&inner.policy.limits, inner.cgroup.as_ref()),
                ),
                "argv" if inner.guards.is_some() => (
                    (*requested).to_owned(),
                    "a tracer that looks at file and arguments before the first instruction"
                        .to_owned(),
                ),
                _ if tier == Tier::Landlock => {
                    ((*requested).to_owned(), without_namespaces(id).to_owned())
                }
                _ => ((*requested).to_owned(), (*mechanism).to_owned()),
            };
            Control {
                id: (*id).to_owned(),
                requested,
                enforced,
                mechanism,
                witnessed: false,
            }
        })
        .collect();
    let mut residual = vec![
        "an allowed program can do inside itself whatever its arguments and input tell it, within the same confinement".to_owned(),
        "a hole in the kernel is a hole in the sandbox".to_owned(),
    ];
    if let Some(system) = inner.system {
        residual.push(format!(
            "nobody has seen these controls hold on a real computer with {}: unwitnessed",
            system.name()
        ));
    }
    if !inner.network.rules.allow.is_empty() {
        residual.push(
            "what the command can read can leave through an allowed host: to accounts of others there, in names below a `*.`, in what TLS hides".to_owned(),
        );
    }
    if inner.guards.is_some() {
        residual.push(
            "what an argument rule refuses, a program that runs any code it is given can do by itself, within the same files and hosts".to_owned(),
        );
    }
    if inner.write_roots_hold_code() {
        residual.push(
            "what the command writes into the workspace is run by whoever builds or opens it outside".to_owned(),
        );
    }
    Enforcement {
        tier,
        kernel,
        landlock_abi,
        controls,
        residual,
        policy_hash: inner.policy.hash(),
        plan_hash: inner.hash.clone(),
    }
}

fn not_started(inner: &super::Inner) -> String {
    match inner.system {
        Some(system) => format!(
            "nothing is started on {} unless the caller accepts what nobody has seen hold: PlanOptions::accept(Tier::Unwitnessed)",
            system.name()
        ),
        None => "commands are not started on this machine".to_owned(),
    }
}

/// What holds each control where there are no namespaces.
fn without_namespaces(control: &str) -> &'static str {
    match control {
        "files" => "Landlock on pinned directories; seccomp on modes, owners and times",
        "metadata" => "Landlock, comparison afterwards",
        "exec" => "Landlock execute list, a tracer that looks at every start",
        "network" | "unix" => "seccomp: no sockets but pairs",
        "processes" => "Landlock scope, seccomp; /proc is not readable",
        "kernel" => "seccomp",
        "privileges" => "capability sets, no_new_privs",
        "lifetime" => "a tracer that takes all it traces with it",
        "limits" => "rlimits, a watchdog",
        "environment" => "built from nothing",
        _ => "close_range",
    }
}

/// What is not as with namespaces, beside what the plan itself found.
fn gaps_without_namespaces(inner: &super::Inner, landlock_abi: u32) -> Vec<(&'static str, String)> {
    let mut gaps = vec![
        ("files", "names, sizes and times of the host's files can be seen, not their content; owners and attributes of no file can be changed, modes and times of the command's own alone; other calls of one file system (ioctl) on what can be read are not closed; a device that lies in a directory of filesystem.read, or is made during the run, can be used as its mode says".to_owned()),
        ("exec", "a library in a writable directory can be loaded into an allowed program".to_owned()),
    ];
    if !inner.late.is_empty() {
        gaps.push(("files", "what the host makes or replaces during the run in an opened directory, under a denied name, can be read".to_owned()));
    }
    if landlock_abi < 6 {
        gaps.push((
            "processes",
            "other processes of the same user can be sent signals, but for SIGSTOP".to_owned(),
        ));
    }
    gaps
}

/// What the policy wants of the network, and what holds it.
fn network(inner: &super::Inner) -> (String, String) {
    let mut requested = "none".to_owned();
    let mut mechanism = "network namespace without a route, seccomp".to_owned();
    if !inner.network.rules.allow.is_empty() {
        let hosts: Vec<String> = inner.network.rules.allow.iter().map(Rule::shown).collect();
        requested = format!("only {}", hosts.join(", "));
        mechanism.push_str(
            "; a proxy outside that decides, then resolves, then checks address and TLS name",
        );
    }
    if !inner.network.publish.is_empty() {
        let ports: Vec<String> = inner.network.publish.iter().map(u16::to_string).collect();
        requested = format!(
            "{requested}; ports {} published to the host's loopback",
            ports.join(", ")
        );
    }
    (requested, mechanism)
}

impl super::Inner {
    fn write_roots_hold_code(&self) -> bool {
        !self.policy.filesystem.write.is_empty()
    }
}

fn standing_gaps(plan: &Plan, landlock_abi: u32) -> Vec<(&'static str, String)> {
    let inner = &plan.0;
    let mut gaps = match inner.floor {
        None => Vec::new(),
        Some(_) => gaps_without_namespaces(inner, landlock_abi),
    };
    // A tracer sees the loader and refuses it.
    if inner.guards.is_none()
        && inner
            .entries
            .iter()
            .any(|entry| entry.access.load && entry.is_directory())
    {
        gaps.push((
            "exec",
            "the dynamic loader, called by name, can start a program file that lies in a library directory; it is then confined like the command".to_owned(),
        ));
    }
    if !inner.sockets.is_empty() {
        gaps.push((
            "unix",
            "with one socket allowed, other sockets in visible directories can be reached too"
                .to_owned(),
        ));
    }
    if landlock_abi < 6 {
        gaps.push((
            "processes",
            "this kernel's Landlock does not scope signals".to_owned(),
        ));
    }
    let held = limits::gaps(&inner.policy.limits, inner.cgroup.as_ref());
    gaps.extend(held.into_iter().map(|gap| ("limits", gap)));
    if inner
        .entries
        .iter()
        .any(|entry| entry.protects && !entry.is_hidden() && !entry.is_directory())
    {
        gaps.push((
            "metadata",
            "a protected file that a program outside replaces during the run, as editors and git do, is protected again as soon as the kernel tells of it; until then, for milliseconds, and longer on a busy machine, the command can write it".to_owned(),
        ));
    }
    if inner
        .entries
        .iter()
        .any(|entry| entry.is_hidden() && !entry.is_directory())
    {
        gaps.push((
            "files",
            "a hidden file that a program outside replaces during the run is hidden again as soon as the kernel tells of it; until then, for milliseconds, and longer on a busy machine, the command can read it".to_owned(),
        ));
    }
    gaps
}
