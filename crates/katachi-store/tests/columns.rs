//! Sealed columns, with no driver of their own, in every kind of store: one
//! suite against PostgreSQL by two drivers, our encrypted database, and memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

#[cfg(target_os = "linux")]
#[path = "support/postgres.rs"]
mod server;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    cases::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod cases {
    use std::collections::HashMap;
    use std::process::ExitCode;

    use katachi_crypto::envelope::DataKey;
    use katachi_crypto::{KeyId, LocalKeyEncryptor, Secret, SecretBytes};
    use katachi_store::column::{Cell, ColumnCipher, ColumnError, TenantKeys};
    use katachi_store::database::{Database, DatabaseKey, Options, params};
    use libtest_mimic::{Arguments, Failed, Trial};
    use sqlx::postgres::{PgConnectOptions, PgConnection};
    use sqlx::{ConnectOptions as _, Row as _};

    use super::server::{self, Postgres};

    /// A store that holds columns of bytes.
    enum Store {
        TokioPostgres(tokio_postgres::Client),
        Sqlx(PgConnection),
        Database(Database),
        Memory(HashMap<(String, i64), [Option<Vec<u8>>; 3]>),
    }

    const KINDS: [&str; 4] = ["tokio-postgres", "sqlx", "database", "memory"];
    const COLUMNS: [&str; 3] = ["email", "name", "tag"];

    pub(super) fn main() -> ExitCode {
        let missing = server::binaries().is_none();
        let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
        let trials = KINDS
            .into_iter()
            .map(|kind| {
                let needs_server = matches!(kind, "tokio-postgres" | "sqlx");
                match missing && needs_server {
                    true if required => {
                        Trial::test(kind, || Err(Failed::from("PostgreSQL is not installed")))
                    }
                    true => {
                        let title = format!("{kind} (ignored: PostgreSQL is not installed)");
                        Trial::test(title, || Ok(())).with_ignored_flag(true)
                    }
                    false => Trial::test(kind, move || {
                        run(kind);
                        Ok(())
                    }),
                }
            })
            .collect();
        libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
    }

    fn run(kind: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let place = tempfile::tempdir().unwrap();
        let on_server = matches!(kind, "tokio-postgres" | "sqlx");
        let server = on_server.then(|| Postgres::start(&[]));
        runtime.block_on(async {
            let mut store = match (kind, &server) {
                ("tokio-postgres", Some(server)) => {
                    let tls = tokio_postgres::NoTls;
                    let connected = tokio_postgres::connect(&server.local_url(), tls).await;
                    let (client, connection) = connected.unwrap();
                    tokio::spawn(connection);
                    Store::TokioPostgres(client)
                }
                ("sqlx", Some(server)) => {
                    let options = PgConnectOptions::new()
                        .socket(server.socket_directory())
                        .port(server.port())
                        .username("postgres");
                    Store::Sqlx(options.connect().await.unwrap())
                }
                ("database", _) => {
                    let key = DatabaseKey::from_secret(Secret::new([1; 32]));
                    let path = place.path().join("columns.db");
                    Store::Database(Database::open(path, &key, Options::new()).unwrap())
                }
                _ => Store::Memory(HashMap::new()),
            };
            store.install().await;
            conforms(&mut store).await;
        });
    }

    impl Store {
        async fn install(&mut self) {
            const TABLE: &str = "CREATE TABLE people (tenant text, id bigint,
                email bytea, name bytea, tag bytea, PRIMARY KEY (tenant, id))";
            match self {
                Self::TokioPostgres(client) => client.batch_execute(TABLE).await.unwrap(),
                Self::Sqlx(connection) => {
                    sqlx::query(TABLE).execute(connection).await.unwrap();
                }
                Self::Database(db) => {
                    let table = TABLE.replace("bytea", "blob").replace("bigint", "integer");
                    db.write(|tx| tx.execute_batch(&table)).unwrap();
                }
                Self::Memory(_) => {}
            }
        }

        async fn put(&mut self, tenant: &str, id: i64, column: usize, value: Option<&[u8]>) {
            let name = COLUMNS[column];
            let sql = format!(
                "INSERT INTO people (tenant, id, {name}) VALUES ($1, $2, $3)
                 ON CONFLICT (tenant, id) DO UPDATE SET {name} = excluded.{name}"
            );
            match self {
                Self::TokioPostgres(client) => {
                    client.execute(&sql, &[&tenant, &id, &value]).await.unwrap();
                }
                Self::Sqlx(connection) => {
                    let query = sqlx::query(sqlx::AssertSqlSafe(sql));
                    let query = query.bind(tenant).bind(id).bind(value);
                    query.execute(connection).await.unwrap();
                }
                Self::Database(db) => {
                    db.write(|tx| tx.execute(&sql, params![tenant, id, value]))
                        .unwrap();
                }
                Self::Memory(rows) => {
                    let row = rows.entry((tenant.to_owned(), id)).or_default();
                    row[column] = value.map(<[u8]>::to_vec);
                }
            }
        }

        async fn get(&mut self, tenant: &str, id: i64, column: usize) -> Option<Vec<u8>> {
            let name = COLUMNS[column];
            let sql = format!("SELECT {name} FROM people WHERE tenant = $1 AND id = $2");
            match self {
                Self::TokioPostgres(client) => client
                    .query_one(&sql, &[&tenant, &id])
                    .await
                    .unwrap()
                    .get(0),
                Self::Sqlx(connection) => {
                    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant).bind(id);
                    query.fetch_one(connection).await.unwrap().get(0)
                }
                Self::Database(db) => db
                    .read(|tx| tx.query_one(&sql, params![tenant, id], |row| row.get(0)))
                    .unwrap()
                    .unwrap(),
                Self::Memory(rows) => rows[&(tenant.to_owned(), id)][column].clone(),
            }
        }

        async fn find(&mut self, tenant: &str, tag: &[u8]) -> Vec<i64> {
            const SQL: &str = "SELECT id FROM people WHERE tenant = $1 AND tag = $2 ORDER BY id";
            match self {
                Self::TokioPostgres(client) => {
                    let rows = client.query(SQL, &[&tenant, &tag]).await.unwrap();
                    rows.iter().map(|row| row.get(0)).collect()
                }
                Self::Sqlx(connection) => {
                    let query = sqlx::query_scalar(SQL).bind(tenant).bind(tag);
                    query.fetch_all(connection).await.unwrap()
                }
                Self::Database(db) => db
                    .read(|tx| tx.query(SQL, params![tenant, tag], |row| row.get(0)))
                    .unwrap(),
                Self::Memory(rows) => {
                    let mut found: Vec<i64> = rows
                        .iter()
                        .filter(|((of, _), row)| of == tenant && row[2].as_deref() == Some(tag))
                        .map(|((_, id), _)| *id)
                        .collect();
                    found.sort_unstable();
                    found
                }
            }
        }
    }

    fn cell<'a>(column: &'a str, row: &'a [u8; 8], version: u64) -> Cell<'a> {
        Cell {
            table: "people",
            column,
            row,
            version,
        }
    }

    fn tenants() -> TenantKeys<LocalKeyEncryptor> {
        let master = DataKey::from_parts(KeyId::from_bytes([7; 8]), Secret::new([9; 32]));
        TenantKeys::new(LocalKeyEncryptor::new(master))
    }

    fn refused<T: std::fmt::Debug>(outcome: Result<T, ColumnError>) -> bool {
        matches!(outcome, Err(ColumnError::Refused))
    }

    async fn conforms(store: &mut Store) {
        let tenants = tenants();
        let cipher = |tenant: &str| -> ColumnCipher {
            let wrapped = tenants.generate(tenant).unwrap();
            tenants.open(tenant, &wrapped).unwrap()
        };
        let (acme, umbrella) = (cipher("acme"), cipher("umbrella"));
        keeps_every_value(store, &acme).await;
        holds_values_to_their_place(store, &acme, &umbrella).await;
        refuses_changed_bytes(store, &acme).await;
        finds_equal_values(store, &acme, &umbrella).await;
        seals_again(store, &tenants).await;
    }

    /// What a former key sealed goes under the newest one, in its place and no other.
    async fn seals_again(store: &mut Store, tenants: &TenantKeys<LocalKeyEncryptor>) {
        let [former, newest] = [(), ()].map(|()| tenants.generate("acme").unwrap());
        let row = 9_i64.to_be_bytes();
        let place = cell("email", &row, 1);
        let alone = tenants.open("acme", &former).unwrap();
        let sealed = alone.seal(&place, b"ann").unwrap();
        store.put("acme", 9, 0, Some(&sealed)).await;
        let keys = [newest.as_slice(), former.as_slice()];
        let both = tenants.open_all("acme", keys).unwrap();
        let found = store.get("acme", 9, 0).await.unwrap();
        assert!(refused(
            both.reseal(&cell("name", &row, 1), &found)
                .map(SecretBytes::new)
        ));
        let again = both.reseal(&place, &found).unwrap();
        store.put("acme", 9, 0, Some(&again)).await;
        let found = store.get("acme", 9, 0).await.unwrap();
        let newest = tenants.open("acme", &newest).unwrap();
        assert_eq!(newest.open(&place, &found).unwrap().expose_secret(), b"ann");
        assert!(matches!(
            alone.open(&place, &found),
            Err(ColumnError::UnknownKey { .. })
        ));
        // What is under the newest key already may be sealed again too.
        let again = both.reseal(&place, &found).unwrap();
        assert_eq!(newest.open(&place, &again).unwrap().expose_secret(), b"ann");
    }

    async fn keeps_every_value(store: &mut Store, acme: &ColumnCipher) {
        let marker = b"zyxcolumnmarkerwvu".to_vec();
        let values = [
            Vec::new(),
            vec![0],
            marker.clone(),
            (0..=255).collect(),
            vec![0; 1000],
            marker.repeat(60_000),
        ];
        for (id, value) in (0_i64..).zip(&values) {
            let row = id.to_be_bytes();
            let sealed = acme.seal(&cell("email", &row, 1), value).unwrap();
            let again = acme.seal(&cell("email", &row, 1), value).unwrap();
            assert_ne!(sealed, again, "equal values look alike");
            store.put("acme", id, 0, Some(&sealed)).await;
        }
        for (id, value) in (0_i64..).zip(&values) {
            let row = id.to_be_bytes();
            let sealed = store.get("acme", id, 0).await.unwrap();
            assert!(memchr::memmem::find(&sealed, &marker).is_none());
            let opened = acme.open(&cell("email", &row, 1), &sealed).unwrap();
            assert!(opened.expose_secret() == value, "value {id}");
        }
        // Nothing is not the same as a sealed nothing.
        assert_eq!(store.get("acme", 0, 1).await, None);
        store.put("acme", 0, 0, None).await;
        assert_eq!(store.get("acme", 0, 0).await, None);
    }

    async fn holds_values_to_their_place(
        store: &mut Store,
        acme: &ColumnCipher,
        umbrella: &ColumnCipher,
    ) {
        let (one, two) = (1_i64.to_be_bytes(), 2_i64.to_be_bytes());
        for (id, row) in [(1, &one), (2, &two)] {
            let sealed = acme.seal(&cell("email", row, 1), b"ann").unwrap();
            store.put("acme", id, 0, Some(&sealed)).await;
        }
        let first = store.get("acme", 1, 0).await;
        let second = store.get("acme", 2, 0).await;

        // Rows.
        store.put("acme", 1, 0, second.as_deref()).await;
        store.put("acme", 2, 0, first.as_deref()).await;
        for (id, row, home) in [(1, &one, &two), (2, &two, &one)] {
            let moved = store.get("acme", id, 0).await.unwrap();
            assert!(refused(acme.open(&cell("email", row, 1), &moved)));
            assert!(acme.open(&cell("email", home, 1), &moved).is_ok());
        }
        // Columns.
        store.put("acme", 1, 1, first.as_deref()).await;
        let moved = store.get("acme", 1, 1).await.unwrap();
        assert!(refused(acme.open(&cell("name", &one, 1), &moved)));
        // Versions: what a column meant before.
        store.put("acme", 1, 0, first.as_deref()).await;
        let old = store.get("acme", 1, 0).await.unwrap();
        assert!(refused(acme.open(&cell("email", &one, 2), &old)));
        // Tables.
        let elsewhere = Cell {
            table: "accounts",
            ..cell("email", &one, 1)
        };
        assert!(refused(acme.open(&elsewhere, &old)));
        assert!(acme.open(&cell("email", &one, 1), &old).is_ok());
        // Tenants.
        store.put("umbrella", 1, 0, first.as_deref()).await;
        let stolen = store.get("umbrella", 1, 0).await.unwrap();
        let outcome = umbrella.open(&cell("email", &one, 1), &stolen);
        assert!(
            matches!(outcome, Err(ColumnError::UnknownKey { id }) if id == acme.key_id()),
            "{outcome:?}"
        );
    }

    async fn refuses_changed_bytes(store: &mut Store, acme: &ColumnCipher) {
        let row = 3_i64.to_be_bytes();
        let place = cell("email", &row, 1);
        let sealed = acme.seal(&place, b"bob@example.com").unwrap();
        let mut changed: Vec<Vec<u8>> = (0..sealed.len())
            .map(|at| {
                let mut bytes = sealed.clone();
                bytes[at] ^= 1 << (at % 8);
                bytes
            })
            .collect();
        changed.extend((0..sealed.len()).map(|length| sealed[..length].to_vec()));
        changed.push([&sealed[..], &[0]].concat());
        changed.push(sealed.repeat(2));
        for bytes in changed {
            store.put("acme", 3, 0, Some(&bytes)).await;
            let stored = store.get("acme", 3, 0).await.unwrap();
            assert_eq!(stored, bytes, "the store keeps every byte");
            assert!(acme.open(&place, &stored).is_err(), "{stored:?}");
        }
    }

    async fn finds_equal_values(store: &mut Store, acme: &ColumnCipher, umbrella: &ColumnCipher) {
        for cipher in [acme, umbrella] {
            let index = cipher.index("people", "email");
            for id in 10..20_i64 {
                let tag = index.tag(format!("{}", id % 3).as_bytes(), 64).unwrap();
                store.put(cipher.tenant(), id, 2, Some(&tag)).await;
            }
        }
        let tag = |cipher: &ColumnCipher| cipher.index("people", "email").tag(b"1", 64).unwrap();
        assert_eq!(store.find("acme", &tag(acme)).await, [10, 13, 16, 19]);
        assert_eq!(
            store.find("umbrella", &tag(umbrella)).await,
            [10, 13, 16, 19]
        );
        assert!(store.find("umbrella", &tag(acme)).await.is_empty());
        let of_name = acme.index("people", "name").tag(b"1", 64).unwrap();
        assert!(store.find("acme", &of_name).await.is_empty());
    }
}
