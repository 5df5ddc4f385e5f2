//! `key`: API keys, sealed in the vault.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use katachi_crypto::{SecretBytes, SecretString};
use katachi_store::credentials::{CredentialError, Credentials};
use serde::Serialize;

use crate::cli;
use crate::config::Config;
use crate::home::{self, Home};
use crate::mistake::Mistake;
use crate::output::{note, print, print_json};

/// Does what was asked.
///
/// # Errors
///
/// Returns an error if the vault cannot be opened or the input cannot be used.
pub(crate) fn key(config: &Config, command: &cli::Key) -> anyhow::Result<ExitCode> {
    match command {
        cli::Key::Set { name, refused } => set(config, name, refused)?,
        cli::Key::List { json } => list(config, *json)?,
        cli::Key::Rm { name } => remove(config, name)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn set(config: &Config, name: &str, refused: &[OsString]) -> anyhow::Result<()> {
    if !refused.is_empty() {
        // The value itself is not repeated: it would stay on the screen too.
        return Err(Mistake::new(
            "key set",
            "the value is never taken from the command line, where the shell's history and \
             other programs see it",
            format!(
                "run `katachi-agent key set {name}` and paste it, or pipe it in; consider it leaked"
            ),
        )
        .into());
    }
    let name = home::key_name(name)?;
    let value = read_value()?;
    let home = Home::open(config)?;
    home.credentials()?.set(&name, &value)?;
    note(format_args!("Stored {name}, sealed in the vault."));
    Ok(())
}

/// Reads a key from a prompt that shows nothing, or from a pipe.
fn read_value() -> anyhow::Result<SecretString> {
    if std::io::stdin().is_terminal() {
        return Ok(SecretString::new(rpassword::prompt_password("Value: ")?));
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(Credentials::MAX_VALUE as u64 + 2)
        .read_to_end(&mut bytes)?;
    let bytes = SecretBytes::new(bytes);
    let text = std::str::from_utf8(bytes.expose_secret()).map_err(|_| {
        Mistake::new(
            "standard input",
            "the value is not text",
            "give the key as UTF-8 text",
        )
    })?;
    // One line end belongs to `echo`, not to the key.
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Mistake::new(
            "standard input",
            "it is empty",
            "pipe the value in: `pass show anthropic | katachi-agent key set anthropic`",
        )
        .into());
    }
    Ok(SecretString::new(text.to_owned()))
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    /// Seconds since 1970.
    updated: u64,
}

fn list(config: &Config, json: bool) -> anyhow::Result<()> {
    let mut keys = Vec::new();
    if let Some(home) = Home::open_existing(config)? {
        for info in home.credentials()?.list()? {
            keys.push(Listed {
                name: info.name.to_string(),
                updated: crate::time::seconds(info.updated),
            });
        }
    }
    if json {
        return print_json(&keys);
    }
    if keys.is_empty() {
        note("No keys are stored. Store one with `katachi-agent key set NAME`.");
    }
    let text: String = keys
        .iter()
        .map(|key| format!("{:<32} {}\n", key.name, crate::time::show(key.updated)))
        .collect();
    print(&text)?;
    Ok(())
}

fn remove(config: &Config, name: &str) -> anyhow::Result<()> {
    let name = home::key_name(name)?;
    let missing = || {
        Mistake::new(
            "API keys",
            format!("there is none named {name}"),
            "see `katachi-agent key list`",
        )
    };
    let home = Home::open_existing(config)?.ok_or_else(missing)?;
    match home.credentials()?.remove(&name) {
        Ok(()) => {
            note(format_args!("Deleted {name}."));
            Ok(())
        }
        Err(CredentialError::NotFound(_)) => Err(missing().into()),
        Err(error) => Err(error.into()),
    }
}
