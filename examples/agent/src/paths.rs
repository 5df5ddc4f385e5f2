//! Where the agent keeps its things.

use std::path::{Path, PathBuf};

use etcetera::app_strategy::{AppStrategy as _, AppStrategyArgs, choose_native_strategy};

use crate::mistake::Mistake;

/// The directories of one agent.
///
/// With a home given (`--home`, `KATACHI_HOME`) everything lies below it;
/// otherwise the usual directories of the platform are used.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    config: PathBuf,
    data: PathBuf,
    state: PathBuf,
}

impl Paths {
    /// Resolves the directories; nothing is created.
    ///
    /// # Errors
    ///
    /// Returns a [`Mistake`] if no home was given and the platform names none.
    pub(crate) fn resolve(home: Option<&Path>) -> Result<Self, Mistake> {
        if let Some(home) = home {
            let home = std::path::absolute(home)
                .map_err(|error| Mistake::new("--home", error.to_string(), "give a directory"))?;
            return Ok(Self {
                config: home.clone(),
                data: home.join("data"),
                state: home.join("state"),
            });
        }
        let platform = choose_native_strategy(AppStrategyArgs {
            top_level_domain: "live".to_owned(),
            author: "katachi".to_owned(),
            app_name: "katachi".to_owned(),
        })
        .map_err(|_| {
            Mistake::new(
                "home directory",
                "the system names none for this user",
                "set HOME, or give a directory for Katachi with --home or KATACHI_HOME",
            )
        })?;
        // What is bound to this machine must not roam with a Windows profile.
        let data = match cfg!(windows) {
            true => platform.cache_dir().with_file_name("data"),
            false => platform.data_dir(),
        };
        Ok(Self {
            config: platform.config_dir(),
            state: platform.state_dir().unwrap_or_else(|| data.clone()),
            data,
        })
    }

    /// The configuration file, if no other is named.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// The directories that hold everything; some may lie in others.
    pub(crate) fn directories(&self) -> [&Path; 3] {
        [&self.config, &self.data, &self.state]
    }

    /// The vault's directory.
    pub(crate) fn vault(&self) -> PathBuf {
        self.data.join("vault")
    }

    /// Where the file slot of the vault keeps its secret: not below the vault,
    /// so that a copy of the one does not bring the other.
    pub(crate) fn vault_secret(&self) -> PathBuf {
        self.state.join("vault-secret")
    }

    /// Held while `up` runs.
    pub(crate) fn up_lock(&self) -> PathBuf {
        self.state.join("up.lock")
    }

    /// Where the socket and the configuration of a `cloudflared` lie while it runs.
    pub(crate) fn cloudflared(&self) -> PathBuf {
        self.state.join("cloudflared")
    }

    /// The encrypted database with history and memory.
    pub(crate) fn database(&self) -> PathBuf {
        self.data.join("agent.db")
    }

    /// The sealed credentials for the relay.
    pub(crate) fn relay_credentials(&self) -> PathBuf {
        self.data.join("relay.sealed")
    }

    /// The sealed list of paired devices.
    pub(crate) fn devices(&self) -> PathBuf {
        self.data.join("devices.sealed")
    }

    /// The sealed secret of an open pairing.
    pub(crate) fn pairing(&self) -> PathBuf {
        self.data.join("pairing.sealed")
    }

    /// What the terminal asks of `up` when it pairs by code, sealed.
    pub(crate) fn pairing_asked(&self) -> PathBuf {
        self.data.join("pairing-asked.sealed")
    }

    /// What `up` tells the terminal then, sealed.
    pub(crate) fn pairing_told(&self) -> PathBuf {
        self.data.join("pairing-told.sealed")
    }

    /// The sealed memory of MCP configurations that were started.
    pub(crate) fn mcp(&self) -> PathBuf {
        self.data.join("mcp.sealed")
    }

    /// The state directory of the embedded relay.
    pub(crate) fn embedded_relay(&self) -> PathBuf {
        self.data.join("relay")
    }

    /// What `up` says as a service, where the system keeps no journal.
    pub(crate) fn service_log(&self) -> PathBuf {
        self.state.join("service.log")
    }

    /// The log of calls that crossed the tunnel.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.state.join("audit.jsonl")
    }

    /// Every file and directory that the agent makes, without the
    /// configuration, which is the person's own.
    pub(crate) fn everything(&self) -> Vec<PathBuf> {
        let database = self.database();
        let beside = |suffix: &str| {
            let mut name = database.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        vec![
            self.vault(),
            self.vault_secret(),
            self.relay_credentials(),
            self.data.join(".relay.sealed.lock"),
            self.devices(),
            self.data.join(".devices.sealed.lock"),
            self.pairing(),
            self.data.join(".pairing.sealed.lock"),
            self.pairing_asked(),
            self.data.join(".pairing-asked.sealed.lock"),
            self.pairing_told(),
            self.data.join(".pairing-told.sealed.lock"),
            self.mcp(),
            self.data.join(".mcp.sealed.lock"),
            self.embedded_relay(),
            self.audit_log(),
            self.service_log(),
            self.audit_log().with_extension("old.jsonl"),
            self.up_lock(),
            self.cloudflared(),
            beside("-wal"),
            beside("-shm"),
            beside("-anchor"),
            self.data.join(".agent.db-anchor.lock"),
            database,
        ]
    }

    /// Creates the data and state directories, readable by their owner alone.
    ///
    /// # Errors
    ///
    /// Returns the error of the file system together with the path.
    pub(crate) fn create(&self) -> anyhow::Result<()> {
        for dir in [&self.data, &self.state] {
            create_private_dir(dir)?;
        }
        Ok(())
    }
}

/// Creates `dir` and its parents, new ones readable by their owner alone.
///
/// # Errors
///
/// Returns the error of the file system together with the path.
pub(crate) fn create_private_dir(dir: &Path) -> anyhow::Result<()> {
    use anyhow::Context as _;

    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder
        .create(dir)
        .with_context(|| format!("cannot create the directory {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_home_holds_everything() {
        let paths = Paths::resolve(Some(Path::new("/h"))).unwrap();
        for path in [
            paths.config_file(),
            paths.vault(),
            paths.database(),
            paths.audit_log(),
        ] {
            assert!(path.starts_with("/h"), "{} lies outside", path.display());
        }
    }
}
