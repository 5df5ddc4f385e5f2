//! Digests of the readings that only root can make.
//!
//! Linux shows the board's serial number and the product UUID to root alone,
//! and the TPM is closed to users on most systems. If root read them and a user
//! did not, the two would see different machines. So neither reads them.
//! Instead a one-shot run by root at boot may publish digests, keyed by the
//! application, in a file that everybody can read.
//!
//! The file lies under `/run`, which is memory. On disk it would travel with
//! every copied image, and the board's serial number would be worth nothing
//! against whoever took the copy.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use katachi_crypto::kdf::{self, Label};

use super::Tree;
use crate::component::Component;
use crate::observation::{Observation, Value};
use crate::parse;
use crate::tpm::{self, TpmError};

const DIRECTORY: &str = "run/katachi/board";

/// The name of each reading in the published file.
const NAMES: [(Component, &str); 3] = [
    (Component::BoardSerial, "board-serial"),
    (Component::ProductUuid, "product-uuid"),
    (Component::TpmEndorsementKey, "tpm-endorsement-key"),
];

/// Where root finds what firmware says.
const FIRMWARE: [(Component, &str); 2] = [
    (Component::BoardSerial, "sys/class/dmi/id/board_serial"),
    (Component::ProductUuid, "sys/class/dmi/id/product_uuid"),
];

/// The TPM by way of the kernel's resource manager, which lets others use it
/// at the same time.
const TPM: &str = "dev/tpmrm0";

/// What was published.
#[derive(Debug)]
#[non_exhaustive]
pub struct Published {
    /// The file.
    pub path: PathBuf,
    /// The parts in it, in the order of their tags.
    pub parts: Vec<Component>,
    /// Why the TPM's key is not among them, where there is a TPM.
    pub tpm: Option<TpmError>,
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The application's name cannot be a file name.
    #[error(
        "an application is named by 1 to 64 letters, digits, '.', '-' and '_', not first a '.'"
    )]
    Name,
    /// No reading is there, or this is not root.
    #[error(
        "no board serial, product UUID or TPM key can be read; this needs root and a board that \
         has one of them"
    )]
    NothingToPublish,
    /// The file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or directory at fault.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Publishes digests of board serial, product UUID and TPM endorsement key for
/// `application`. `root` is `/` on the machine itself.
///
/// Meant for a one-shot service that root runs at boot. Afterwards a
/// [`SystemProbe`](crate::SystemProbe) made with
/// [`published_for`](crate::SystemProbe::published_for) has them, whoever runs
/// it. The digest is there for privacy between applications; it hides a serial
/// number no better than its length does.
///
/// # Errors
///
/// Returns [`PublishError`] if the name is unsuitable, if no reading is there,
/// or if the file cannot be written.
pub fn publish(root: &Path, application: &str) -> Result<Published, PublishError> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(root.join(TPM));
    match device {
        Ok(mut device) => publish_with_tpm(root, application, &mut device),
        Err(error) => {
            let tpm = (error.kind() != ErrorKind::NotFound).then_some(TpmError::Device(error));
            write(root, application, None, tpm)
        }
    }
}

/// Publishes as [`publish`] does, with a TPM that is reached by another way
/// than `/dev/tpmrm0`.
///
/// `tpm` takes commands and gives responses as that device does.
///
/// # Errors
///
/// As [`publish`]. A TPM that fails is no error: the other parts are published
/// without it, and [`Published::tpm`] says why.
pub fn publish_with_tpm(
    root: &Path,
    application: &str,
    tpm: &mut (impl Read + Write),
) -> Result<Published, PublishError> {
    match tpm::endorsement_key(tpm) {
        Ok(key) => write(root, application, Some(&key), None),
        Err(error) => write(root, application, None, Some(error)),
    }
}

fn write(
    root: &Path,
    application: &str,
    key: Option<&[u8; 64]>,
    tpm: Option<TpmError>,
) -> Result<Published, PublishError> {
    let path = root.join(file_of(application).ok_or(PublishError::Name)?);
    let tree = Tree { root };
    let firmware = FIRMWARE.into_iter().filter_map(|(component, source)| {
        Some((component, parse::value(component, &tree.text(source)?)?))
    });
    let key = key.map(|key| (Component::TpmEndorsementKey, Value::new(*key, u8::MAX)));
    let found: Vec<(Component, Value)> = firmware
        .chain(key)
        .map(|(component, value)| (component, digest(component, &value, application)))
        .collect();
    let text = print_published(&found);
    if text.is_empty() {
        return Err(PublishError::NothingToPublish);
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PublishError::Write { path, source }
    };
    let directory = root.join(DIRECTORY);
    std::fs::create_dir_all(&directory).map_err(failed(&directory))?;
    let mut file = tempfile_in(&directory).map_err(failed(&directory))?;
    file.1.write_all(text.as_bytes()).map_err(failed(&file.0))?;
    std::fs::rename(&file.0, &path).map_err(failed(&path))?;
    let parts = found.iter().map(|(component, _)| *component).collect();
    Ok(Published { path, parts, tpm })
}

/// A new file beside the final one, readable by everybody.
fn tempfile_in(directory: &Path) -> std::io::Result<(PathBuf, std::fs::File)> {
    let path = directory.join(format!(".new-{}", std::process::id()));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = std::fs::File::create_new(&path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok((path, file))
}

pub(super) fn observe(tree: &Tree<'_>, application: &str, seen: &mut Observation) {
    let Some(text) = file_of(application).and_then(|path| tree.text(path)) else {
        return;
    };
    for (component, value) in parse_published(&text) {
        seen.insert(component, Some(value));
    }
}

/// Reads a published file: lines of name, bits and digest.
pub(crate) fn parse_published(text: &str) -> impl Iterator<Item = (Component, Value)> + '_ {
    text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let name = words.next()?;
        let (component, _) = NAMES.into_iter().find(|(_, known)| *known == name)?;
        let bits: u8 = words.next()?.parse().ok()?;
        let most = match component {
            Component::TpmEndorsementKey => u8::MAX,
            _ => 122,
        };
        let digest = words.next()?;
        let whole = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        (whole && words.next().is_none()).then(|| {
            (
                component,
                Value::new(digest.to_ascii_lowercase(), bits.min(most)),
            )
        })
    })
}

/// Prints what [`parse_published`] reads.
pub(crate) fn print_published(found: &[(Component, Value)]) -> String {
    let mut text = String::new();
    for (component, digest) in found {
        let known = NAMES.into_iter().find(|(known, _)| known == component);
        if let Some((_, name)) = known {
            let hex = String::from_utf8_lossy(&digest.bytes);
            text.push_str(&format!("{name} {} {hex}\n", digest.bits));
        }
    }
    text
}

/// The digest of a reading, as 64 hexadecimal digits that stand for it.
fn digest(component: Component, value: &Value, application: &str) -> Value {
    let label = Label::new("katachi/v1/fingerprint/published")
        .field(application.as_bytes())
        .field(&[component.tag()]);
    let digest = kdf::derive::<32>(&[&value.bytes], &[], &label);
    let mut hex = String::new();
    for byte in digest.expose_secret() {
        hex.push_str(&format!("{byte:02x}"));
    }
    Value::new(hex, value.bits)
}

fn file_of(application: &str) -> Option<PathBuf> {
    let plain = application
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    let fits = (1..=64).contains(&application.len()) && !application.starts_with('.');
    (plain && fits).then(|| Path::new(DIRECTORY).join(application))
}
