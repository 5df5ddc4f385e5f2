//! The secret of a pairing link: for one device, for ten minutes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::Secret;
use katachi_protocol::Sensitive;
use katachi_protocol::channel::PairingFragment;
use katachi_store::file::SealedFile;
use katachi_store::vault::Vault;

use crate::paths::Paths;

/// Names the file in the vault.
const NAME: &str = "katachi-agent/pairing";
/// How long a link can be used, in seconds.
pub(crate) const LIFETIME: u64 = 600;

/// The one open pairing. It lies sealed on disk, so that `device pair` can make
/// a link while `up` runs.
#[derive(Clone, Debug)]
pub(crate) struct Pairing {
    path: PathBuf,
    /// Held while a secret is spent, so that one opens the door once.
    spending: Arc<Mutex<()>>,
}

impl Pairing {
    /// The pairing of the agent whose directories are `paths`.
    pub(crate) fn of(paths: &Paths) -> Self {
        Self {
            path: paths.pairing(),
            spending: Arc::default(),
        }
    }

    /// Opens a pairing in place of any other; returns what the link carries.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no randomness or the file cannot be written.
    pub(crate) fn open(&self, vault: &Vault) -> anyhow::Result<PairingFragment> {
        let secret = Secret::<32>::random()?;
        let mut bytes = [0; 40];
        let (expires, kept) = bytes.split_at_mut(8);
        expires.copy_from_slice(&(crate::audit::now() + LIFETIME).to_be_bytes());
        kept.copy_from_slice(secret.expose_secret());
        let bytes = Secret::new(bytes);
        self.sealed()?.write(vault, bytes.expose_secret())?;
        Ok(PairingFragment {
            agent: super::devices::id_of(&super::own_key(vault).public()),
            secret: Sensitive::new(URL_SAFE_NO_PAD.encode(secret.expose_secret())),
        })
    }

    /// The secret of the open pairing; `None` if there is none or it is too old.
    ///
    /// # Errors
    ///
    /// Returns an error if the file was altered.
    pub(super) fn secret(&self, vault: &Vault) -> anyhow::Result<Option<Secret<32>>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let bytes = self.sealed()?.read(vault).context("the pairing file")?;
        let Some((expires, secret)) = bytes.expose_secret().split_first_chunk::<8>() else {
            anyhow::bail!("the pairing file is damaged");
        };
        if crate::audit::now() >= u64::from_be_bytes(*expires) {
            self.close()?;
            return Ok(None);
        }
        Ok(Some(Secret::from_slice(secret)?))
    }

    /// Ends the pairing if `secret` is still its own; `false` if it was spent or
    /// replaced since it was read.
    ///
    /// # Errors
    ///
    /// Returns an error if the file was altered or cannot be deleted.
    pub(super) fn spend(&self, vault: &Vault, secret: &Secret<32>) -> anyhow::Result<bool> {
        let _alone = self.spending.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = self.secret(vault)?.is_some_and(|open| open == *secret);
        if is_open {
            self.close()?;
        }
        Ok(is_open)
    }

    /// Ends the pairing: its secret opens nothing any more.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is there and cannot be deleted.
    pub(crate) fn close(&self) -> anyhow::Result<()> {
        Ok(self.sealed()?.remove()?)
    }

    fn sealed(&self) -> anyhow::Result<SealedFile> {
        Ok(SealedFile::at(&self.path)?.named(NAME)?)
    }
}
