//! `device`: which browsers may use this machine.

use std::process::ExitCode;

use katachi_protocol::channel::Devices as DeviceList;

use crate::channel::{Devices, PAIRING_LIFETIME, Pairing};
use crate::cli;
use crate::config::Config;
use crate::home::Home;
use crate::mistake::Mistake;
use crate::output::{BOLD, note, paint, print, print_json, printable};
use crate::relay_client::RegistrationFile;
use crate::time;

/// Does what was asked.
///
/// # Errors
///
/// Returns an error if the vault does not open, or what was named is not there.
pub(crate) fn device(config: &Config, command: &cli::Device) -> anyhow::Result<ExitCode> {
    let home = Home::open(config)?;
    match command {
        cli::Device::Pair => pair(config, &home)?,
        cli::Device::List { json } => list(config, &home, *json)?,
        cli::Device::Rm { id } => remove(config, &home, id)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn pair(config: &Config, home: &Home) -> anyhow::Result<()> {
    let Some(registration) = RegistrationFile::of(&config.paths).read(&home.vault)? else {
        return Err(Mistake::new(
            "device pair",
            "this machine is not registered with a relay",
            "run `katachi-agent up` first; its link pairs the browser that opens it",
        )
        .into());
    };
    note(format_args!(
        "Open this link in the browser that should use this machine, within {} minutes:",
        PAIRING_LIFETIME / 60
    ));
    note("");
    let link = format!("{}/{}", registration.url, fragment(config, home)?);
    print(&format!("    {}\n", paint(BOLD, link)))?;
    Ok(())
}

/// Opens a pairing; returns what to put behind a link. No browser sends it on.
///
/// # Errors
///
/// Returns an error if the vault's directory cannot be written.
pub(crate) fn fragment(config: &Config, home: &Home) -> anyhow::Result<String> {
    let fragment = Pairing::of(&config.paths).open(&home.vault)?;
    Ok(format!("#{}", fragment.expose()))
}

fn list(config: &Config, home: &Home, json: bool) -> anyhow::Result<()> {
    let devices = Devices::of(&config.paths).list(&home.vault)?;
    if json {
        return print_json(&DeviceList { devices });
    }
    if devices.is_empty() {
        note("No device is paired; `katachi-agent device pair` makes a link.");
    }
    for device in devices {
        print(&format!(
            "{}  {}  paired {}\n",
            printable(&device.id[..12.min(device.id.len())]),
            printable(&device.name),
            time::show(device.paired_at)
        ))?;
    }
    Ok(())
}

fn remove(config: &Config, home: &Home, id: &str) -> anyhow::Result<()> {
    match Devices::of(&config.paths).remove(&home.vault, id)? {
        Some(device) => {
            note(format_args!(
                "{} can do nothing here any more.",
                printable(&device.name)
            ));
            Ok(())
        }
        None => Err(Mistake::new(
            "device rm",
            format!("no single device begins with {}", printable(id)),
            "see `katachi-agent device list`",
        )
        .into()),
    }
}
