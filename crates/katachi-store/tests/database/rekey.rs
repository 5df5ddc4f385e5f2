//! Changing the key, and taking over plain databases.

use katachi_store::SecretString;
use katachi_store::database::{Database, DatabaseError, DatabaseKey, ImportFrom, Options, Profile};

use crate::support::{BOTH, Place, add, files, key, options, texts};

#[test]
fn a_changed_key_opens_and_the_old_one_does_not() {
    for profile in BOTH {
        let place = Place::new();
        let db = place.open(profile);
        for number in 0..100 {
            add(&db, &format!("note {number} {}", "z".repeat(500)));
        }
        let before = texts(&db);
        drop(db);
        Database::rekey(place.path(), &key(1), &key(2), options(profile)).unwrap();

        let refused = Database::open(place.path(), &key(1), options(profile));
        assert!(matches!(refused, Err(DatabaseError::WrongKey { .. })));
        let (db, which) =
            Database::open_any(place.path(), &[&key(1), &key(2)], options(profile)).unwrap();
        assert_eq!(which, 1);
        assert_eq!(texts(&db), before);
        assert!(db.verify().unwrap().is_sound());
        let names: Vec<_> = files(place.dir.path())
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        assert!(
            names
                .iter()
                .all(|path| !path.to_string_lossy().contains("rekey")),
            "{names:?}"
        );
    }
}

#[test]
fn no_page_of_the_old_key_survives_in_the_file() {
    let place = Place::new();
    let db = place.open(Profile::Compat);
    (0..50).for_each(|_| add(&db, &"a".repeat(3000)));
    db.checkpoint().unwrap();
    drop(db);
    let before = std::fs::read(place.path()).unwrap();
    Database::rekey(place.path(), &key(1), &key(2), options(Profile::Compat)).unwrap();
    let after = std::fs::read(place.path()).unwrap();
    let old: std::collections::HashSet<&[u8]> = before.chunks(4096).collect();
    assert!(after.chunks(4096).all(|page| !old.contains(page)));
}

#[test]
fn an_open_database_is_not_rekeyed() {
    let place = Place::new();
    let db = Database::open(place.path(), &key(1), options(Profile::Compat)).unwrap();
    add(&db, "kept");
    let impatient = options(Profile::Compat).busy_timeout(std::time::Duration::from_millis(20));
    let refused = Database::rekey(place.path(), &key(1), &key(2), impatient);
    assert!(matches!(refused, Err(DatabaseError::Busy)), "{refused:?}");
    add(&db, "and goes on");
    assert_eq!(texts(&db), ["kept", "and goes on"]);
}

#[test]
fn rekeying_with_a_wrong_key_changes_nothing() {
    let place = Place::new();
    add(&place.open(Profile::Compat), "kept");
    let before = files(place.dir.path());
    let refused = Database::rekey(place.path(), &key(2), &key(3), options(Profile::Compat));
    assert!(matches!(refused, Err(DatabaseError::WrongKey { .. })));
    assert_eq!(files(place.dir.path()), before);
}

#[test]
fn a_plain_database_is_taken_over_whole() {
    for profile in BOTH {
        let place = Place::new();
        let plain = place.dir.path().join("plain.db");
        let connection = rusqlite::Connection::open(&plain).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
                 CREATE VIRTUAL TABLE note_fts USING fts5(text);
                 CREATE VIEW loud AS SELECT upper(text) AS text FROM note;
                 CREATE INDEX by_text ON note (text);
                 INSERT INTO note (text) VALUES ('one'), ('two');
                 INSERT INTO note_fts SELECT text FROM note;
                 PRAGMA user_version = 1;",
            )
            .unwrap();
        drop(connection);
        let before = std::fs::read(&plain).unwrap();
        let db = Database::import_plain(&plain, place.path(), &key(1), options(profile)).unwrap();
        assert_eq!(texts(&db), ["one", "two"]);
        let found: Option<String> = db
            .read(|tx| {
                let sql = "SELECT l.text FROM loud l, note_fts f WHERE note_fts MATCH 'two' AND l.text = upper(f.text)";
                tx.query_one(sql, [], |row| row.get(0))
            })
            .unwrap();
        assert_eq!(found.as_deref(), Some("TWO"));
        assert!(db.verify().unwrap().is_sound());
        assert_eq!(std::fs::read(&plain).unwrap(), before);
        drop(db);
        assert_eq!(texts(&place.open(profile)), ["one", "two"]);
        assert!(Database::import_plain(&plain, place.path(), &key(1), options(profile)).is_err());
    }
}

#[test]
fn only_a_plain_database_is_imported() {
    let place = Place::new();
    drop(place.open(Profile::Compat));
    let target = place.dir.path().join("new.db");
    let refused = Database::import_plain(place.path(), &target, &key(1), Options::new());
    assert!(matches!(refused, Err(DatabaseError::Argument { .. })));
    assert!(!target.exists());
}

/// A file as another SQLCipher program would leave it.
fn foreign(path: &std::path::Path, key: &str) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.key(None::<&str>, key, false).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
             CREATE VIRTUAL TABLE note_fts USING fts5(text);
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000)
             INSERT INTO note (text) SELECT 'note ' || i || hex(zeroblob(500)) FROM n;
             PRAGMA user_version = 1;",
        )
        .unwrap();
}

#[test]
fn an_encrypted_database_is_taken_over_with_its_key_or_its_passphrase() {
    let place = Place::new();
    let raw = format!("{}{}", "5a".repeat(32), "c3".repeat(16));
    let raw_key = DatabaseKey::from_sqlcipher_hex(&raw).unwrap();
    let passphrase = SecretString::new("correct horse".to_owned());
    let wrong = SecretString::new("battery staple".to_owned());
    let (with_key, with_passphrase) = (
        place.dir.path().join("key.db"),
        place.dir.path().join("passphrase.db"),
    );
    foreign(&with_key, &format!("x'{raw}'"));
    foreign(&with_passphrase, "correct horse");
    for (source, from, refused) in [
        (
            &with_key,
            ImportFrom::Key(&raw_key),
            ImportFrom::Passphrase(&passphrase),
        ),
        (
            &with_passphrase,
            ImportFrom::Passphrase(&passphrase),
            ImportFrom::Passphrase(&wrong),
        ),
    ] {
        for profile in BOTH {
            let target = place.dir.path().join(format!("new-{profile:?}"));
            let import = |from, progress: &mut dyn FnMut(_)| {
                Database::import(source, from, &target, &key(1), options(profile), progress)
            };
            let outcome = import(refused, &mut |_| {});
            assert!(
                matches!(outcome, Err(DatabaseError::WrongKey { .. })),
                "{outcome:?}"
            );
            let outcome = import(ImportFrom::Plain, &mut |_| {});
            assert!(
                matches!(outcome, Err(DatabaseError::Argument { .. })),
                "{outcome:?}"
            );
            assert!(!target.exists());

            let mut last = Default::default();
            let db = import(from, &mut |progress| last = progress).unwrap();
            let texts = texts(&db);
            assert_eq!(texts.len(), 3000);
            assert!(texts[2999].starts_with("note 3000"));
            assert!(
                last.written * 10 > last.total * 9 && last.total > 1 << 20,
                "{last:?}"
            );
            assert!(db.verify().unwrap().is_sound());
            drop(db);
            std::fs::remove_file(target).unwrap();
        }
    }
}

#[test]
fn a_restored_backup_takes_the_place_of_whatever_was_there() {
    for profile in BOTH {
        let place = Place::new();
        let db = place.open(profile);
        add(&db, "backed up");
        let backup = place.dir.path().join("backup.db");
        db.backup(&backup).unwrap();
        add(&db, "later");
        let restore = || Database::restore(&backup, place.path(), &key(1), options(profile));
        assert!(matches!(restore(), Err(DatabaseError::Busy)), "it is open");
        add(&db, "goes on");
        drop(db);
        restore().unwrap();
        assert_eq!(texts(&place.open(profile)), ["backed up"]);

        // A damaged one, one with a stale log, and none at all.
        std::fs::write(place.path(), [7; 10_000]).unwrap();
        restore().unwrap();
        std::fs::write(place.dir.path().join("test.db-wal"), [7; 10_000]).unwrap();
        restore().unwrap();
        std::fs::remove_file(place.path()).unwrap();
        restore().unwrap();
        assert_eq!(texts(&place.open(profile)), ["backed up"]);

        let before = files(place.dir.path());
        let wrong = Database::restore(&backup, place.path(), &key(2), options(profile));
        assert!(matches!(wrong, Err(DatabaseError::WrongKey { .. })));
        let mut damaged = std::fs::read(&backup).unwrap();
        damaged[5000] ^= 1;
        let bad = place.dir.path().join("bad.db");
        std::fs::write(&bad, damaged).unwrap();
        let refused = Database::restore(&bad, place.path(), &key(1), options(profile));
        assert!(
            matches!(refused, Err(DatabaseError::Corrupt { page: Some(2), .. })),
            "{refused:?}"
        );
        std::fs::remove_file(bad).unwrap();
        assert_eq!(files(place.dir.path()), before);
    }
}
