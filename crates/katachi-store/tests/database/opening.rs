//! What opens and what does not.

use std::time::Duration;

use katachi_store::database::{Database, DatabaseError, DatabaseKey, Migration, Options, Profile};

use crate::support::{BOTH, Place, SCHEMA, add, files, key, options, texts};

#[test]
fn reads_back_what_was_written_after_reopening() {
    for profile in BOTH {
        let place = Place::new();
        let db = place.open(profile);
        add(&db, "first");
        add(&db, "second");
        drop(db);
        assert_eq!(
            texts(&place.open(profile)),
            ["first", "second"],
            "{profile:?}"
        );
    }
}

#[test]
fn refuses_another_key_and_changes_nothing_even_with_a_log_pending() {
    for profile in BOTH {
        let place = Place::new();
        let db = place.open(profile);
        add(&db, "in the log");
        // The files as a crash would leave them: the log is still there.
        let crashed = Place::new();
        for (path, content) in files(place.dir.path()) {
            std::fs::write(crashed.dir.path().join(path.file_name().unwrap()), content).unwrap();
        }
        drop(db);
        let before = files(crashed.dir.path());
        assert!(before.iter().any(|(path, content)| {
            path.to_string_lossy().ends_with("-wal") && !content.is_empty()
        }));

        let refused = Database::open(crashed.path(), &key(2), options(profile));
        assert!(
            matches!(refused, Err(DatabaseError::WrongKey { .. })),
            "{refused:?}"
        );
        assert_eq!(files(crashed.dir.path()), before);

        assert_eq!(texts(&crashed.open(profile)), ["in the log"]);
    }
}

#[test]
fn names_the_profile_a_file_was_made_with() {
    let place = Place::new();
    drop(place.open(Profile::Compat));
    let refused = Database::open(place.path(), &key(1), options(Profile::Fast));
    assert!(matches!(
        refused,
        Err(DatabaseError::WrongProfile {
            found: Profile::Compat,
            ..
        })
    ));
}

#[test]
fn refuses_a_plain_sqlite_file() {
    let place = Place::new();
    let plain = rusqlite::Connection::open(place.path()).unwrap();
    plain.execute_batch("CREATE TABLE t (a)").unwrap();
    drop(plain);
    let before = files(place.dir.path());
    let refused = Database::open(place.path(), &key(1), options(Profile::Compat));
    assert!(matches!(refused, Err(DatabaseError::NotEncrypted { .. })));
    assert_eq!(files(place.dir.path()), before);
}

#[test]
fn refuses_a_file_shorter_than_a_header() {
    let place = Place::new();
    std::fs::write(place.path(), b"short").unwrap();
    let refused = Database::open(place.path(), &key(1), options(Profile::Compat));
    assert!(matches!(refused, Err(DatabaseError::Corrupt { .. })));
}

#[test]
fn refuses_to_create_over_a_log_whose_database_is_gone() {
    let place = Place::new();
    let db = place.open(Profile::Compat);
    add(&db, "precious");
    let log = std::fs::read(place.dir.path().join("test.db-wal")).unwrap();
    drop(db);
    std::fs::remove_file(place.path()).unwrap();
    std::fs::write(place.dir.path().join("test.db-wal"), &log).unwrap();
    let refused = Database::open(place.path(), &key(1), options(Profile::Compat));
    assert!(matches!(refused, Err(DatabaseError::Corrupt { .. })));
    assert_eq!(
        std::fs::read(place.dir.path().join("test.db-wal")).unwrap(),
        log
    );
}

#[test]
fn refuses_an_absent_file_that_must_exist() {
    let place = Place::new();
    let refused = Database::open(place.path(), &key(1), options(Profile::Compat).must_exist());
    assert!(matches!(refused, Err(DatabaseError::NotFound { .. })));
    assert!(files(place.dir.path()).is_empty());
}

#[test]
fn no_encrypted_file_looks_like_sqlite() {
    for profile in BOTH {
        let place = Place::new();
        let db = place.open(profile);
        add(&db, "anything");
        db.checkpoint().unwrap();
        let content = std::fs::read(place.path()).unwrap();
        assert_ne!(&content[..15], b"SQLite format 3");
        let plain = rusqlite::Connection::open(place.path()).unwrap();
        let read = plain.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
        assert!(read.is_err());
    }
}

#[cfg(unix)]
#[test]
fn files_are_private_whatever_the_umask_and_stay_so() {
    use std::os::unix::fs::PermissionsExt;
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let place = Place::new();
    let db = place.open(Profile::Compat);
    add(&db, "x");
    db.backup(place.dir.path().join("copy.db")).unwrap();
    for (path, _) in files(place.dir.path()) {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    drop(db);
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let _db = place.open(Profile::Compat);
    for (path, _) in files(place.dir.path()) {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[cfg(unix)]
#[test]
fn follows_no_link_to_a_database() {
    let place = Place::new();
    drop(place.open(Profile::Compat));
    let link = place.dir.path().join("link.db");
    std::os::unix::fs::symlink(place.path(), &link).unwrap();
    assert!(Database::open(link, &key(1), options(Profile::Compat)).is_err());
}

#[test]
fn refuses_a_schema_that_a_newer_program_wrote() {
    const TWO: &[Migration] = &[
        SCHEMA[0],
        Migration::sql("CREATE TABLE later (a INTEGER) STRICT"),
    ];
    let place = Place::new();
    drop(Database::open(place.path(), &key(1), Options::new().migrations(TWO)).unwrap());
    let refused = Database::open(place.path(), &key(1), Options::new().migrations(SCHEMA));
    assert!(matches!(
        refused,
        Err(DatabaseError::SchemaNewer { found: 2, known: 1 })
    ));
}

#[test]
fn a_failing_migration_leaves_the_last_good_schema() {
    const BROKEN: &[Migration] = &[
        SCHEMA[0],
        Migration::sql("CREATE TABLE half (a INTEGER) STRICT; INSERT INTO nowhere VALUES (1);"),
    ];
    let place = Place::new();
    let refused = Database::open(place.path(), &key(1), Options::new().migrations(BROKEN));
    assert!(matches!(
        refused,
        Err(DatabaseError::Migration { version: 2, .. })
    ));
    let db = place.open(Profile::Compat);
    let tables: Vec<String> = db
        .read(|tx| {
            tx.query(
                "SELECT name FROM sqlite_schema WHERE name = 'half'",
                [],
                |row| row.get(0),
            )
        })
        .unwrap();
    assert!(tables.is_empty());
}

#[test]
fn components_of_one_file_have_versions_of_their_own() {
    const ONE: &[Migration] = &[Migration::sql("CREATE TABLE one (a INTEGER) STRICT")];
    const TWO: &[Migration] = &[Migration::sql("CREATE TABLE two (a INTEGER) STRICT")];
    let place = Place::new();
    let db = place.open(Profile::Compat);
    for _ in 0..2 {
        db.migrate_component("one", ONE).unwrap();
        db.migrate_component("two", TWO).unwrap();
    }
    let refused = db.migrate_component("one", &[]);
    assert!(matches!(
        refused,
        Err(DatabaseError::SchemaNewer { found: 1, known: 0 })
    ));
}

#[test]
fn a_foreign_key_opens_what_the_exported_key_describes() {
    let place = Place::new();
    add(&place.open(Profile::Compat), "shared");
    let text = key(1).expose_sqlcipher_hex();
    let foreign = DatabaseKey::from_sqlcipher_hex(&text).unwrap();
    let db = Database::open(place.path(), &foreign, options(Profile::Compat)).unwrap();
    assert_eq!(texts(&db), ["shared"]);
    drop(db);

    // The right salt with another key: found out by the first page alone.
    let wrong = format!("{}{}", "0".repeat(64), &text[64..]);
    let wrong = DatabaseKey::from_sqlcipher_hex(&wrong).unwrap();
    let before = files(place.dir.path());
    let refused = Database::open(place.path(), &wrong, options(Profile::Compat));
    assert!(
        matches!(refused, Err(DatabaseError::WrongKey { .. })),
        "{refused:?}"
    );
    assert_eq!(files(place.dir.path()), before);
}

#[test]
fn a_raw_key_of_any_other_length_is_refused_rather_than_taken_for_a_passphrase() {
    for text in [
        "",
        "00",
        &"0".repeat(63),
        &"0".repeat(95),
        &"0".repeat(97),
        &"+1".repeat(48),
        &"é".repeat(48),
    ] {
        assert!(DatabaseKey::from_sqlcipher_hex(text).is_err(), "{text}");
    }
}

#[test]
fn nothing_printed_holds_the_key() {
    let place = Place::new();
    let db = place.open(Profile::Compat);
    let text = key(1).expose_sqlcipher_hex();
    for printed in [format!("{:?}", key(1)), format!("{db:?}")] {
        assert!(!printed.contains(&text[..16]), "{printed}");
    }
    let refused = Database::open(place.path(), &key(2), options(Profile::Compat)).unwrap_err();
    assert!(!format!("{refused} {refused:?}").contains(&key(2).expose_sqlcipher_hex()[..16]));
}

#[test]
fn another_program_that_keeps_writing_makes_us_busy_and_not_stuck() {
    let place = Place::new();
    let patient = options(Profile::Compat).busy_timeout(Duration::from_millis(50));
    let one = place.open(Profile::Compat);
    let two = Database::open(place.path(), &key(1), patient).unwrap();
    one.write(|_| {
        let refused = two.write(|tx| tx.execute("INSERT INTO note (text) VALUES ('x')", []));
        assert!(matches!(refused, Err(DatabaseError::Busy)), "{refused:?}");
        Ok::<_, DatabaseError>(())
    })
    .unwrap();
}
