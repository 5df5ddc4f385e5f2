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
            let open = |()| black_box(ours(&path, SMALL_KIB));
            // Closing, which is not measured, removes the log on both sides.
            bencher.iter_batched(|| (), open, BatchSize::PerIteration);
        });
        // The least that reads a row of a SQLCipher file with a raw key and,
        // like ours, a write-ahead log.
        let text = key().expose_sqlcipher_hex();
        let bare = home.path().join("bare.db");
        let open = || {
            let connection = Connection::open(&bare).expect("a file");
            connection
                .key(None::<&str>, format!("x'{}'", &*text), false)
                .expect("a key");
            connection
        };
        open()
            .execute_batch(&format!("PRAGMA journal_mode = WAL; {TABLE}"))
            .expect("a table");
        group.bench_function("bare", |bencher| {
            let open = |()| {
                let connection = open();
                let tables = "SELECT count(*) FROM sqlite_schema";
                let count: i64 = connection
                    .query_row(tables, [], |row| row.get(0))
                    .expect("a row");
                black_box((connection, count))
            };
            bencher.iter_batched(|| (), open, BatchSize::PerIteration);
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

fn benches(criterion: &mut Criterion) {
    open::bench(criterion);
    database::opening(criterion);
    database::inserting(criterion);
    database::reading(criterion);
}

criterion_group!(store, benches);
criterion_main!(store);
