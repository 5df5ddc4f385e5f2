//! The configuration file: its keys, and errors that name file and line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{AcceptTier, CarrierKind, KeychainUse, RecordKind};
use crate::mistake::Mistake;

/// Everything that may stand in `config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) relay: Relay,
    pub(super) tunnel: Tunnel,
    pub(super) sandbox: Sandbox,
    pub(super) ai: Ai,
    pub(super) mcp: Mcp,
    pub(super) vault: Vault,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Relay {
    pub(super) url: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) listen: Option<std::net::SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tunnel {
    pub(super) carrier: Option<CarrierKind>,
    pub(super) cloudflared: Option<PathBuf>,
    pub(super) cloudflared_sha256: Option<String>,
    pub(super) keep_alive: Option<f64>,
    pub(super) keep_alive_timeout: Option<f64>,
    pub(super) longest_wait: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Sandbox {
    pub(super) workspace: Option<PathBuf>,
    pub(super) policy: Option<PathBuf>,
    pub(super) accept_tier: Option<AcceptTier>,
    pub(super) records: Option<RecordKind>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ai {
    pub(super) kind: Option<Kind>,
    pub(super) model: Option<String>,
    pub(super) base_url: Option<String>,
    pub(super) key: Option<String>,
    pub(super) command: Option<Vec<String>>,
    pub(super) policy: Option<PathBuf>,
    pub(super) keys: BTreeMap<String, String>,
    pub(super) start_time: Option<f64>,
    pub(super) answer_time: Option<f64>,
}

/// What the AI is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Command,
    Acp,
    Http,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Mcp {
    pub(super) policy: Option<PathBuf>,
    pub(super) policies: BTreeMap<String, PathBuf>,
    pub(super) ask: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Vault {
    pub(super) keychain: Option<KeychainUse>,
}

impl File {
    /// Reads `path`; a file that is not there counts as empty unless `required`.
    ///
    /// # Errors
    ///
    /// Returns a [`Mistake`] naming the file, and line and key where it has one.
    pub(super) fn read(path: &Path, required: bool) -> Result<Self, Mistake> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(Mistake::new(
                    path.display().to_string(),
                    format!("cannot be read: {error}"),
                    "give a readable TOML file with --config or KATACHI_CONFIG",
                ));
            }
        };
        let mut file = Self::parse(&text, path)?;
        let base = path.parent().unwrap_or(Path::new("."));
        let relative = [
            &mut file.relay.ca_file,
            &mut file.tunnel.cloudflared,
            &mut file.sandbox.workspace,
            &mut file.sandbox.policy,
            &mut file.ai.policy,
            &mut file.mcp.policy,
        ];
        let own = file.mcp.policies.values_mut();
        for path in relative.into_iter().flatten().chain(own) {
            *path = base.join(&*path);
        }
        Ok(file)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Mistake> {
        toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let (place, next) = match line {
                Some(line) => (
                    format!("{}:{line}", path.display()),
                    format!(
                        "correct the line `{}`",
                        text.lines().nth(line - 1).unwrap_or_default().trim()
                    ),
                ),
                None => (
                    path.display().to_string(),
                    "compare the file with the example in the README".to_owned(),
                ),
            };
            Mistake::new(place, error.message(), next)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        File::parse(text, Path::new("config.toml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let message = refusal("[relay]\nurll = \"https://x\"\n");
        assert!(message.contains("config.toml:2"), "{message}");
        assert!(message.contains("urll"), "{message}");
        assert!(message.contains("next:"), "{message}");
    }

    #[test]
    fn a_value_of_the_wrong_shape_is_named_with_its_line() {
        let message = refusal("\n[ai]\ncommand = \"claude\"\n");
        assert!(message.contains("config.toml:3"), "{message}");
    }

    #[test]
    fn broken_toml_is_named_with_its_line() {
        let message = refusal("[relay\n");
        assert!(message.contains("config.toml:1"), "{message}");
    }

    #[test]
    fn an_empty_file_is_fine() {
        assert!(File::parse("", Path::new("c")).is_ok());
    }

    #[test]
    fn the_example_of_the_readme_is_read() {
        let readme = include_str!("../../README.md");
        let example = readme.split("```toml\n").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        let file = File::parse(example, Path::new("README.md")).unwrap();
        assert!(file.relay.url.is_some() && file.ai.command.is_some());
        assert_eq!(file.ai.keys["ANTHROPIC_API_KEY"], "anthropic");
    }
}
