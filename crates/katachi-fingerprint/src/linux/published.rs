//! Digests of the readings that only root can make.
//!
//! Linux shows the board's serial number and the product UUID to root alone.
//! If root read them and a user did not, the two would see different machines.
//! So neither reads them. Instead a one-shot run by root at boot may publish
//! digests, keyed by the application, in a file that everybody can read.
//!
//! The file lies under `/run`, which is memory. On disk it would travel with
//! every copied image, and the board's serial number would be worth nothing
//! against whoever took the copy.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use katachi_crypto::kdf::{self, Label};

use super::Tree;
use crate::component::Component;
use crate::observation::{Observation, Value};
use crate::parse;

const DIRECTORY: &str = "run/katachi/board";

/// Where root finds each reading, and its name in the published file.
const PUBLISHED: [(Component, &str, &str); 2] = [
    (
        Component::BoardSerial,
        "board-serial",
        "sys/class/dmi/id/board_serial",
    ),
    (
        Component::ProductUuid,
        "product-uuid",
        "sys/class/dmi/id/product_uuid",
    ),
];

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The application's name cannot be a file name.
    #[error(
        "an application is named by 1 to 64 letters, digits, '.', '-' and '_', not first a '.'"
    )]
    Name,
    /// Neither reading is there, or this is not root.
    #[error(
        "no board serial or product UUID can be read; this needs root and a board that has them"
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

/// Publishes digests of board serial and product UUID for `application`, and
/// says where. `root` is `/` on the machine itself.
///
/// Meant for a one-shot service that root runs at boot. Afterwards a
/// [`SystemProbe`](crate::SystemProbe) made with
/// [`published_for`](crate::SystemProbe::published_for) has them, whoever runs
/// it. The digest is there for privacy between applications; it hides a serial
/// number no better than its length does.
///
/// # Errors
///
/// Returns [`PublishError`] if the name is unsuitable, if neither reading is
/// there, or if the file cannot be written.
pub fn publish(root: &Path, application: &str) -> Result<PathBuf, PublishError> {
    let path = root.join(file_of(application).ok_or(PublishError::Name)?);
    let tree = Tree { root };
    let found: Vec<(Component, Value)> = PUBLISHED
        .into_iter()
        .filter_map(|(component, _, source)| {
            let value = parse::value(component, &tree.text(source)?)?;
            Some((component, digest(component, &value, application)))
        })
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
    Ok(path)
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
        let (component, ..) = PUBLISHED.into_iter().find(|(_, known, _)| *known == name)?;
        let bits: u8 = words.next()?.parse().ok()?;
        let digest = words.next()?;
        let whole = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        (whole && words.next().is_none()).then(|| {
            (
                component,
                Value::new(digest.to_ascii_lowercase(), bits.min(122)),
            )
        })
    })
}

/// Prints what [`parse_published`] reads.
pub(crate) fn print_published(found: &[(Component, Value)]) -> String {
    let mut text = String::new();
    for (component, digest) in found {
        let known = PUBLISHED.into_iter().find(|(known, ..)| known == component);
        if let Some((_, name, _)) = known {
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
