//! A marker that goes into the database is in no file, at no moment.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use katachi_store::database::{Database, Options};

use crate::support::{BOTH, Place, files, key, options};

/// One lower-case word, so that a full-text index would spell it the same way.
const MARKER: &str = "zyxmarkerwvu";

/// Another word, since all tests of this process see each other's open files.
const CONTROL: &str = "zyxcontrolwvu";

fn holds(content: &[u8], word: &str) -> bool {
    memchr::memmem::find(content, word.as_bytes()).is_some()
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
            !holds(&content, MARKER),
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
            "CREATE TABLE t (a); INSERT INTO t VALUES ('{CONTROL}')"
        ))
        .unwrap();
    assert!(
        files(place.dir.path())
            .iter()
            .any(|(_, content)| holds(content, CONTROL))
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

/// Opens the file with the key and no more, as someone would who has both.
fn bare(place: &Place) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(place.path()).unwrap();
    let spec = format!("x'{}'", &*key(1).expose_sqlcipher_hex());
    connection.key(None::<&str>, spec, false).unwrap();
    connection
}

/// All pages in plain, their unused parts included.
fn decrypted(connection: &rusqlite::Connection) -> Vec<u8> {
    use rusqlite::ffi;
    let mut size = 0;
    // SAFETY: the handle is that of an open connection, which outlives the
    // call; the name is a C string; the size is written before it is read.
    let image =
        unsafe { ffi::sqlite3_serialize(connection.handle(), c"main".as_ptr(), &mut size, 0) };
    assert!(!image.is_null());
    // SAFETY: SQLite allocated `size` bytes at `image` for us.
    let bytes =
        unsafe { std::slice::from_raw_parts(image, usize::try_from(size).unwrap()) }.to_vec();
    // SAFETY: the pointer came from SQLite's allocator and is not used again.
    unsafe { ffi::sqlite3_free(image.cast()) };
    bytes
}

#[test]
fn what_is_deleted_is_overwritten_even_for_whoever_has_the_key() {
    let place = Place::new();
    let db = Database::open(place.path(), &key(1), Options::new()).unwrap();
    db.write(|tx| {
        tx.execute_batch("CREATE TABLE t (a TEXT) STRICT")?;
        tx.execute("INSERT INTO t VALUES ('stays')", [])?;
        tx.execute("INSERT INTO t VALUES (?1)", [MARKER])
    })
    .unwrap();
    db.checkpoint().unwrap();
    assert!(holds(&decrypted(&bare(&place)), MARKER));
    let delete = "DELETE FROM t WHERE a <> 'stays'";
    db.write(|tx| tx.execute(delete, [])).unwrap();
    db.checkpoint().unwrap();
    drop(db);
    let connection = bare(&place);
    let image = decrypted(&connection);
    assert!(holds(&image, "stays") && !holds(&image, MARKER));

    // Without overwriting, this test would see what remains.
    let insert =
        format!("PRAGMA secure_delete = OFF; INSERT INTO t VALUES ('{MARKER}'); {delete};");
    connection.execute_batch(&insert).unwrap();
    assert!(holds(&decrypted(&connection), MARKER));
}
