//! Whether a paired device said what the relay says it did.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use katachi_protocol::Timestamp;
use katachi_protocol::channel::Device;
use katachi_protocol::mcp::{AgentMcpConfig, McpStatement};
use katachi_store::file::SealedFile;
use katachi_store::vault::Vault;

use crate::approvals::is_signed;
use crate::paths::Paths;
use crate::tunnel::Service;

/// Names the file in the vault.
const NAME: &str = "katachi-agent/mcp";
/// How far a device's clock may be ahead of ours, in seconds.
const AHEAD: u64 = 300;

/// Why a configuration is not started.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("it was not released to this agent")]
    NotReleased,
    #[error(
        "no paired device signed it; save it again in a browser that is paired with this agent"
    )]
    Unsigned,
    #[error("it is signed by a device that is not paired with this agent")]
    Stranger,
    #[error("the signature is not over what the relay sent; somebody changed it")]
    Changed,
    #[error("it is older than one that this agent has started; the relay went back")]
    Older,
    #[error("it was signed in the future; the device's clock or this machine's is wrong")]
    Future,
}

/// When the configurations that were started here had been signed.
#[derive(Debug)]
pub(crate) struct Signed {
    path: PathBuf,
    writing: Mutex<()>,
}

/// All that is needed to judge configurations, read at one time.
#[derive(Debug)]
pub(crate) struct Judge {
    agent: String,
    devices: Vec<Device>,
    started: BTreeMap<String, Timestamp>,
    now: Timestamp,
}

impl Signed {
    /// The memory of the agent whose directories are `paths`.
    pub(crate) fn of(paths: &Paths) -> Self {
        Self {
            path: paths.mcp(),
            writing: Mutex::default(),
        }
    }

    /// Reads what configurations are judged by.
    ///
    /// # Errors
    ///
    /// Returns an error if a sealed file was altered.
    pub(crate) fn judge(&self, service: &Service) -> anyhow::Result<Judge> {
        let vault = &service.home.vault;
        Ok(Judge {
            agent: service.client().agent_id().to_owned(),
            devices: service.devices.list(vault)?,
            started: self.read(vault)?,
            now: crate::audit::now(),
        })
    }

    /// Judges a configuration that is about to be started, and remembers it: an
    /// older one of the same name is refused from then on.
    ///
    /// # Errors
    ///
    /// Returns [`Refused`], or an error if it cannot be remembered.
    pub(crate) fn take(&self, service: &Service, config: &AgentMcpConfig) -> anyhow::Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut judge = self.judge(service)?;
        let signed_at = judge
            .judge(config)
            .with_context(|| format!("the MCP server {} is not started", config.name))?;
        if judge.started.get(&config.name) != Some(&signed_at) {
            judge.started.insert(config.name.clone(), signed_at);
            let bytes = serde_json::to_vec(&judge.started)?;
            self.sealed()?.write(&service.home.vault, &bytes)?;
        }
        Ok(())
    }

    fn read(&self, vault: &Vault) -> anyhow::Result<BTreeMap<String, Timestamp>> {
        if !self.path.exists() {
            return Ok(BTreeMap::new());
        }
        let bytes = self.sealed()?.read(vault);
        let bytes = bytes.with_context(|| format!("cannot open {}", self.path.display()))?;
        serde_json::from_slice(bytes.expose_secret())
            .with_context(|| format!("{} is damaged", self.path.display()))
    }

    fn sealed(&self) -> anyhow::Result<SealedFile> {
        Ok(SealedFile::at(&self.path)?.named(NAME)?)
    }
}

impl Judge {
    /// When a paired device signed exactly this configuration for this agent.
    ///
    /// # Errors
    ///
    /// Returns why it is not started.
    pub(crate) fn judge(&self, config: &AgentMcpConfig) -> Result<Timestamp, Refused> {
        if !config.released {
            return Err(Refused::NotReleased);
        }
        let made = config.signature.as_ref().ok_or(Refused::Unsigned)?;
        let device = self.devices.iter().find(|device| device.id == made.device);
        let key = device.and_then(|device| device.signing_key.as_deref());
        let key = key.ok_or(Refused::Stranger)?;
        let statement = McpStatement {
            agent: &self.agent,
            name: &config.name,
            signed_at: made.signed_at,
            command: &config.command,
            env: &config.env,
            secrets: &config.secrets,
        };
        if !is_signed(key, &statement.signed_bytes(), &made.signature) {
            return Err(Refused::Changed);
        }
        if made.signed_at > self.now + AHEAD {
            return Err(Refused::Future);
        }
        match self.started.get(&config.name) {
            Some(last) if *last > made.signed_at => Err(Refused::Older),
            _ => Ok(made.signed_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use katachi_protocol::Sensitive;
    use katachi_protocol::mcp::McpSignature;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    const NOW: Timestamp = 1_800_000_000;

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn judge() -> Judge {
        Judge {
            agent: "this".to_owned(),
            devices: vec![Device {
                id: "d".repeat(43),
                name: "a browser".to_owned(),
                paired_at: 0,
                signing_key: Some(URL_SAFE_NO_PAD.encode(key(1).public_key().as_ref())),
            }],
            started: BTreeMap::new(),
            now: NOW,
        }
    }

    fn signed(agent: &str, signed_at: Timestamp, pair: &Ed25519KeyPair) -> AgentMcpConfig {
        let pairs = |name: &str| BTreeMap::from([(name.to_owned(), "1".to_owned())]);
        let mut config = AgentMcpConfig {
            name: "weather".to_owned(),
            released: true,
            command: ["weather-mcp", "--stdio"].map(str::to_owned).to_vec(),
            env: pairs("UNITS"),
            secrets: BTreeMap::from([("TOKEN".to_owned(), Sensitive::new("t"))]),
            signature: None,
            version: 1,
        };
        let statement = McpStatement {
            agent,
            name: &config.name,
            signed_at,
            command: &config.command,
            env: &config.env,
            secrets: &config.secrets,
        };
        config.signature = Some(McpSignature {
            device: "d".repeat(43),
            signed_at,
            signature: URL_SAFE_NO_PAD.encode(pair.sign(&statement.signed_bytes()).as_ref()),
        });
        config
    }

    #[test]
    fn what_a_paired_device_signed_is_started() {
        assert_eq!(judge().judge(&signed("this", NOW, &key(1))), Ok(NOW));
    }

    #[test]
    fn whatever_a_relay_changes_is_refused() {
        type Change = fn(&mut AgentMcpConfig);
        let changes: [(Change, Refused); 10] = [
            (|c| c.command[1] = "--evil".to_owned(), Refused::Changed),
            (|c| c.command.push("more".to_owned()), Refused::Changed),
            (|c| c.env.clear(), Refused::Changed),
            (
                |c| drop(c.env.insert("LD_PRELOAD".to_owned(), "x".to_owned())),
                Refused::Changed,
            ),
            (
                |c| drop(c.secrets.insert("TOKEN".to_owned(), Sensitive::new("u"))),
                Refused::Changed,
            ),
            (
                |c| {
                    // A secret moved among the plain variables.
                    let secret = c.secrets.remove("TOKEN").unwrap();
                    c.env
                        .insert("TOKEN".to_owned(), secret.expose_secret().to_owned());
                },
                Refused::Changed,
            ),
            (|c| c.name = "other".to_owned(), Refused::Changed),
            (
                |c| c.signature.as_mut().unwrap().signed_at += 1,
                Refused::Changed,
            ),
            (|c| c.signature = None, Refused::Unsigned),
            (
                |c| c.signature.as_mut().unwrap().device = "e".repeat(43),
                Refused::Stranger,
            ),
        ];
        for (change, why) in changes {
            let mut config = signed("this", NOW, &key(1));
            change(&mut config);
            assert_eq!(judge().judge(&config), Err(why), "{config:?}");
        }
        let strangers = signed("this", NOW, &key(2));
        assert_eq!(judge().judge(&strangers), Err(Refused::Changed));
        let for_another = signed("another", NOW, &key(1));
        assert_eq!(judge().judge(&for_another), Err(Refused::Changed));
    }

    #[test]
    fn a_relay_cannot_go_back() {
        let mut judge = judge();
        judge.started.insert("weather".to_owned(), NOW);
        let older = signed("this", NOW - 1, &key(1));
        assert_eq!(judge.judge(&older), Err(Refused::Older));
        assert!(judge.judge(&signed("this", NOW, &key(1))).is_ok());
        let ahead = signed("this", NOW + AHEAD + 1, &key(1));
        assert_eq!(judge.judge(&ahead), Err(Refused::Future));
    }
}
