//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Runs AI operations on your machine: confined, recorded, and reachable
/// through a relay you choose.
#[derive(Debug, Parser)]
#[command(name = "katachi-agent", version, max_term_width = 100)]
#[command(after_help = "Examples:
  katachi-agent demo                      see every promise tried on this machine
  katachi-agent up                        connect and stay; prints one link to open
  katachi-agent run -- ls -la             one command, confined to this directory
  katachi-agent why read ~/.ssh/id_rsa    what the policy says, and which rule")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Values that stand above the configuration file.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Configuration (each also a key of config.toml)")]
pub(crate) struct Options {
    /// Directory for everything the agent keeps
    #[arg(
        long,
        global = true,
        env = "KATACHI_HOME",
        value_name = "DIR",
        hide_env_values = true
    )]
    pub(crate) home: Option<PathBuf>,
    /// Configuration file
    #[arg(
        long,
        global = true,
        env = "KATACHI_CONFIG",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) config: Option<PathBuf>,
    /// Relay to use; none means one of your own on loopback
    #[arg(
        long,
        visible_alias = "relay",
        global = true,
        env = "KATACHI_RELAY_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) relay_url: Option<String>,
    /// Certificate authority of a relay that made its own
    #[arg(
        long,
        global = true,
        env = "KATACHI_RELAY_CA",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) relay_ca: Option<PathBuf>,
    /// What carries the tunnel to the relay [default: embedded]
    #[arg(
        long,
        global = true,
        env = "KATACHI_TUNNEL_CARRIER",
        value_name = "CARRIER",
        hide_env_values = true
    )]
    pub(crate) tunnel_carrier: Option<crate::config::CarrierKind>,
    /// The cloudflared to start [default: that in PATH]
    #[arg(
        long,
        global = true,
        env = "KATACHI_CLOUDFLARED",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) cloudflared: Option<PathBuf>,
    /// SHA-256 that this file must have
    #[arg(
        long,
        global = true,
        env = "KATACHI_CLOUDFLARED_SHA256",
        value_name = "DIGEST",
        hide_env_values = true
    )]
    pub(crate) cloudflared_sha256: Option<String>,
    /// Directory that commands work in [default: the current one]
    #[arg(
        long,
        global = true,
        env = "KATACHI_WORKSPACE",
        value_name = "DIR",
        hide_env_values = true
    )]
    pub(crate) workspace: Option<PathBuf>,
    /// Sandbox policy file [default: workspace read-write, no network]
    #[arg(
        long,
        global = true,
        env = "KATACHI_POLICY",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) policy: Option<PathBuf>,
    /// Weakest sandbox to accept, where user namespaces are forbidden or this is not Linux
    #[arg(
        long,
        global = true,
        env = "KATACHI_ACCEPT_TIER",
        value_name = "TIER",
        hide_env_values = true
    )]
    pub(crate) accept_tier: Option<crate::config::AcceptTier>,
    /// Which refusals to commands are told and kept [default: files]
    #[arg(
        long,
        global = true,
        env = "KATACHI_RECORDS",
        value_name = "KIND",
        hide_env_values = true
    )]
    pub(crate) records: Option<crate::config::RecordKind>,
    /// Command line of the AI that answers messages
    #[arg(
        long,
        global = true,
        env = "KATACHI_AI_COMMAND",
        value_name = "WORDS",
        hide_env_values = true
    )]
    pub(crate) ai_command: Option<String>,
    /// Sandbox policy file of that AI [default: the one of commands]
    #[arg(
        long,
        global = true,
        env = "KATACHI_AI_POLICY",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) ai_policy: Option<PathBuf>,
    /// Give that AI a stored API key in a variable
    #[arg(
        long = "ai-key",
        global = true,
        env = "KATACHI_AI_KEYS",
        value_name = "VARIABLE=NAME",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub(crate) ai_keys: Vec<String>,
    /// Seconds for an AI that speaks ACP to be ready [default: 60]
    #[arg(
        long,
        global = true,
        env = "KATACHI_AI_START_TIME",
        value_name = "SECONDS",
        hide_env_values = true
    )]
    pub(crate) ai_start_time: Option<f64>,
    /// Seconds for one whole answer, of an AI that speaks ACP or a model [default: 1800]
    #[arg(
        long,
        global = true,
        env = "KATACHI_AI_ANSWER_TIME",
        value_name = "SECONDS",
        hide_env_values = true
    )]
    pub(crate) ai_answer_time: Option<f64>,
    /// Whether to use the system's keychain
    #[arg(
        long,
        global = true,
        env = "KATACHI_KEYCHAIN",
        value_name = "WHEN",
        hide_env_values = true
    )]
    pub(crate) keychain: Option<crate::config::KeychainUse>,
}

#[derive(Debug, Subcommand)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one, read once from the command line"
)]
pub(crate) enum Command {
    /// Connect to the relay and stay; starts one on loopback if none is configured
    #[command(after_help = "Examples:
  katachi-agent up                                        a relay of your own, on loopback
  katachi-agent up --relay-url https://relay.example.com  a relay somewhere else")]
    Up(Up),
    /// Try every promise in a temporary home and print what was seen
    Demo(Demo),
    /// Register this machine with the relay (device authorization)
    #[command(after_help = "Example:
  katachi-agent login --relay-url https://relay.example.com --expect-account me@example.com")]
    Login(Login),
    /// Forget this machine, at the relay and here
    Unregister(Unregister),
    /// Run one command in the sandbox
    #[command(after_help = "Examples:
  katachi-agent run -- ls -la
  katachi-agent run --policy policy.toml --report report.json -- cargo check --offline
  katachi-agent run --learn ~/proposed.toml -- make

Exit code: that of the command; 126 if the sandbox refused the program,
125 if the sandbox could not be built.")]
    Run(Run),
    /// Say what the policy allows, and which rule says so
    #[command(after_help = "Examples:
  katachi-agent why read /etc/shadow
  katachi-agent why exec git push
  katachi-agent why connect example.com:443
  katachi-agent why                            the policy itself

Exit code: 0 for allowed, 1 for denied.")]
    Why(Why),
    /// API keys, sealed in the vault
    #[command(subcommand)]
    Key(Key),
    /// The vault: a way in for the day this machine is gone
    #[command(subcommand)]
    Vault(Vault),
    /// Browsers that may use this machine, end to end
    #[command(subcommand)]
    Device(Device),
    /// Conversations kept in the encrypted database
    #[command(subcommand)]
    History(History),
    /// What the AI remembers about a workspace
    #[command(subcommand)]
    Memory(Memory),
    /// `up` as a service of your session: systemd or launchd
    #[command(subcommand)]
    Service(Service),
    /// What paired devices can ask of this machine, as an OpenAPI document
    Schema,
    /// Every call that crossed the tunnel
    Audit(Audit),
    /// Look at this machine and everything stored on it
    Doctor(Doctor),
    /// Become a program that ends with another process
    #[command(hide = true)]
    Tethered(Tethered),
    /// Carry standard input and output to a socket, for a program in the sandbox
    #[command(hide = true)]
    McpBridge(McpBridge),
    /// The relay, inside this program
    #[command(subcommand, hide = true)]
    Relay(Relay),
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Account that must have approved this machine; refuses any other
    #[arg(long, value_name = "EMAIL")]
    pub(crate) expect_account: Option<String>,
    /// Address of the embedded relay, on loopback
    #[arg(
        long,
        env = "KATACHI_LISTEN",
        value_name = "ADDR",
        hide_env_values = true
    )]
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// Show the link as text alone
    #[arg(long)]
    pub(crate) no_qr: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Print the promises as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Login {
    /// Account that must approve; replaces the question on the terminal
    #[arg(long, value_name = "EMAIL")]
    pub(crate) expect_account: Option<String>,
    /// Show the link as text alone
    #[arg(long)]
    pub(crate) no_qr: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Unregister {
    /// Also delete the vault, the keys, the history and the memory
    #[arg(long)]
    pub(crate) everything: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Delete what is here even if the relay cannot be reached
    #[arg(long)]
    pub(crate) local_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Write what was enforced to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write a policy to this file that would allow what was refused, for you to
    /// read: the command is confined as ever
    #[arg(long, value_name = "FILE")]
    pub(crate) learn: Option<PathBuf>,
    /// Do not say beforehand what is only partly enforced
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Give the command a stored API key in a variable
    #[arg(long = "key", value_name = "VARIABLE=NAME")]
    pub(crate) keys: Vec<String>,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub(crate) argv: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Print the answer as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Without a question: every path and program of the policy
    #[arg(long)]
    pub(crate) all: bool,
    #[command(subcommand)]
    pub(crate) question: Option<Question>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Question {
    /// May this path be read?
    Read { path: PathBuf },
    /// May this path be written?
    Write { path: PathBuf },
    /// May this command be started?
    Exec {
        #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
        argv: Vec<OsString>,
    },
    /// May this host be connected to?
    Connect {
        /// A host and port, as in example.com:443
        target: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Store a key; the value comes from standard input or a prompt
    #[command(after_help = "Examples:
  katachi-agent key set anthropic              asks, without showing what is typed
  pass show anthropic | katachi-agent key set anthropic")]
    Set {
        name: String,
        #[arg(hide = true, num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
        refused: Vec<OsString>,
    },
    /// Name the stored keys
    List {
        /// Print the names as JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a key
    Rm { name: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vault {
    /// Add a recovery code and print it; it is stored nowhere
    RecoveryCode,
    /// Open the vault with a recovery code and bind it to this machine
    ///
    /// The code comes from standard input or a prompt. For a vault that was
    /// brought here from another machine, or whose machine changed too much.
    Recover,
    /// Take the vault and the database that are in place as the current ones
    ///
    /// For after a backup was restored: older copies are refused until then.
    AcceptRestore,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Device {
    /// Make a link that pairs one browser, within ten minutes
    Pair {
        /// For a browser to which no link can be carried: type the numbers that it shows
        #[arg(long)]
        code: bool,
        /// Show the link as text alone
        #[arg(long)]
        no_qr: bool,
    },
    /// Name the paired browsers
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a browser's access away, at once
    Rm {
        /// Beginning of an identifier from `device list`
        // One of 64 begins like an option.
        #[arg(allow_hyphen_values = true)]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum History {
    /// The latest conversations, with a chart of the last weeks
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// One conversation
    Show {
        /// Number or id from `history list`
        session: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Find messages
    Search {
        /// Print as JSON
        #[arg(long)]
        json: bool,
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Words to find
        #[arg(required = true)]
        words: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Memory {
    /// What is remembered, workspace by workspace, and this one's entries
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
        /// How many entries
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Only entries with this tag
        #[arg(long, value_name = "TAG")]
        tag: Option<String>,
    },
    /// Print an entry
    Get { key: String },
    /// Store an entry; without a value it comes from standard input
    Set {
        key: String,
        value: Option<String>,
        /// A tag to find it by
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
    },
    /// Find entries
    Search {
        /// Print as JSON
        #[arg(long)]
        json: bool,
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Words to find
        #[arg(required = true)]
        words: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// Write the service's file, with the options of this call
    Install,
    /// Delete it
    Remove,
    /// Print what `install` would write
    Print {
        /// For which manager [default: that of this system]
        #[arg(long, value_name = "NAME")]
        manager: Option<Manager>,
    },
}

/// What starts services.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Manager {
    /// Linux
    Systemd,
    /// macOS
    Launchd,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Print as JSON Lines
    #[arg(long)]
    pub(crate) json: bool,
    /// How many of the latest
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Try each control of the sandbox for real
    #[arg(long)]
    pub(crate) witness: bool,
}

/// A program that ends with this process, in its place.
#[derive(Debug, Args)]
pub(crate) struct Tethered {
    /// The process that it ends with
    #[arg(long)]
    pub(crate) parent: u32,
    #[arg(trailing_var_arg = true, required = true)]
    pub(crate) argv: Vec<OsString>,
}

/// A socket at which an MCP server is used.
#[derive(Debug, Args)]
pub(crate) struct McpBridge {
    pub(crate) socket: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Relay {
    /// Serve until standard input ends
    Serve(Box<katachi_relay::cli::Serve>),
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{Cli, Command, Device};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_identifier_may_begin_like_an_option() {
        for id in ["-3fA", "--x", "_a", "plain"] {
            let read = Cli::try_parse_from(["katachi-agent", "device", "rm", id]);
            let command = read.unwrap().command;
            let named = |command| match command {
                Command::Device(Device::Rm { id }) => Some(id),
                _ => None,
            };
            assert_eq!(named(command).as_deref(), Some(id));
        }
    }
}
