//! The plan for machines without user namespaces.
//!
//! There Landlock alone says what may be read and written. It opens whole
//! directories and can take nothing back, so a directory that holds something
//! denied or readable only is not opened itself: its names can be listed, and
//! each of its children is opened by a rule of its own. What is new directly in
//! such a directory cannot be made, and what the host puts there later is not
//! opened.

use std::path::{Path, PathBuf};

use super::Inner;
use super::entry::{Entry, Kind};
use super::options::PlanOptions;
use super::pin::Pin;
use crate::error::PlanError;
use crate::policy::Policy;
use crate::report::Tier;

/// The most places that are opened one by one.
const MOST: usize = 8192;

/// A place that Landlock opens, with everything below it.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    /// `None` for a file that no rule names: whatever file has its name then.
    pub(crate) pin: Option<Pin>,
    pub(crate) reach: Reach,
}

/// What is opened there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Names of files.
    List,
    Read,
    Write,
}

/// Which tier to plan for. A policy that the lower tier cannot hold is refused.
pub(super) fn tier(policy: &Policy, options: &PlanOptions) -> Result<Tier, PlanError> {
    let works = || !options.only && crate::platform::has_namespaces(options.helper.as_deref());
    if options.accept >= Tier::Namespaces || works() {
        return Ok(Tier::Namespaces);
    }
    let refuse = |rule: String, problem: &str, next_step: &str| {
        Err(PlanError::NotEnforceable {
            rule,
            problem: format!("{problem} without user namespaces"),
            next_step: format!("{next_step}, or allow user namespaces (see the doctor)"),
        })
    };
    let (network, limits) = (&policy.network, &policy.limits);
    if let Some(host) = network.allow.first() {
        return refuse(
            format!("network.allow = {host:?}"),
            "a command could connect past the proxy",
            "remove the hosts and let the caller fetch what is needed",
        );
    }
    if let Some(port) = network.publish.first() {
        return refuse(
            format!("network.publish = {port}"),
            "a command has no loopback of its own",
            "remove it",
        );
    }
    if let Some(socket) = network.unix.first() {
        return refuse(
            format!("network.unix = {socket:?}"),
            "one unix socket cannot be told from another",
            "remove it",
        );
    }
    if limits.disk.is_some() {
        return refuse(
            "limits.disk".to_owned(),
            "what a command writes cannot be bounded",
            "remove it and watch the file system",
        );
    }
    Ok(Tier::Landlock)
}

/// The places to open, with the gaps that come of it.
pub(super) fn open(inner: &mut Inner) -> Result<Vec<Opened>, PlanError> {
    let mut opened = Vec::new();
    let mut listed = Vec::new();
    for entry in &inner.entries {
        let Kind::Host(pin) = &entry.kind else {
            continue;
        };
        let reach = match entry.access.write {
            true => Reach::Write,
            false => Reach::Read,
        };
        let inside: Vec<&Entry> = inner
            .entries
            .iter()
            .filter(|other| other.target != entry.target)
            .filter(|other| other.target.starts_with(&entry.target))
            .filter(|other| takes_back(other, entry))
            .collect();
        let known = Opened {
            path: entry.target.clone(),
            pin: Some(pin.clone()),
            reach,
        };
        spread(known, &entry.rule, &inside, &mut opened, &mut listed)?;
    }
    for (path, rule) in listed {
        let gap = format!(
            "{} is opened name by name because of {rule}: nothing new can be made directly in it, and what is hidden in it keeps its name",
            path.display()
        );
        inner.gaps.push(("files", gap));
    }
    if inner
        .entries
        .iter()
        .any(|entry| matches!(entry.kind, Kind::Placeholder))
    {
        inner.gaps.push((
            "metadata",
            "protected names that do not exist yet can be made, and are reported when the command ends".to_owned(),
        ));
    }
    Ok(opened)
}

/// Whether something inside is less open than what it lies in.
fn takes_back(inside: &Entry, around: &Entry) -> bool {
    match inside.kind {
        Kind::HiddenDirectory | Kind::HiddenFile => true,
        Kind::Host(_) => around.access.write && !inside.access.write,
        Kind::Placeholder | Kind::Private => false,
    }
}

/// Opens a place, or its children where something in it is taken back.
fn spread(
    place: Opened,
    rule: &str,
    inside: &[&Entry],
    opened: &mut Vec<Opened>,
    listed: &mut Vec<(PathBuf, String)>,
) -> Result<(), PlanError> {
    let too_many = || PlanError::NotEnforceable {
        rule: rule.to_owned(),
        problem: format!(
            "without user namespaces {} would have to be opened file by file, and holds more than {MOST}",
            place.path.display()
        ),
        next_step: "open a smaller directory, or deny less in it".to_owned(),
    };
    if opened.len() >= MOST {
        return Err(too_many());
    }
    let Some(first) = inside.first() else {
        opened.push(place);
        return Ok(());
    };
    let unreadable = |source| PlanError::Unreadable {
        path: place.path.clone(),
        source,
    };
    listed.push((place.path.clone(), first.rule.clone()));
    let mut children = Vec::new();
    for child in std::fs::read_dir(&place.path).map_err(unreadable)? {
        children.push(child.map_err(unreadable)?.path());
        if children.len() > MOST {
            return Err(too_many());
        }
    }
    children.sort();
    let reach = place.reach;
    opened.push(Opened {
        reach: Reach::List,
        ..place.clone()
    });
    for child in children {
        if inside.iter().any(|entry| entry.target == child) {
            continue;
        }
        // What a link leads to is opened where it lies, if a rule opens it.
        let Some(pin) = pinned(&child) else { continue };
        let below: Vec<&Entry> = inside
            .iter()
            .copied()
            .filter(|entry| entry.target.starts_with(&child))
            .collect();
        let known = Opened {
            path: child,
            // Editors replace files; a directory that was replaced may hold
            // what the plan did not see.
            pin: Some(pin).filter(|pin| pin.directory),
            reach,
        };
        spread(known, rule, &below, opened, listed)?;
    }
    Ok(())
}

/// The file or directory itself; `None` for links and what is gone.
fn pinned(path: &Path) -> Option<Pin> {
    let metadata = path.symlink_metadata().ok()?;
    let useful = metadata.is_dir() || metadata.is_file();
    useful.then(|| Pin::new(path).ok()).flatten()
}

/// What is opened at a path: by the deepest rule at or above it, since what is
/// taken back has none.
pub(super) fn reach(opened: &[Opened], path: &Path) -> Option<Reach> {
    opened
        .iter()
        .filter(|place| path.starts_with(&place.path))
        .map(|place| place.reach)
        .max_by_key(|reach| *reach as u8)
}
