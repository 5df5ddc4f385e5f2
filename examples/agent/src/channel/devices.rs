//! The devices that may use this agent.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::channel::PublicKey;
use katachi_protocol::channel::{ChannelRequest, Device};
use katachi_store::file::SealedFile;
use katachi_store::vault::Vault;

use crate::paths::Paths;

/// Names the file in the vault.
const NAME: &str = "katachi-agent/devices";
/// More devices than a person has.
const MAX_DEVICES: usize = 64;

/// The sealed list of paired devices. It is read anew whenever it is asked, so
/// that a device removed by another process is gone at once.
#[derive(Clone, Debug)]
pub(crate) struct Devices {
    path: PathBuf,
}

impl Devices {
    /// The list of the agent whose directories are `paths`.
    pub(crate) fn of(paths: &Paths) -> Self {
        Self {
            path: paths.devices(),
        }
    }

    /// Every paired device, oldest first.
    ///
    /// # Errors
    ///
    /// Returns an error if the file was altered or belongs to another vault.
    pub(crate) fn list(&self, vault: &Vault) -> anyhow::Result<Vec<Device>> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        let bytes = self
            .sealed()?
            .read(vault)
            .with_context(|| format!("cannot open {}", self.path.display()))?;
        serde_json::from_slice(bytes.expose_secret())
            .map_err(|_| anyhow::anyhow!("{} holds no list of devices", self.path.display()))
    }

    /// The device with `key`.
    ///
    /// # Errors
    ///
    /// Those of [`list`](Self::list).
    pub(crate) fn find(&self, vault: &Vault, key: &PublicKey) -> anyhow::Result<Option<Device>> {
        let id = id_of(key);
        Ok(self.list(vault)?.into_iter().find(|device| device.id == id))
    }

    /// Enrols the device with `key`. One that is there already keeps its place.
    ///
    /// # Errors
    ///
    /// Returns an error if there are too many, or the file cannot be written.
    pub(crate) fn enrol(
        &self,
        vault: &Vault,
        key: &PublicKey,
        name: &str,
        signing_key: Option<String>,
    ) -> anyhow::Result<()> {
        let mut devices = self.list(vault)?;
        let device = Device {
            id: id_of(key),
            name: shown(name),
            paired_at: crate::audit::now(),
            signing_key,
        };
        match devices.iter().position(|known| known.id == device.id) {
            Some(at) => devices[at] = device,
            None if devices.len() < MAX_DEVICES => devices.push(device),
            None => anyhow::bail!("{MAX_DEVICES} devices are paired; remove one first"),
        }
        self.write(vault, &devices)
    }

    /// Removes a device by the beginning of its identifier; `None` if there is
    /// none, or more than one begins so.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or written.
    pub(crate) fn remove(&self, vault: &Vault, beginning: &str) -> anyhow::Result<Option<Device>> {
        let mut devices = self.list(vault)?;
        let mut found = devices
            .iter()
            .enumerate()
            .filter(|(_, device)| !beginning.is_empty() && device.id.starts_with(beginning))
            .map(|(at, _)| at);
        let (Some(at), None) = (found.next(), found.next()) else {
            return Ok(None);
        };
        let removed = devices.remove(at);
        self.write(vault, &devices)?;
        Ok(Some(removed))
    }

    /// Forgets every device.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is there and cannot be deleted.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        Ok(self.sealed()?.remove()?)
    }

    /// When the list was last changed and how long it is, cheap enough to ask before
    /// each frame. Two changes within one tick of the clock differ in the length.
    pub(super) fn changed(&self) -> Option<(SystemTime, u64)> {
        let file = std::fs::metadata(&self.path).ok()?;
        Some((file.modified().ok()?, file.len()))
    }

    fn write(&self, vault: &Vault, devices: &[Device]) -> anyhow::Result<()> {
        self.sealed()?.write(vault, &serde_json::to_vec(devices)?)?;
        Ok(())
    }

    fn sealed(&self) -> anyhow::Result<SealedFile> {
        Ok(SealedFile::at(&self.path)?.named(NAME)?)
    }
}

/// A device is called by its public key.
pub(super) fn id_of(key: &PublicKey) -> String {
    URL_SAFE_NO_PAD.encode(key.as_bytes())
}

/// A device chose its name: one line, printable, short.
pub(super) fn shown(name: &str) -> String {
    let name: String = crate::output::one_line(name)
        .chars()
        .take(ChannelRequest::MAX_NAME)
        .collect();
    match name.trim() {
        "" => "a browser".to_owned(),
        name => name.to_owned(),
    }
}
