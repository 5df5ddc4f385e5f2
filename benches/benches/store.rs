//! Opening a vault and a database, beside opening a bare SQLCipher file with a
//! raw key; and what the encrypted database costs against plain SQLite.

use criterion::{Criterion, criterion_group, criterion_main};

mod open {
    use std::hint::black_box;
    use std::path::Path;

    use criterion::Criterion;
    use katachi_fingerprint::Probe as _;
    use katachi_fingerprint::testing::Machine;
    use katachi_store::Vault;
    use katachi_store::binding::FingerprintBinding;
    use katachi_store::testing::MemoryKeychain;
    use katachi_store::vault::{Builder, SlotKind};

    /// The keychain answers from memory and the machine is looked at once, so
    /// that the vault's own work is measured.
    fn vault(home: &Path, keychain: &MemoryKeychain) -> Builder {
        let root = home.join("machine");
        if !root.exists() {
            Machine::laptop().write_to(&root).expect("a fake machine");
        }
        let seen = katachi_fingerprint::SystemProbe::with_root(&root).observe();
        Vault::builder(home.join("vault"))
            .binding(FingerprintBinding::with_probe(seen))
            .keychain(keychain.clone())
    }

    pub(super) fn bench(criterion: &mut Criterion) {
        let home = tempfile::tempdir().expect("a directory");
        let keychain = MemoryKeychain::new();
        let created = vault(home.path(), &keychain).create().expect("a vault");
        created.data_key("database").expect("a key");
        created.add_recovery_code().expect("a slot");
        drop(created);
        let opened = vault(home.path(), &keychain).open().expect("a vault");
        assert_eq!(opened.report().slot.kind, SlotKind::Keychain);

        let mut group = criterion.benchmark_group("open");
        group.bench_function("vault", |bencher| {
            bencher.iter_batched(
                || vault(home.path(), &keychain),
                |builder| black_box(builder.open().expect("a vault")),
                criterion::BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

/// The encrypted database beside the same SQLite without a key, with the same
/// page size, journal, cache and overwriting of deleted rows.
mod database {
    use std::hint::black_box;
    use std::path::Path;
    use std::time::Instant;

    use criterion::{BatchSize, Criterion, Throughput};
    use katachi_store::Secret;
    use katachi_store::database::{
        Database, DatabaseError, DatabaseKey, Migration, Options, Profile,
    };
    use rusqlite::Connection;

    /// Of 750 bytes, as long as a message often is.
    const ROWS: i64 = 50_000;
    const BATCH: i64 = 5_000;
    const GETS: u64 = 200;
    /// Holds the whole table.
    const LARGE_KIB: u32 = 128 * 1024;
    /// Holds a few pages, so that nearly every row is read from the file: from
    /// the system's memory on both sides, with as many reads.
    const SMALL_KIB: u32 = 64;

    const TABLE: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT";
    const SCHEMA: &[Migration] = &[Migration::sql(TABLE)];
    const INSERT: &str = "INSERT INTO note (text) VALUES (?1)";
    const GET: &str = "SELECT text FROM note WHERE id = ?1";

    fn key() -> DatabaseKey {
        DatabaseKey::from_secret(Secret::new([7; 32]))
    }

    fn ours(path: &Path, cache_kib: u32) -> Database {
        let options = Options::new()
            .profile(Profile::Fast)
            .migrations(SCHEMA)
            .cache_kib(cache_kib);
        Database::open(path, &key(), options).expect("a database")
    }

    fn plain(path: &Path, cache_kib: u32) -> Connection {
        let connection = Connection::open(path).expect("a database");
        connection
            .execute_batch(&format!(
                "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
                 PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{cache_kib};
                 CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;"
            ))
            .expect("settings");
        connection
    }

    fn text(number: i64) -> String {
        format!("{number:0>750}")
    }

    fn fill_ours(db: &Database, rows: i64) {
        db.write(|tx| {
            for number in 0..rows {
                tx.execute(INSERT, [text(number)])?;
            }
            Ok::<_, DatabaseError>(())
        })
        .expect("rows");
    }

    fn fill_plain(connection: &mut Connection, rows: i64) {
        let tx = connection.transaction().expect("a transaction");
        for number in 0..rows {
            let mut insert = tx.prepare_cached(INSERT).expect("a statement");
            insert.execute([text(number)]).expect("a row");
        }
        tx.commit().expect("a commit");
    }

    /// Row numbers all over the table, the same for both.
    fn scattered() -> impl Iterator<Item = i64> {
        let mut state = 1_u64;
        (0..GETS).map(move |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            i64::try_from((state >> 33) % ROWS.unsigned_abs()).expect("a row") + 1
        })
    }

    fn get_ours(db: &Database) -> usize {
        db.read(|tx| {
            let mut total = 0;
            for id in scattered() {
                total += tx
                    .query_one(GET, [id], |row| row.get::<_, String>(0))?
                    .unwrap_or_default()
                    .len();
            }
            Ok::<_, DatabaseError>(total)
        })
        .expect("rows")
    }

    fn get_plain(connection: &mut Connection) -> usize {
        let tx = connection.transaction().expect("a transaction");
        let mut total = 0;
        for id in scattered() {
            let mut get = tx.prepare_cached(GET).expect("a statement");
            total += get
                .query_row([id], |row| row.get::<_, String>(0))
                .expect("a row")
                .len();
        }
        total
    }

    pub(super) fn opening(criterion: &mut Criterion) {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("ours.db");
        fill_ours(&ours(&path, SMALL_KIB), 1000);
        let mut group = criterion.benchmark_group("open");
        group.bench_function("database", |bencher| {
            bencher.iter(|| black_box(ours(&path, SMALL_KIB)));
        });
        // The least that reads a row of a SQLCipher file with a raw key.
        let text = key().expose_sqlcipher_hex();
        let bare = home.path().join("bare.db");
        let open = || {
            let connection = Connection::open(&bare).expect("a file");
            connection
                .key(None::<&str>, format!("x'{}'", &*text), false)
                .expect("a key");
            connection
        };
        open().execute_batch(TABLE).expect("a table");
        group.bench_function("bare", |bencher| {
            bencher.iter(|| {
                let connection = open();
                let tables = "SELECT count(*) FROM sqlite_schema";
                let count: i64 = connection
                    .query_row(tables, [], |row| row.get(0))
                    .expect("a row");
                black_box((connection, count))
            });
        });
        group.finish();
    }

    pub(super) fn inserting(criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("database-insert");
        group
            .sample_size(20)
            .throughput(Throughput::Elements(BATCH.unsigned_abs()));
        group.bench_function("ours", |bencher| {
            bencher.iter_batched(
                || {
                    let home = tempfile::tempdir().expect("a directory");
                    let db = ours(&home.path().join("a.db"), LARGE_KIB);
                    (home, db)
                },
                |(home, db)| {
                    fill_ours(&db, BATCH);
                    (home, db)
                },
                BatchSize::PerIteration,
            );
        });
        group.bench_function("plain", |bencher| {
            bencher.iter_batched(
                || {
                    let home = tempfile::tempdir().expect("a directory");
                    let connection = plain(&home.path().join("a.db"), LARGE_KIB);
                    (home, connection)
                },
                |(home, mut connection)| {
                    fill_plain(&mut connection, BATCH);
                    (home, connection)
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }

    pub(super) fn reading(criterion: &mut Criterion) {
        let home = tempfile::tempdir().expect("a directory");
        let (encrypted, clear) = (home.path().join("ours.db"), home.path().join("plain.db"));
        let started = Instant::now();
        fill_ours(&ours(&encrypted, LARGE_KIB), ROWS);
        fill_plain(&mut plain(&clear, LARGE_KIB), ROWS);
        eprintln!("filled both with {ROWS} rows in {:?}", started.elapsed());
        for (name, cache_kib) in [
            ("database-cold-read", SMALL_KIB),
            ("database-warm-read", LARGE_KIB),
        ] {
            let db = ours(&encrypted, cache_kib);
            let mut connection = plain(&clear, cache_kib);
            assert_eq!(get_ours(&db), get_plain(&mut connection));
            let mut group = criterion.benchmark_group(name);
            group.throughput(Throughput::Elements(GETS));
            group.bench_function("ours", |bencher| bencher.iter(|| black_box(get_ours(&db))));
            group.bench_function("plain", |bencher| {
                bencher.iter(|| black_box(get_plain(&mut connection)));
            });
            group.finish();
        }
    }
}

/// Full-text search in a history, beside the same tables and the same query in
/// plain SQLite with the same page size and cache. In a million messages where
/// `KATACHI_LONG` is `1`, and in 50,000 otherwise.
mod search {
    use std::hint::black_box;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use criterion::Criterion;
    use katachi_store::Secret;
    use katachi_store::database::{Database, DatabaseError, DatabaseKey, Options, Profile};
    use katachi_store::history::History;
    use rusqlite::Connection;

    const BATCH: i64 = 10_000;
    const INSERT: &str = "INSERT INTO history_message
        (session_id, role, state, text, created_ms, touched_ms)
        VALUES (?1, 'user', 'complete', ?2, ?3, ?3)";
    /// What `History::search` runs.
    const SEARCH: &str = "
        SELECT m.id, m.session_id, s.workspace_id, s.title, m.role, m.created_ms,
               snippet(history_fts, 0, char(2), char(3), '…', 24), history_fts.rank
        FROM history_fts
        CROSS JOIN history_message m ON m.id = history_fts.rowid
        CROSS JOIN history_session s ON s.id = m.session_id
        WHERE history_fts MATCH ?1 ORDER BY history_fts.rank LIMIT 20";
    /// Words in a hundredth and in a thousandth of the messages, both, and two
    /// that follow each other.
    const QUERIES: [&str; 4] = [
        "century7",
        "millennium5",
        "century5 millennium5",
        "\"on century9\"",
    ];

    fn text(number: i64) -> String {
        let mut state = number.unsigned_abs();
        let mut text = format!(
            "message {number} on century{} and millennium{}",
            number % 100,
            number % 1000
        );
        for _ in 0..30 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            text.push_str(&format!(" word{}", (state >> 33) % 5000));
        }
        text
    }

    fn fill_ours(db: &Database, messages: i64) {
        let history = History::open(db).expect("a history");
        let workspace = history.workspace("bench").expect("a workspace");
        for first in (0..messages).step_by(BATCH as usize) {
            let session = history
                .start_session(workspace, "session")
                .expect("a session");
            db.write(|tx| {
                for number in first..(first + BATCH).min(messages) {
                    tx.execute(INSERT, (session.0, text(number), number))?;
                }
                Ok::<_, DatabaseError>(())
            })
            .expect("messages");
        }
    }

    /// The same tables and rows, in the clear.
    fn fill_plain(db: &Database, path: &Path, messages: i64) -> Connection {
        let mut connection = Connection::open(path).expect("a database");
        let tables = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL
                      AND name GLOB 'history_*' AND name NOT GLOB 'history_fts_*'
                      ORDER BY type = 'trigger', type = 'index', rowid";
        let tables: Vec<String> = db
            .read(|tx| tx.query(tables, [], |row| row.get(0)))
            .expect("tables");
        connection
            .execute_batch(&format!(
                "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
                 PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384;
                 {};
                 INSERT INTO history_fts (history_fts, rank) VALUES ('secure-delete', 1);
                 INSERT INTO history_workspace (name, created_ms) VALUES ('bench', 0);",
                tables.join(";")
            ))
            .expect("tables");
        for first in (0..messages).step_by(BATCH as usize) {
            let tx = connection.transaction().expect("a transaction");
            let session =
                "INSERT INTO history_session (workspace_id, title, created_ms, updated_ms)
                           VALUES (1, 'session', 0, 0)";
            tx.execute(session, []).expect("a session");
            let session = tx.last_insert_rowid();
            for number in first..(first + BATCH).min(messages) {
                let mut insert = tx.prepare_cached(INSERT).expect("a statement");
                insert
                    .execute((session, text(number), number))
                    .expect("a row");
            }
            tx.commit().expect("a commit");
        }
        connection
    }

    fn search_plain(
        connection: &Connection,
        query: &str,
    ) -> Vec<(i64, i64, i64, String, String, i64, String, f64)> {
        // `TextQuery` puts every word in quotes.
        let query = match query.contains('"') {
            true => query.to_owned(),
            false => query
                .split(' ')
                .map(|word| format!("\"{word}\" "))
                .collect(),
        };
        let mut statement = connection.prepare_cached(SEARCH).expect("a statement");
        let rows = statement.query_map([query], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
                row.get(5)?,
                row.get(6)?,
                row.get(7)?,
            ))
        });
        rows.expect("rows").collect::<Result<_, _>>().expect("rows")
    }

    pub(super) fn bench(criterion: &mut Criterion) {
        let long = std::env::var_os("KATACHI_LONG").is_some_and(|value| value == "1");
        let messages = if long { 1_000_000 } else { 50_000 };
        let home = tempfile::tempdir().expect("a directory");
        let key = DatabaseKey::from_secret(Secret::new([7; 32]));
        let options = Options::new().profile(Profile::Fast);
        let started = Instant::now();
        let db = Database::open(home.path().join("ours.db"), &key, options).expect("a database");
        fill_ours(&db, messages);
        let ours = started.elapsed();
        let plain = fill_plain(&db, &home.path().join("plain.db"), messages);
        eprintln!(
            "search in {messages} messages; filled in {ours:?} and {:?}",
            started.elapsed() - ours
        );
        let history = History::open(&db).expect("a history");
        for query in QUERIES {
            let ours: Vec<i64> = history
                .search(query, 20)
                .expect("hits")
                .iter()
                .map(|hit| hit.message.0)
                .collect();
            let theirs: Vec<i64> = search_plain(&plain, query)
                .iter()
                .map(|hit| hit.0)
                .collect();
            assert_eq!(ours, theirs, "{query}");
            assert_eq!(ours.len(), 20, "{query}");
        }
        let mut group = criterion.benchmark_group("search");
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(if long { 20 } else { 5 }));
        group.bench_function("ours", |bencher| {
            bencher.iter(|| {
                for query in QUERIES {
                    black_box(history.search(query, 20).expect("hits"));
                }
            });
        });
        group.bench_function("plain", |bencher| {
            bencher.iter(|| {
                for query in QUERIES {
                    black_box(search_plain(&plain, query));
                }
            });
        });
        group.finish();
    }
}

/// `cargo xtask bench` asks for one group at a time, and filling the largest
/// takes long.
fn wanted(group: &str) -> bool {
    let asked = std::env::args().find(|word| word.starts_with('^'));
    asked.is_none_or(|asked| asked == format!("^{group}/"))
}

fn benches(criterion: &mut Criterion) {
    open::bench(criterion);
    database::opening(criterion);
    database::inserting(criterion);
    database::reading(criterion);
    if wanted("search") {
        search::bench(criterion);
    }
}

criterion_group!(store, benches);
criterion_main!(store);
