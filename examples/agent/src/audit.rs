//! The log of everything that crossed the tunnel, for the person to read.
//!
//! JSON Lines, one entry a line. Each entry carries the hash of the one before
//! it, so that a line that was changed or removed shows, also at the beginning.
//! Cutting lines off the end does not show: nothing on this disk could prove
//! it. The hashes have no key: whoever can write the file can also write a new
//! chain. Commands cannot, since the sandbox hides this directory from them.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use katachi_protocol::record::Denial;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A full log moves aside to `audit.old.jsonl`, replacing the one before.
const MAX_BYTES: u64 = 16 << 20;

/// Which way a call went.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    /// The relay asked this machine.
    In,
    /// This machine told the relay.
    Out,
}

/// One call.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Entry {
    /// Counts from 1 for the life of the log.
    pub(crate) sequence: u64,
    /// Seconds since 1970.
    pub(crate) at: u64,
    pub(crate) direction: Direction,
    /// Method and path, as in `POST /v1/run`.
    pub(crate) call: String,
    /// What it was about, for people; never a secret and never a file's content.
    pub(crate) detail: String,
    /// How it ended.
    pub(crate) outcome: String,
    /// Set when the entry records an action that the sandbox refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) denial: Option<Denial>,
    /// SHA-256 over the entry before and this one's fields, hexadecimal.
    pub(crate) hash: String,
}

/// What is to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) direction: Direction,
    pub(crate) call: String,
    pub(crate) detail: String,
    pub(crate) outcome: String,
    pub(crate) denial: Option<Denial>,
}

/// Appends to the log.
#[derive(Debug)]
pub(crate) struct AuditLog {
    path: PathBuf,
    /// Held while the whole log is read: one reader takes memory, many at once
    /// would take it all.
    reading: Mutex<()>,
    tail: Mutex<Tail>,
    room: Mutex<Room>,
}

#[derive(Debug)]
struct Tail {
    file: File,
    sequence: u64,
    hash: String,
}

impl AuditLog {
    /// Opens the log at `path` to append to it, creating it if it is not there.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or written.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let last = match path.exists() {
            true => read(path)?.entries.pop(),
            false => None,
        };
        let file = append_to(path)?;
        Ok(Self {
            path: path.to_owned(),
            reading: Mutex::default(),
            room: Mutex::new(Room {
                left: MOST_REFUSED,
                since: now(),
                untold: 0,
            }),
            tail: Mutex::new(Tail {
                file,
                sequence: last.as_ref().map_or(0, |entry| entry.sequence),
                hash: last.map(|entry| entry.hash).unwrap_or_default(),
            }),
        })
    }

    /// Appends one call.
    ///
    /// # Errors
    ///
    /// Returns an error if the entry could not be written; the caller then
    /// refuses the call, since a call that is not recorded must not happen.
    pub(crate) fn record(&self, call: Call) -> anyhow::Result<()> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let mut length = tail.file.metadata()?.len();
        if length > MAX_BYTES {
            std::fs::rename(&self.path, self.path.with_extension(OLD))?;
            tail.file = append_to(&self.path)?;
            length = 0;
        }
        let mut entry = Entry {
            sequence: tail.sequence + 1,
            at: now(),
            direction: call.direction,
            call: call.call,
            detail: call.detail,
            outcome: call.outcome,
            denial: call.denial,
            hash: String::new(),
        };
        entry.hash = chain(&tail.hash, &entry)?;
        let mut line = serde_json::to_string(&entry)?;
        line.push('\n');
        if let Err(error) = tail.file.write_all(line.as_bytes()) {
            // A part of a line would take the next entry with it.
            let _ = tail.file.set_len(length);
            return Err(error)
                .with_context(|| format!("cannot write the audit log {}", self.path.display()));
        }
        tail.sequence = entry.sequence;
        tail.hash = entry.hash;
        Ok(())
    }

    /// Appends a call that came to nothing, or counts it where a relay makes so many
    /// that they would push everything else out; the next one that is written says
    /// how many.
    ///
    /// # Errors
    ///
    /// Returns an error if the entry could not be written.
    pub(crate) fn record_refused(&self, mut call: Call) -> anyhow::Result<()> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        match room.take(now()) {
            None => return Ok(()),
            Some(0) => {}
            Some(untold) => call.detail += &format!("; {untold} more calls were refused before"),
        }
        drop(room);
        self.record(call)
    }

    /// Ends in the log what is `begun` in it under one of `calls` and has no end, because
    /// the agent was killed meanwhile; returns the calls and what each was about, oldest
    /// first.
    ///
    /// # Errors
    ///
    /// Returns an error if the log cannot be read or written.
    pub(crate) fn interrupt(
        &self,
        calls: &[&'static str],
        begun: &str,
    ) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut open: Vec<(&'static str, String)> = Vec::new();
        let mut each = |entry: Entry| {
            let Some(call) = calls.iter().find(|call| **call == entry.call) else {
                return;
            };
            let about = (*call, entry.detail);
            match entry.outcome.as_str() {
                outcome if outcome == begun => open.push(about),
                // It never began, or goes on.
                "refused" | "denied" => {}
                _ => {
                    let begun = open.iter().position(|begun| *begun == about);
                    begun.map(|begun| open.remove(begun));
                }
            }
        };
        let old = self.path.with_extension(OLD);
        if old.exists() {
            walk(&old, &mut each)?;
        }
        walk(&self.path, &mut each)?;
        for (call, detail) in &open {
            self.record(Call {
                direction: Direction::In,
                call: (*call).to_owned(),
                detail: detail.clone(),
                outcome: "interrupted".to_owned(),
                denial: None,
            })?;
        }
        Ok(open)
    }

    /// The latest denials, newest first.
    ///
    /// # Errors
    ///
    /// Returns an error if the log cannot be read.
    pub(crate) fn denials(&self, limit: usize) -> anyhow::Result<Vec<Denial>> {
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        // The log may be long, and nobody wants the rest of it in memory.
        let mut latest = VecDeque::new();
        walk(&self.path, |entry| {
            latest.extend(entry.denial);
            if latest.len() > limit {
                latest.pop_front();
            }
        })?;
        Ok(latest.into_iter().rev().collect())
    }
}

/// Room for entries that anybody at the relay can cause.
#[derive(Debug)]
struct Room {
    left: u64,
    /// When it last grew.
    since: u64,
    untold: u64,
}

/// Refused calls that are each written down at once; then one in [`EACH`] seconds. A log
/// and the one before it then last for months.
const MOST_REFUSED: u64 = 1000;
const EACH: u64 = 60;

impl Room {
    /// How many were passed over before this one; nothing if this one is.
    fn take(&mut self, now: u64) -> Option<u64> {
        let grown = now.saturating_sub(self.since) / EACH;
        if grown > 0 {
            self.left = MOST_REFUSED.min(self.left + grown);
            self.since = now;
        }
        if self.left == 0 {
            self.untold += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.untold))
    }
}

/// A log that was read.
#[derive(Debug)]
pub(crate) struct Log {
    /// Oldest first.
    pub(crate) entries: Vec<Entry>,
    /// The first entry that does not follow from the one before it.
    pub(crate) broken_at: Option<u64>,
}

/// Reads the log at `path` and checks its chain.
///
/// # Errors
///
/// Returns an error if the file cannot be read.
pub(crate) fn read(path: &Path) -> anyhow::Result<Log> {
    let mut entries = Vec::new();
    let broken_at = walk(path, |entry| entries.push(entry))?;
    Ok(Log { entries, broken_at })
}

/// Gives each entry of the log at `path` to `each`, oldest first; the first that does
/// not follow from the one before it.
fn walk(path: &Path, mut each: impl FnMut(Entry)) -> anyhow::Result<Option<u64>> {
    let file = File::open(path)
        .with_context(|| format!("cannot read the audit log {}", path.display()))?;
    let mut broken_at = None;
    // A log whose beginning moved aside goes on after the end of that one.
    let mut before = last_hash(&path.with_extension(OLD))?.filter(|_| !is_old(path));
    // A line torn by a crash need not be text.
    for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
        let Ok(entry) = serde_json::from_slice::<Entry>(&line?) else {
            broken_at.get_or_insert(number as u64 + 1);
            continue;
        };
        let follows = match &before {
            _ if entry.sequence == 1 => chain("", &entry)? == entry.hash,
            Some(before) => chain(before, &entry)? == entry.hash,
            // What the first entry of the older log followed is gone for good.
            None => is_old(path),
        };
        if !follows {
            broken_at.get_or_insert(entry.sequence);
        }
        before = Some(entry.hash.clone());
        each(entry);
    }
    Ok(broken_at)
}

/// Extension of a log that moved aside.
const OLD: &str = "old.jsonl";

fn is_old(path: &Path) -> bool {
    path.to_string_lossy().ends_with(OLD)
}

/// The hash of the last entry of the log at `path`, if there is one.
fn last_hash(path: &Path) -> anyhow::Result<Option<String>> {
    let Ok(file) = File::open(path) else {
        return Ok(None);
    };
    let mut last = None;
    for line in BufReader::new(file).split(b'\n') {
        last = Some(line?);
    }
    Ok(last
        .and_then(|line| serde_json::from_slice::<Entry>(&line).ok())
        .map(|entry| entry.hash))
}

/// Seconds since 1970-01-01T00:00:00Z by this machine's clock.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn chain(before: &str, entry: &Entry) -> anyhow::Result<String> {
    let unsealed = Entry {
        hash: String::new(),
        ..entry.clone()
    };
    let mut hash = Sha256::new();
    hash.update((before.len() as u64).to_be_bytes());
    hash.update(before);
    hash.update(serde_json::to_vec(&unsealed)?);
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Opens the log to append to it; what a crash left of a last line ends there.
fn append_to(path: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).read(true).append(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let open = || {
        let mut file = options.open(path)?;
        if file.metadata()?.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok::<_, std::io::Error>(file)
    };
    open().with_context(|| format!("cannot open the audit log {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(detail: &str) -> Call {
        Call {
            direction: Direction::In,
            call: "POST /v1/run".into(),
            detail: detail.into(),
            outcome: "exit 0".into(),
            denial: None,
        }
    }

    fn log_of_three() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let log = AuditLog::open(&path).unwrap();
        log.record(call("one")).unwrap();
        log.record(call("two")).unwrap();
        drop(log);
        AuditLog::open(&path)
            .unwrap()
            .record(call("three"))
            .unwrap();
        (dir, path)
    }

    #[test]
    fn the_chain_goes_on_after_a_restart() {
        let (_dir, path) = log_of_three();
        let log = read(&path).unwrap();
        assert_eq!(log.broken_at, None);
        let numbers: Vec<_> = log.entries.iter().map(|entry| entry.sequence).collect();
        assert_eq!(numbers, [1, 2, 3]);
    }

    #[test]
    fn of_the_denials_the_newest_come_first_and_no_more_than_were_asked_for() {
        let (_dir, path) = log_of_three();
        let log = AuditLog::open(&path).unwrap();
        for target in ["a", "b", "c", "d"] {
            let denial = Denial {
                target: target.to_owned(),
                ..Denial::default()
            };
            let denied = Call {
                denial: Some(denial),
                ..call(target)
            };
            log.record(denied).unwrap();
            log.record(call("between")).unwrap();
        }
        let targets = |limit| {
            let denials = log.denials(limit).unwrap().into_iter();
            denials.map(|denial| denial.target).collect::<Vec<_>>()
        };
        assert_eq!(targets(3), ["d", "c", "b"]);
        assert_eq!(targets(9), ["d", "c", "b", "a"]);
    }

    #[test]
    fn refused_calls_do_not_push_out_what_happened() {
        let (_dir, path) = log_of_three();
        let log = AuditLog::open(&path).unwrap();
        for _ in 0..2 * MOST_REFUSED {
            log.record_refused(call("a guess")).unwrap();
        }
        log.record(call("four")).unwrap();
        let count = |text: &str| {
            let entries = read(&path).unwrap().entries;
            entries.iter().filter(|one| one.detail == text).count()
        };
        assert!(count("a guess").abs_diff(1000) < 10, "{}", count("a guess"));
        assert_eq!([count("one"), count("four")], [1, 1]);

        let mut room = Room {
            left: 1,
            since: 0,
            untold: 0,
        };
        let taken = [0, 0, 59, 60, 61, 50, 180, 180, 180].map(|now| room.take(now));
        let none = None;
        let [first, second, third] = [Some(0), Some(2), Some(2)];
        assert_eq!(
            taken,
            [first, none, none, second, none, none, third, Some(0), none]
        );
    }

    #[test]
    fn what_has_no_end_is_ended_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let log = AuditLog::open(&path).unwrap();
        let run = "POST /v1/run";
        let begun = Call {
            outcome: "received".into(),
            ..call("sleep")
        };
        log.record(begun).unwrap();
        // The beginning and one of the ends may stand in the log before this one.
        std::fs::rename(&path, path.with_extension(OLD)).unwrap();
        let log = AuditLog::open(&path).unwrap();
        let said = |call: &str, detail: &str, outcome: &str| {
            let call = Call {
                call: call.into(),
                outcome: outcome.into(),
                ..self::call(detail)
            };
            log.record(call).unwrap();
        };
        said("POST /v1/channel", "paired", "received");
        said(run, "sleep", "received");
        said(run, "ls", "received");
        said(run, "ls", "denied");
        said(run, "make", "received");
        said(run, "400 Bad Request", "refused");
        said(run, "sleep", "exit 0");
        said(run, "make", "exit 2");
        let ended = log.interrupt(&[run], "received").unwrap();
        assert_eq!(ended, [(run, "sleep".to_owned()), (run, "ls".to_owned())]);
        assert_eq!(log.interrupt(&[run], "received").unwrap(), []);
        let entries = read(&path).unwrap().entries;
        let ended = entries.iter().filter(|one| one.outcome == "interrupted");
        assert_eq!(ended.count(), 2);
    }

    #[test]
    fn a_changed_entry_shows() {
        let (_dir, path) = log_of_three();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("two", "2wo")).unwrap();
        assert_eq!(read(&path).unwrap().broken_at, Some(2));
    }

    #[test]
    fn a_torn_last_line_shows_and_takes_no_other_with_it() {
        let (_dir, path) = log_of_three();
        let log = AuditLog::open(&path).unwrap();
        log.record(call("vier\u{00e4}")).unwrap();
        let text = std::fs::read(&path).unwrap();
        // In the middle of a character.
        let torn = text.iter().position(|byte| *byte == 0xc3).unwrap() + 1;
        std::fs::write(&path, &text[..torn]).unwrap();
        let log = AuditLog::open(&path).unwrap();
        log.record(call("four again")).unwrap();
        log.record(call("five")).unwrap();
        let log = read(&path).unwrap();
        assert_eq!(log.broken_at, Some(4));
        let numbers: Vec<_> = log.entries.iter().map(|entry| entry.sequence).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        assert_eq!(log.entries[4].detail, "five");
    }

    #[test]
    fn a_removed_entry_shows() {
        let (_dir, path) = log_of_three();
        let text = std::fs::read_to_string(&path).unwrap();
        let kept: Vec<_> = text.lines().filter(|line| !line.contains("two")).collect();
        std::fs::write(&path, kept.join("\n")).unwrap();
        assert_eq!(read(&path).unwrap().broken_at, Some(3));
    }

    #[test]
    fn a_missing_beginning_shows() {
        let (_dir, path) = log_of_three();
        let text = std::fs::read_to_string(&path).unwrap();
        let kept: Vec<_> = text.lines().skip(1).collect();
        std::fs::write(&path, kept.join("\n")).unwrap();
        assert_eq!(read(&path).unwrap().broken_at, Some(2));
    }

    #[test]
    fn a_log_goes_on_after_the_one_that_moved_aside() {
        let (_dir, path) = log_of_three();
        let text = std::fs::read_to_string(&path).unwrap();
        let (old, new) = text.split_at(text.find("\n").unwrap() + 1);
        std::fs::write(path.with_extension(OLD), old).unwrap();
        std::fs::write(&path, new).unwrap();
        assert_eq!(read(&path).unwrap().broken_at, None);
        std::fs::write(&path, new.split_once('\n').unwrap().1).unwrap();
        assert_eq!(read(&path).unwrap().broken_at, Some(3));
    }

    #[test]
    fn the_first_entry_cannot_be_changed_either() {
        let (_dir, path) = log_of_three();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("one", "eno")).unwrap();
        assert_eq!(read(&path).unwrap().broken_at, Some(1));
    }
}
