//! `login` and `unregister`.

use std::process::ExitCode;

use anyhow::Context as _;

use super::up::chosen_endpoint;
use crate::channel::{Devices, Pairing};
use crate::cli;
use crate::config::{Config, RelayChoice};
use crate::home::Home;
use crate::mistake::Mistake;
use crate::output::{self, WEAK, note, paint, printable};
use crate::relay_client::login::{self, Invitation};
use crate::relay_client::{Registration, RegistrationFile, RelayClient};
use crate::relay_process::RelayProcess;

/// Registers this machine with the configured relay.
///
/// # Errors
///
/// Returns an error if this machine is registered already, or nobody approves.
pub(crate) async fn login(config: &Config, args: &cli::Login) -> anyhow::Result<ExitCode> {
    let endpoint = chosen_endpoint(config)?;
    let home = Home::open(config)?;
    let file = RegistrationFile::of(&config.paths);
    if let Some(found) = file.read(&home.vault)? {
        return Err(Mistake::new(
            "login",
            format!(
                "this machine is registered with {} for {}",
                found.url,
                printable(&found.account)
            ),
            "run `katachi-agent unregister` first",
        )
        .into());
    }
    let made = login::with_person(
        &endpoint,
        false,
        &Invitation {
            expected: args.expect_account.as_deref(),
            pairing: &super::device::fragment(config, &home)?,
            no_qr: args.no_qr,
        },
    )
    .await?;
    file.write(&home.vault, &made)?;
    note(format_args!(
        "Registered with {} for {}. Connect with `katachi-agent up`.",
        made.url,
        printable(&made.account)
    ));
    Ok(ExitCode::SUCCESS)
}

/// Forgets this machine at the relay and here.
///
/// # Errors
///
/// Returns an error if the relay cannot be told; nothing here is deleted then.
pub(crate) async fn unregister(
    config: &Config,
    args: &cli::Unregister,
) -> anyhow::Result<ExitCode> {
    let Some(home) = Home::open_existing(config)? else {
        note("Nothing is stored here.");
        return Ok(ExitCode::SUCCESS);
    };
    if args.everything && !args.yes {
        let sure = output::confirm(
            "Delete the keys, the history, the memory and the vault itself, for ever?",
        )
        .map_err(|_| {
            Mistake::new(
                "unregister --everything",
                "there is no terminal to ask on",
                "give --yes",
            )
        })?;
        if !sure {
            return Ok(ExitCode::FAILURE);
        }
    }
    let file = RegistrationFile::of(&config.paths);
    match file.read(&home.vault) {
        Ok(Some(found)) if !args.local_only => {
            tell_relay(config, &found).await.context(
                "the relay was not told, so nothing was deleted; try again, or give --local-only",
            )?;
            note(format_args!("The relay {} forgot this machine.", found.url));
        }
        Ok(Some(_)) => note(format_args!(
            "{} the relay was not told; remove this machine there too",
            paint(WEAK, "note:")
        )),
        Ok(None) => note("This machine is not registered with a relay."),
        Err(error) if args.local_only => {
            note(format_args!("{} {error:#}", paint(WEAK, "note:")));
        }
        Err(error) => return Err(error),
    }
    file.delete()?;
    // Whoever registers this machine next pairs their own devices.
    Pairing::of(&config.paths).close()?;
    Devices::of(&config.paths).forget()?;
    if args.everything {
        drop(home);
        everything(config)?;
        note("Deleted everything stored here.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn tell_relay(config: &Config, found: &Registration) -> anyhow::Result<()> {
    if !found.embedded {
        return RelayClient::new(found, None)?.unregister().await;
    }
    // Its relay only lives while `up` runs, and that one forgets with it.
    let RelayChoice::Embedded(listen) = &config.relay else {
        return Ok(());
    };
    let listen = std::net::SocketAddr::new(listen.ip(), 0);
    let relay =
        RelayProcess::start(listen, &config.paths.embedded_relay(), config.keychain).await?;
    let here = found.clone().moved_to(relay.endpoint());
    let told = RelayClient::new(&here, None)?.unregister().await;
    relay.stop().await;
    told
}

/// Deletes everything below the data and state directories.
fn everything(config: &Config) -> anyhow::Result<()> {
    crate::home::destroy(config)?;
    for path in config.paths.everything() {
        let removed = match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot delete {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
