//! Every page and every kind of byte, changed one at a time.
//!
//! Whoever changes a byte may cost us the page, never make us read something
//! that was not written. Each kind of byte has the one answer it gets: a salt
//! is not the key's, the first page does not open, any other page is named, the
//! log ends at a commit or is damaged, the record of pages is reported.
//!
//! The ordinary run takes some bytes of each kind in every page;
//! `KATACHI_LONG=1` takes every byte of every page, and forty times as many of the
//! log's.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use katachi_store::Vault;
use katachi_store::binding::Unbound;
use katachi_store::database::{Anchor, Database, DatabaseError, Profile, Report};

use crate::support::{BOTH, Place, add, files, key, options, texts};

const PAGE: usize = 4096;
const LOG_HEAD: usize = 32;
const FRAME_HEAD: usize = 24;
const FRAME: usize = FRAME_HEAD + PAGE;

fn all() -> bool {
    std::env::var_os("KATACHI_LONG").is_some_and(|value| value == "1")
}

/// The first and the last of a range and some between, or all of it.
fn sample(range: Range<usize>, some: usize) -> Vec<usize> {
    spread(range.clone(), if all() { range.len() } else { some })
}

/// The same of a log, which takes longer to look at: forty times as many.
fn sample_log(range: Range<usize>, some: usize) -> Vec<usize> {
    spread(range, if all() { some * 40 } else { some })
}

fn spread(range: Range<usize>, some: usize) -> Vec<usize> {
    if range.len() <= some {
        return range.collect();
    }
    let step = range.len() / some.max(2);
    let mut taken: Vec<usize> = range.clone().step_by(step).collect();
    taken.push(range.end - 1);
    taken
}

/// What the bytes of an encrypted page are.
fn parts(profile: Profile, first: bool) -> Vec<(&'static str, Range<usize>)> {
    let code = match profile {
        Profile::Compat => PAGE - 64,
        _ => PAGE - 32,
    };
    let iv = ("initialisation vector", code - 16..code);
    let code = ("authentication code", code..PAGE);
    match first {
        true => vec![
            ("salt", 0..16),
            ("file header", 16..100),
            ("page header", 100..108),
            ("content", 108..iv.1.start),
            iv,
            code,
        ],
        false => vec![("page header", 0..8), ("content", 8..iv.1.start), iv, code],
    }
}

/// What a damaged database says.
#[derive(Debug)]
enum Said {
    WrongKey,
    Corrupt,
    /// It opened. What was read, if it could be, and what `verify` found.
    Opened(Result<Vec<String>, String>, Report),
}

fn ask(path: &Path, profile: Profile) -> Said {
    let db = match Database::open(path, &key(1), options(profile).must_exist()) {
        Ok(db) => db,
        Err(DatabaseError::WrongKey { .. }) => return Said::WrongKey,
        Err(DatabaseError::Corrupt { .. }) => return Said::Corrupt,
        Err(other) => panic!("{other:?}"),
    };
    let report = db.verify().expect("it can be verified");
    let read = db.read(|tx| tx.query("SELECT text FROM note ORDER BY id", [], |row| row.get(0)));
    let read = match read {
        Ok(read) => Ok(read),
        Err(DatabaseError::Corrupt { detail, .. }) => Err(detail),
        Err(other) => panic!("{other:?}"),
    };
    Said::Opened(read, report)
}

#[test]
fn any_byte_of_any_page_costs_that_page_and_nothing_is_read_wrong() {
    std::thread::scope(|scope| {
        for profile in BOTH {
            scope.spawn(move || every_page(profile));
        }
    });
}

fn every_page(profile: Profile) {
    let place = Place::new();
    let db = place.open(profile);
    for number in 0..12 {
        add(&db, &format!("note {number} {}", "lorem ".repeat(200)));
    }
    let written = texts(&db);
    db.checkpoint().unwrap();
    drop(db);
    let sound = std::fs::read(place.path()).unwrap();
    let pages = sound.len() / PAGE;
    assert!(
        pages > 10 && sound.len().is_multiple_of(PAGE),
        "{pages} pages"
    );
    let mut tried = 0;
    for page in 0..pages {
        for (what, range) in parts(profile, page == 0) {
            for at in sample(range, 3) {
                let mut bytes = sound.clone();
                bytes[page * PAGE + at] ^= 1 << (at % 8);
                std::fs::write(place.path(), &bytes).unwrap();
                let said = ask(&place.path(), profile);
                let number = page as u64 + 1;
                let fits = match &said {
                    Said::WrongKey => what == "salt",
                    Said::Corrupt => page == 0 && what != "salt",
                    Said::Opened(read, report) => {
                        let right = read.as_ref().map_or(true, |read| *read == written);
                        let named = report.problems.iter().any(|p| p.page == Some(number));
                        let others = report.problems.iter().filter_map(|p| {
                            let by_code = p.detail.contains("HMAC");
                            p.page.filter(|page| by_code && *page != number)
                        });
                        page > 0 && right && named && others.count() == 0
                    }
                };
                assert!(
                    fits,
                    "{profile:?}: {what}, page {number}, byte {at}: {said:?}"
                );
                let after = std::fs::read(place.path()).unwrap();
                assert!(after == bytes, "page {number}: looking changed the file");
                tried += 1;
            }
        }
    }
    assert!(tried > 10 * pages, "{tried} bytes");
    std::fs::write(place.path(), &sound).unwrap();
    let said = ask(&place.path(), profile);
    assert!(
        matches!(&said, Said::Opened(Ok(read), report) if *read == written && report.is_sound()),
        "the sound file: {said:?}"
    );
}

/// A database as a crash leaves it: a file at rest, and commits in the log.
struct Crashed {
    place: Place,
    profile: Profile,
    files: Vec<(PathBuf, Vec<u8>)>,
    /// What is read after each commit.
    states: Vec<Vec<String>>,
}

impl Crashed {
    fn new(profile: Profile) -> Self {
        let source = Place::new();
        let db = source.open(profile);
        add(&db, "at rest");
        db.checkpoint().unwrap();
        let mut states = vec![texts(&db)];
        for number in 0..3 {
            add(&db, &format!("in the log {number} {}", "w".repeat(3000)));
            states.push(texts(&db));
        }
        let place = Place::new();
        let files = files(source.dir.path())
            .into_iter()
            .map(|(path, bytes)| (place.dir.path().join(path.file_name().unwrap()), bytes))
            .collect();
        Self {
            place,
            profile,
            files,
            states,
        }
    }

    fn log(&self) -> Vec<u8> {
        let is_log = |(path, _): &&(PathBuf, Vec<u8>)| path.to_string_lossy().ends_with("-wal");
        self.files.iter().find(is_log).unwrap().1.clone()
    }

    /// Opens it with another log, and says which of the states is there.
    fn state_with(&self, log: &[u8]) -> Result<usize, Said> {
        for (path, bytes) in &self.files {
            let is_log = path.to_string_lossy().ends_with("-wal");
            std::fs::write(path, if is_log { log } else { bytes }).unwrap();
        }
        let said = ask(&self.place.path(), self.profile);
        match &said {
            Said::Opened(Ok(read), _) => match self.states.iter().position(|state| state == read) {
                Some(state) => Ok(state),
                None => panic!("{:?} was never committed: {read:?}", self.profile),
            },
            _ => Err(said),
        }
    }
}

/// The log's checksums need no key: whoever changes a frame can make them fit.
fn fit_checksums(log: &mut [u8]) {
    let big_endian = log[3] & 1 == 1;
    let sum = |bytes: &[u8], (mut one, mut two): (u32, u32)| {
        for pair in bytes.chunks_exact(8) {
            let word = |at: usize| {
                let word: [u8; 4] = pair[at..at + 4].try_into().unwrap();
                match big_endian {
                    true => u32::from_be_bytes(word),
                    false => u32::from_le_bytes(word),
                }
            };
            one = one.wrapping_add(word(0)).wrapping_add(two);
            two = two.wrapping_add(word(4)).wrapping_add(one);
        }
        (one, two)
    };
    let bytes = |(one, two): (u32, u32)| [one.to_be_bytes(), two.to_be_bytes()].concat();
    let (head, frames) = log.split_at_mut(LOG_HEAD);
    let mut state = sum(&head[..24], (0, 0));
    head[24..].copy_from_slice(&bytes(state));
    for frame in frames.chunks_exact_mut(FRAME) {
        state = sum(&frame[..8], state);
        state = sum(&frame[FRAME_HEAD..], state);
        frame[16..FRAME_HEAD].copy_from_slice(&bytes(state));
    }
}

/// Bytes of the log, of each kind.
fn log_bytes(profile: Profile, log: &[u8]) -> Vec<usize> {
    let mut taken: Vec<usize> = (0..LOG_HEAD).collect();
    for start in (LOG_HEAD..log.len() - FRAME + 1).step_by(FRAME) {
        // Page number, size after a commit, two salts, two sums: four bytes each.
        taken.extend(sample_log(start..start + FRAME_HEAD, 6));
        for (_, range) in parts(profile, false) {
            let in_page = sample_log(range, 2);
            taken.extend(in_page.into_iter().map(|at| start + FRAME_HEAD + at));
        }
    }
    taken
}

#[test]
fn any_byte_of_the_log_ends_it_at_a_commit() {
    for profile in BOTH {
        let crashed = Crashed::new(profile);
        let log = crashed.log();
        assert_eq!(crashed.state_with(&log).unwrap(), 3);
        assert_eq!((log.len() - LOG_HEAD) % FRAME, 0);
        let mut reached = [0; 4];
        for at in log_bytes(profile, &log) {
            let mut bytes = log.clone();
            bytes[at] ^= 1 << (at % 8);
            let state = crashed.state_with(&bytes);
            reached[state.unwrap_or_else(|said| panic!("byte {at}: {said:?}"))] += 1;
        }
        assert!(reached[..3].iter().all(|times| *times > 0), "{reached:?}");
        assert_eq!(reached[3], 0, "a change that makes no difference");
    }
}

#[test]
fn any_byte_of_the_log_with_checksums_that_fit_is_damage_or_a_commit() {
    for profile in BOTH {
        let crashed = Crashed::new(profile);
        let log = crashed.log();
        let mut refitted = log.clone();
        fit_checksums(&mut refitted);
        assert!(refitted == log, "the checksums are SQLite's");
        let mut damaged = 0;
        for at in log_bytes(profile, &log) {
            let mut bytes = log.clone();
            bytes[at] ^= 1 << (at % 8);
            fit_checksums(&mut bytes);
            match crashed.state_with(&bytes) {
                Ok(_) => {}
                Err(Said::Corrupt | Said::Opened(Err(_), _)) => damaged += 1,
                Err(said) => panic!("{profile:?}: byte {at}: {said:?}"),
            }
        }
        assert!(damaged > 20, "{profile:?}: {damaged}");
    }
}

#[test]
fn a_log_cut_anywhere_ends_at_a_commit() {
    let crashed = Crashed::new(Profile::Fast);
    let log = crashed.log();
    let mut last = 0;
    let mut cuts = sample_log(0..log.len(), 60);
    cuts.push(log.len());
    for length in cuts {
        let state = crashed.state_with(&log[..length]).unwrap();
        assert!(state >= last, "a longer log has less in it");
        last = state;
    }
    assert_eq!(last, 3);
}

#[test]
fn the_log_of_another_database_is_damage_or_nothing() {
    let crashed = Crashed::new(Profile::Compat);
    let other = Place::new();
    let db = Database::open(other.path(), &key(2), options(Profile::Compat)).unwrap();
    add(&db, "somebody else's");
    let log = std::fs::read(other.dir.path().join("test.db-wal")).unwrap();
    match crashed.state_with(&log) {
        Ok(0) | Err(Said::Corrupt | Said::Opened(Err(_), _)) => {}
        said => panic!("{said:?}"),
    }
}

#[test]
fn the_shared_index_of_the_log_is_made_anew() {
    let crashed = Crashed::new(Profile::Fast);
    let log = crashed.log();
    let index = crashed.place.dir.path().join("test.db-shm");
    let (_, sound) = crashed
        .files
        .iter()
        .find(|(path, _)| *path == index)
        .unwrap();
    for at in (0..sound.len()).step_by(if all() { 7 } else { 997 }) {
        let mut bytes = sound.clone();
        bytes[at] ^= 0xff;
        let mut changed = Crashed {
            place: Place::new(),
            profile: Profile::Fast,
            files: Vec::new(),
            states: crashed.states.clone(),
        };
        changed.files = crashed
            .files
            .iter()
            .map(|(path, content)| {
                let content = if *path == index { &bytes } else { content };
                let name = path.file_name().unwrap();
                (changed.place.dir.path().join(name), content.clone())
            })
            .collect();
        assert_eq!(changed.state_with(&log).unwrap(), 3, "byte {at}");
    }
}

/// A journal with pages to put back, as SQLite would leave one at a crash.
fn journal(pages: &[(u32, &[u8])], size: u32) -> Vec<u8> {
    const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    const SECTOR: u32 = 512;
    let mut bytes = MAGIC.to_vec();
    let count = u32::try_from(pages.len()).unwrap();
    for number in [count, 0, size, SECTOR, PAGE as u32] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.resize(SECTOR as usize, 0);
    for (number, page) in pages {
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(page);
        let sum = (1..=(PAGE - 1) / 200).map(|step| u32::from(page[PAGE - 200 * step]));
        bytes.extend_from_slice(&sum.sum::<u32>().to_be_bytes());
    }
    bytes
}

#[test]
fn a_journal_put_beside_the_database_brings_in_nothing_wrong() {
    for profile in BOTH {
        let place = Place::new();
        let db = place.open(profile);
        for number in 0..5 {
            add(&db, &format!("note {number} {}", "j".repeat(2000)));
        }
        let written = texts(&db);
        drop(db);
        let sound = std::fs::read(place.path()).unwrap();
        let size = u32::try_from(sound.len() / PAGE).unwrap();
        let planted = place.dir.path().join("test.db-journal");
        let noise = [0x5a; PAGE];
        for number in 1..=size {
            std::fs::write(place.path(), &sound).unwrap();
            std::fs::write(&planted, journal(&[(number, &noise)], size)).unwrap();
            match ask(&place.path(), profile) {
                Said::WrongKey | Said::Corrupt => {}
                Said::Opened(read, report) => {
                    assert!(read.is_err() || read == Ok(written.clone()), "{read:?}");
                    let untouched = std::fs::read(place.path()).unwrap() == sound;
                    assert_eq!(report.is_sound(), untouched, "page {number}: {report:?}");
                }
            }
            let _ = std::fs::remove_file(&planted);
        }
    }
}

#[test]
fn any_byte_of_the_record_of_pages_is_reported_and_the_data_is_there() {
    let home = tempfile::tempdir().unwrap();
    let vault = Vault::builder(home.path().join("vault"))
        .binding(Unbound)
        .file_slot(home.path().join("secret"))
        .create()
        .unwrap();
    let vault = Arc::new(vault);
    let anchor = Anchor::in_vault(&vault, "test");
    let data = home.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let path = data.join("test.db");
    let open = || Database::open_anchored(&path, &key(1), &anchor, options(Profile::Fast));
    add(&open().unwrap(), "kept");
    let generation = vault.mark("database/test").unwrap().unwrap();
    let sound = files(&data);
    let record = data.join("test.db-anchor");
    let (_, bytes) = sound.iter().find(|(path, _)| *path == record).unwrap();
    for at in sample(0..bytes.len(), 40) {
        for (path, content) in &sound {
            std::fs::write(path, content).unwrap();
        }
        vault.set_mark("database/test", generation).unwrap();
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        std::fs::write(&record, changed).unwrap();
        let db = open().unwrap_or_else(|error| panic!("byte {at}: {error:?}"));
        assert_eq!(texts(&db), ["kept"]);
        let report = db.verify().unwrap();
        let named = |p: &katachi_store::database::Problem| p.detail.contains("record of pages");
        assert!(report.problems.iter().all(named), "byte {at}: {report:?}");
        assert!(!report.is_sound(), "byte {at}");
    }
}
