//! What this machine keeps about the relay it belongs to, sealed on disk.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::Secret;
use katachi_protocol::Sensitive;
use katachi_protocol::device::TokenResponse;
use katachi_store::file::SealedFile;
use katachi_store::vault::Vault;
use serde::{Deserialize, Serialize};

use super::Endpoint;
use crate::paths::Paths;

/// Name of the sealed file in the vault; part of what its seal is bound to.
const NAME: &str = "katachi-agent/relay-registration";

/// One registration with a relay.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Registration {
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) ca_pem: Option<String>,
    /// Whether the relay is the one that `up` starts by itself.
    pub(crate) embedded: bool,
    pub(crate) agent_id: String,
    pub(crate) key_id: String,
    hmac_secret: Sensitive,
    pub(crate) epoch: String,
    /// Account that approved this machine.
    pub(crate) account: String,
    /// Seconds since 1970.
    pub(crate) registered_at: u64,
}

impl Registration {
    /// Takes over what the relay issued.
    pub(crate) fn new(endpoint: &Endpoint, embedded: bool, token: TokenResponse) -> Self {
        Self {
            url: endpoint.url.clone(),
            ca_pem: endpoint.ca_pem.clone(),
            embedded,
            agent_id: token.agent_id,
            key_id: token.key_id,
            hmac_secret: token.hmac_secret,
            epoch: token.epoch,
            account: token.approved_by,
            registered_at: crate::audit::now(),
        }
    }

    /// The same registration with its relay at another address, as an embedded
    /// one has after each start.
    pub(crate) fn moved_to(self, endpoint: &Endpoint) -> Self {
        Self {
            url: endpoint.url.clone(),
            ca_pem: endpoint.ca_pem.clone(),
            ..self
        }
    }

    /// The relay's address.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            url: self.url.clone(),
            ca_pem: self.ca_pem.clone(),
        }
    }

    /// The secret that signing keys are derived from.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not 32 bytes in base64url.
    pub(super) fn secret(&self) -> anyhow::Result<Secret<32>> {
        let bytes = katachi_crypto::SecretBytes::new(
            URL_SAFE_NO_PAD
                .decode(self.hmac_secret.expose_secret())
                .map_err(|_| anyhow::anyhow!("the relay's key is not base64url"))?,
        );
        Secret::from_slice(bytes.expose_secret())
            .map_err(|_| anyhow::anyhow!("the relay's key is not 32 bytes"))
    }
}

/// The sealed file.
#[derive(Debug)]
pub(crate) struct RegistrationFile {
    path: std::path::PathBuf,
}

impl RegistrationFile {
    /// The file of the agent whose directories are `paths`.
    pub(crate) fn of(paths: &Paths) -> Self {
        Self {
            path: paths.relay_credentials(),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Reads the registration, `None` if there is none.
    ///
    /// # Errors
    ///
    /// Returns an error if the file was altered or belongs to another vault.
    pub(crate) fn read(&self, vault: &Vault) -> anyhow::Result<Option<Registration>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let bytes = self.sealed()?.read(vault).with_context(|| {
            format!(
                "cannot open {}; if it was damaged, delete it and run `katachi-agent login`",
                self.path.display()
            )
        })?;
        let registration = serde_json::from_slice(bytes.expose_secret())
            .map_err(|_| anyhow::anyhow!("{} holds no registration", self.path.display()))?;
        Ok(Some(registration))
    }

    /// Seals and writes the registration.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written.
    pub(crate) fn write(&self, vault: &Vault, registration: &Registration) -> anyhow::Result<()> {
        let bytes = katachi_crypto::SecretBytes::new(serde_json::to_vec(registration)?);
        self.sealed()?.write(vault, bytes.expose_secret())?;
        Ok(())
    }

    /// Deletes the file.
    ///
    /// # Errors
    ///
    /// Returns an error if it is there and cannot be deleted.
    pub(crate) fn delete(&self) -> anyhow::Result<()> {
        Ok(self.sealed()?.remove()?)
    }

    fn sealed(&self) -> anyhow::Result<SealedFile> {
        Ok(SealedFile::at(&self.path)?.named(NAME)?)
    }
}
