//! What the agent was told: one file, then `KATACHI_*` variables, then flags,
//! the later above the earlier.

mod ai;
mod file;
mod limits;
mod tunnel;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::cli::Options;
use crate::mistake::Mistake;
use crate::paths::Paths;

pub(crate) use limits::Limits;

/// Where the embedded relay listens if nobody says otherwise.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:7443";

/// Whether the vault may keep a secret in the system's keychain.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeychainUse {
    /// Use it where one answers in time
    #[default]
    Auto,
    /// Do not touch it
    Off,
}

/// What carries the tunnel to the relay.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CarrierKind {
    /// A connection of our own to the relay
    #[default]
    Embedded,
    /// The same inside of a WebSocket, through proxies that pass nothing else; the relay
    /// has to take such tunnels
    #[value(name = "websocket")]
    WebSocket,
    /// `cloudflared` and Cloudflare's network
    Cloudflared,
}

/// The weakest sandbox in which commands may start.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AcceptTier {
    /// Namespaces, or nothing starts
    #[default]
    Namespaces,
    /// Landlock, seccomp and a tracer where there are no namespaces: no network, and gaps that
    /// the report names
    Landlock,
    /// Also what confines on macOS and Windows, which nobody has seen hold
    Unwitnessed,
}

/// Which refusals to a command are told and kept.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RecordKind {
    /// Also files that it wanted, and programs that a shell looked up; each file that it opens
    /// takes some microseconds longer
    #[default]
    Files,
    /// Programs, hosts and limits alone
    Starts,
}

impl From<RecordKind> for katachi_sandbox::plan::Records {
    fn from(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Files => Self::Files,
            RecordKind::Starts => Self::Starts,
        }
    }
}

impl From<AcceptTier> for katachi_sandbox::report::Tier {
    fn from(accept: AcceptTier) -> Self {
        match accept {
            AcceptTier::Namespaces => Self::Namespaces,
            AcceptTier::Landlock => Self::Landlock,
            AcceptTier::Unwitnessed => Self::Unwitnessed,
        }
    }
}

/// The settled configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) paths: Paths,
    /// The configuration file, whether or not it exists.
    pub(crate) file: PathBuf,
    pub(crate) relay: RelayChoice,
    pub(crate) carrier: Carrier,
    /// Limits of the tunnel.
    pub(crate) limits: Limits,
    pub(crate) workspace: PathBuf,
    /// The policy file, or `None` for the default policy.
    pub(crate) policy: Option<PathBuf>,
    pub(crate) accept_tier: AcceptTier,
    pub(crate) records: RecordKind,
    pub(crate) ai: Option<Ai>,
    pub(crate) mcp: Mcp,
    pub(crate) keychain: KeychainUse,
}

/// Which relay to use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum RelayChoice {
    /// One of our own on loopback, listening there.
    Embedded(SocketAddr),
    /// One that runs already.
    At {
        /// `https://host[:port]`, without a path.
        url: String,
        /// Its certificate authority if it made its own.
        ca_file: Option<PathBuf>,
    },
}

/// What carries the tunnel to the relay.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Carrier {
    /// A connection of our own.
    Embedded,
    /// The same inside of a WebSocket.
    WebSocket,
    /// A program that this one supervises.
    Cloudflared(Cloudflared),
}

/// Which `cloudflared` to start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Cloudflared {
    /// Its file, or `None` to look in `PATH`.
    pub(crate) program: Option<PathBuf>,
    /// What SHA-256 makes of that file, if only that one is wanted.
    pub(crate) sha256: Option<[u8; 32]>,
}

/// The AI that answers messages.
#[derive(Clone, Debug)]
pub(crate) struct Ai {
    pub(crate) mind: Mind,
    /// Its own policy file, or `None` for the one of commands.
    pub(crate) policy: Option<PathBuf>,
    /// Environment variable to the name of a stored API key.
    pub(crate) keys: BTreeMap<String, String>,
    pub(crate) times: AiTimes,
}

/// How long an AI may take. A program that is no more than started has the time of
/// its policy instead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct AiTimes {
    /// From the start of a program that speaks the Agent Client Protocol until it has
    /// a session.
    pub(crate) start: Duration,
    /// For one message, from what it is told to the end of the answer.
    pub(crate) answer: Duration,
}

impl Default for AiTimes {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(60),
            answer: Duration::from_secs(30 * 60),
        }
    }
}

/// What answers.
#[derive(Clone, Debug)]
pub(crate) enum Mind {
    /// Program and arguments; the message arrives on its standard input.
    Command(Vec<String>),
    /// Program and arguments; it speaks the Agent Client Protocol.
    Acp(Vec<String>),
    /// A model behind HTTP that is given tools.
    Http(HttpModel),
}

/// A model behind HTTP.
#[derive(Clone, Debug)]
pub(crate) struct HttpModel {
    /// Its name at the provider, which may say which provider.
    pub(crate) model: String,
    /// Where the provider answers, with a slash at its end; by the model's name
    /// where `None`.
    pub(crate) base_url: Option<String>,
    /// Name of a stored API key.
    pub(crate) key: Option<String>,
}

/// How MCP servers of the account are confined.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mcp {
    /// Their policy file, or `None` for the one of commands.
    pub(crate) policy: Option<PathBuf>,
    /// A server's own, by the name of its configuration.
    pub(crate) policies: BTreeMap<String, PathBuf>,
    /// Tools that a person is asked about before each call, as `server/tool`, or
    /// `server` for all of its tools.
    pub(crate) ask: Vec<String>,
}

impl Config {
    /// Settles the configuration from the file, the variables and the flags.
    ///
    /// # Errors
    ///
    /// Returns a [`Mistake`] naming the file, line, variable or flag.
    pub(crate) fn load(options: &Options) -> Result<Self, Mistake> {
        let paths = Paths::resolve(options.home.as_deref())?;
        let path = match &options.config {
            Some(path) => path.clone(),
            None => paths.config_file(),
        };
        #[cfg(unix)]
        ours_alone(&path)?;
        let file = file::File::read(&path, options.config.is_some())?;

        let relay = relay(options, &file.relay, &path)?;
        let limits = limits::settle(&file.tunnel, &path)?;
        let carrier = tunnel::settle(options, file.tunnel, &path)?;
        let workspace = workspace(options, file.sandbox.workspace, &path)?;
        let ai = ai::settle(options, file.ai, &path)?;
        Ok(Self {
            relay,
            carrier,
            limits,
            workspace,
            ai,
            mcp: Mcp {
                policy: file.mcp.policy,
                policies: file.mcp.policies,
                ask: asked_tools(file.mcp.ask, &path)?,
            },
            policy: options.policy.clone().or(file.sandbox.policy),
            accept_tier: options
                .accept_tier
                .or(file.sandbox.accept_tier)
                .unwrap_or_default(),
            records: options.records.or(file.sandbox.records).unwrap_or_default(),
            keychain: options.keychain.or(file.vault.keychain).unwrap_or_default(),
            file: path,
            paths,
        })
    }
}

/// Refuses a configuration that everybody on this machine can write: it says
/// which programs run.
#[cfg(unix)]
fn ours_alone(file: &Path) -> Result<(), Mistake> {
    use std::os::unix::fs::PermissionsExt as _;

    for place in [Some(file), file.parent()].into_iter().flatten() {
        let Ok(metadata) = place.metadata() else {
            continue;
        };
        let mode = metadata.permissions().mode();
        // In a sticky directory such as /tmp others cannot replace our files.
        let is_sticky = metadata.is_dir() && mode & 0o1000 != 0;
        if mode & 0o002 != 0 && !is_sticky {
            return Err(Mistake::new(
                place.display().to_string(),
                "can be written by everybody on this machine, who could choose what runs here",
                format!("run `chmod o-w {}`", place.display()),
            ));
        }
    }
    Ok(())
}

fn relay(options: &Options, file: &file::Relay, path: &Path) -> Result<RelayChoice, Mistake> {
    let (url, place) = match (&options.relay_url, &file.url) {
        (Some(url), _) => (url, "--relay-url (or KATACHI_RELAY_URL)".to_owned()),
        (None, Some(url)) => (url, format!("{}: key relay.url", path.display())),
        (None, None) => {
            let listen = file.listen.map_or_else(
                || DEFAULT_LISTEN.parse().map_err(|_| internal_default()),
                Ok,
            )?;
            let place = format!("{}: key relay.listen", path.display());
            return Ok(RelayChoice::Embedded(on_loopback(listen, &place)?));
        }
    };
    Ok(RelayChoice::At {
        url: relay_url(url, &place)?,
        ca_file: options.relay_ca.clone().or_else(|| file.ca_file.clone()),
    })
}

/// Checks that `text` is an origin we may talk to and drops a trailing slash.
fn relay_url(text: &str, place: &str) -> Result<String, Mistake> {
    let refuse = |problem: &str| {
        Err(Mistake::new(
            place,
            format!("`{text}` {problem}"),
            "write it as https://host or https://host:port",
        ))
    };
    let Ok(uri) = text.parse::<http::Uri>() else {
        return refuse("is not a URL");
    };
    if uri.scheme_str() != Some("https") {
        return refuse("does not begin with https://; the relay is only reached over TLS");
    }
    let Some(authority) = uri.authority() else {
        return refuse("names no host");
    };
    if authority.as_str().contains('@') {
        return refuse("holds a user name; credentials never belong in it");
    }
    if uri.path() != "/" || uri.query().is_some() {
        return refuse("has a path; only the host belongs here");
    }
    // Clients leave the scheme's own port out of `Host`, and signatures cover that.
    let origin = authority.as_str().to_ascii_lowercase();
    let origin = origin.strip_suffix(":443").unwrap_or(&origin);
    Ok(format!("https://{origin}"))
}

fn workspace(options: &Options, file: Option<PathBuf>, path: &Path) -> Result<PathBuf, Mistake> {
    let (dir, place) = match (&options.workspace, file) {
        (Some(dir), _) => (dir.clone(), "--workspace (or KATACHI_WORKSPACE)".to_owned()),
        (None, Some(dir)) => (dir, format!("{}: key sandbox.workspace", path.display())),
        (None, None) => (PathBuf::from("."), "current directory".to_owned()),
    };
    match dir.canonicalize() {
        Ok(found) if found.is_dir() => Ok(found),
        Ok(_) => Err(Mistake::new(
            place,
            format!("{} is not a directory", dir.display()),
            "give the directory that commands may work in",
        )),
        Err(error) => Err(Mistake::new(
            place,
            format!("{}: {error}", dir.display()),
            "give a directory that exists",
        )),
    }
}

/// Checks that each rule of `mcp.ask` can name something: one that cannot would
/// have nobody asked.
fn asked_tools(rules: Vec<String>, path: &Path) -> Result<Vec<String>, Mistake> {
    let fits = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    let names = |rule: &String| match rule.split_once('/') {
        Some((server, tool)) => fits(server) && fits(tool) && tool != "*",
        None => fits(rule) && rule != "*",
    };
    match rules.iter().find(|rule| !names(rule)) {
        None => Ok(rules),
        Some(rule) => Err(Mistake::new(
            format!("{}: key mcp.ask", path.display()),
            format!("{rule:?} names no tool"),
            "write \"server/tool\", or \"server\" for all of its tools",
        )),
    }
}

/// Reads `VARIABLE=NAME` pairs: an environment variable and a stored key.
///
/// # Errors
///
/// Returns a [`Mistake`] at `place` for anything else.
pub(crate) fn key_pairs(
    pairs: &[String],
    place: &str,
) -> Result<BTreeMap<String, String>, Mistake> {
    let read = |pair: &String| {
        let (variable, name) = pair.split_once('=')?;
        let fits = !variable.is_empty() && !name.is_empty();
        fits.then(|| (variable.to_owned(), name.to_owned()))
    };
    pairs
        .iter()
        .map(|pair| {
            read(pair).ok_or_else(|| {
                Mistake::new(
                    place,
                    format!("`{pair}` is not of the form VARIABLE=NAME"),
                    "write it as ANTHROPIC_API_KEY=anthropic",
                )
            })
        })
        .collect()
}

/// Checks that an embedded relay would serve this machine alone.
///
/// # Errors
///
/// Returns a [`Mistake`] at `place` for an address that others reach.
pub(crate) fn on_loopback(listen: SocketAddr, place: &str) -> Result<SocketAddr, Mistake> {
    match listen.ip().is_loopback() {
        true => Ok(listen),
        false => Err(Mistake::new(
            place,
            format!("the embedded relay serves this machine alone, and {listen} is not loopback"),
            "use 127.0.0.1, or run katachi-relay on a server and set relay.url",
        )),
    }
}

fn internal_default() -> Mistake {
    Mistake::new(
        "built-in relay address",
        "cannot be parsed",
        "report this as a bug",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_urls_are_https_origins() {
        assert_eq!(
            relay_url("https://A.example", "t").unwrap(),
            "https://a.example"
        );
        assert_eq!(relay_url("https://a:1/", "t").unwrap(), "https://a:1");
        assert_eq!(relay_url("https://a:443/", "t").unwrap(), "https://a");
        for bad in [
            "http://a",
            "a",
            "https://",
            "https://u:p@a",
            "https://a/x",
            "https://a/?q",
            "ftp://a",
        ] {
            let message = relay_url(bad, "the place").unwrap_err().to_string();
            assert!(
                message.contains("the place") && message.contains("next:"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_rule_that_would_have_nobody_asked_is_a_mistake() {
        let read = |rule: &str| asked_tools(vec![rule.to_owned()], Path::new("c"));
        for good in ["files", "files/write_file", "files/a/b"] {
            assert_eq!(read(good).unwrap(), [good]);
        }
        for bad in ["", "/", "files/", "/tool", "files/*", "*", "files /x"] {
            let message = read(bad).unwrap_err().to_string();
            assert!(message.contains("mcp.ask"), "{bad}: {message}");
        }
    }

    #[test]
    fn the_default_relay_is_embedded_on_loopback() {
        let choice = relay(&Options::default(), &file::Relay::default(), Path::new("c")).unwrap();
        assert!(matches!(choice, RelayChoice::Embedded(addr) if addr.ip().is_loopback()));
    }

    #[test]
    fn flags_stand_above_the_file() {
        let options = Options {
            relay_url: Some("https://flag.example".into()),
            ..Options::default()
        };
        let file = file::Relay {
            url: Some("https://file.example".into()),
            ..file::Relay::default()
        };
        let choice = relay(&options, &file, Path::new("c")).unwrap();
        assert!(matches!(choice, RelayChoice::At { url, .. } if url == "https://flag.example"));
    }
}
