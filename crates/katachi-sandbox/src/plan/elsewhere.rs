//! What a plan for macOS or Windows can hold, and what it says of itself.
//!
//! Both are written from their systems' documentation, and nobody has seen them
//! hold: whoever starts a command there accepts [`Tier::Unwitnessed`]. A rule
//! that the system cannot hold by anything an ordinary user may do is refused.
//!
//! [`Tier::Unwitnessed`]: crate::report::Tier::Unwitnessed

use super::Inner;
use super::files::LATE;
use super::options::{Children, PlanOptions};
use crate::error::PlanError;
use crate::policy::{CommandRule, Limits, Policy};

/// A system whose sandbox nobody has seen at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// Seatbelt, process groups, resource limits.
    MacOs,
    /// An AppContainer and a job object.
    Windows,
}

impl System {
    /// The one that this is; `None` on Linux.
    pub(crate) fn here() -> Option<Self> {
        match std::env::consts::OS {
            "macos" => Some(Self::MacOs),
            "windows" => Some(Self::Windows),
            _ => None,
        }
    }

    /// As people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MacOs => "macOS",
            Self::Windows => "Windows",
        }
    }
}

/// How much is enforced there: nothing starts unless the caller accepts what
/// nobody has seen hold.
#[cfg(any(not(target_os = "linux"), test))]
pub(crate) fn tier(plan: &Inner) -> crate::report::Tier {
    use crate::report::Tier;

    match plan.system {
        Some(_) if plan.accepts_unwitnessed => Tier::Unwitnessed,
        _ => Tier::None,
    }
}

/// The system, if commands of the plan start there.
#[cfg(any(not(target_os = "linux"), test))]
pub(crate) fn startable(plan: &Inner) -> Result<System, crate::SpawnError> {
    use crate::SpawnError;

    match plan.system {
        None => Err(SpawnError::Unsupported(std::env::consts::OS)),
        Some(system) if !plan.accepts_unwitnessed => Err(SpawnError::Unwitnessed(system.name())),
        Some(system) => Ok(system),
    }
}

/// Refuses what cannot be held there.
pub(super) fn refuse(
    system: System,
    policy: &Policy,
    options: &PlanOptions,
) -> Result<(), PlanError> {
    let refuse = |rule: String, problem: &str, next_step: &str| {
        Err(PlanError::NotEnforceable {
            rule,
            problem: format!("on {} {problem}", system.name()),
            next_step: next_step.to_owned(),
        })
    };
    let network = &policy.network;
    if let (System::Windows, Some(host)) = (system, network.allow.first()) {
        return refuse(
            format!("network.allow = {host:?}"),
            "an AppContainer reaches no proxy on its own computer: the exemption for loopback \
             needs an administrator",
            "remove the hosts and let the caller fetch what is needed",
        );
    }
    if let Some(port) = network.publish.first() {
        let problem = match system {
            System::MacOs => "a command has no loopback of its own",
            System::Windows => {
                "an AppContainer cannot be reached over loopback: the exemption needs an \
                 administrator"
            }
        };
        return refuse(format!("network.publish = {port}"), problem, "remove it");
    }
    if let (System::Windows, Some(socket)) = (system, network.unix.first()) {
        let problem = "one socket cannot be told from another";
        return refuse(format!("network.unix = {socket:?}"), problem, "remove it");
    }
    if policy.limits.disk.is_some() {
        let problem = "what a command writes cannot be bounded";
        let next_step = "remove it and watch the file system";
        return refuse("limits.disk".to_owned(), problem, next_step);
    }
    if let Some(cpus) = policy.limits.cpus {
        let problem = "nothing bounds a command's share of the processors";
        let next_step = "write limits.cpu_time, which bounds what it uses in all";
        return refuse(format!("limits.cpus = {cpus}"), problem, next_step);
    }
    let looked_at =
        |rule: &&CommandRule| matches!(rule, CommandRule::Argv(words) if words.len() > 1);
    let argv = policy.commands.allow.iter().find(looked_at);
    let rule = match (policy.commands.ask.first(), argv) {
        (Some(rule), _) => format!("commands.ask = {rule}"),
        (None, Some(rule)) => format!("commands.allow = {rule}"),
        (None, None) => return Ok(()),
    };
    match (system, options.children) {
        // Then there is only the command itself, which is looked at.
        (System::Windows, Children::None) => Ok(()),
        (System::Windows, Children::Any) => refuse(
            rule,
            "nothing looks at what a command starts in turn",
            "leave PlanOptions::children at Children::None, or allow the program with any \
             arguments",
        ),
        (System::MacOs, _) => refuse(
            rule,
            "Seatbelt sees the file that is executed, not its arguments",
            "allow or deny the program as a whole",
        ),
    }
}

/// Each control with what holds it there.
pub(super) fn mechanism(inner: &Inner, system: System, control: &str) -> String {
    let text = match (system, control) {
        (System::MacOs, "files" | "metadata") => "Seatbelt profile",
        (System::MacOs, "exec" | "argv") => "Seatbelt list of executable files",
        (System::MacOs, "network") if !inner.network.rules.allow.is_empty() => {
            "Seatbelt: one port of loopback; a proxy there, for whoever has its credentials, that decides, then resolves, then checks address and TLS name"
        }
        (System::MacOs, "network" | "unix") => "Seatbelt: no rule opens a socket",
        (System::MacOs, "processes") => "Seatbelt: signals within the sandbox alone",
        (System::MacOs, "kernel") => "Seatbelt: devices and services of the system are closed",
        (System::MacOs, "privileges") => "Seatbelt: no file becomes set-user-id",
        (System::MacOs, "lifetime") => "a session of its own, killed as a group",
        (System::MacOs, "descriptors") => "closed when the program starts",
        (System::Windows, "files" | "metadata") => {
            "AppContainer, entries for it in access lists, taken out afterwards"
        }
        (System::Windows, "exec" | "argv") => match inner.children {
            Children::None => "check before start; a job of one process, child process policy",
            Children::Any => "check before start",
        },
        (System::Windows, "network") => "AppContainer without a capability for it",
        (System::Windows, "unix") => "AppContainer",
        (System::Windows, "processes") => "AppContainer, job object",
        (System::Windows, "kernel") => "job object: no desktop, clipboard, handles, shutdown",
        (System::Windows, "privileges") => "AppContainer: a token without privileges",
        (System::Windows, "lifetime") => "job object, killed when its last handle closes",
        (System::Windows, "descriptors") => "a list of the three handles",
        (_, "limits") => return limits(system, &inner.policy.limits),
        _ => "built from nothing",
    };
    text.to_owned()
}

fn limits(system: System, limits: &Limits) -> String {
    let by = match system {
        System::MacOs => ["a look ten times a second", "rlimit of each process"],
        System::Windows => ["job object", "job object, a look ten times a second"],
    };
    let parts = [
        limits.memory.map(|_| format!("memory: {}", by[0])),
        limits.processes.map(|_| format!("processes: {}", by[0])),
        limits.cpu_time.map(|_| format!("cpu_time: {}", by[1])),
        limits.network.map(|_| "network: the proxy".to_owned()),
        limits.wall_time.map(|_| "wall_time: a timer".to_owned()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => "nothing is limited".to_owned(),
        false => parts.join("; "),
    }
}

/// What stays possible there even if everything works as documented.
pub(super) fn gaps(inner: &Inner, system: System) -> Vec<(&'static str, String)> {
    // What those say is what is done about it on Linux.
    let from_plan = inner
        .gaps
        .iter()
        .filter(|(control, text)| *control != "metadata" && !text.contains(LATE));
    let mut gaps: Vec<(&'static str, String)> = from_plan.cloned().collect();
    let mut add = |control, text: &str| gaps.push((control, text.to_owned()));
    add(
        "files",
        "directories are compared with the plan by path when a command starts, and opened by path afterwards",
    );
    add(
        "metadata",
        "repositories and tool configuration that the command makes anew are not looked for afterwards",
    );
    let limits = &inner.policy.limits;
    match system {
        System::MacOs => {
            add(
                "kernel",
                "system calls are not filtered; what the profile does not name is denied",
            );
            add(
                "privileges",
                "the command has the caller's user; a set-user-id program that the policy allows has its owner's",
            );
            add(
                "processes",
                "names and states of other processes can be seen",
            );
            add(
                "lifetime",
                "a program that makes a session of its own is not killed with the others; it stays confined",
            );
            if !inner.network.rules.allow.is_empty() {
                add(
                    "network",
                    "other programs of the same user can read the proxy's credentials out of the command's variables, and reach by it what the command may; programs that know no proxy reach nothing",
                );
            }
            if limits.memory.is_some() || limits.processes.is_some() {
                add(
                    "limits",
                    "memory and processes are summed up ten times a second over the command's group, so a peak between two looks, or what left the group, can pass them; threads are not counted",
                );
            }
            if limits.cpu_time.is_some() {
                add("limits", "cpu_time holds for each process by itself");
            }
        }
        System::Windows => {
            add(
                "files",
                "what Windows opens to every AppContainer can be read: most of its own directory and of installed programs",
            );
            add(
                "kernel",
                "system calls are not filtered, those of the window manager included",
            );
            if !inner.late.is_empty() {
                add(
                    "files",
                    "what appears during the run under a denied name can be read",
                );
            }
            if !inner.absent.is_empty() {
                add(
                    "metadata",
                    "files that redirect git can be made where there are none, and stay",
                );
            }
            if inner.children == Children::Any {
                add(
                    "exec",
                    "the command can start any program that an AppContainer may execute, also one that it wrote itself; each is confined alike",
                );
            }
            if limits.memory.is_some() {
                add(
                    "limits",
                    "past limits.memory an allocation fails, and the command goes on",
                );
            }
        }
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use crate::plan::{Plan, Query, build, gaps};
    use crate::report::{Enforced, Tier};
    use crate::{Enforcement, SpawnError};

    const BOTH: [System; 2] = [System::MacOs, System::Windows];

    /// A plan, and its report, as if it were made on that system.
    fn plan_on(system: System, accepts_unwitnessed: bool) -> (Plan, Enforcement) {
        let workspace = tempfile::tempdir().unwrap();
        let policy = Policy::default().write(".");
        let options = PlanOptions::new(workspace.path());
        let inner = Inner {
            system: Some(system),
            accepts_unwitnessed,
            cgroup: None,
            floor: None,
            ..build::build(&policy, &options).unwrap()
        };
        let plan = Plan(Arc::new(inner));
        let machine = (tier(&plan.0), system.name().to_owned(), 0);
        let report = gaps::report(&plan, machine);
        (plan, report)
    }

    #[test]
    fn nothing_starts_where_nobody_has_seen_it_hold() {
        for system in BOTH {
            let (plan, report) = plan_on(system, false);
            let started = startable(&plan.0);
            assert!(matches!(started, Err(SpawnError::Unwitnessed(name)) if name == system.name()));
            let error = started.unwrap_err().to_string();
            assert!(error.contains("PlanOptions::accept"), "{error}");
            assert_eq!(report.tier, Tier::None);
            for control in &report.controls {
                let Enforced::Off(reason) = &control.enforced else {
                    panic!("{control:?}");
                };
                assert!(reason.contains(system.name()), "{reason}");
                assert!(reason.contains("Tier::Unwitnessed"), "{reason}");
            }
        }
    }

    #[test]
    fn what_is_accepted_unseen_is_called_unwitnessed_everywhere() {
        for system in BOTH {
            let (plan, report) = plan_on(system, true);
            assert_eq!(startable(&plan.0).unwrap(), system);
            assert_eq!(report.tier, Tier::Unwitnessed);
            assert!(!report.is_full());
            for control in &report.controls {
                assert!(!control.witnessed, "{control:?}");
                let unseen = matches!(
                    &control.enforced,
                    Enforced::Partial(gap) if gap.starts_with("unwitnessed")
                );
                // What the caller's own process does is seen on every system.
                assert_eq!(unseen, control.id != "environment", "{control:?}");
            }
            let told = |line: &String| line.contains("unwitnessed") && line.contains(system.name());
            assert!(report.residual.iter().any(told), "{report}");
            let line = format!("unwitnessed: nobody has seen {} hold", system.name());
            assert!(plan.to_string().contains(&line), "{plan}");
            let answer = plan.explain(&Query::Read("/".into()));
            assert!(
                answer
                    .rule
                    .ends_with(&format!("unwitnessed on {}", system.name()))
            );
        }
    }

    fn refused(system: System, policy: &Policy) -> Option<String> {
        let options = PlanOptions::new("/");
        refuse(system, policy, &options)
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn what_cannot_be_held_is_refused_with_rule_and_next_step() {
        let text = |limits: &str| Policy::from_toml(limits, "test").unwrap();
        let cases = [
            (text("[network]\nallow = [\"a.example:443\"]"), false, true),
            (text("[network]\npublish = [3000]"), true, true),
            (text("[network]\nunix = [\"/run/s\"]"), false, true),
            (text("[limits]\ndisk = \"1GiB\""), true, true),
            (text("[limits]\ncpus = 0.5"), true, true),
            (
                text("[commands]\nallow = [[\"git\", \"status\"]]"),
                true,
                false,
            ),
            (text("[commands]\nask = [\"git\"]"), true, false),
            (
                text("[commands]\nallow = [\"git\", [\"ls\"]]"),
                false,
                false,
            ),
            (
                text(
                    "[limits]\nmemory = \"1GiB\"\nprocesses = 3\ncpu_time = \"1s\"\nwall_time = \"1s\"",
                ),
                false,
                false,
            ),
        ];
        for (policy, on_mac, on_windows) in cases {
            for (system, wanted) in [(System::MacOs, on_mac), (System::Windows, on_windows)] {
                let found = refused(system, &policy);
                assert_eq!(found.is_some(), wanted, "{system:?} {policy:?} {found:?}");
                assert!(
                    found.is_none_or(|text| text.contains(system.name()) && text.contains("; "))
                );
            }
        }
    }

    #[test]
    fn windows_holds_arguments_only_while_nothing_else_is_started() {
        let policy =
            Policy::from_toml("[commands]\nallow = [[\"git\", \"status\"]]", "test").unwrap();
        let options = PlanOptions::new("/").children(Children::Any);
        assert!(refuse(System::Windows, &policy, &options).is_err());
        let options = PlanOptions::new("/");
        assert!(refuse(System::Windows, &policy, &options).is_ok());
    }
}
