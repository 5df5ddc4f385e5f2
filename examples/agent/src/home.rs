//! What the agent keeps on this machine, opened: the vault, the keys in it and
//! the encrypted database.

use std::sync::Arc;

use anyhow::Context as _;
use katachi_crypto::{Secret, SecretString};
use katachi_store::binding::{
    BindingError, Enrolled, FingerprintBinding, MachineBinding, Recovered, Unbound,
};
use katachi_store::credentials::{CredentialError, Credentials, Name};
use katachi_store::database::{Anchor, Database, DatabaseError, DatabaseKey, Options, Profile};
use katachi_store::keychain::{KeychainError, SystemKeychain};
use katachi_store::vault::{
    Builder, Degraded, KeychainWitness, SlotFailure, Vault, VaultError, VaultId, Witness,
    WitnessUnavailable,
};

use crate::config::{Config, KeychainUse};
use crate::mistake::Mistake;
use crate::output::{QUIET, WEAK, note, paint};
use crate::paths::Paths;

/// Name of the database's key in the vault.
const DATABASE_NAME: &str = "katachi-agent/database";

/// An open home.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) vault: Arc<Vault>,
    pub(crate) paths: Paths,
}

impl Home {
    /// Opens the vault, creating it on first use.
    ///
    /// # Errors
    ///
    /// Returns an error if no slot of the vault opens on this machine.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        let is_new = !config.paths.vault().exists();
        let home = Self::open_silently(config)?;
        if is_new {
            tell_new(&home.vault);
        }
        Ok(home)
    }

    /// The same, for callers that say themselves what protects a new vault.
    ///
    /// # Errors
    ///
    /// As for [`Home::open`].
    pub(crate) fn open_silently(config: &Config) -> anyhow::Result<Self> {
        config.paths.create()?;
        let opened = builder(&config.paths, config.keychain).open_or_create();
        let vault = opened.map_err(|error| unopened(config, error))?;
        Ok(Self {
            vault: Arc::new(vault),
            paths: config.paths.clone(),
        })
    }

    /// Takes the vault that is in place, such as a restored backup, as the current one,
    /// although the keychain, or the relay with `known`, remembers a newer one.
    ///
    /// # Errors
    ///
    /// As for [`Home::open`].
    pub(crate) fn open_restored(config: &Config, known: Option<u64>) -> anyhow::Result<Self> {
        let builder = builder(&config.paths, config.keychain).accept_restore();
        let builder = match known {
            None => builder,
            Some(known) => builder.witness(Remembered(known)),
        };
        let vault = builder.open().map_err(|error| unopened(config, error))?;
        Ok(Self {
            vault: Arc::new(vault),
            paths: config.paths.clone(),
        })
    }

    /// Opens the vault only if there is one.
    ///
    /// # Errors
    ///
    /// Returns an error if there is one and no slot opens.
    pub(crate) fn open_existing(config: &Config) -> anyhow::Result<Option<Self>> {
        match Vault::status(config.paths.vault()) {
            Err(VaultError::NoVault { .. }) => Ok(None),
            _ => Self::open(config).map(Some),
        }
    }

    /// The stored API keys.
    ///
    /// # Errors
    ///
    /// Returns an error if they were damaged.
    pub(crate) fn credentials(&self) -> anyhow::Result<Credentials<'_>> {
        Ok(Credentials::open(&self.vault)?)
    }

    /// One stored API key.
    ///
    /// # Errors
    ///
    /// Returns a [`Mistake`] if there is none of that name.
    pub(crate) fn key(
        &self,
        credentials: &Credentials<'_>,
        name: &str,
    ) -> anyhow::Result<SecretString> {
        match credentials.get(&key_name(name)?) {
            Ok(value) => Ok(value),
            Err(CredentialError::NotFound(name)) => Err(Mistake::new(
                "API keys",
                format!("there is none named {name}"),
                format!("store it with `katachi-agent key set {name}`"),
            )
            .into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Destroys the vault, in the keychain too. The database is closed.
    ///
    /// # Errors
    ///
    /// Returns an error if it is still in use or cannot be deleted.
    pub(crate) fn destroy_vault(self) -> anyhow::Result<()> {
        let vault = Arc::into_inner(self.vault).context("the vault is still in use")?;
        Ok(vault.destroy()?)
    }

    /// The encrypted database with history and memory.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be opened with this vault, or is older
    /// than the vault knows.
    pub(crate) fn database(&self) -> anyhow::Result<Database> {
        self.open_database(&self.anchor())
    }

    /// Takes the database that is in place, such as a restored backup, as the
    /// current one.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be opened with this vault.
    pub(crate) fn accept_restored_database(&self) -> anyhow::Result<()> {
        let database = self.open_database(&self.anchor().accept_restore())?;
        Ok(database.checkpoint()?)
    }

    fn anchor(&self) -> Anchor {
        Anchor::in_vault(&self.vault, DATABASE_NAME)
    }

    fn open_database(&self, anchor: &Anchor) -> anyhow::Result<Database> {
        let path = self.paths.database();
        let key = DatabaseKey::from_vault(&self.vault, DATABASE_NAME)?;
        let opened = Database::open_anchored(&path, &key, anchor, database_options());
        opened.map_err(|error| match error {
            DatabaseError::RolledBack { .. } | DatabaseError::VaultRolledBack { .. } => {
                Mistake::new(
                    format!("the database {}", path.display()),
                    error.to_string(),
                    "if it was restored on purpose, run `katachi-agent vault accept-restore`",
                )
                .into()
            }
            other => anyhow::Error::new(other).context(format!("the database {}", path.display())),
        })
    }
}

/// Why a vault did not open, with what a person can do about it.
fn unopened(config: &Config, error: VaultError) -> anyhow::Error {
    let place = format!("the vault {}", config.paths.vault().display());
    let tried = match &error {
        VaultError::NoUsableSlot { tried } => tried,
        VaultError::RolledBack { .. } => {
            return rolled_back("the keychain remembers", &error).into();
        }
        _ => return anyhow::Error::new(error).context(place),
    };
    let reasons: Vec<_> = tried.iter().map(ToString::to_string).collect();
    Mistake::new(
        place,
        format!("does not open here ({})", reasons.join("; ")),
        "unlock the keychain, or run `katachi-agent vault recover` with a recovery code",
    )
    .into()
}

/// What to do about a vault that is older than somebody remembers.
pub(crate) fn rolled_back(who: &str, error: &VaultError) -> Mistake {
    Mistake::new(
        format!("the vault, of which {who} a newer one"),
        error.to_string(),
        "if you restored it, run `katachi-agent vault accept-restore`; if you did not, somebody \
         put an old copy in its place: devices and keys that were removed since are back in it",
    )
}

/// A generation that the relay remembered.
#[derive(Debug)]
struct Remembered(u64);

impl Witness for Remembered {
    fn recall(&self, _: VaultId) -> Result<Option<u64>, WitnessUnavailable> {
        Ok(Some(self.0))
    }

    /// The next heartbeat tells it.
    fn remember(&self, _: VaultId, _: u64) -> Result<(), WitnessUnavailable> {
        Ok(())
    }
}

/// How the database is laid out and what it holds.
pub(crate) fn database_options() -> Options {
    Options::new().profile(Profile::Fast)
}

/// Reads the name of an API key.
///
/// # Errors
///
/// Returns a [`Mistake`] with the form that names have.
pub(crate) fn key_name(text: &str) -> Result<Name, Mistake> {
    Name::parse(text).map_err(|error| {
        Mistake::new(
            format!("key name `{}`", crate::output::printable(text)),
            error.to_string(),
            "choose a name such as `anthropic` or `openai/api-key`",
        )
    })
}

/// How a vault was opened, in one line.
pub(crate) fn slot_line(vault: &Vault) -> String {
    let report = vault.report();
    let mut line = format!("{} slot", report.slot.kind);
    if report.is_copy_deterrent() {
        line.push_str(", a copy deterrent only");
    }
    for degraded in &report.degraded {
        line.push_str(&format!("; {}", short(degraded)));
    }
    line
}

/// Why a slot did not open, without what `doctor` says at length.
pub(crate) fn short(degraded: &Degraded) -> String {
    match &degraded.why {
        SlotFailure::Keychain(KeychainError::Unavailable { .. }) => {
            "no keychain answers here".to_owned()
        }
        _ => degraded.to_string(),
    }
}

/// The vault's means on this machine.
pub(crate) fn builder(paths: &Paths, keychain: KeychainUse) -> Builder {
    let builder = Vault::builder(paths.vault())
        .binding(AsFarAsPossible(FingerprintBinding::system_with_volume_of(
            paths.vault(),
        )))
        .file_slot_if_no_keychain(paths.vault_secret());
    match keychain {
        KeychainUse::Auto => builder
            .keychain(SystemKeychain::new())
            .witness(KeychainWitness::new(SystemKeychain::new())),
        KeychainUse::Off => builder,
    }
}

/// The machine's fingerprint, or nothing where it has none, as in a container:
/// the strength is then zero bits, and everything that reports it says so.
#[derive(Debug)]
struct AsFarAsPossible<B>(B);

impl<B: MachineBinding> MachineBinding for AsFarAsPossible<B> {
    fn enroll(&self) -> Result<Enrolled, BindingError> {
        match self.0.enroll() {
            Err(BindingError::TooWeak { why }) => {
                note(format_args!(
                    "{} this machine has nothing to be recognised by ({why}); a copy of the vault \
                     and its secret opens anywhere",
                    paint(WEAK, "note:")
                ));
                Unbound.enroll()
            }
            enrolled => enrolled,
        }
    }

    fn recover(
        &self,
        state: &[u8],
        verify: &mut dyn FnMut(&Secret<32>) -> bool,
    ) -> Result<Recovered, BindingError> {
        match Unbound.recover(state, verify) {
            Err(_) => self.0.recover(state, verify),
            recovered => recovered,
        }
    }
}

/// Says plainly what protects a vault that was just made.
fn tell_new(vault: &Vault) {
    note(paint(
        QUIET,
        format_args!(
            "Created the vault {}: {}.",
            vault.path().display(),
            slot_line(vault)
        ),
    ));
    if vault.report().is_copy_deterrent() {
        let strength = vault.report().strength.unwrap_or_default();
        note(format_args!(
            "{} without a keychain its secret lies on the same disk: {strength}. \
             `katachi-agent doctor` says more.",
            paint(WEAK, "note:")
        ));
    }
}

/// Destroys the vault, in the keychain too.
///
/// # Errors
///
/// Returns an error if it cannot be opened or deleted.
pub(crate) fn destroy(config: &Config) -> anyhow::Result<()> {
    if let Some(home) = Home::open_existing(config)? {
        home.destroy_vault()?;
    }
    Ok(())
}
