//! Chapter 3: the machine's fingerprint, the vault, a key and a credential.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use katachi_crypto::SecretString;
use katachi_fingerprint::{Component, Observation};
use katachi_store::binding::FingerprintBinding;
use katachi_store::credentials::Name;
use katachi_store::vault::{SlotKind, Vault, VaultError};

use super::Story;
use crate::home::Home;
use crate::paths::Paths;
use crate::relay_client::RegistrationFile;

/// An API key that must be found in no file.
const API_KEY: &str = "sk-demo-4f9e1c7b2a";

pub(super) fn seal(story: &mut Story) -> anyhow::Result<()> {
    let home = Home::open_silently(&story.config)?;
    let report = home.vault.report().clone();
    if let Some(strength) = report.strength {
        story
            .progress
            .good(format_args!("this machine's fingerprint: {strength}"));
    }
    story.progress.good(format_args!(
        "the vault opens with the {}",
        crate::home::slot_line(&home.vault)
    ));

    let name = Name::parse("demo/api-key")?;
    home.credentials()?
        .set(&name, &SecretString::new(API_KEY.to_owned()))?;
    let read = home.credentials()?.get(&name)?;
    let nowhere = holding(&story.home_dir, API_KEY.as_bytes())?;
    let sealed = read.expose_secret() == API_KEY && nowhere.is_empty();
    story.ledger.check(
        5,
        sealed,
        "an API key was stored, read back, and stands in no file in the clear",
    );
    match report.slot.kind {
        SlotKind::Keychain => story.ledger.held(
            5,
            "the vault's secret is in the system's keychain, bound to this machine",
        ),
        _ => {
            let why = report.degraded.first().map_or_else(
                || "the keychain is switched off".to_owned(),
                crate::home::short,
            );
            story.ledger.unavailable(
                5,
                format!("{why}; a file slot bound to this machine took its place"),
            );
        }
    }
    story
        .progress
        .good("an API key is stored; no file holds it in the clear");

    let registration = story
        .registration
        .as_ref()
        .context("this machine was not approved")?;
    let file = RegistrationFile::of(&story.config.paths);
    file.write(&home.vault, registration)?;
    let back = file
        .read(&home.vault)?
        .context("the sealed credential is gone")?;
    let bytes = std::fs::read(file.path())?;
    let unreadable =
        bytes.starts_with(b"KTC") && !contains(&bytes, registration.agent_id.as_bytes());
    story.ledger.check(
        6,
        back.agent_id == registration.agent_id && unreadable,
        "the tunnel's credential is a sealed file that opens here",
    );
    let refusal = elsewhere(&story.config.paths, story.config.keychain)?;
    story
        .progress
        .good(format_args!("the same files on another machine: {refusal}"));
    story.ledger.held(
        6,
        format!("copied to a machine with other parts it is refused ({refusal})"),
    );
    if report.is_copy_deterrent() {
        let strength = report.strength.unwrap_or_default();
        story.ledger.weaker(
            6,
            format!("on this machine the parts alone are {strength}, so the file slot deters copying and is no lock"),
        );
    }
    story.home = Some(Arc::new(home));
    Ok(())
}

/// Copies the vault and its secret, and opens the copy as another machine would.
///
/// A copy that does not even open here would prove nothing, so that is tried first.
pub(super) fn elsewhere(
    paths: &Paths,
    keychain: crate::config::KeychainUse,
) -> anyhow::Result<String> {
    let dir = tempfile::tempdir()?;
    let copy = Paths::resolve(Some(dir.path()))?;
    copy_dir(&paths.vault(), &copy.vault())?;
    if paths.vault_secret().exists() {
        copy_dir(&paths.vault_secret(), &copy.vault_secret())?;
    }
    crate::home::builder(&copy, keychain)
        .open()
        .context("the control: the copy must open on this machine")?;

    let other = Observation::from_pairs([
        (Component::MachineId, "b7f1c0de5a4e4f6e9d3c2b1a00112233"),
        (Component::Nic, "00:1b:21:5e:77:0c"),
        (Component::Board, "X570 AORUS ELITE"),
        (Component::Cpu, "AMD Ryzen 9 5950X 16-Core Processor"),
    ]);
    let builder = Vault::builder(copy.vault())
        .binding(FingerprintBinding::with_probe(other))
        .file_slot(copy.vault_secret());
    let builder = match keychain {
        crate::config::KeychainUse::Auto => {
            builder.keychain(katachi_store::keychain::SystemKeychain::new())
        }
        crate::config::KeychainUse::Off => builder,
    };
    match builder.open() {
        Ok(_) => bail!("another machine opened a copy of the vault"),
        Err(VaultError::NoUsableSlot { tried }) => Ok(tried
            .iter()
            .find(|slot| matches!(slot.why, katachi_store::vault::SlotFailure::Binding(_)))
            .map_or_else(|| "no slot opens".to_owned(), ToString::to_string)),
        Err(error) => {
            Err(error).context("the copy was refused for another reason than its machine")
        }
    }
}

/// The files below `dir` that contain `needle`.
pub(super) fn holding(dir: &Path, needle: &[u8]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(holding(&path, needle)?);
        } else if path.is_file() && contains(&std::fs::read(&path)?, needle) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

pub(super) fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Copies a directory and what lies below it, private as the original.
fn copy_dir(from: &Path, to: &Path) -> anyhow::Result<()> {
    crate::paths::create_private_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_dir(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}
