//! Statements that could carry plaintext away.

use katachi_store::database::DatabaseError;

use crate::support::{BOTH, Place, add, files, texts};

/// Each with a word for the failure message.
const FORBIDDEN: &[&str] = &[
    "ATTACH 'DIR/out.db' AS out KEY ''",
    "ATTACH 'DIR/out.db' AS out",
    "ATTACH ':memory:' AS out KEY ''",
    "ATTACH '' AS out KEY ''",
    "DETACH main",
    "VACUUM INTO 'DIR/out.db'",
    "SELECT sqlcipher_export('main')",
    "SELECT load_extension('DIR/out.so')",
    "SELECT fts3_tokenizer('simple')",
    "PRAGMA key = 'x'",
    "PRAGMA rekey = 'x'",
    "PRAGMA hexkey = '00'",
    "PRAGMA hexrekey = '00'",
    "PRAGMA cipher_compatibility = 1",
    "PRAGMA cipher_plaintext_header_size = 32",
    "PRAGMA cipher_default_plaintext_header_size = 32",
    "PRAGMA cipher_use_hmac = OFF",
    "PRAGMA cipher_log = 'DIR/out.log'",
    "PRAGMA cipher_log_level = TRACE",
    "PRAGMA cipher_profile = 'DIR/out.log'",
    "PRAGMA cipher_salt",
    "PRAGMA cipher_settings",
    "PRAGMA cipher_store_pass = 1",
    "PRAGMA cipher_migrate",
    "PRAGMA temp_store = FILE",
    "PRAGMA temp_store_directory = 'DIR'",
    "PRAGMA journal_mode = OFF",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = ON",
    "PRAGMA secure_delete = OFF",
    "PRAGMA query_only = OFF",
    "PRAGMA trusted_schema = ON",
    "PRAGMA user_version = 7",
    "PRAGMA wal_checkpoint",
    "PRAGMA unknown_pragma = 1",
    "SELECT * FROM pragma_cipher_settings",
    "CREATE VIRTUAL TABLE leak USING csv('DIR/out.csv')",
    "CREATE VIRTUAL TABLE leak USING fts4(a)",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "END",
];

#[test]
fn refuses_every_statement_that_could_leak_or_weaken() {
    for profile in BOTH {
        let place = Place::new();
        let db = place.open(profile);
        add(&db, "kept");
        let before = files(place.dir.path()).len();
        for template in FORBIDDEN {
            let sql = template.replace("DIR", &place.dir.path().to_string_lossy());
            let by_execute = db.write(|tx| tx.execute(&sql, []).map(drop));
            let by_batch = db.write(|tx| tx.execute_batch(&sql));
            let by_query = db.read(|tx| tx.query(&sql, [], |_| Ok(())).map(drop));
            for outcome in [by_execute, by_batch, by_query] {
                // Some are not even known to this build of SQLite.
                let refused = matches!(
                    outcome,
                    Err(DatabaseError::Forbidden { .. } | DatabaseError::Sql { .. })
                );
                assert!(refused, "{sql}: {outcome:?}");
            }
        }
        assert_eq!(files(place.dir.path()).len(), before, "a file appeared");
        assert_eq!(texts(&db), ["kept"]);
    }
}

#[test]
fn the_authoriser_itself_refuses_what_matters_most() {
    let place = Place::new();
    let db = place.open(BOTH[0]);
    for sql in [
        "ATTACH ':memory:' AS out KEY ''",
        "SELECT sqlcipher_export('main')",
        "PRAGMA temp_store = FILE",
        "PRAGMA key = 'x'",
        "COMMIT",
    ] {
        let outcome = db.write(|tx| tx.execute(sql, []));
        assert!(
            matches!(outcome, Err(DatabaseError::Forbidden { .. })),
            "{sql}: {outcome:?}"
        );
    }
}

#[test]
fn allows_what_programs_need() {
    let place = Place::new();
    let db = place.open(BOTH[0]);
    db.write(|tx| {
        tx.execute_batch(
            "CREATE TEMP TABLE scratch (a);
             INSERT INTO scratch VALUES (1);
             SAVEPOINT inner_part; INSERT INTO scratch VALUES (2); ROLLBACK TO inner_part; RELEASE inner_part;
             CREATE INDEX by_text ON note (text);
             ALTER TABLE note ADD COLUMN extra TEXT;
             CREATE VIEW seen AS SELECT text FROM note;
             DROP VIEW seen; DROP INDEX by_text; DROP TABLE scratch;
             ANALYZE; REINDEX;",
        )?;
        let tables = tx.query("SELECT name FROM pragma_table_info('note')", [], |row| row.get::<_, String>(0))?;
        assert_eq!(tables, ["id", "text", "extra"]);
        let version: Option<u32> = tx.query_one("PRAGMA user_version", [], |row| row.get(0))?;
        assert_eq!(version, Some(1));
        let store: Option<i64> = tx.query_one("PRAGMA temp_store", [], |row| row.get(0))?;
        assert_eq!(store, Some(2), "temporary tables are in memory");
        Ok::<_, DatabaseError>(())
    })
    .unwrap();
}
