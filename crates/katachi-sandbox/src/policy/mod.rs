//! What a command may do, as plain data.
//!
//! A [`Policy`] starts from nothing allowed. It touches no file and asks the
//! machine nothing: it can be written by hand, kept as TOML, sent over a wire
//! and compared. [`Policy::plan`](crate::Policy::plan) turns it into something
//! that can be enforced here, or says what stands in the way.

mod command_rule;
mod quantity;
mod text;

pub use command_rule::CommandRule;
pub use quantity::{ByteSize, CpuShare, ParseQuantityError, TimeSpan};
pub use text::PolicyError;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a command may do. [`Policy::default`] allows nothing.
///
/// ```
/// use katachi_sandbox::Policy;
///
/// let policy = Policy::from_toml(
///     r#"
///     [filesystem]
///     read = ["@system"]
///     write = ["."]
///     [commands]
///     allow = ["ls", "cat"]
///     "#,
///     "policy.toml",
/// )?;
/// assert_eq!(policy, Policy::default().read("@system").write(".").allow("ls").allow("cat"));
/// # Ok::<(), katachi_sandbox::PolicyError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Policy {
    /// Files and directories.
    #[serde(skip_serializing_if = "is_default")]
    pub filesystem: Filesystem,
    /// Programs.
    #[serde(skip_serializing_if = "is_default")]
    pub commands: Commands,
    /// Network and sockets.
    #[serde(skip_serializing_if = "is_default")]
    pub network: Network,
    /// Environment variables.
    #[serde(skip_serializing_if = "is_default")]
    pub env: Environment,
    /// Resources.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
}

/// Files and directories a command sees.
///
/// A path is absolute, starts with `~/`, or is relative to the workspace,
/// which itself is `"."`. A name that starts with `@` is a
/// [bundle](crate::bundle).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Filesystem {
    /// Readable paths and bundles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<String>,
    /// Readable and writable paths. Nothing in them can be executed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<String>,
    /// Paths and globs hidden although something above them is allowed.
    ///
    /// What matches when a command starts is hidden, and so is all that
    /// appears in a denied directory. For what may appear elsewhere under a
    /// matching name, see [`LateMatches`](crate::plan::LateMatches).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// Directories inside `read` or `write` whose files may be executed and
    /// loaded as libraries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exec_from: Vec<String>,
    /// What a repository's own directory (`.git`) may be used for.
    #[serde(skip_serializing_if = "is_default")]
    pub git: GitAccess,
}

/// What a command may do with the `.git` directories it can see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GitAccess {
    /// The directory is empty.
    Hidden,
    /// History can be read and nothing changed.
    #[default]
    Read,
    /// Commits can be made, also in linked working trees and submodules whose
    /// repository is in the workspace; hooks, configuration and attributes stay as
    /// they are.
    Commit,
    /// Like any other writable directory: what is written to hooks or
    /// configuration later runs outside the sandbox.
    Full,
}

/// Programs that may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Commands {
    /// Programs the command and all it starts may execute.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<CommandRule>,
    /// Programs that run only after the caller's approval for this one start.
    ///
    /// Of what `allow` allows, a start is asked about if the rule's words are
    /// among its own, in their order: `["git", "push"]` is about
    /// `git -C . push` as well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ask: Vec<CommandRule>,
}

/// Hosts and sockets that can be reached. All empty: no network at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Network {
    /// `host:port` pairs that can be reached.
    ///
    /// A host is a name, `*.` and a name for every name below it, or an
    /// address. Names of other scripts are written in their `xn--` form, or in
    /// their own with the feature `idna`; a printed plan shows the former. A
    /// name must lead to a public address; an address that is private, or the
    /// host's own loopback, is reached only where it is named itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Hosts, with or without a port, that stay out of reach whatever `allow`
    /// says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// Ports inside that the host's loopback reaches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<u16>,
    /// Unix sockets by path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unix: Vec<String>,
}

/// Environment variables. A command starts with a fixed handful of them
/// (`PATH`, `HOME`, `TMPDIR`, `LANG`) and what is named here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Environment {
    /// Variables taken over from the caller where it has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pass: Vec<String>,
    /// Variables with a fixed value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
}

/// Resources. Without a value the limit of the caller's own process applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {
    /// Memory of the command and all it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Processes and threads alive at one time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Bytes by which the writable directories may grow together. One file, and
    /// each private temporary file system, is bounded by it too. A file counts
    /// what it occupies, and at least 4 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<ByteSize>,
    /// Bytes to and from allowed hosts and published ports, all together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<ByteSize>,
    /// Time from start until everything is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_time: Option<TimeSpan>,
    /// Processor time of the command and all it starts, added up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_time: Option<TimeSpan>,
    /// Processors it may use at one time, as `0.5` or `2`. Only a control group
    /// can hold it: where none with the controller `cpu` is offered, planning
    /// fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuShare>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Building by value: each call adds one permission or limit.
impl Policy {
    /// Adds a readable path or bundle.
    #[must_use]
    pub fn read(mut self, path: impl Into<String>) -> Self {
        self.filesystem.read.push(path.into());
        self
    }

    /// Adds a writable path.
    #[must_use]
    pub fn write(mut self, path: impl Into<String>) -> Self {
        self.filesystem.write.push(path.into());
        self
    }

    /// Hides a path, or all that matches a glob.
    #[must_use]
    pub fn deny(mut self, pattern: impl Into<String>) -> Self {
        self.filesystem.deny.push(pattern.into());
        self
    }

    /// Lets files below a directory be executed.
    #[must_use]
    pub fn exec_from(mut self, path: impl Into<String>) -> Self {
        self.filesystem.exec_from.push(path.into());
        self
    }

    /// Says what `.git` directories may be used for.
    #[must_use]
    pub fn git(mut self, access: GitAccess) -> Self {
        self.filesystem.git = access;
        self
    }

    /// Allows a program by name, path or bundle, or an argv prefix.
    #[must_use]
    pub fn allow(mut self, rule: impl Into<CommandRule>) -> Self {
        self.commands.allow.push(rule.into());
        self
    }

    /// Lets a program run only after approval.
    #[must_use]
    pub fn ask(mut self, rule: impl Into<CommandRule>) -> Self {
        self.commands.ask.push(rule.into());
        self
    }

    /// Lets a host be reached, as `host:port`.
    #[must_use]
    pub fn allow_host(mut self, host: impl Into<String>) -> Self {
        self.network.allow.push(host.into());
        self
    }

    /// Keeps a host out of reach whatever else is allowed.
    #[must_use]
    pub fn deny_host(mut self, host: impl Into<String>) -> Self {
        self.network.deny.push(host.into());
        self
    }

    /// Makes a port inside reachable from the host's loopback.
    #[must_use]
    pub fn publish(mut self, port: u16) -> Self {
        self.network.publish.push(port);
        self
    }

    /// Passes a variable of the caller's environment.
    #[must_use]
    pub fn pass_env(mut self, name: impl Into<String>) -> Self {
        self.env.pass.push(name.into());
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn set_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.set.insert(name.into(), value.into());
        self
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Digest of the policy's canonical text, as 64 hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        crate::digest::hex(self.to_toml().as_bytes())
    }
}
