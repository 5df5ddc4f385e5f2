//! Where a policy's relative names point.

use std::path::{Path, PathBuf};

use crate::report::Tier;
use crate::resolver::{Resolve, Resolver};

/// What [`Policy::plan`](crate::Policy::plan) needs beside the policy.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    pub(crate) workspace: PathBuf,
    pub(crate) home: Option<PathBuf>,
    pub(crate) search_path: Option<Vec<PathBuf>>,
    pub(crate) argv_rules: ArgvRules,
    pub(crate) resolver: Resolver,
    pub(crate) helper: Option<PathBuf>,
    pub(crate) late_matches: LateMatches,
    pub(crate) new_configuration: NewConfiguration,
    pub(crate) accept: Tier,
    pub(crate) only: bool,
    pub(crate) children: Children,
    pub(crate) records: Records,
}

/// What a command may start in turn on Windows, whose kernel keeps no list of
/// programs for a command. Elsewhere the policy's list holds for all of them,
/// and this changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Children {
    /// Nothing at all: with the command itself checked, the policy's list and
    /// its rules about arguments hold.
    #[default]
    None,
    /// Whatever an AppContainer may execute, confined like the command. The
    /// report calls the control partial, and rules about arguments are refused.
    Any,
}

/// Which refusals leave a record that the kernel tells nobody of; those of
/// rules about arguments, of the proxy and of limits always do.
///
/// For either, the sandbox's first process looks at the calls in question and
/// leaves the answer to the kernel, so that nothing depends on the record: a
/// program that changes a name while it is looked at can keep its own refusal
/// from being recorded, and makes nothing possible. Each is told as it happens,
/// with the line that would allow it; after 50 of one program, the rest are one
/// record. Programs are recorded by the file that runs, whatever they call
/// themselves. On Linux alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Records {
    /// Programs that were to be started and may not be, by the command or its
    /// descendants. Costs some ten microseconds at each start.
    #[default]
    Starts,
    /// The same, programs that a shell looked up and could not see, and files that
    /// were to be read, written or changed and may not be. Costs some ten
    /// microseconds at each file that is opened.
    Files,
}

/// What to do about files that appear, while a command runs, under a name that
/// `filesystem.deny` has a pattern for, or names although nothing is there.
///
/// Whatever matched before the command starts is hidden by the kernel and
/// needs no such choice, and a denied directory hides all that appears in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LateMatches {
    /// Refuse such rules when the plan is made, but on macOS, where a profile
    /// holds for all names.
    #[default]
    Refuse,
    /// Hide each as soon as the kernel tells of it, report that it appeared,
    /// and report the control as partial: until then, for milliseconds, and
    /// longer on a busy machine, the command can read it.
    Watch,
}

/// What becomes of tool configuration that a command makes where there was none,
/// such as `.envrc` or `.vscode`, once it ended. What was there before it started is
/// read-only to it.
///
/// What comes with a repository in a new directory, as a clone brings it, is
/// reported alone: it belongs to the repository, and what is new there is opened
/// with the care that a clone deserves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewConfiguration {
    /// Rename it to a name that no program acts upon (`.envrc.set-aside`), and
    /// report it with what moves it back. The same happens to what somebody else
    /// made during the run.
    #[default]
    SetAside,
    /// Report it.
    Report,
}

/// What to do with rules that restrict arguments, such as
/// `["git", "status"]`.
///
/// The kernel knows files, not arguments, so something has to look at every
/// start. The same goes for rules of `commands.ask`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArgvRules {
    /// Stop every program, the command and all its descendants, before its
    /// first instruction, and look at the file and the arguments that are then
    /// in place. Costs a stop for each start of a process; programs inside
    /// cannot be debugged.
    #[default]
    EveryProcess,
    /// Check the arguments of the command itself, keep the program from every
    /// other command, and report the control as partial.
    FirstProcess,
}

impl PlanOptions {
    /// Plans for this workspace; everything else as the caller's process has
    /// it: `HOME` and `PATH`.
    pub fn new(workspace: impl AsRef<Path>) -> Self {
        Self {
            workspace: workspace.as_ref().to_owned(),
            home: std::env::var_os(if cfg!(windows) { "USERPROFILE" } else { "HOME" })
                .map(PathBuf::from),
            search_path: None,
            argv_rules: ArgvRules::default(),
            resolver: Resolver::default(),
            helper: None,
            late_matches: LateMatches::default(),
            new_configuration: NewConfiguration::default(),
            accept: Tier::Namespaces,
            only: false,
            children: Children::default(),
            records: Records::default(),
        }
    }

    /// The directory `~` stands for.
    #[must_use]
    pub fn home(mut self, home: impl AsRef<Path>) -> Self {
        self.home = Some(home.as_ref().to_owned());
        self
    }

    /// Which refusals leave a record.
    #[must_use]
    pub fn records(mut self, records: Records) -> Self {
        self.records = records;
        self
    }

    /// The directories in which program names are looked up.
    #[must_use]
    pub fn search_path<I, P>(mut self, directories: I) -> Self
    where
        I: IntoIterator<Item = P>,
        P: Into<PathBuf>,
    {
        self.search_path = Some(directories.into_iter().map(Into::into).collect());
        self
    }

    /// How names of allowed hosts become addresses; by default as the system
    /// does it.
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolve + 'static) -> Self {
        self.resolver = Resolver::new(resolver);
        self
    }

    /// The program `katachi-sandbox-helper`, which this crate installs, for
    /// callers that cannot put [`helper::run_if_requested`] into their `main`,
    /// such as libraries. It is pinned when the plan is made, and must be of the
    /// same version as this crate.
    ///
    /// [`helper::run_if_requested`]: crate::helper::run_if_requested
    #[must_use]
    pub fn helper(mut self, program: impl AsRef<Path>) -> Self {
        self.helper = Some(program.as_ref().to_owned());
        self
    }

    /// The weakest tier to plan for. The best that this machine gives is taken;
    /// by default nothing below [`Tier::Namespaces`] is.
    ///
    /// With [`Tier::Landlock`], commands also start where user namespaces are
    /// forbidden. What this tier cannot hold is refused when the plan is made,
    /// with the rule and what to write instead, or is a gap that
    /// [`Plan::enforcement`](crate::Plan::enforcement) names.
    ///
    /// On macOS and Windows nothing starts without [`Tier::Unwitnessed`].
    #[must_use]
    pub fn accept(mut self, tier: Tier) -> Self {
        self.accept = tier;
        self
    }

    /// The one tier to plan for, even where a better one works: to see what a
    /// machine without it would lose, in the plan's answers, its report and the
    /// [self-test](crate::doctor::witness).
    #[must_use]
    pub fn only(mut self, tier: Tier) -> Self {
        self.accept = tier;
        self.only = true;
        self
    }

    /// What to do with rules that restrict arguments.
    #[must_use]
    pub fn argv_rules(mut self, rules: ArgvRules) -> Self {
        self.argv_rules = rules;
        self
    }

    /// What a command may start in turn on Windows.
    #[must_use]
    pub fn children(mut self, children: Children) -> Self {
        self.children = children;
        self
    }

    /// What becomes of tool configuration that a command makes.
    #[must_use]
    pub fn new_configuration(mut self, new: NewConfiguration) -> Self {
        self.new_configuration = new;
        self
    }

    /// What to do about files that match a denied pattern later.
    #[must_use]
    pub fn late_matches(mut self, late: LateMatches) -> Self {
        self.late_matches = late;
        self
    }
}
