//! Where records are kept.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::platform::sys::namespace;

const NAME: &str = "katachi-sandbox";

/// The directory that nobody else can enter, made if it is not there.
///
/// `XDG_STATE_HOME`, or `/var/lib` for root, or `~/.local/state`; where none of
/// them can be had, a directory in `/var/tmp`, which outlives a boot.
pub(crate) fn directory() -> io::Result<Option<PathBuf>> {
    let (user, _) = namespace::user();
    let mut last = io::Error::other("there is no home");
    for place in candidates(user) {
        match make(&place).and_then(|()| check(&place, user)) {
            // As mounts name it.
            Ok(()) => return place.canonicalize().map(Some),
            Err(error) => last = io::Error::other(format!("{}: {error}", place.display())),
        }
    }
    Err(last)
}

fn candidates(user: u32) -> impl Iterator<Item = PathBuf> {
    let variable = |name: &str| {
        let value = std::env::var_os(name).map(PathBuf::from);
        value.filter(|path| path.is_absolute())
    };
    let home = match user {
        0 => Some(PathBuf::from("/var/lib")),
        _ => variable("HOME")
            .filter(|home| home.is_dir())
            .map(|home| home.join(".local/state")),
    };
    variable("XDG_STATE_HOME")
        .into_iter()
        .chain(home)
        .map(|base| base.join(NAME))
        .chain([PathBuf::from(format!("/var/tmp/{NAME}-{user}"))])
}

fn make(place: &Path) -> io::Result<()> {
    if place.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(place)
}

fn check(place: &Path, user: u32) -> io::Result<()> {
    let metadata = place.symlink_metadata()?;
    let own = metadata.is_dir() && metadata.uid() == user && metadata.mode() & 0o077 == 0;
    match own {
        true => Ok(()),
        false => Err(io::Error::other("others can enter it, or it is theirs")),
    }
}
