//! A copy of everything that a relay cannot make again, and the way back.
//!
//! ```text
//! DIR/relay.db   the embedded database, encrypted under the vault as it was
//!     vault/     the vault: opens by recovery code, anywhere
//!     tls/       the self-made authority, its key sealed under the vault
//! ```
//!
//! Nothing in it can be read without the vault, and the copy of the vault has none of
//! the secrets that open it on this machine. What is kept in PostgreSQL is a matter of
//! `pg_dump`; this keeps the keys to it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use katachi_crypto::SecretString;
use katachi_store::Vault;
use katachi_store::vault::{RecoveryCode, SlotKind};

use crate::cli::{default_state_dir, print_line};
use crate::config::{DatabaseSource, KeychainUse};
use crate::machine;
use crate::records::{FILE as DATABASE, Records};
use crate::service::ServeError;

/// Arguments of `backup`.
#[derive(Args, Clone, Debug)]
pub struct Backup {
    /// Directory to make
    #[arg(value_name = "DIR")]
    to: PathBuf,

    /// State directory of the relay, which may be serving
    #[arg(long, value_name = "DIR", env = "KATACHI_RELAY_STATE_DIR")]
    state_dir: Option<PathBuf>,

    /// Do not ask the keychain of the operating system
    #[arg(long, env = "KATACHI_RELAY_NO_KEYCHAIN")]
    no_keychain: bool,

    /// Make another recovery code, besides those there are
    #[arg(long)]
    new_recovery_code: bool,
}

/// Arguments of `restore`.
#[derive(Args, Clone, Debug)]
pub struct Restore {
    /// Directory that `backup` made
    #[arg(value_name = "DIR")]
    from: PathBuf,

    /// File with the recovery code
    #[arg(long, value_name = "FILE")]
    recovery_code_file: PathBuf,

    /// State directory to make, or to fill where it is empty
    #[arg(long, value_name = "DIR", env = "KATACHI_RELAY_STATE_DIR")]
    state_dir: Option<PathBuf>,

    /// Do not ask the keychain of the operating system
    #[arg(long, env = "KATACHI_RELAY_NO_KEYCHAIN")]
    no_keychain: bool,
}

/// What is copied as it is, once the database is.
const FILES: [(&str, &str); 3] = [
    ("vault", "vault"),
    ("tls", "ca.pem"),
    ("tls", "ca.key.sealed"),
];

impl Backup {
    /// Makes the copy. Prints a recovery code if the vault had none, or another one
    /// was asked for.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`], which says what to change.
    pub async fn run(&self) -> Result<(), ServeError> {
        let asked = self.clone();
        if let Some(code) = tokio::task::spawn_blocking(move || asked.copy()).await?? {
            eprintln!("katachi-relay: the backup opens with this code; keep it elsewhere");
            print_line(code.expose_secret());
        }
        Ok(())
    }

    fn copy(&self) -> Result<Option<SecretString>, ServeError> {
        let state_dir = self.state_dir.clone().map_or_else(default_state_dir, Ok)?;
        if !state_dir.join("vault").is_dir() {
            return Err(ServeError::Config(format!(
                "{} is no state directory of a relay: give --state-dir",
                state_dir.display()
            )));
        }
        let vault = machine::open_vault(&state_dir, keychain(self.no_keychain))?;
        make(&self.to)?;
        let copied = self.fill(&state_dir, vault);
        if copied.is_err() {
            let _ = fs::remove_dir_all(&self.to);
        }
        copied
    }

    fn fill(&self, state_dir: &Path, vault: Vault) -> Result<Option<SecretString>, ServeError> {
        let code = match vault
            .slots()
            .iter()
            .any(|slot| slot.kind == SlotKind::RecoveryCode)
        {
            true if !self.new_recovery_code => None,
            _ => Some(vault.add_recovery_code()?.to_text()),
        };
        if state_dir.join(DATABASE).exists() {
            let records = Records::open(&DatabaseSource::Embedded, None, state_dir, vault);
            records
                .and_then(|records| records.backup(&self.to.join(DATABASE)))
                .map_err(|error| ServeError::Storage(error.to_string()))?;
        }
        // The vault after the database: it has every key that was needed there.
        copy_files(state_dir, &self.to)?;
        Ok(code)
    }
}

impl Restore {
    /// Makes a state directory out of a copy, whose vault is at home on this machine
    /// from then on, and looks whether the database is sound.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`], which says what to change; the directory is left then as it
    /// was, absent or empty.
    pub async fn run(&self) -> Result<(), ServeError> {
        let asked = self.clone();
        tokio::task::spawn_blocking(move || asked.restore()).await?
    }

    fn restore(&self) -> Result<(), ServeError> {
        let text = fs::read_to_string(&self.recovery_code_file)
            .map_err(|source| unusable(&self.recovery_code_file, source))?;
        let code = RecoveryCode::parse(text.trim())
            .map_err(|error| ServeError::Config(format!("--recovery-code-file: {error}")))?;
        let state_dir = self.state_dir.clone().map_or_else(default_state_dir, Ok)?;
        let was_made = make_or_take(&state_dir)?;
        let restored = self.fill(&state_dir, code);
        if restored.is_err() {
            let _ = clear(&state_dir);
            if was_made {
                let _ = fs::remove_dir(&state_dir);
            }
        }
        restored
    }

    fn fill(&self, state_dir: &Path, code: RecoveryCode) -> Result<(), ServeError> {
        copy_files(&self.from, state_dir)?;
        let vault = machine::move_vault(state_dir, keychain(self.no_keychain), code)?;
        let copy = self.from.join(DATABASE);
        if !copy.exists() {
            return Ok(());
        }
        copy_file(&copy, &state_dir.join(DATABASE))?;
        let records = Records::open(&DatabaseSource::Embedded, None, state_dir, vault);
        records
            .and_then(|records| records.verify())
            .map_err(|error| ServeError::Storage(error.to_string()))
    }
}

const fn keychain(never: bool) -> KeychainUse {
    if never {
        KeychainUse::Never
    } else {
        KeychainUse::Allowed
    }
}

/// Makes a directory where nothing is yet, for its owner alone.
fn make(path: &Path) -> Result<(), ServeError> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(path)
        .map_err(|source| unusable(path, source))
}

/// As [`make`]; or takes a directory that is there and empty, as a service manager makes
/// it where the service's user may not. Whether it was made.
fn make_or_take(path: &Path) -> Result<bool, ServeError> {
    let is_empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty {
        return Ok(false);
    }
    make(path).map(|()| true)
}

/// Removes what is in a directory.
fn clear(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> Result<(), ServeError> {
    for (directory, name) in FILES {
        let source = from.join(directory).join(name);
        // A relay with a certificate from files has no authority.
        if directory == "tls" && !source.exists() {
            continue;
        }
        if !to.join(directory).exists() {
            make(&to.join(directory))?;
        }
        copy_file(&source, &to.join(directory).join(name))?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<(), ServeError> {
    let mut source = fs::File::open(from).map_err(|error| unusable(from, error))?;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let copied = options.open(to).and_then(|mut target| {
        std::io::copy(&mut source, &mut target)?;
        target.flush()?;
        target.sync_all()
    });
    copied.map_err(|error| unusable(to, error))
}

fn unusable(path: &Path, source: std::io::Error) -> ServeError {
    ServeError::File {
        path: path.to_owned(),
        source,
    }
}
