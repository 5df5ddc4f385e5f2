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
const UNDO: &str = "
    SET search_path = katachi_relay;
    ALTER TABLE agents DROP CONSTRAINT agents_one_key, DROP COLUMN key_id;
    ALTER TABLE agent_keys DROP COLUMN key_id;
    ALTER TABLE mcp_configs DROP CONSTRAINT mcp_configs_one_key, DROP COLUMN key_id;
    ALTER TABLE mcp_secrets DROP COLUMN key_id;
    ALTER TABLE identities DROP COLUMN key_id;
    ALTER TABLE mail_tokens DROP COLUMN key_id;
    ALTER TABLE users DROP CONSTRAINT users_one_key, DROP COLUMN key_id, DROP COLUMN key_made_ms;
    DROP INDEX agent_keys_by_user;
    DROP TABLE key_rotation;
    ALTER TABLE agents DROP COLUMN quarantined_at;
    DELETE FROM migrations WHERE step >= 5;";

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
        let described = |database| {
            let dump = tool(postgres, "pg_dump", &["--schema-only", database]).unwrap();
            let lines = dump.lines().filter(|line| !line.starts_with('\\'));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(described("postgres"), described("older"));

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
