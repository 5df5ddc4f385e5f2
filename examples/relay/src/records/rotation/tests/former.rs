//! Databases of an older version.

use std::path::Path;

use katachi_store::database::{Database, DatabaseKey, Options, Profile};

use super::*;
use crate::records::keys::Keys;
use crate::records::store::Store;
use crate::records::{FILE, postgres, schema};

/// The last step of the schema before accounts' keys had an age.
const BEFORE: usize = 5;

/// What makes of a schema the one before accounts' keys had an age.
const UNDO: &str = include_str!("../../../../tests/service_postgres/older.sql");

#[tokio::test(flavor = "multi_thread")]
async fn an_older_database_in_postgresql_is_brought_up_to_date_and_its_keys_rotate() {
    in_postgres(|place| {
        let records = place.open();
        let ana = account(&records, "ana");
        let (key, _) = sealed(&records, &ana);
        drop(records);
        place.sql(UNDO).unwrap();
        // Which is what the older version made: both are described alike.
        let postgres = place.postgres.as_ref().unwrap();
        tool(postgres, "createdb", &["older"]).unwrap();
        postgres::make_former(&url(postgres, "older"), BEFORE).unwrap();
        assert_eq!(
            described(postgres, "postgres"),
            described(postgres, "older")
        );

        let records = place.open();
        assert_opens(&records, &ana, "ana");
        let made = place.sql("SELECT key_made_ms FROM katachi_relay.users");
        assert_eq!(made, Ok((BEGUN * 1000).to_string()));
        let old = run(&records, Some(Duration::from_secs(24 * 3600)), |_| {}).unwrap();
        assert_eq!(old.rotated, 1);
        assert_opens(&records, &ana, "ana");
        assert_ne!(sealed(&records, &ana).0, key);
    })
    .await;
}

#[test]
fn an_older_embedded_database_is_brought_up_to_date_and_its_keys_rotate() {
    let place = Place::embedded();
    let vault = machine::open_vault(place.dir.path(), KeychainUse::Never).unwrap();
    let keys = Keys::Vault(std::sync::Arc::new(vault));
    write_former(&place.dir.path().join(FILE), &keys);
    let records = place.open();
    let (key, secret) = sealed(&records, "ana");
    let opens = |secret: SecretRow| {
        let opened = records.read_now(|tx| records.open_mcp(tx, "ana", &[secret]));
        assert_eq!(opened.unwrap()[0].expose_secret(), "secret of ana");
    };
    opens(secret);
    let made = records.read_now(|tx| {
        tx.query_one("SELECT key_made_ms FROM users", values![], |row| {
            row.uint(0)
        })
    });
    assert_eq!(made.unwrap(), Some(BEGUN * 1000));
    let old = run(&records, Some(Duration::from_secs(24 * 3600)), |_| {}).unwrap();
    assert_eq!((old.rotated, old.values), (1, 1));
    let (new_key, secret) = sealed(&records, "ana");
    assert_ne!(new_key, key);
    opens(secret);
}

/// An account with a secret, as the older version wrote it.
fn write_former(path: &Path, keys: &Keys) {
    let Keys::Vault(vault) = keys else {
        unreachable!("the test has a vault");
    };
    let options = Options::new()
        .profile(Profile::Fast)
        .migrations(&schema::MIGRATIONS[..BEFORE]);
    let key = DatabaseKey::from_vault(vault, "relay").unwrap();
    let database = Database::open(path, &key, options).unwrap();
    let wrapped = keys.generate("ana").unwrap();
    let cell = Cell {
        table: "mcp_secrets",
        column: "sealed",
        row: b"github/TOKEN",
        version: 1,
    };
    let cipher = keys.open("ana", &wrapped).unwrap();
    let sealed = cipher.seal(&cell, b"secret of ana").unwrap();
    let store = Store::Embedded(database);
    store
        .write(|tx| {
            tx.execute(
                "INSERT INTO users (id, email, address, password, tenant_key, created_at)
                 VALUES ('ana', 'ana@example.org', 'ana@example.org', 'x', ?1, ?2)",
                values![wrapped, int(BEGUN)],
            )?;
            tx.execute(
                "INSERT INTO mcp_configs VALUES ('ana', 'github', '[]', '{}', '[]', 1, 0)",
                values![],
            )?;
            tx.execute(
                "INSERT INTO mcp_secrets VALUES ('ana', 'github', 'TOKEN', 1, ?1)",
                values![sealed],
            )
        })
        .unwrap();
}

/// The tables as PostgreSQL describes them.
fn described(postgres: &Postgres, database: &str) -> String {
    let dump = tool(postgres, "pg_dump", &["--schema-only", database]).unwrap();
    let lines = dump.lines().filter(|line| !line.starts_with('\\'));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_older_schema_in_postgresql_becomes_the_newest() {
    in_postgres(|place| {
        drop(place.open());
        let postgres = place.postgres.as_ref().unwrap();
        let newest = described(postgres, "postgres");
        for step in 1..schema::POSTGRES.len() {
            let name = format!("step{step}");
            tool(postgres, "createdb", &[&name]).unwrap();
            postgres::make_former(&url(postgres, &name), step).unwrap();
            assert_ne!(described(postgres, &name), newest, "{name} is none");
            let dir = tempfile::tempdir().unwrap();
            let vault = machine::open_vault(dir.path(), KeychainUse::Never).unwrap();
            let source = DatabaseSource::Postgres(Box::new(url(postgres, &name)));
            let records = Records::open(&source, None, dir.path(), vault).unwrap();
            let ana = account(&records, "ana");
            assert_opens(&records, &ana, "ana");
            drop(records);
            assert_eq!(described(postgres, &name), newest, "{name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_older_embedded_schema_becomes_the_newest_and_keeps_its_accounts() {
    let described = |records: &Records| {
        let tables = records.read_now(|tx| {
            let sql = "SELECT name, coalesce(sql, '') FROM sqlite_master ORDER BY name";
            tx.query(sql, values![], |row| {
                Ok((row.get::<String>(0)?, row.get::<String>(1)?))
            })
        });
        tables.unwrap()
    };
    let run = move || {
        let newest = described(&Place::embedded().open());
        assert!(newest.len() > 10);
        for step in 1..schema::MIGRATIONS.len() {
            let place = Place::embedded();
            let vault = machine::open_vault(place.dir.path(), KeychainUse::Never).unwrap();
            let options = Options::new()
                .profile(Profile::Fast)
                .migrations(&schema::MIGRATIONS[..step]);
            let key = DatabaseKey::from_vault(&vault, "relay").unwrap();
            let database = Database::open(place.dir.path().join(FILE), &key, options).unwrap();
            let keys = Keys::Vault(std::sync::Arc::new(vault));
            let wrapped = keys.generate("ana").unwrap();
            // The columns that every version had.
            let added = Store::Embedded(database).write(|tx| {
                let address = tx.query_one(
                    "SELECT count(*) FROM pragma_table_info('users') WHERE name = 'address'",
                    values![],
                    |row| row.uint(0),
                )?;
                let columns = match address {
                    Some(1) => ("email, address", "'ana@example.org', 'ana@example.org'"),
                    _ => ("email", "'ana@example.org'"),
                };
                let sql = format!(
                    "INSERT INTO users (id, {}, password, tenant_key, created_at)
                     VALUES ('ana', {}, 'x', ?1, 7)",
                    columns.0, columns.1
                );
                tx.execute(&sql, values![wrapped])
            });
            assert_eq!(added.unwrap(), 1);
            drop(keys);
            let records = place.open();
            assert_eq!(described(&records), newest, "after step {step}");
            let ana = records.read_now(|tx| users::by_id(tx, "ana")).unwrap();
            assert_eq!(ana.unwrap().email, "ana@example.org", "after step {step}");
        }
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}
