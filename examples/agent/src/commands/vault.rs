//! `vault`: a way in for the day this machine is gone or changed too much.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use anyhow::Context as _;
use katachi_crypto::SecretString;
use katachi_protocol::agent::AgentState;
use katachi_store::vault::{RecoveryCode, Vault, VaultError};

use crate::cli;
use crate::config::Config;
use crate::home::{self, Home};
use crate::mistake::Mistake;
use crate::output::{WEAK, note, paint, print};
use crate::relay_client::{RegistrationFile, RelayClient};

/// Longest code read from standard input, in bytes.
const MAX_CODE: u64 = 256;

/// Does what was asked.
///
/// # Errors
///
/// Returns an error if the vault does not open or cannot be saved.
pub(crate) async fn vault(config: &Config, command: &cli::Vault) -> anyhow::Result<ExitCode> {
    match command {
        cli::Vault::RecoveryCode => recovery_code(config)?,
        cli::Vault::Recover => recover(config)?,
        cli::Vault::AcceptRestore => {
            // First as the keychain knows it, since the registration is sealed under it.
            let mut home = Home::open_restored(config, None)?;
            if let Some(known) = remembered(config, &home).await? {
                drop(home);
                home = Home::open_restored(config, Some(known))?;
            }
            home.accept_restored_database()?;
            note("Vault and database are taken as they are; what was newer is given up.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the relay remembers of the vault, if it is one elsewhere.
async fn remembered(config: &Config, home: &Home) -> anyhow::Result<Option<u64>> {
    let registration = RegistrationFile::of(&config.paths).read(&home.vault)?;
    let Some(registration) = registration.filter(|registration| !registration.embedded) else {
        return Ok(None);
    };
    let client = RelayClient::new(&registration, None)?;
    match client.heartbeat(AgentState::Idle).await {
        Ok(answer) => Ok(answer.vault_generation),
        Err(error) => {
            note(format_args!(
                "{} the relay was not asked ({error:#}); if it remembers a newer vault, run this \
                 again when it can be reached",
                paint(WEAK, "note:")
            ));
            Ok(None)
        }
    }
}

fn recovery_code(config: &Config) -> anyhow::Result<()> {
    let home = Home::open(config)?;
    let code = home.vault.add_recovery_code()?;
    print(&format!("{}\n", code.to_text().expose_secret()))?;
    note("Keep it on paper: it opens this vault on any machine, and it is stored nowhere.");
    Ok(())
}

fn recover(config: &Config) -> anyhow::Result<()> {
    if let Err(VaultError::NoVault { dir }) = Vault::status(config.paths.vault()) {
        return Err(Mistake::new(
            dir.display().to_string(),
            "there is no vault",
            "put the data directory of the other machine in its place first, or give --home",
        )
        .into());
    }
    let code = RecoveryCode::parse(read_code()?.expose_secret()).map_err(|error| {
        Mistake::new(
            "recovery code",
            error.to_string(),
            "compare it with the paper and type it again",
        )
    })?;
    let vault = home::builder(&config.paths, config.keychain)
        .recovery_code(code)
        .open()
        .context("the recovery code does not open this vault")?;
    vault.move_here()?;
    // Everything later opens without the code, which this shows.
    drop(vault);
    let home = Home::open(config)?;
    note(format_args!(
        "The vault opens on this machine now, with the {}.",
        home::slot_line(&home.vault)
    ));
    Ok(())
}

fn read_code() -> anyhow::Result<SecretString> {
    if std::io::stdin().is_terminal() {
        return Ok(SecretString::new(rpassword::prompt_password(
            "Recovery code: ",
        )?));
    }
    let mut text = String::new();
    std::io::stdin().take(MAX_CODE).read_to_string(&mut text)?;
    let code = SecretString::new(text.trim().to_owned());
    Ok(code)
}
