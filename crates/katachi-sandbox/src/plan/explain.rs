//! Why something is allowed or not, from the entries that are enforced.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Kind, covering};
use super::floor::{self, Opened, Reach};
use super::programs::Decision;
use super::{Inner, resolve};
use crate::network::host::{self, Host};
use crate::report::Violation;

/// Something a command might do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Query {
    /// Read a file or list a directory.
    Read(PathBuf),
    /// Write, create or remove a file.
    Write(PathBuf),
    /// Start this argv as the command.
    Exec(Vec<OsString>),
    /// Connect to `host:port`, or to a unix socket by absolute path.
    Connect(String),
}

/// Whether it is allowed, by which rule, and what would allow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Answer {
    /// Whether the sandbox lets it happen. The file's own permissions can
    /// still refuse.
    pub allowed: bool,
    /// `read`, `write`, `exec` or `connect`.
    pub operation: String,
    /// What was asked about, resolved.
    pub target: String,
    /// The rule that decides, with its key.
    pub rule: String,
    /// The line of policy that would allow it, where one exists.
    pub allow_with: Option<String>,
}

impl Answer {
    /// The refusal as it appears in reports; `None` if it is allowed.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        (!self.allowed).then(|| Violation {
            control: match self.operation.as_str() {
                "connect" => "network".to_owned(),
                "exec" => "exec".to_owned(),
                _ => "files".to_owned(),
            },
            operation: self.operation.clone(),
            target: self.target.clone(),
            reason: self.rule.clone(),
            allow_with: self.allow_with.clone(),
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allowed { "allowed" } else { "denied" };
        write!(
            f,
            "{} {}: {verdict} ({})",
            self.operation, self.target, self.rule
        )?;
        match &self.allow_with {
            Some(line) => write!(f, "; to allow it: {line}"),
            None => Ok(()),
        }
    }
}

pub(super) fn explain(plan: &Inner, query: &Query) -> Answer {
    let mut answer = match query {
        Query::Read(path) => file(plan, path, false),
        Query::Write(path) => file(plan, path, true),
        Query::Exec(argv) => exec(plan, argv),
        Query::Connect(target) => connect(plan, target),
    };
    if let Some(system) = plan.system {
        answer.rule = format!("{}; unwitnessed on {}", answer.rule, system.name());
    }
    answer
}

fn file(plan: &Inner, path: &Path, write: bool) -> Answer {
    let asked = resolve::absolute(&path.to_string_lossy(), &plan.workspace, Some(&plan.home))
        .unwrap_or_else(|| path.to_owned());
    // A private directory hides what the host has there, links included.
    let place = match covering(&plan.entries, &asked) {
        Some(Entry {
            kind: Kind::Private,
            ..
        }) => asked,
        _ => resolve::follow_existing(&asked),
    };
    let (allowed, rule) = decide_file(plan, &place, write);
    let directory = if place.is_dir() {
        Some(place.as_path())
    } else {
        place.parent()
    };
    let key = if write { "write" } else { "read" };
    let allow_with = match covering(&plan.entries, &place) {
        _ if allowed => None,
        Some(above) if above.is_hidden() => Some(format!("remove {}", above.rule)),
        Some(above) if above.protects => None,
        _ => directory
            .map(|directory| format!("[filesystem] {key} = [{:?}]", shorten(plan, directory))),
    };
    Answer {
        allowed,
        operation: key.to_owned(),
        target: place.display().to_string(),
        rule,
        allow_with,
    }
}

/// The decision for a resolved path, from the entries alone.
fn decide_file(plan: &Inner, place: &Path, write: bool) -> (bool, String) {
    if let Some(opened) = &plan.floor {
        return opened_file(plan, opened, place, write);
    }
    let kernel = ["/proc", "/sys", "/dev"]
        .iter()
        .find(|tree| place.starts_with(tree));
    if let Some(tree) = kernel {
        return kernel_file(place, tree, write);
    }
    match covering(&plan.entries, place) {
        Some(above) if above.is_hidden() => (false, format!("{} hides it", above.rule)),
        Some(above) if write && !above.access.write => {
            (false, format!("{} makes it readable only", above.rule))
        }
        Some(Entry {
            kind: Kind::Private,
            target,
            ..
        }) => private_file(place, target),
        Some(above) => (true, above.rule.clone()),
        None => {
            let leads = plan
                .entries
                .iter()
                .any(|entry| entry.target.starts_with(place));
            if leads && !write {
                (
                    true,
                    "it leads to allowed directories; only those are listed".to_owned(),
                )
            } else {
                let key = if write {
                    "filesystem.write"
                } else {
                    "filesystem.read"
                };
                (false, format!("no rule of {key} covers it"))
            }
        }
    }
}

/// The same where Landlock alone decides.
fn opened_file(plan: &Inner, opened: &[Opened], place: &Path, write: bool) -> (bool, String) {
    const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];
    if place.parent() == Some(Path::new("/dev"))
        && place
            .file_name()
            .is_some_and(|name| DEVICES.iter().any(|known| name == *known))
    {
        return (true, "one of the few devices every command has".to_owned());
    }
    let above = covering(&plan.entries, place);
    match (floor::reach(opened, place), above) {
        (Some(Reach::Write), Some(above)) => (true, above.rule.clone()),
        (Some(Reach::Read), Some(above)) if !write => (true, above.rule.clone()),
        (Some(Reach::List), _) if !write && place.is_dir() => {
            (true, "its names can be listed".to_owned())
        }
        (Some(Reach::List), Some(above)) if !above.is_hidden() => (
            false,
            format!(
                "{} lies in a directory that is opened name by name, and is not one of them",
                place.display()
            ),
        ),
        (_, Some(above)) if above.is_hidden() => (false, format!("{} hides it", above.rule)),
        (Some(Reach::Read), Some(above)) => {
            (false, format!("{} makes it readable only", above.rule))
        }
        _ => {
            let key = match write {
                true => "filesystem.write",
                false => "filesystem.read",
            };
            (false, format!("no rule of {key} covers it"))
        }
    }
}

/// What exists outside below a private directory does not exist inside.
fn private_file(place: &Path, private: &Path) -> (bool, String) {
    let below = place
        .strip_prefix(private)
        .ok()
        .and_then(|rest| rest.components().next());
    let hides = below.is_some_and(|name| private.join(name).symlink_metadata().is_ok());
    let shown = private.display();
    if hides {
        (
            false,
            format!("inside, {shown} is a private directory that hides what the host has there"),
        )
    } else {
        (
            true,
            format!("{shown} is a private directory in memory, empty at the start"),
        )
    }
}

fn kernel_file(place: &Path, tree: &str, write: bool) -> (bool, String) {
    const DEVICES: &[&str] = &[
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
    ];
    match tree {
        "/sys" => (false, "/sys does not exist inside".to_owned()),
        "/proc" if write => (false, "/proc is never writable".to_owned()),
        "/proc" => (
            true,
            "a /proc that knows the command's own processes only".to_owned(),
        ),
        _ if place.starts_with("/dev/shm") => (
            true,
            "/dev/shm is a private directory in memory, empty at the start".to_owned(),
        ),
        _ if DEVICES.iter().any(|device| place == Path::new(device)) => {
            (true, "one of the few devices every command has".to_owned())
        }
        _ if place == Path::new("/dev") && !write => (true, "a minimal /dev".to_owned()),
        _ => (
            false,
            "/dev holds null, zero, full, random, urandom and tty only".to_owned(),
        ),
    }
}

/// The path as a rule of this plan would write it.
pub(crate) fn shorten(plan: &Inner, path: &Path) -> String {
    if let Ok(rest) = path.strip_prefix(&plan.workspace) {
        return if rest.as_os_str().is_empty() {
            ".".to_owned()
        } else {
            rest.display().to_string()
        };
    }
    match path.strip_prefix(&plan.home) {
        Ok(rest) => format!("~/{}", rest.display()),
        Err(_) => path.display().to_string(),
    }
}

fn exec(plan: &Inner, argv: &[OsString]) -> Answer {
    let (allowed, target, rule, allow_with) = match plan.decide(argv, &plan.workspace, false) {
        Decision::Run { real, rule, .. } => {
            let tree = plan
                .exec_trees
                .iter()
                .find(|(tree, _)| real.starts_with(tree));
            let rule = match (rule, tree) {
                (Some(index), _) => plan.rules[index].text.clone(),
                (None, Some((_, rule))) => rule.clone(),
                (None, None) => "filesystem.exec_from".to_owned(),
            };
            (true, real.display().to_string(), rule, None)
        }
        Decision::Denied(violation) => (
            false,
            violation.target,
            violation.reason,
            violation.allow_with,
        ),
    };
    Answer {
        allowed,
        operation: "exec".to_owned(),
        target,
        rule,
        allow_with,
    }
}

fn connect(plan: &Inner, target: &str) -> Answer {
    let answer = |allowed, rule: &str, allow_with| Answer {
        allowed,
        operation: "connect".to_owned(),
        target: target.to_owned(),
        rule: rule.to_owned(),
        allow_with,
    };
    if target.starts_with('/') {
        let place = resolve::follow_existing(Path::new(target));
        if plan.sockets.contains(&place) {
            return answer(true, &format!("network.unix = {target:?}"), None);
        }
        let allow_with = Some(format!("[network] unix = [{target:?}]"));
        return answer(false, "network.unix does not name this socket", allow_with);
    }
    // Without a port, the one that is meant most.
    let bracket = target.rfind(']').unwrap_or(0);
    let with_port = match target[bracket..].contains(':') {
        true => target.to_owned(),
        false => format!("{target}:443"),
    };
    let (host, port) = match host::authority(&with_port) {
        Ok(read) => read,
        Err(problem) => {
            return answer(false, &format!("it is no host and port: {problem}"), None);
        }
    };
    let decision = plan.network.rules.decide(&host, port);
    let answer = |allowed, rule: &str, allow_with| Answer {
        target: format!("{host}:{port}"),
        ..answer(allowed, rule, allow_with)
    };
    let own = match &host {
        Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        Host::Address(address) => address.is_loopback(),
    };
    if own
        && plan.system.is_none()
        && !decision.allowed()
        && !plan.network.rules.ports().contains(&port)
    {
        return answer(
            true,
            "the command has a loopback of its own; the host's services are not on it",
            None,
        );
    }
    match host {
        Host::Name(_) if decision.allowed() => answer(
            true,
            &format!(
                "{}, as long as the name leads to a public address",
                decision.rule
            ),
            None,
        ),
        _ => answer(decision.allowed(), &decision.rule, decision.allow_with),
    }
}
