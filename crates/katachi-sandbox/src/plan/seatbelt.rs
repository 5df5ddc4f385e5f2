//! A plan as a profile for Seatbelt, the sandbox in the kernel of macOS.
//!
//! The profile denies by default. Of several rules that fit, Seatbelt obeys the
//! last, so the plan's entries are written by depth, what patterns deny after
//! them, and what nothing may do at the end. Seatbelt compares places after
//! links are followed; some of macOS's own links are also written as they are
//! spelled. Nothing is written that could be read in another way: such names
//! are refused.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::Inner;
use super::entry::{Entry, Kind};
use super::programs::Gate;
use crate::error::PlanError;

/// Longest path that macOS knows, in bytes (`PATH_MAX` in `sys/syslimits.h`).
const LONGEST_PATH: usize = 1024;
/// Longest regular expression, in bytes; longer ones fail to compile.
const LONGEST_REGEX: usize = 900;

/// What every program needs. `mach-lookup` has the names of users and notices
/// of changed settings; no service that starts programs or holds keys.
const ALWAYS: &str = "\
(version 1)
(deny default)
(allow process-fork)
(allow signal (target same-sandbox))
(allow sysctl-read)
(allow mach-lookup (global-name \"com.apple.system.opendirectoryd.libinfo\"))
(allow mach-lookup (global-name \"com.apple.system.notification_center\"))
(allow file-read-metadata (literal \"/\"))
";
const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
];
/// Directories that are links into `/private`.
const LINKED: &[&str] = &["/etc", "/tmp", "/var"];

/// What a command has that its plan has not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start<'a> {
    /// Its own directory for temporary files.
    pub(crate) scratch: &'a Path,
    /// The port of the host's loopback on which its proxy listens.
    pub(crate) proxy: Option<u16>,
}

/// Writes the profile as it is shown; there is no proxy beside it.
pub(crate) fn shown(plan: &Inner) -> Result<String, PlanError> {
    if let Some(host) = plan.policy.network.allow.first() {
        return Err(PlanError::NotEnforceable {
            rule: format!("network.allow = {host:?}"),
            problem: "a Seatbelt profile knows no host names, and by itself has no proxy \
                      beside it"
                .to_owned(),
            next_step: "start the command on macOS, which starts its proxy, or leave \
                        network.allow empty"
                .to_owned(),
        });
    }
    profile(plan, None)
}

/// Writes the profile, for a start or to see whether it can be written.
pub(crate) fn profile(plan: &Inner, start: Option<Start<'_>>) -> Result<String, PlanError> {
    refuse_what_it_cannot_hold(plan)?;
    let mut profile = Profile(ALWAYS.to_owned());
    for device in DEVICES {
        profile.rule("allow", "file-read* file-write*", "literal", device)?;
    }
    for entry in &plan.entries {
        profile.entry(entry)?;
    }
    for program in &plan.programs {
        // The kernel starts the loader itself.
        if program.gate == Gate::Always {
            let path = text(&program.path)?;
            profile.rule("allow", "process-exec file-map-executable", "literal", path)?;
        }
    }
    for (tree, _) in &plan.exec_trees {
        profile.rule("allow", "process-exec", "subpath", text(tree)?)?;
    }
    for socket in &plan.sockets {
        profile.rule("allow", "network-outbound", "literal", text(socket)?)?;
    }
    // Whatever else is tried fails, questions to the system's resolver too.
    if let Some(port) = start.and_then(|start| start.proxy) {
        profile.0 += &format!("(allow network-outbound (remote tcp \"localhost:{port}\"))\n");
    }
    if let Some(Start { scratch, .. }) = start {
        profile.rule("allow", "file-read* file-write*", "subpath", text(scratch)?)?;
        for directory in scratch.ancestors().skip(1) {
            profile.rule("allow", "file-read-metadata", "literal", text(directory)?)?;
        }
    }
    // Git would follow them; without them the command does well.
    for file in &plan.absent {
        profile.rule("deny", "file-write*", "literal", text(file)?)?;
    }
    for entry in plan.entries.iter().filter(|entry| entry.is_hidden()) {
        let operations = "process-exec file-map-executable";
        profile.rule("deny", operations, "subpath", text(&entry.target)?)?;
    }
    profile.keep_in_place(plan)?;
    for late in &plan.late {
        profile.pattern(&late.pattern)?;
    }
    // Under another name, a file would be judged by that name.
    profile.0 += "(deny file-link)\n(deny file-write-setugid)\n";
    Ok(profile.0)
}

/// What a list of paths and operations cannot say.
fn refuse_what_it_cannot_hold(plan: &Inner) -> Result<(), PlanError> {
    let refuse = |rule: &str, problem: &str, next_step: &str| {
        Err(PlanError::NotEnforceable {
            rule: rule.to_owned(),
            problem: problem.to_owned(),
            next_step: next_step.to_owned(),
        })
    };
    if !plan.policy.network.publish.is_empty() {
        return refuse(
            "network.publish",
            "a command has no loopback of its own under Seatbelt",
            "leave network.publish empty",
        );
    }
    let gated = plan
        .programs
        .iter()
        .find(|program| !matches!(program.gate, Gate::Always | Gate::Loader));
    if let Some(program) = gated {
        return refuse(
            &program.rule,
            "Seatbelt sees the file that is executed, not its arguments",
            "allow or deny the program as a whole",
        );
    }
    if plan.guards.is_some() {
        return refuse(
            "commands",
            "Seatbelt sees the file that is executed, not its arguments",
            "use rules without arguments only",
        );
    }
    Ok(())
}

struct Profile(String);

impl Profile {
    fn entry(&mut self, entry: &Entry) -> Result<(), PlanError> {
        let path = text(&entry.target)?;
        let filter = if entry.is_directory() {
            "subpath"
        } else {
            "literal"
        };
        // Memory of its own cannot be put in place of a directory, so what the
        // host has there is closed.
        if entry.is_hidden() || matches!(entry.kind, Kind::Private) {
            return self.rule("deny", "file-read* file-write*", filter, path);
        }
        self.rule("allow", "file-read*", filter, path)?;
        let write = if entry.access.write { "allow" } else { "deny" };
        self.rule(write, "file-write*", filter, path)?;
        let load = if entry.access.load { "allow" } else { "deny" };
        self.rule(load, "file-map-executable", filter, path)
    }

    /// Directories above entries can be looked up and not be renamed: the
    /// rules for what lies in them would stay behind.
    fn keep_in_place(&mut self, plan: &Inner) -> Result<(), PlanError> {
        let places = plan.entries.iter().map(|entry| entry.target.as_path());
        let roots = plan.late.iter().flat_map(|late| &late.roots);
        let kept: BTreeSet<&Path> = places
            .chain(roots.map(|root| root.as_path()))
            .flat_map(Path::ancestors)
            .collect();
        let hidden =
            |path: &Path| super::entry::covering(&plan.entries, path).is_some_and(Entry::is_hidden);
        for path in kept {
            let spelled = text(path)?;
            if !hidden(path) {
                self.rule("allow", "file-read-metadata", "literal", spelled)?;
            }
            self.rule("deny", "file-write-unlink", "literal", spelled)?;
        }
        Ok(())
    }

    /// Denies whatever matches, now or later, and all below it.
    fn pattern(&mut self, pattern: &str) -> Result<(), PlanError> {
        for spelling in spellings(pattern) {
            let regex = regex(&spelling)?;
            let operations = "file-read* file-write* process-exec file-map-executable";
            self.0 += &format!("(deny {operations} (regex #\"{regex}\"))\n");
        }
        Ok(())
    }

    fn rule(
        &mut self,
        verdict: &str,
        operations: &str,
        filter: &str,
        path: &str,
    ) -> Result<(), PlanError> {
        for spelling in spellings(path) {
            let quoted = quote(&spelling)?;
            self.0 += &format!("({verdict} {operations} ({filter} {quoted}))\n");
        }
        Ok(())
    }
}

/// The path and, where macOS has a link for it, its other name.
fn spellings(path: &str) -> Vec<String> {
    let is_below = |path: &str, top: &str| {
        path.strip_prefix(top)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut all = vec![path.to_owned()];
    match path.strip_prefix("/private") {
        Some(short) if LINKED.iter().any(|top| is_below(short, top)) => all.push(short.to_owned()),
        None if LINKED.iter().any(|top| is_below(path, top)) => {
            all.push(format!("/private{path}"));
        }
        _ => {}
    }
    all
}

fn text(path: &Path) -> Result<&str, PlanError> {
    path.to_str()
        .ok_or_else(|| cannot_write(&path.to_string_lossy(), "is no valid text"))
}

/// A string of the profile's language.
fn quote(path: &str) -> Result<String, PlanError> {
    if path.len() >= LONGEST_PATH {
        return Err(cannot_write(path, "is longer than macOS's longest path"));
    }
    if path.chars().any(char::is_control) {
        return Err(cannot_write(path, "has a control character"));
    }
    let escaped = path.replace('\\', "\\\\").replace('"', "\\\"");
    Ok(format!("\"{escaped}\""))
}

/// The pattern as a regular expression for whole paths and all below them, in
/// letters of either case, as macOS's file systems usually compare names.
fn regex(pattern: &str) -> Result<String, PlanError> {
    let writable = |byte: u8| byte.is_ascii_graphic() && byte != b'"' || byte == b' ';
    if !pattern.bytes().all(writable) {
        let problem = "has a quote, a control character or a letter outside ASCII, \
                       which the profile cannot hold in a pattern";
        return Err(cannot_write(pattern, problem));
    }
    let mut regex = String::from("^");
    let parts = pattern.split('/').filter(|part| !matches!(*part, "" | "."));
    for part in parts {
        if part == "**" {
            regex += "(/[^/]+)*";
            continue;
        }
        regex.push('/');
        for letter in part.chars() {
            match letter {
                '*' => regex += "[^/]*",
                '?' => regex += "[^/]",
                letter if letter.is_ascii_alphabetic() => {
                    let (small, large) = (letter.to_ascii_lowercase(), letter.to_ascii_uppercase());
                    let _ = write!(regex, "[{small}{large}]");
                }
                letter if letter.is_ascii_digit() || matches!(letter, '_' | '-' | ' ') => {
                    regex.push(letter);
                }
                letter => {
                    regex.push('\\');
                    regex.push(letter);
                }
            }
        }
    }
    regex += "(/.*)?$";
    if regex.len() > LONGEST_REGEX {
        return Err(cannot_write(pattern, "is longer than the profile can hold"));
    }
    Ok(regex)
}

fn cannot_write(name: &str, problem: &str) -> PlanError {
    PlanError::NotEnforceable {
        rule: format!("{name:?}"),
        problem: format!("the name {problem}"),
        next_step: "rename it, or name a directory above it".to_owned(),
    }
}
