//! A policy resolved against this machine.
//!
//! Making a [`Plan`] turns names into places: programs are looked up, links
//! followed, directories pinned by descriptor, repositories and hidden files
//! found. Rules that open too much, contradict each other or cannot be
//! enforced are refused here, with the rule and what to write instead. The
//! same list of entries is then mounted for a command, printed by `Display`
//! and asked by [`Plan::explain`], so that the three cannot differ.
//!
//! Making a plan changes nothing, with one exception: a missing directory
//! that `exec_from` names inside a writable one is created, as the command
//! could do itself.

mod build;
mod elsewhere;
mod entry;
mod explain;
mod files;
mod floor;
mod gaps;
mod helper;
mod inner;
mod limits;
mod linked;
mod mounts;
mod network;
mod options;
mod pin;
mod programs;
mod protect;
mod resolve;
pub(crate) mod seatbelt;
mod show;
mod snapshot;

#[cfg(target_os = "linux")]
pub(crate) use explain::shorten;
pub use explain::{Answer, Query};
pub use options::{ArgvRules, Children, LateMatches, NewConfiguration, PlanOptions, Records};

pub(crate) use elsewhere::System;
#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{startable, tier as unwitnessed_tier};
#[cfg(target_os = "linux")]
pub(crate) use entry::Late;
#[cfg(any(not(target_os = "linux"), test))]
pub(crate) use entry::{Access, Entry};
pub(crate) use entry::{Kind, covering};
#[cfg(windows)]
pub(crate) use files::system_directories;
pub(crate) use floor::Opened;
#[cfg(target_os = "linux")]
pub(crate) use floor::Reach;
pub(crate) use limits::Cgroup;
#[cfg(target_os = "linux")]
pub(crate) use pin::Pin;
pub(crate) use programs::Decision;
#[cfg(target_os = "linux")]
pub(crate) use programs::Gate;
pub(crate) use protect::PROTECTED_NAMES;
pub(crate) use resolve::follow;
#[cfg(target_os = "linux")]
pub(crate) use snapshot::Moment;
pub(crate) use snapshot::Snapshot;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::command::Command;
use crate::error::PlanError;
use crate::policy::Policy;
use crate::report::Enforcement;

/// A policy resolved against this machine: ready to start commands.
///
/// Cheap to clone and safe to share between threads. It describes the machine
/// as it was when it was made; a directory replaced since then is noticed and
/// refused when a command starts.
#[derive(Clone, Debug)]
pub struct Plan(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) policy: Policy,
    /// Canonical.
    pub(crate) workspace: PathBuf,
    /// What `HOME` is inside.
    pub(crate) home: PathBuf,
    /// By depth, so that each entry is mounted over what lies above it.
    pub(crate) entries: Vec<entry::Entry>,
    /// Symbolic links to make in directories that are not mounted: place and
    /// target.
    pub(crate) links: BTreeMap<PathBuf, PathBuf>,
    /// Files the kernel lets the command execute.
    pub(crate) programs: Vec<programs::Program>,
    /// What is checked at every start; `None` if the kernel's list says all.
    pub(crate) guards: Option<crate::guard::Guards>,
    /// Directories below which every file can be executed, with the rule.
    pub(crate) exec_trees: Vec<(PathBuf, String)>,
    /// Rules of `commands`, with the files they stand for.
    pub(crate) rules: Vec<programs::Rule>,
    /// Where programs are looked up, inside as outside.
    pub(crate) search_path: Vec<PathBuf>,
    /// The same with the directories in which nothing allowed lies.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) searched: Vec<PathBuf>,
    /// Hosts and published ports.
    pub(crate) network: network::Network,
    /// Unix sockets that can be reached.
    pub(crate) sockets: Vec<PathBuf>,
    /// What is enforced with a gap: control and reason.
    pub(crate) gaps: Vec<(&'static str, String)>,
    /// Writable directories, through which a look is taken after each
    /// command.
    pub(crate) watched: Vec<PathBuf>,
    /// What lay in them.
    pub(crate) snapshot: Snapshot,
    /// What is hidden if it appears while a command runs.
    pub(crate) late: Vec<entry::Late>,
    /// What becomes of tool configuration that a command makes.
    pub(crate) new_configuration: NewConfiguration,
    /// Links with protected names, and where they lead.
    pub(crate) named_links: Vec<(PathBuf, PathBuf)>,
    /// Files that git would act upon and that did not exist.
    pub(crate) absent: Vec<PathBuf>,
    /// What Landlock opens by itself, where there are no namespaces.
    pub(crate) floor: Option<Vec<Opened>>,
    /// What builds the sandbox, if not the caller's own program.
    pub(crate) helper: Option<helper::Helper>,
    /// Where a control group for each command is made, if one is.
    pub(crate) cgroup: Option<Cgroup>,
    /// Where it is not Linux.
    pub(crate) system: Option<System>,
    /// Whether the caller accepts what nobody has seen hold.
    #[cfg_attr(all(target_os = "linux", not(test)), expect(dead_code))]
    pub(crate) accepts_unwitnessed: bool,
    pub(crate) children: Children,
    pub(crate) records: Records,
    /// What was left by commands whose callers were killed, and is set aside
    /// now.
    pub(crate) recovered: Vec<crate::report::Violation>,
    /// What the commands of this plan have in common, made with the first.
    #[cfg(target_os = "linux")]
    pub(crate) record: std::sync::OnceLock<Arc<crate::platform::Record>>,
    pub(crate) hash: String,
}

impl Policy {
    /// Resolves the policy against this machine.
    ///
    /// # Errors
    ///
    /// Returns [`PlanError`] naming the rule and the next step when a path or
    /// program is missing, a rule opens too much, two rules contradict each
    /// other, or a rule cannot be enforced here.
    pub fn plan(&self, options: &PlanOptions) -> Result<Plan, PlanError> {
        // Before anything is looked at: what is found is the user's own.
        // Where records cannot be read, none is written either, and the report
        // says so.
        let recovered = crate::platform::recover().unwrap_or_default();
        let inner = build::build(self, options)?;
        Ok(Plan(Arc::new(Inner { recovered, ..inner })))
    }
}

impl Plan {
    /// A command under this plan; its first word is the program.
    pub fn command<I, S>(&self, argv: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        Command::new(self.clone(), argv.into_iter().map(Into::into).collect())
    }

    /// Says whether the plan allows something, by which rule, and what would
    /// allow it.
    #[must_use]
    pub fn explain(&self, query: &Query) -> Answer {
        explain::explain(&self.0, query)
    }

    /// The rule of `commands.ask` because of which this argv, started in
    /// `directory`, needs approval; `None` if it is allowed or denied without.
    ///
    /// Whoever is told a rule asks somebody entitled to decide, and starts the
    /// command with [`Command::approved`](crate::Command::approved).
    #[must_use]
    pub fn needs_approval<I, S>(&self, argv: I, directory: &Path) -> Option<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let argv: Vec<_> = argv
            .into_iter()
            .map(|word| word.as_ref().to_owned())
            .collect();
        let decide = |approved| self.0.decide(&argv, directory, approved);
        match (decide(false), decide(true)) {
            (Decision::Denied(_), Decision::Run { rule, .. }) => {
                Some(rule.map_or_else(String::new, |rule| self.0.rules[rule].text.clone()))
            }
            _ => None,
        }
    }

    /// Whether a command of this plan can change what the host has at this
    /// path: create, write, rename or remove it. What lies where the command
    /// has a private directory is out of its reach.
    #[must_use]
    pub fn can_change(&self, path: &Path) -> bool {
        let place = resolve::follow_existing(path);
        entry::covering(&self.0.entries, &place)
            .is_some_and(|entry| matches!(entry.kind, entry::Kind::Host(_)) && entry.access.write)
    }

    /// The plan as a profile for `sandbox-exec` of macOS, to be read and tried.
    ///
    /// No Mac has been seen to enforce it. A command that is started there has
    /// one more rule, for its own directory of temporary files, and where hosts are
    /// allowed another, for the port of its proxy. It is stricter than the plan where Seatbelt has nothing alike: the
    /// private `/tmp` and home are closed, directories that only lead to
    /// allowed ones cannot be listed. Limits and variables are not in it. A
    /// directory that a later match of `filesystem.deny` lies in can be moved
    /// to where the pattern does not match.
    ///
    /// # Errors
    ///
    /// Returns [`PlanError::NotEnforceable`] for allowed hosts, which need the
    /// proxy that a start has beside it, for published ports, rules about arguments and `commands.ask`, and for names that the
    /// profile's language cannot hold.
    pub fn seatbelt_profile(&self) -> Result<String, PlanError> {
        seatbelt::shown(&self.0)
    }

    /// The policy this plan was made from.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// The workspace, with all links resolved.
    #[must_use]
    pub fn workspace(&self) -> &Path {
        &self.0.workspace
    }

    /// Digest over everything the plan contains, 64 hexadecimal digits. Two
    /// plans with one hash confine alike.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.0.hash
    }

    /// What commands had left whose callers were killed, and what became of it
    /// when this plan was made: see [`recover`](crate::recover()).
    #[must_use]
    pub fn recovered(&self) -> &[crate::report::Violation] {
        &self.0.recovered
    }

    /// What will be enforced on a command of this plan, without having tried.
    #[must_use]
    pub fn enforcement(&self) -> Enforcement {
        gaps::enforcement(self)
    }
}
