//! `device`: which browsers may use this machine.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use katachi_protocol::channel::Devices as DeviceList;

use crate::channel::{CodePairing, Devices, LOOK, PAIRING_LIFETIME, Pairing, Told};
use crate::cli;
use crate::config::Config;
use crate::home::Home;
use crate::mistake::Mistake;
use crate::output::{self, BOLD, GOOD, note, paint, print, print_json, printable};
use crate::relay_client::{Registration, RegistrationFile};
use crate::{qr, time};

/// Does what was asked.
///
/// # Errors
///
/// Returns an error if the vault does not open, or what was named is not there.
pub(crate) fn device(config: &Config, command: &cli::Device) -> anyhow::Result<ExitCode> {
    let home = Home::open(config)?;
    match command {
        cli::Device::Pair { code: false, no_qr } => pair(config, &home, *no_qr)?,
        cli::Device::Pair { code: true, .. } => pair_by_code(config, &home)?,
        cli::Device::List { json } => list(config, &home, *json)?,
        cli::Device::Rm { id } => remove(config, &home, id)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn pair(config: &Config, home: &Home, no_qr: bool) -> anyhow::Result<()> {
    let registration = registration(config, home)?;
    note(format_args!(
        "Open this link in the browser that should use this machine, within {} minutes:",
        PAIRING_LIFETIME / 60
    ));
    note("");
    let link = format!("{}/{}", registration.url, fragment(config, home)?);
    print(&format!("    {}\n", paint(BOLD, &link)))?;
    if !no_qr {
        qr::show(&link);
    }
    Ok(())
}

fn registration(config: &Config, home: &Home) -> anyhow::Result<Registration> {
    let registration = RegistrationFile::of(&config.paths).read(&home.vault)?;
    registration.ok_or_else(|| {
        Mistake::new(
            "device pair",
            "this machine is not registered with a relay",
            "run `katachi-agent up` first; its link pairs the browser that opens it",
        )
        .into()
    })
}

/// Plays the terminal's part of a pairing by code; `up` plays the agent's.
fn pair_by_code(config: &Config, home: &Home) -> anyhow::Result<()> {
    let registration = registration(config, home)?;
    if super::up::alone(config)?.is_some() {
        return Err(Mistake::new(
            "device pair --code",
            "`katachi-agent up` does not run, so no browser can reach this machine",
            "start it in another terminal, or as a service",
        )
        .into());
    }
    let codes = CodePairing::of(&config.paths);
    codes.close()?;
    let attempt = codes.begin(&home.vault)?;
    note(format_args!(
        "Open {} in the browser, choose this machine there and press “Compare numbers”.",
        paint(BOLD, format_args!("{}/", registration.url))
    ));
    let ended = followed(&codes, home, &attempt);
    codes.close()?;
    ended
}

/// Follows `attempt` to its end.
fn followed(codes: &CodePairing, home: &Home, attempt: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(PAIRING_LIFETIME);
    let mut seen = None;
    loop {
        let told = codes.told(&home.vault, attempt)?;
        if told != seen {
            match &told {
                None => {}
                Some(Told::Answered) => {
                    let typed = output::ask("Type the three numbers that it shows:")?;
                    codes.enter(&home.vault, attempt, &typed)?;
                }
                Some(Told::Right) => note(format_args!(
                    "{}",
                    paint(
                        GOOD,
                        "The same numbers. Now press “The machine accepted them” in the browser."
                    )
                )),
                Some(Told::Paired(name)) => {
                    note(format_args!("{} is paired.", paint(BOLD, printable(name))));
                    return Ok(());
                }
                Some(Told::Wrong) => bail!(
                    "these are not the numbers of this machine: one was mistyped, or somebody sits between it and the browser; nothing was paired\n  next: try once more; if it happens again, do not trust this relay"
                ),
                Some(Told::Ended(reason)) => {
                    bail!(
                        "nothing was paired: {}\n  next: begin again",
                        printable(reason)
                    )
                }
            }
            seen = told;
        }
        anyhow::ensure!(Instant::now() < deadline, "no browser answered in time");
        std::thread::sleep(LOOK);
    }
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
