//! What was changed for a container, written down before it is.
//!
//! A file for each: the container's name, and the places whose access lists have
//! entries for it. Its owner holds it locked, so one that can be locked was left
//! behind. Taking back is the same at the end and after a crash, and may be done
//! twice: every entry of this container is removed, whatever it says, and no
//! other container has its identity.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::acl::Edit;
use super::sys::acl::rewrite;
use super::sys::container::{Functions, Sid};

/// A container with what is open for it. Dropping it takes all of that back.
#[derive(Debug)]
pub(super) struct Granted {
    name: String,
    sid: Sid,
    places: Vec<PathBuf>,
    list: PathBuf,
    _held: File,
}

impl Granted {
    /// Makes the container and opens the places for it.
    pub(super) fn make(name: &str, edits: &[Edit]) -> io::Result<Self> {
        let folder = folder()?;
        take_back_what_was_left(&folder);
        let functions = Functions::load()?;
        let mut places: Vec<PathBuf> = edits.iter().map(|edit| edit.path.clone()).collect();
        places.dedup();
        let list = folder.join(format!("{name}.list"));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&list)?;
        file.try_lock().map_err(io::Error::other)?;
        let mut text = format!("{name}\n");
        for place in &places {
            let place = place.to_str().filter(|place| !place.contains('\n'));
            let place =
                place.ok_or_else(|| io::Error::other("a path that cannot be written down"))?;
            text.push_str(place);
            text.push('\n');
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let granted = Self {
            name: name.to_owned(),
            sid: functions.create(name)?,
            places,
            list,
            _held: file,
        };
        for place in &granted.places {
            let aces: Vec<_> = edits
                .iter()
                .filter(|edit| edit.path == *place)
                .flat_map(Edit::aces)
                .collect();
            rewrite(place, &granted.sid, &aces).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", place.display()))
            })?;
        }
        Ok(granted)
    }

    pub(super) fn sid(&self) -> &Sid {
        &self.sid
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if take_back(&self.name, &self.sid, &self.places) {
            let _ = std::fs::remove_file(&self.list);
        }
    }
}

/// Where the lists lie: where the container may not read or write.
fn folder() -> io::Result<PathBuf> {
    let base = std::env::var_os("LOCALAPPDATA")
        .map(PathBuf::from)
        .filter(|base| base.is_absolute())
        .ok_or_else(|| io::Error::other("LOCALAPPDATA is not set"))?;
    let folder = base.join("katachi-sandbox");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Whether nothing is left of it.
fn take_back(name: &str, sid: &Sid, places: &[PathBuf]) -> bool {
    let mut clean = true;
    for place in places {
        // What is gone has no list any more.
        if place.symlink_metadata().is_ok() {
            clean &= rewrite(place, sid, &[]).is_ok();
        }
    }
    clean
        && Functions::load()
            .and_then(|functions| functions.delete(name))
            .is_ok()
}

/// Takes back what helpers left that were killed.
fn take_back_what_was_left(folder: &Path) {
    let lists = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for list in lists.map(|entry| entry.path()) {
        if list.extension().is_none_or(|extension| extension != "list") {
            continue;
        }
        let Ok(mut file) = OpenOptions::new().read(true).write(true).open(&list) else {
            continue;
        };
        if file.try_lock().is_err() {
            continue;
        }
        let mut text = String::new();
        let read = file.read_to_string(&mut text);
        let mut lines = text.lines();
        let Some(name) = lines.next().filter(|_| read.is_ok()) else {
            continue;
        };
        let places: Vec<PathBuf> = lines.map(PathBuf::from).collect();
        let sid = Functions::load().and_then(|functions| functions.derive(name));
        if sid.is_ok_and(|sid| take_back(name, &sid, &places)) {
            drop(file);
            let _ = std::fs::remove_file(&list);
        }
    }
}
