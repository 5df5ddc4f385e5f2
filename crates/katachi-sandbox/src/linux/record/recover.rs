//! The look at what commands left whose callers were killed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{Left, boot, state};
use crate::plan::Moment;
use crate::platform::after::{After, finding, touched};
use crate::report::Violation;

/// How long the end of a sandbox is waited for whose caller is gone: the kernel
/// ends it by itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// No record is as long, in bytes.
const LONGEST: u64 = 1 << 28;
/// What was begun so long ago and is no record is none any more.
const STALE: Duration = Duration::from_secs(60);

/// See [`recover`](crate::recover()).
pub(crate) fn recover() -> io::Result<Vec<Violation>> {
    let Some(directory) = state::directory()? else {
        return Ok(Vec::new());
    };
    let records = others(&directory)?;
    if records.is_empty() {
        return Ok(Vec::new());
    }
    // Who comes second goes on when all is done.
    let one = File::open(&directory)?;
    one.lock()?;
    let mut found = Vec::new();
    for path in records {
        found.extend(settle(&path)?);
    }
    Ok(found)
}

/// Files that nobody holds.
fn others(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(directory)?.flatten() {
        let path = entry.path();
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("record") => records.push(path),
            Some("alive") if path.with_extension("record").exists() => {}
            Some("alive" | "new") if is_stale(&path) => {
                let _ = std::fs::remove_file(path);
            }
            _ => {}
        }
    }
    Ok(records)
}

/// Whether somebody was killed between two steps of making it.
fn is_stale(path: &Path) -> bool {
    let old = path
        .symlink_metadata()
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|made| {
            SystemTime::now()
                .duration_since(made)
                .is_ok_and(|age| age > STALE)
        });
    old && open(path).is_ok_and(|file| file.try_lock().is_ok())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn settle(path: &Path) -> io::Result<Vec<Violation>> {
    let mut file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // Held by a caller that lives.
    if file.try_lock().is_err() || file.metadata()?.nlink() == 0 {
        return Ok(Vec::new());
    }
    let alive = path.with_extension("alive");
    if !ended(&alive) {
        let reason = "its caller was killed and it still runs, so what it makes is looked at later";
        return Ok(vec![finding("look", path, reason.to_owned())]);
    }
    let found = match read(&mut file, &boot()?)? {
        Some(Left {
            ground,
            since: Some(since),
        }) => look(Arc::new(ground), since),
        Some(_) => Vec::new(),
        None => vec![finding(
            "look",
            path,
            "the caller of a command was killed, and its record cannot be read; look for repositories and tool configuration before you use what it could write".to_owned(),
        )],
    };
    std::fs::remove_file(path)?;
    let _ = std::fs::remove_file(alive);
    Ok(found)
}

fn read(file: &mut File, boot: &[u8]) -> io::Result<Option<Left>> {
    if file.metadata()?.len() > LONGEST {
        return Ok(None);
    }
    let mut content = Vec::new();
    file.take(LONGEST).read_to_end(&mut content)?;
    Ok(Left::read(&content, boot))
}

/// Waits until no process of its sandboxes is left.
fn ended(alive: &Path) -> bool {
    let Ok(alive) = open(alive) else {
        return true;
    };
    let started = Instant::now();
    while alive.try_lock().is_err() {
        if started.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn look(ground: Arc<super::Ground>, since: Moment) -> Vec<Violation> {
    let mut found = After::of_another(ground.clone(), since).settle();
    for violation in &mut found {
        violation.reason = format!(
            "left when the program that had started the command was killed: {}",
            violation.reason
        );
    }
    for place in &ground.placeholders {
        let made = place
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_dir() && touched(&metadata, since));
        // Another sandbox can count on it.
        if made && File::open(place).is_ok_and(|held| held.try_lock().is_ok()) {
            // Only ever an empty one.
            let _ = std::fs::remove_dir(place);
        }
    }
    found
}
