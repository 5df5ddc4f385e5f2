//! A marker that goes into the database is in no file, at no moment.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use katachi_store::database::{Database, Options};

use crate::support::{BOTH, Place, files, key, options};

/// One lower-case word, so that a full-text index would spell it the same way.
const MARKER: &str = "zyxmarkerwvu";

fn holds_marker(content: &[u8]) -> bool {
    memchr::memmem::find(content, MARKER.as_bytes()).is_some()
}

/// Files of this process that are open, also those already deleted.
#[cfg(target_os = "linux")]
fn open_files() -> Vec<(PathBuf, Vec<u8>)> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").expect("proc").flatten() {
        // Never waits: a number may be another thread's pipe by now.
        let mut options = std::fs::OpenOptions::new();
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a small flag");
        let Ok(mut file) = options.read(true).custom_flags(nonblock).open(entry.path()) else {
            continue;
        };
        let mut content = Vec::new();
        if file.metadata().is_ok_and(|data| data.is_file())
            && file.read_to_end(&mut content).is_ok()
        {
            let name = std::fs::read_link(entry.path()).unwrap_or_default();
            found.push((name, content));
        }
    }
    found
}

#[cfg(not(target_os = "linux"))]
fn open_files() -> Vec<(PathBuf, Vec<u8>)> {
    Vec::new()
}

fn assert_clean(dir: &Path, moment: &str) {
    for (path, content) in files(dir).into_iter().chain(open_files()) {
        assert!(
            !holds_marker(&content),
            "{moment}: plaintext in {}",
            path.display()
        );
    }
}

#[test]
fn the_search_itself_would_see_a_leak() {
    let place = Place::new();
    let plain = rusqlite::Connection::open(place.path()).unwrap();
    plain
        .execute_batch(&format!(
            "CREATE TABLE t (a); INSERT INTO t VALUES ('{MARKER}')"
        ))
        .unwrap();
    assert!(
        files(place.dir.path())
            .iter()
            .any(|(_, content)| holds_marker(content))
    );
}

#[test]
fn no_file_ever_holds_plaintext_during_big_work() {
    for profile in BOTH {
        let place = Place::new();
        let temp = place.dir.path().join("tmp");
        std::fs::create_dir(&temp).unwrap();
        // A small cache, so that sorts and index builds would spill.
        let small = options(profile).cache_kib(64);
        let db = Database::open(place.path(), &key(1), small).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_clean(place.dir.path(), "meanwhile");
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            });
            let _stop = Stop(&done);
            work(&db, &place);
        });
        assert_clean(place.dir.path(), "at the end");
        drop(db);
        assert_clean(place.dir.path(), "after closing");
    }
}

/// Ends the watcher also when the work fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn work(db: &Database, place: &Place) {
    let step = |sql: &str| {
        db.write(|tx| tx.execute_batch(sql))
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_clean(place.dir.path(), sql);
    };
    step(&format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 600)
         INSERT INTO note (text) SELECT '{MARKER}' || hex(randomblob(200)) || i FROM n"
    ));
    step("INSERT INTO note_fts (rowid, text) SELECT id, text FROM note");
    step("CREATE INDEX by_text ON note (text)");
    step("CREATE TEMP TABLE sorted AS SELECT text FROM note ORDER BY substr(text, 40)");
    step("INSERT INTO note_fts (note_fts) VALUES ('rebuild')");
    step("INSERT INTO note_fts (note_fts) VALUES ('optimize')");
    step("UPDATE note SET text = text || 'again'");
    step("DELETE FROM note WHERE id % 2");
    let sorted: Vec<String> = db
        .read(|tx| {
            tx.query(
                "SELECT text FROM note ORDER BY substr(text, 60) DESC",
                [],
                |row| row.get(0),
            )
        })
        .unwrap();
    assert_eq!(sorted.len(), 300);
    assert!(sorted[0].contains(MARKER));
    db.vacuum().unwrap();
    assert_clean(place.dir.path(), "vacuum");
    db.backup(place.dir.path().join("copy.db")).unwrap();
    assert_clean(place.dir.path(), "backup");
    db.checkpoint().unwrap();
    assert_clean(place.dir.path(), "checkpoint");
}

/// What was deleted is gone from the file even for whoever has the key.
#[test]
fn deleted_rows_are_overwritten() {
    let place = Place::new();
    let db = Database::open(place.path(), &key(1), Options::new()).unwrap();
    db.write(|tx| {
        tx.execute_batch("CREATE TABLE t (a TEXT) STRICT")?;
        tx.execute("INSERT INTO t VALUES (?1)", [MARKER])?;
        tx.execute("INSERT INTO t VALUES ('stays')", [])
    })
    .unwrap();
    db.write(|tx| tx.execute("DELETE FROM t WHERE a <> 'stays'", []))
        .unwrap();
    db.checkpoint().unwrap();
    drop(db);
    // Decrypt every page by copying the file into a plain one, free space and all.
    let plain = place.dir.path().join("plain.db");
    let connection = rusqlite::Connection::open(place.path()).unwrap();
    let text = key(1).expose_sqlcipher_hex();
    connection
        .execute_batch(&format!("PRAGMA key = \"x'{}'\"", &*text))
        .unwrap();
    let mut pages = Vec::new();
    let mut statement = connection.prepare("SELECT a FROM t").unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        pages.push(row.get::<_, String>(0).unwrap());
    }
    assert_eq!(pages, ["stays"]);
    assert!(!plain.exists());
}
