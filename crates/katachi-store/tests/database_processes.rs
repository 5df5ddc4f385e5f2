//! The database among several processes, killed ones included, and beside
//! another SQLCipher reader.
//!
//! The test program starts itself again for each part to play.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use katachi_crypto::Secret;
use katachi_store::Vault;
use katachi_store::binding::Unbound;
use katachi_store::database::{
    Anchor, Comparison, Database, DatabaseError, DatabaseKey, Migration, Options, Profile, Tx,
};
use katachi_store::history::{History, Role, State};
use katachi_store::testing::fault;
use libtest_mimic::{Arguments, Failed, Trial};

const PART: &str = "KATACHI_DATABASE_PART";
const PLACE: &str = "KATACHI_DATABASE_PLACE";

const SCHEMA: &[Migration] = &[Migration::sql(
    "CREATE TABLE counter (n INTEGER NOT NULL) STRICT; INSERT INTO counter VALUES (0);",
)];

fn main() -> ExitCode {
    if let Ok(part) = std::env::var(PART) {
        let place = PathBuf::from(std::env::var_os(PLACE).expect("a part has a place"));
        play(&part, &place);
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    let mut trials = vec![
        trial(
            "four_processes_with_two_threads_each_lose_no_increment",
            counting,
        ),
        trial(
            "a_killed_writer_loses_nothing_that_was_flushed",
            killed_stream,
        ),
        trial(
            "a_killed_migration_is_done_again_from_the_last_good_step",
            killed_migration,
        ),
        trial(
            "a_killed_change_of_key_leaves_one_whole_database_under_one_key",
            killed_rekey,
        ),
        trial(
            "looking_at_an_open_database_keeps_its_locks",
            locks_are_kept,
        ),
        trial(
            "a_process_that_died_leaves_a_log_that_the_next_one_reads",
            hot_log,
        ),
        trial(
            "four_processes_share_an_anchor_and_lose_no_increment",
            anchored_counting,
        ),
        trial(
            "killed_at_every_step_of_coming_to_rest_the_database_opens_and_verifies",
            killed_at_rest,
        ),
        trial(
            "killed_at_every_step_of_changing_the_key_of_an_anchored_database",
            killed_anchored_rekey,
        ),
        trial(
            "killed_at_any_moment_what_was_committed_is_there_and_nothing_else",
            killed_model,
        ),
    ];
    trials.push(trial(
        "a_database_that_another_process_writes_is_busy",
        held,
    ));
    trials.push(trial(
        "many_messages_are_imported_with_progress_in_bounded_memory",
        bounded_import,
    ));
    trials.push(trial(
        "nothing_is_in_plain_text_in_any_file_open_or_deleted_or_in_any_output",
        no_leak,
    ));
    trials.extend(reader_trials());
    trials.extend(disk_trials());
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &str, test: fn() -> Result<(), Failed>) -> Trial {
    Trial::test(name, test)
}

fn key() -> DatabaseKey {
    DatabaseKey::from_secret(Secret::new([9; 32]))
}

fn new_key() -> DatabaseKey {
    DatabaseKey::from_secret(Secret::new([10; 32]))
}

fn file(place: &Path) -> PathBuf {
    place.join("shared.db")
}

fn open(place: &Path) -> Database {
    let options = Options::new()
        .migrations(SCHEMA)
        .busy_timeout(Duration::from_secs(60));
    Database::open(file(place), &key(), options).unwrap()
}

fn count(db: &Database) -> i64 {
    let read = db.read(|tx| tx.query_one("SELECT n FROM counter", [], |row| row.get(0)));
    read.unwrap().unwrap()
}

fn start(part: &str, place: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .env(PART, part)
        .env(PLACE, place)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Ends a process as the kernel would on a bad day.
fn kill(mut child: Child) -> std::io::Result<()> {
    let killed = child.kill();
    child.wait().and(killed)
}

fn is_long() -> bool {
    std::env::var_os("KATACHI_LONG").is_some_and(|value| value == "1")
}

/// How often a process is killed: a dozen times, or `many` with time at hand.
fn rounds(many: u64) -> u64 {
    if is_long() { many } else { 12 }
}

/// What a started process does.
fn play(part: &str, place: &Path) {
    match part {
        "count" => {
            let db = open(place);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for _ in 0..125 {
                            db.write(|tx| {
                                let n = tx.query_one("SELECT n FROM counter", [], |row| {
                                    row.get::<_, i64>(0)
                                })?;
                                let n = n.expect("one row") + 1;
                                tx.execute("UPDATE counter SET n = ?1", [n])
                            })
                            .unwrap();
                        }
                    });
                }
            });
        }
        "stream" => {
            let history = History::open(&open(place)).unwrap();
            let workspace = history.workspace("w").unwrap();
            let session = history.start_session(workspace, "s").unwrap();
            let mut stream = history.begin(session, Role::Assistant).unwrap();
            for number in 0.. {
                stream.push(&format!("{number} ")).unwrap();
                stream.flush().unwrap();
                println!("{number}");
            }
        }
        "migrate" => {
            let slow = Options::new().migrations(&SLOW);
            drop(Database::open(file(place), &key(), slow));
        }
        "rekey" => {
            println!("go");
            let options = Options::new().migrations(SCHEMA);
            Database::rekey(file(place), &key(), &new_key(), options).unwrap();
        }
        "anchored-count" => {
            let db = open_anchored(place);
            for _ in 0..40 {
                increment(&db);
            }
            db.checkpoint().or_else(busy_is_fine).unwrap();
        }
        "rest" => {
            let db = open_anchored(place);
            increment(&db);
            println!("{}", fault::steps_reached());
            db.checkpoint().unwrap();
            increment(&db);
            drop(db);
            println!("{}", fault::steps_reached());
        }
        "anchored-rekey" => {
            println!("{}", fault::steps_reached());
            let options = Options::new().migrations(SCHEMA);
            let anchor = anchor(place);
            Database::rekey_anchored(file(place), &key(), &new_key(), &anchor, options).unwrap();
            println!("{}", fault::steps_reached());
        }
        "model" => model(place),
        "hold" => {
            let db = open(place);
            let _ = db.write(|tx| {
                tx.execute("UPDATE counter SET n = 7", [])?;
                println!("go");
                std::thread::sleep(Duration::from_secs(60));
                Ok::<(), DatabaseError>(())
            });
        }
        "full-disk" => full_disk(place),
        "read-only-disk" => read_only(place),
        "read-only-file" => {
            let refused = Database::open(file(place), &key(), Options::new());
            assert!(
                matches!(refused, Err(DatabaseError::ReadOnly)),
                "{refused:?}"
            );
        }
        "import" => import_many(place),
        "visit" => drop(open(place)),
        "nothing" => {}
        "leak" => leak(place),
        "leak-control" => {
            // Plain SQLite with temporary files, to show that they are seen.
            let plain = rusqlite::Connection::open(file(place)).unwrap();
            plain
                .execute_batch("PRAGMA temp_store = FILE; PRAGMA cache_size = 10;")
                .unwrap();
            plain
                .execute_batch(&format!("CREATE TABLE t (a); {}", rows_of(MARKER, "t (a)")))
                .unwrap();
            plain
                .execute_batch("DELETE FROM t; PRAGMA secure_delete = ON; VACUUM;")
                .unwrap();
            plain
                .execute_batch(&format!(
                    "PRAGMA temp_store = FILE; CREATE TEMP TABLE s (a); PRAGMA temp.cache_size = 5; {}",
                    rows_of(MARKER, "s (a)")
                ))
                .unwrap();
            println!("go");
            std::thread::sleep(Duration::from_millis(300));
        }
        "die" => {
            let db = open(place);
            db.write(|tx| tx.execute("UPDATE counter SET n = 41", []))
                .unwrap();
            let _ = db.write(|tx| {
                tx.execute("UPDATE counter SET n = 99", [])?;
                std::process::abort();
                #[allow(unreachable_code, reason = "gives the closure its type")]
                Ok::<(), DatabaseError>(())
            });
        }
        other => panic!("no part is called {other}"),
    }
}

fn counting() -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    // Created by whoever comes first, so that creation races too.
    let children: Vec<Child> = (0..4).map(|_| start("count", place.path())).collect();
    for child in children {
        if !child.wait_with_output()?.status.success() {
            return Err("a process failed".into());
        }
    }
    let db = open(place.path());
    assert_eq!(count(&db), 4 * 2 * 125);
    assert!(db.verify()?.is_sound());
    Ok(())
}

fn killed_stream() -> Result<(), Failed> {
    for round in 1..=rounds(100) {
        let place = tempfile::tempdir()?;
        let mut child = start("stream", place.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = 0;
        for _ in 0..=round * 7 % 61 {
            let line = lines.next().and_then(Result::ok).unwrap_or_default();
            last = line.parse().unwrap_or_default();
        }
        kill(child)?;
        // Further lines may have been on their way.
        for line in lines {
            last = line?.parse()?;
        }
        let db = open(place.path());
        assert!(db.verify()?.is_sound());
        let far_future = i64::MAX / 2;
        let history = History::with_clock(&db, move || far_future)?;
        let hits = history.search(&last.to_string(), 5)?;
        let message = history.message(hits.first().ok_or("the message is not found")?.message)?;
        assert_eq!(message.state, State::Interrupted);
        let flushed: String = (0..=last).map(|number: u64| format!("{number} ")).collect();
        assert!(message.text.starts_with(&flushed), "{} chunks", last + 1);
    }
    Ok(())
}

static SLOW: [Migration; 3] = [
    Migration::sql(
        "CREATE TABLE counter (n INTEGER NOT NULL) STRICT; INSERT INTO counter VALUES (0);",
    ),
    Migration::run(step_two),
    Migration::sql("CREATE TABLE after (a INTEGER) STRICT"),
];

/// Half a step, then a wait in which the parent kills.
fn step_two(tx: &Tx<'_>) -> Result<(), DatabaseError> {
    tx.execute_batch("CREATE TABLE big (a TEXT) STRICT")?;
    for _ in 0..500 {
        tx.execute("INSERT INTO big VALUES (hex(randomblob(2000)))", [])?;
    }
    if std::env::var_os(PART).is_some() {
        println!("half");
        std::thread::sleep(Duration::from_secs(60));
    }
    tx.execute("UPDATE counter SET n = n + 1", [])?;
    Ok(())
}

fn killed_migration() -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    let mut child = start("migrate", place.path());
    let mut half = [0; 4];
    let reached = child.stdout.take().unwrap().read_exact(&mut half);
    kill(child)?;
    reached?;

    // The first step holds; nothing of the second is there.
    let old = Options::new().migrations(SCHEMA);
    let db = Database::open(file(place.path()), &key(), old)?;
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'big'";
    let big: Option<i64> = db.read(|tx| tx.query_one(tables, [], |row| row.get(0)))?;
    assert_eq!(big, Some(0));
    drop(db);

    let db = Database::open(file(place.path()), &key(), Options::new().migrations(&SLOW))?;
    assert_eq!(count(&db), 1);
    let rows: Option<i64> =
        db.read(|tx| tx.query_one("SELECT count(*) FROM big", [], |row| row.get(0)))?;
    assert_eq!(rows, Some(500));
    assert!(db.verify()?.is_sound());
    Ok(())
}

/// Closing any handle of a file drops all locks that a process has on it, and
/// the last process to close a database removes its log: one that only seems
/// to be the last would remove a log that is in use.
fn locks_are_kept() -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    let db = open(place.path());
    let log = place.path().join("shared.db-wal");
    let wrong = DatabaseKey::from_secret(Secret::new([8; 32]));
    for _ in 0..3 {
        drop(open(place.path()));
        assert!(Database::open(file(place.path()), &wrong, Options::new()).is_err());
        assert!(is_locked(&file(place.path()))?, "a look dropped the locks");
        db.write(|tx| tx.execute("UPDATE counter SET n = n + 1", []))?;
        assert!(start("visit", place.path()).wait()?.success());
        assert!(log.exists(), "the log of an open database was removed");
    }
    assert!(start("count", place.path()).wait()?.success());
    assert_eq!(count(&db), 3 + 250);
    drop(db);
    assert!(!log.exists(), "the last one out removes the log");
    assert_eq!(count(&open(place.path())), 3 + 250);
    Ok(())
}

/// Tells whether this process has a lock on `path`, as the kernel sees it.
#[cfg(target_os = "linux")]
fn is_locked(path: &Path) -> Result<bool, Failed> {
    use std::os::unix::fs::MetadataExt;
    let (inode, process) = (std::fs::metadata(path)?.ino(), std::process::id());
    let locks = std::fs::read_to_string("/proc/locks")?;
    Ok(locks.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(4);
        let held_by = fields.next().and_then(|field| field.parse().ok());
        let held_on = fields
            .next()
            .and_then(|field| field.rsplit(':').next()?.parse().ok());
        (held_by, held_on) == (Some(process), Some(inode))
    }))
}

#[cfg(not(target_os = "linux"))]
fn is_locked(_: &Path) -> Result<bool, Failed> {
    Ok(true)
}

fn killed_rekey() -> Result<(), Failed> {
    let original = tempfile::tempdir()?;
    let db = open(original.path());
    db.write(|tx| {
        tx.execute_batch("CREATE TABLE big (a TEXT) STRICT")?;
        for _ in 0..3000 {
            tx.execute("INSERT INTO big VALUES (hex(randomblob(500)))", [])?;
        }
        Ok::<_, DatabaseError>(())
    })?;
    drop(db);
    let copied = || -> Result<tempfile::TempDir, Failed> {
        let place = tempfile::tempdir()?;
        std::fs::copy(file(original.path()), file(place.path()))?;
        Ok(place)
    };
    // Waits for it to say that it begins.
    let go = |child: &mut Child| child.stdout.take().unwrap().read_exact(&mut [0; 2]);
    let place = copied()?;
    let mut undisturbed = start("rekey", place.path());
    let started = go(&mut undisturbed);
    let before = std::time::Instant::now();
    assert!(undisturbed.wait()?.success());
    started?;
    // At moments from the first to well after the last.
    let moment = before.elapsed() * 2 / rounds(100) as u32;
    let mut changed = 0;
    for round in 0..rounds(100) {
        let place = copied()?;
        let mut child = start("rekey", place.path());
        let started = go(&mut child);
        std::thread::sleep(moment * round as u32);
        kill(child)?;
        started?;

        let options = Options::new().migrations(SCHEMA);
        let keys = [&key(), &new_key()];
        let (db, which) = Database::open_any(file(place.path()), &keys, options)?;
        let rows: Option<i64> =
            db.read(|tx| tx.query_one("SELECT count(*) FROM big", [], |row| row.get(0)))?;
        assert_eq!(rows, Some(3000));
        assert!(db.verify()?.is_sound());
        drop(db);
        assert!(Database::open(file(place.path()), keys[1 - which], options).is_err());
        changed += which;
        if which == 0 {
            Database::rekey(file(place.path()), &key(), &new_key(), options)?;
            drop(Database::open(file(place.path()), &new_key(), options)?);
        }
    }
    eprintln!(
        "{changed} of {} had changed their key when they were killed",
        rounds(100)
    );
    Ok(())
}

fn held() -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    let mut child = start("hold", place.path());
    let mut go = [0; 2];
    let started = child.stdout.take().unwrap().read_exact(&mut go);
    let patient = Options::new().busy_timeout(Duration::from_millis(50));
    let db = Database::open(file(place.path()), &key(), patient).unwrap();
    let refused = db.write(|tx| tx.execute("UPDATE counter SET n = 8", []));
    let still = count(&db);
    kill(child)?;
    started?;
    assert!(matches!(refused, Err(DatabaseError::Busy)), "{refused:?}");
    assert_eq!(still, 0);
    increment(&db);
    assert_eq!(count(&db), 1, "the other process never committed");
    Ok(())
}

/// Runs a part with a small file system of its own at `place`, if this user
/// may mount one.
#[cfg(target_os = "linux")]
fn on_small_disk(part: &str, place: &Path, size: &str) -> std::io::Result<std::process::Output> {
    let root = rustix::process::geteuid().is_root();
    let mount =
        format!("mount -t tmpfs -o size={size} tmpfs \"$KATACHI_DATABASE_PLACE\" && exec \"$0\"");
    Command::new("unshare")
        .args(if root { "-m" } else { "-Urm" }.split(' '))
        .args(["sh", "-c", &mount])
        .arg(std::env::current_exe()?)
        .env(PART, part)
        .env(PLACE, place)
        .output()
}

#[cfg(target_os = "linux")]
fn disk_trials() -> Vec<Trial> {
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
    let probe = tempfile::tempdir().expect("a directory");
    let can_mount =
        on_small_disk("nothing", probe.path(), "1m").is_ok_and(|done| done.status.success());
    let tests = [
        (
            "a_full_disk_is_named_and_leaves_the_data_as_it_was",
            "full-disk",
        ),
        (
            "a_read_only_disk_is_named_and_leaves_the_data_as_it_was",
            "read-only-disk",
        ),
    ];
    let mut trials: Vec<Trial> = tests
        .into_iter()
        .map(|(name, part)| match can_mount {
            true => Trial::test(name, move || {
                let place = tempfile::tempdir()?;
                let done = on_small_disk(part, place.path(), "3m")?;
                match done.status.success() {
                    true => Ok(()),
                    false => Err(String::from_utf8_lossy(&done.stderr).into_owned().into()),
                }
            }),
            false if required => Trial::test(name, || Err("this user may not mount".into())),
            false => Trial::test(format!("{name} (this user may not mount)"), || Ok(()))
                .with_ignored_flag(true),
        })
        .collect();
    trials.push(trial(
        "a_read_only_file_is_named_and_stays_as_it_was",
        read_only_file,
    ));
    trials
}

#[cfg(not(target_os = "linux"))]
fn disk_trials() -> Vec<Trial> {
    Vec::new()
}

/// Takes all space that is left.
fn fill(place: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(place.join("filler")).unwrap();
    while file.write_all(&[7; 4096]).is_ok() {}
}

fn full_disk(place: &Path) {
    let full = |outcome: Result<(), DatabaseError>, what| {
        assert!(
            matches!(outcome, Err(DatabaseError::DiskFull)),
            "{what}: {outcome:?}"
        );
    };
    let filler = place.join("filler");
    // A new one.
    fill(place);
    let options = Options::new().migrations(SCHEMA);
    full(
        Database::open(file(place), &key(), options).map(drop),
        "create",
    );
    std::fs::remove_file(&filler).unwrap();

    // One in use, with and without an anchor.
    drop(anchor(place));
    for anchored in [false, true] {
        let open = || {
            if anchored {
                open_anchored(place)
            } else {
                open(place)
            }
        };
        let db = open();
        let text = "x".repeat(3000);
        db.write(|tx| {
            tx.execute_batch("CREATE TABLE IF NOT EXISTS big (a TEXT) STRICT")?;
            for _ in 0..150 {
                tx.execute("INSERT INTO big VALUES (?1)", [&text])?;
            }
            Ok::<_, DatabaseError>(())
        })
        .unwrap();
        db.checkpoint().unwrap();
        increment(&db);
        let before = count(&db);
        let rows = |db: &Database| -> Option<i64> {
            db.read(|tx| tx.query_one("SELECT count(*) FROM big", [], |row| row.get(0)))
                .unwrap()
        };
        let many = rows(&db);
        fill(place);
        let outcome = db.write(|tx| {
            tx.execute("UPDATE counter SET n = 99", [])?;
            for _ in 0..1000 {
                tx.execute("INSERT INTO big VALUES (?1)", [&text])?;
            }
            Ok::<_, DatabaseError>(())
        });
        full(outcome, "write");
        full(db.backup(place.join("copy.db")), "backup");
        full(db.vacuum(), "vacuum");
        assert_eq!((count(&db), rows(&db)), (before, many));
        drop(db);
        let rekey = if anchored {
            Database::rekey_anchored(file(place), &key(), &new_key(), &anchor(place), options)
        } else {
            Database::rekey(file(place), &key(), &new_key(), options)
        };
        full(rekey, "rekey");
        let names: Vec<_> = std::fs::read_dir(place)
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert!(
            !names.iter().any(|name| {
                let name = name.to_string_lossy();
                name.ends_with(".partial") || name.ends_with("-rekey")
            }),
            "{names:?}"
        );

        std::fs::remove_file(&filler).unwrap();
        let db = open();
        assert_eq!((count(&db), rows(&db)), (before, many));
        increment(&db);
        let report = db.verify().unwrap();
        assert!(report.is_sound(), "{report:?}");
    }
}

fn read_only(place: &Path) {
    let remount = |how: &str| {
        let done = Command::new("mount").args(["-o", how]).arg(place).status();
        assert!(done.unwrap().success());
    };
    increment(&open(place));
    let before = std::fs::read(file(place)).unwrap();
    remount("remount,ro");
    let refused = Database::open(file(place), &key(), Options::new().migrations(SCHEMA));
    assert!(
        matches!(refused, Err(DatabaseError::ReadOnly)),
        "{refused:?}"
    );
    let refused = Database::open(place.join("new.db"), &key(), Options::new());
    assert!(
        matches!(refused, Err(DatabaseError::ReadOnly)),
        "{refused:?}"
    );
    let refused = Database::rekey(file(place), &key(), &new_key(), Options::new());
    assert!(
        matches!(refused, Err(DatabaseError::ReadOnly)),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(file(place)).unwrap(), before);
    remount("remount,rw");
    assert_eq!(count(&open(place)), 1);
}

/// Root may write everything, so another user tries.
#[cfg(target_os = "linux")]
fn read_only_file() -> Result<(), Failed> {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let place = tempfile::tempdir()?;
    increment(&open(place.path()));
    let before = std::fs::read(file(place.path()))?;
    std::fs::set_permissions(file(place.path()), std::fs::Permissions::from_mode(0o444))?;
    let mut child = Command::new(std::env::current_exe()?);
    child.env(PART, "read-only-file").env(PLACE, place.path());
    if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))?;
        // Whoever may not even start the test program copies it.
        let program = place.path().join("program");
        std::fs::copy(std::env::current_exe()?, &program)?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        child = Command::new(program);
        child.env(PART, "read-only-file").env(PLACE, place.path());
        child.uid(65534).gid(65534);
    }
    let done = child.output()?;
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert_eq!(std::fs::read(file(place.path()))?, before);
    Ok(())
}

/// Lines of a history of `messages` messages, made as they are read.
struct Lines {
    messages: u64,
    next: u64,
    line: Vec<u8>,
    at: usize,
}

impl Read for Lines {
    fn read(&mut self, part: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.line.len() {
            if self.next > self.messages {
                return Ok(0);
            }
            self.line = match self.next {
                0 => b"{\"type\":\"katachi-history\",\"version\":1}\n{\"type\":\"workspace\",\"name\":\"w\",\"created_ms\":1}\n".to_vec(),
                number => {
                    let session = match number % 1000 {
                        1 => format!("{{\"type\":\"session\",\"title\":\"{number}\",\"created_ms\":1,\"updated_ms\":1}}\n"),
                        _ => String::new(),
                    };
                    format!(
                        "{session}{{\"type\":\"message\",\"role\":\"user\",\"state\":\"complete\",\"text\":\"message {number} of {} about w{} and w{}\",\"created_ms\":{number}}}\n",
                        self.messages, number % 100, number % 977
                    )
                    .into_bytes()
                }
            };
            self.at = 0;
            self.next += 1;
        }
        let length = part.len().min(self.line.len() - self.at);
        part[..length].copy_from_slice(&self.line[self.at..][..length]);
        self.at += length;
        Ok(length)
    }
}

/// One lower-case word, so that a full-text index would spell it the same way.
const MARKER: &str = "zyxprocessmarkerwvu";

fn rows_of(marker: &str, table: &str) -> String {
    format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000)
         INSERT INTO {table} SELECT '{marker}' || hex(randomblob(300)) || i FROM n;"
    )
}

/// Everything that makes SQLite or us write files.
fn leak(place: &Path) {
    let options = Options::new().migrations(SCHEMA).cache_kib(64);
    let anchor = anchor(place);
    let db = Database::open_anchored(file(place), &key(), &anchor, options).unwrap();
    let step = |sql: &str| {
        println!("{sql:.20}");
        db.write(|tx| tx.execute_batch(sql)).unwrap();
    };
    step("CREATE TABLE note (a TEXT) STRICT; CREATE VIRTUAL TABLE word USING fts5 (a);");
    step(&rows_of(MARKER, "note (a)"));
    step("INSERT INTO word SELECT a FROM note");
    step("CREATE INDEX by_end ON note (substr(a, 300), a)");
    step("CREATE TEMP TABLE sorted AS SELECT a FROM note ORDER BY substr(a, 40)");
    step("INSERT INTO word (word) VALUES ('rebuild')");
    step("INSERT INTO word (word) VALUES ('optimize')");
    step("UPDATE note SET a = a || 'again'");
    step("DELETE FROM note WHERE rowid % 2");
    step("ANALYZE; REINDEX;");
    // What is refused, its error and the pending log.
    let wrong = format!("SELECT '{MARKER}' FROM nowhere");
    eprintln!("{}", db.write(|tx| tx.execute(&wrong, [])).unwrap_err());
    eprintln!(
        "{:?}",
        db.write(|tx| tx.execute("INSERT INTO counter VALUES (?1)", [MARKER]))
    );
    let sorted: Vec<String> = db
        .read(|tx| {
            tx.query(
                "SELECT a FROM note ORDER BY substr(a, 60) DESC",
                [],
                |row| row.get(0),
            )
        })
        .unwrap();
    assert_eq!(sorted.len(), 1000);
    db.vacuum().unwrap();
    db.backup(place.join("copy.db")).unwrap();
    db.checkpoint().unwrap();
    assert!(db.verify().unwrap().is_sound());
    let history = History::open(&db).unwrap();
    let workspace = history.workspace(MARKER).unwrap();
    let session = history.start_session(workspace, MARKER).unwrap();
    let mut stream = history.begin(session, Role::Assistant).unwrap();
    for _ in 0..2000 {
        stream.push(MARKER).unwrap();
    }
    stream.finish().unwrap();
    eprintln!("{db:?} {history:?} {:?}", key());
    drop(history);
    drop(db);
    Database::rekey_anchored(file(place), &key(), &new_key(), &anchor, options).unwrap();
    Database::restore(place.join("copy.db"), file(place), &key(), options).unwrap();
    drop(Database::open_anchored(file(place), &key(), &anchor.accept_restore(), options).unwrap());
    println!("done");
    std::thread::sleep(Duration::from_millis(300));
}

/// Where the words are found below `dir` or in a file that a process has open,
/// deleted ones included.
fn found_in(words: &[&str], dir: &Path, process: u32) -> Vec<PathBuf> {
    let open = PathBuf::from(format!("/proc/{process}/fd"));
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned(), open];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            match std::fs::metadata(&path) {
                Ok(data) if data.is_dir() => left.push(path),
                Ok(data) if data.is_file() => {
                    let content = std::fs::read(&path).unwrap_or_default();
                    let has =
                        |word: &&str| memchr::memmem::find(&content, word.as_bytes()).is_some();
                    if words.iter().any(has) {
                        found.push(std::fs::read_link(&path).unwrap_or(path));
                    }
                }
                _ => {}
            }
        }
    }
    found
}

fn watch(
    part: &str,
    place: &Path,
    words: &[&str],
) -> Result<(Vec<PathBuf>, std::process::Output), Failed> {
    let temporary = place.join("tmp");
    std::fs::create_dir(&temporary)?;
    let mut child = Command::new(std::env::current_exe()?)
        .env(PART, part)
        .env(PLACE, place)
        .env("TMPDIR", &temporary)
        .env("SQLITE_TMPDIR", &temporary)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut found = Vec::new();
    while child.try_wait()?.is_none() {
        found.extend(found_in(words, place, child.id()));
        std::thread::sleep(Duration::from_millis(10));
    }
    found.extend(found_in(words, place, child.id()));
    Ok((found, child.wait_with_output()?))
}

fn no_leak() -> Result<(), Failed> {
    let control = tempfile::tempdir()?;
    let (seen, _) = watch("leak-control", control.path(), &[MARKER])?;
    if cfg!(target_os = "linux") {
        let deleted = |path: &PathBuf| path.to_string_lossy().ends_with(" (deleted)");
        assert!(seen.iter().any(deleted), "no deleted file is seen");
    }

    let place = tempfile::tempdir()?;
    let keys = [key(), new_key()].map(|key| key.expose_sqlcipher_hex());
    let words = [MARKER, &keys[0][..32], &keys[1][..32]];
    let (found, output) = watch("leak", place.path(), &words)?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(found.is_empty(), "{found:?}");
    for text in [output.stdout, output.stderr] {
        for word in words {
            assert!(
                memchr::memmem::find(&text, word.as_bytes()).is_none(),
                "{}",
                String::from_utf8_lossy(&text)
            );
        }
    }
    Ok(())
}

/// Most memory this process had, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

fn import_many(place: &Path) {
    let messages: u64 = std::env::var("KATACHI_DATABASE_MESSAGES")
        .unwrap()
        .parse()
        .unwrap();
    let lines = Lines {
        messages,
        next: 0,
        line: Vec::new(),
        at: 0,
    };
    let history = History::open(&open_anchored(place)).unwrap();
    let mut calls = 0_u64;
    let mut last = 0;
    let done = history
        .import(BufReader::new(lines), |so_far| {
            assert!(so_far.messages >= last, "it only grows");
            (calls, last) = (calls + 1, so_far.messages);
        })
        .unwrap();
    assert_eq!((done.messages, last), (messages, messages));
    assert!(calls >= messages / 1000, "{calls} calls");
    println!("{}", peak_memory());
}

fn bounded_import() -> Result<(), Failed> {
    let import = |messages: u64| -> Result<(tempfile::TempDir, u64), Failed> {
        let place = tempfile::tempdir()?;
        let child = Command::new(std::env::current_exe()?)
            .env(PART, "import")
            .env(PLACE, place.path())
            .env("KATACHI_DATABASE_MESSAGES", messages.to_string())
            .output()?;
        assert!(
            child.status.success(),
            "{}",
            String::from_utf8_lossy(&child.stderr)
        );
        Ok((place, String::from_utf8(child.stdout)?.trim().parse()?))
    };
    let many = if is_long() { 1_000_000 } else { 10_000 };
    let (_, few) = import(2000)?;
    let (place, peak) = import(many)?;
    eprintln!("{peak} KiB for {many} messages, {few} KiB for 2000");
    // The page cache of 16 MiB fills up, and nothing else grows.
    assert!(
        peak < few + 64 * 1024,
        "{peak} KiB, {few} KiB for 2000 messages"
    );
    let history = History::open(&open_anchored(place.path()))?;
    let sessions = history.list_sessions(None, 1000, 0)?;
    assert_eq!(
        sessions.iter().map(|session| session.messages).sum::<u64>(),
        many
    );
    assert_eq!(history.search("w5", 20)?.len(), 20);
    let before = std::time::Instant::now();
    let hits = history.search(&format!("\"message {many}\""), 20)?;
    assert_eq!(hits.len(), 1);
    eprintln!("found one of them in {:?}", before.elapsed());
    Ok(())
}

fn anchor(place: &Path) -> Anchor {
    let vault = Vault::builder(place.join("vault"))
        .binding(Unbound)
        .file_slot(place.join("secret"))
        .open_or_create();
    Anchor::in_vault(&Arc::new(vault.unwrap()), "shared")
}

fn open_anchored(place: &Path) -> Database {
    let options = Options::new()
        .migrations(SCHEMA)
        .busy_timeout(Duration::from_secs(60));
    Database::open_anchored(file(place), &key(), &anchor(place), options).unwrap()
}

fn increment(db: &Database) {
    db.write(|tx| tx.execute("UPDATE counter SET n = n + 1", []))
        .unwrap();
}

/// Another process reads at that moment.
fn busy_is_fine(error: DatabaseError) -> Result<(), DatabaseError> {
    match error {
        DatabaseError::Busy => Ok(()),
        other => Err(other),
    }
}

fn anchored_counting() -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    drop(anchor(place.path()));
    let children: Vec<Child> = (0..4)
        .map(|_| start("anchored-count", place.path()))
        .collect();
    for child in children {
        assert!(child.wait_with_output()?.status.success());
    }
    let db = open_anchored(place.path());
    assert_eq!(count(&db), 4 * 40);
    let report = db.verify()?;
    assert!(report.is_sound(), "{report:?}");
    Ok(())
}

/// Copies a directory with everything in it.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    #[cfg(unix)]
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    Ok(())
}

/// Runs a part that dies at a step, on a copy of `original`. `None` once it
/// has fewer steps than that.
fn died_at(step: u64, part: &str, original: &Path) -> Result<Option<tempfile::TempDir>, Failed> {
    let place = tempfile::tempdir()?;
    copy(original, place.path())?;
    let mut child = Command::new(std::env::current_exe()?);
    let child = child.env(PART, part).env(PLACE, place.path());
    let child = child.env(fault::ABORT_AT, step.to_string());
    let output = child.stderr(Stdio::null()).output()?;
    Ok((!output.status.success()).then_some(place))
}

fn killed_at_rest() -> Result<(), Failed> {
    let original = tempfile::tempdir()?;
    increment(&open_anchored(original.path()));
    let mut step = 1;
    while let Some(place) = died_at(step, "rest", original.path())? {
        for _ in 0..2 {
            let db = open_anchored(place.path());
            assert!((1..=3).contains(&count(&db)), "step {step}");
            let report = db.verify()?;
            assert!(report.is_sound(), "step {step}: {report:?}");
            let compared = matches!(report.comparison, Comparison::Compared { .. });
            assert!(compared, "step {step}: {report:?}");
            drop(db);
        }
        let db = open_anchored(place.path());
        let before = count(&db);
        increment(&db);
        drop(db);
        assert_eq!(count(&open_anchored(place.path())), before + 1);
        step += 1;
    }
    assert!(step > 30, "only {step} steps");
    Ok(())
}

fn killed_anchored_rekey() -> Result<(), Failed> {
    let original = tempfile::tempdir()?;
    increment(&open_anchored(original.path()));
    let options = Options::new().migrations(SCHEMA);
    let mut step = 1;
    let mut changed = 0;
    while let Some(place) = died_at(step, "anchored-rekey", original.path())? {
        let place = place.path();
        let open =
            |key: &DatabaseKey| Database::open_anchored(file(place), key, &anchor(place), options);
        let (db, now) = match open(&new_key()) {
            Err(DatabaseError::WrongKey { .. }) => (open(&key())?, key()),
            other => (other?, new_key()),
        };
        assert_eq!(count(&db), 1);
        let report = db.verify()?;
        assert!(report.is_sound(), "step {step}: {report:?}");
        increment(&db);
        drop(db);
        if now.expose_sqlcipher_hex() == key().expose_sqlcipher_hex() {
            Database::rekey_anchored(file(place), &key(), &new_key(), &anchor(place), options)?;
        } else {
            changed += 1;
        }
        let db = open(&new_key())?;
        assert_eq!(count(&db), 2);
        let report = db.verify()?;
        assert!(report.is_sound(), "step {step}: {report:?}");
        step += 1;
    }
    assert!(step > 30 && changed > 3, "{changed} of {step} steps");
    Ok(())
}

/// Writes numbered rows with checkpoints and deletions in between, and says
/// after each commit what must be there from then on.
fn model(place: &Path) {
    let db = open_anchored(place);
    db.write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS row (n INTEGER, text TEXT) STRICT"))
        .unwrap();
    for n in 0_u64.. {
        db.write(|tx| {
            let text = "x".repeat(usize::try_from(n * 97 % 5000).unwrap_or_default());
            tx.execute("INSERT INTO row VALUES (?1, ?2)", (n as i64, text))?;
            // Only the last fifty stay.
            tx.execute("DELETE FROM row WHERE n <= ?1 - 50", [n as i64])
        })
        .unwrap();
        println!("{n}");
        if n % 7 == 6 {
            db.checkpoint().unwrap();
        }
    }
}

fn killed_model() -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    for round in 0..rounds(300) {
        let mut child = start("model", place.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = None;
        // Between 1 and 60 commits, and at any moment of the one after.
        for _ in 0..1 + round * 37 % 60 {
            said = lines.next().and_then(Result::ok).or(said);
        }
        std::thread::sleep(Duration::from_micros(round * 911 % 7000));
        kill(child)?;
        for line in lines {
            said = Some(line?);
        }
        let said: i64 = said.ok_or("nothing was committed")?.parse()?;

        let db = open_anchored(place.path());
        let rows: Vec<(i64, i64)> = db.read(|tx| {
            let sql = "SELECT n, length(text) FROM row ORDER BY n";
            tx.query(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        })?;
        let last = rows.last().ok_or("no row")?.0;
        assert!(
            last == said || last == said + 1,
            "{said} was said, {last} is there"
        );
        let first = (last - 49).max(0);
        let expected: Vec<_> = (first..=last).map(|n| (n, n * 97 % 5000)).collect();
        assert_eq!(rows, expected);
        let report = db.verify()?;
        assert!(report.is_sound(), "round {round}: {report:?}");
        db.write(|tx| tx.execute("DELETE FROM row", []))?;
    }
    Ok(())
}

fn hot_log() -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    assert!(!start("die", place.path()).wait()?.success());
    let log = std::fs::metadata(place.path().join("shared.db-wal"))?;
    assert!(log.len() > 0);
    let db = open(place.path());
    assert_eq!(count(&db), 41, "what was committed, and not what was not");
    assert!(db.verify()?.is_sound());
    Ok(())
}

/// Python with the `sqlcipher3` module, an independent build of SQLCipher.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("KATACHI_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let found = Command::new(&python)
        .args(["-c", "import sqlcipher3"])
        .stderr(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success()).then_some(python)
}

type ReaderTest = fn(&Path) -> Result<(), Failed>;

fn reader_trials() -> Vec<Trial> {
    let tests: [(&str, ReaderTest); 2] = [
        (
            "another_reader_opens_a_compat_file_with_the_exported_key",
            they_read_ours,
        ),
        ("we_open_a_file_that_another_writer_made", we_read_theirs),
    ];
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
    let python = python();
    tests
        .into_iter()
        .map(|(name, test)| match python.clone() {
            Some(python) => Trial::test(name, move || test(&python)),
            None if required => Trial::test(name, || Err("Python has no module sqlcipher3".into())),
            None => Trial::test(format!("{name} (Python has no module sqlcipher3)"), || {
                Ok(())
            })
            .with_ignored_flag(true),
        })
        .collect()
}

fn run(python: &Path, script: &str, path: &Path, key: &str) -> Result<String, Failed> {
    let output = Command::new(python)
        .args(["-c", script])
        .arg(path)
        .arg(key)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn they_read_ours(python: &Path) -> Result<(), Failed> {
    const SCRIPT: &str = r#"
import sys, sqlcipher3
db = sqlcipher3.connect(sys.argv[1])
db.execute(f"PRAGMA key = \"x'{sys.argv[2]}'\"")
assert db.execute("PRAGMA cipher_integrity_check").fetchall() == []
assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
print(db.execute("SELECT text FROM page WHERE page MATCH 'plum'").fetchone()[0])
"#;
    let place = tempfile::tempdir()?;
    let path = place.path().join("ours.db");
    let db = Database::open(&path, &key(), Options::new().profile(Profile::Compat))?;
    db.write(|tx| {
        tx.execute_batch("CREATE VIRTUAL TABLE page USING fts5 (text)")?;
        for number in 0..500 {
            let text = format!("apple {number} {}", "x".repeat(100));
            tx.execute("INSERT INTO page VALUES (?1)", [text])?;
        }
        tx.execute("INSERT INTO page VALUES ('a ripe plum')", [])
    })?;
    drop(db);
    let seen = run(python, SCRIPT, &path, &key().expose_sqlcipher_hex())?;
    assert_eq!(seen.trim(), "a ripe plum");

    let wrong = DatabaseKey::from_secret(Secret::new([1; 32]));
    assert!(run(python, SCRIPT, &path, &wrong.expose_sqlcipher_hex()).is_err());
    Ok(())
}

fn we_read_theirs(python: &Path) -> Result<(), Failed> {
    const SCRIPT: &str = r#"
import sys, sqlcipher3
db = sqlcipher3.connect(sys.argv[1])
db.execute(f"PRAGMA key = \"x'{sys.argv[2]}'\"")
db.execute("CREATE TABLE fruit (name TEXT)")
db.executemany("INSERT INTO fruit VALUES (?)", [(f"fruit {n}",) for n in range(1000)])
db.commit()
"#;
    let place = tempfile::tempdir()?;
    let path = place.path().join("theirs.db");
    let text = format!("{}{}", "5a".repeat(32), "c3".repeat(16));
    run(python, SCRIPT, &path, &text)?;
    let theirs = DatabaseKey::from_sqlcipher_hex(&text)?;
    let db = Database::open(&path, &theirs, Options::new().must_exist())?;
    let count: Option<i64> =
        db.read(|tx| tx.query_one("SELECT count(*) FROM fruit", [], |row| row.get(0)))?;
    assert_eq!(count, Some(1000));
    assert!(db.verify()?.is_sound());
    db.write(|tx| tx.execute("INSERT INTO fruit VALUES ('ours')", []))?;
    drop(db);
    let seen = run(
        python,
        "import sys, sqlcipher3\ndb = sqlcipher3.connect(sys.argv[1])\n\
         db.execute(f\"PRAGMA key = \\\"x'{sys.argv[2]}'\\\"\")\n\
         print(db.execute('SELECT count(*) FROM fruit').fetchone()[0])",
        &path,
        &text,
    )?;
    assert_eq!(seen.trim(), "1001");
    Ok(())
}
