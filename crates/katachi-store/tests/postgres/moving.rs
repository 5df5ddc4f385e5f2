//! Values and keys that somebody with access to the database moves about.

use katachi_store::column::ColumnError;
use katachi_store::postgres::{PostgresError, Rotation, SealedColumn};

use super::{Postgres, email, prepared, put, sealed, wait};

pub(super) fn a_moved_value_is_refused() {
    wait(async {
        let server = Postgres::start(&[]);
        let (_, client, keys) = prepared(&server).await;
        let name = SealedColumn::new("users", "name");
        name.install(&client).await.unwrap();
        let (acme, umbrella) = (
            keys.create(&client, "acme").await.unwrap(),
            keys.create(&client, "umbrella").await.unwrap(),
        );
        for cipher in [&acme, &umbrella] {
            for id in [1, 2] {
                put(&client, cipher, id, "ann@example.com").await.unwrap();
            }
        }
        // All that an attacker could ask PostgreSQL for: rows, columns, tenants.
        client
            .batch_execute(
                "UPDATE users u SET email = o.email, email_tag = o.email_tag
                 FROM users o WHERE u.tenant = 'acme' AND o.tenant = u.tenant AND u.id = 3 - o.id;
                 UPDATE users SET name = (SELECT email FROM users WHERE tenant = 'acme' AND id = 2)
                 WHERE tenant = 'acme' AND id = 1",
            )
            .await
            .unwrap();
        for id in [1_i64, 2] {
            let value = sealed(&client, "acme", id).await;
            let row = id.to_be_bytes();
            assert!(matches!(
                acme.open(&email().cell(&row), &value),
                Err(ColumnError::Refused)
            ));
            let home = (3 - id).to_be_bytes();
            assert!(
                acme.open(&email().cell(&home), &value).is_ok(),
                "the control"
            );
        }
        let moved: Vec<u8> = client
            .query_one(
                "SELECT name FROM users WHERE tenant = 'acme' AND id = 1",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        let row = 1_i64.to_be_bytes();
        assert!(matches!(
            acme.open(&name.cell(&row), &moved),
            Err(ColumnError::Refused)
        ));

        // Another tenant's value does not even go in; whoever has the foreign key
        // removed gets no further.
        let theft =
            "UPDATE users SET email = (SELECT email FROM users WHERE tenant = 'acme' AND id = 1)
                     WHERE tenant = 'umbrella' AND id = 2";
        assert!(client.batch_execute(theft).await.is_err());
        client
            .batch_execute("ALTER TABLE users DROP CONSTRAINT email_katachi_key")
            .await
            .unwrap();
        client.batch_execute(theft).await.unwrap();
        let stolen = sealed(&client, "umbrella", 2).await;
        let row = 2_i64.to_be_bytes();
        assert!(matches!(
            umbrella.open(&email().cell(&row), &stolen),
            Err(ColumnError::UnknownKey { id }) if id == acme.key_id()
        ));
        // Every byte of the value counts.
        let good = sealed(&client, "umbrella", 1).await;
        let row = 1_i64.to_be_bytes();
        for place in 0..good.len() {
            let changed = client
                .query_one(
                    "SELECT set_byte($1, $2, get_byte($1, $2) # 1)",
                    &[&good, &(place as i32)],
                )
                .await
                .unwrap();
            let changed: &[u8] = changed.get(0);
            assert!(
                umbrella.open(&email().cell(&row), changed).is_err(),
                "byte {place}"
            );
        }
    });
}

pub(super) fn equal_values_are_found() {
    wait(async {
        let server = Postgres::start(&[]);
        let (connector, client, keys) = prepared(&server).await;
        let cipher = keys.create(&client, "acme").await.unwrap();
        for id in 0..20 {
            put(&client, &cipher, id, &format!("{}@example.com", id % 5))
                .await
                .unwrap();
        }
        let find = async |value: &str| -> usize {
            let cipher = keys.cipher(&client, "acme").await.unwrap();
            let tags = email().tags(&cipher, value.as_bytes()).unwrap();
            let rows = client
                .query(
                    "SELECT id, email FROM users WHERE tenant = 'acme' AND email_tag = ANY ($1)",
                    &[&tags],
                )
                .await
                .unwrap();
            for row in &rows {
                let opened = cipher
                    .open(
                        &email().cell(&row.get::<_, i64>(0).to_be_bytes()),
                        row.get(1),
                    )
                    .unwrap();
                assert_eq!(opened.expose_secret(), value.as_bytes());
            }
            rows.len()
        };
        assert_eq!(find("3@example.com").await, 4);
        assert_eq!(find("nobody@example.com").await, 0);
        keys.rotate(&client, "acme").await.unwrap();
        // Some under either key.
        let cipher = keys.cipher(&client, "acme").await.unwrap();
        put(&client, &cipher, 3, "3@example.com").await.unwrap();
        assert_eq!(find("3@example.com").await, 4);
        Rotation::new(&connector, &keys)
            .column(email())
            .run("acme", |_| {})
            .await
            .unwrap();
        assert_eq!(keys.retire(&client, "acme").await.unwrap().len(), 1);
        assert_eq!(find("3@example.com").await, 4);
    });
}

pub(super) fn a_destroyed_tenant_is_unreadable() {
    wait(async {
        let server = Postgres::start(&[]);
        let (_, client, keys) = prepared(&server).await;
        for tenant in ["acme", "umbrella"] {
            let cipher = keys.create(&client, tenant).await.unwrap();
            put(&client, &cipher, 1, "ann@example.com").await.unwrap();
        }
        keys.rotate(&client, "acme").await.unwrap();
        assert_eq!(keys.destroy(&client, "acme").await.unwrap(), 2);
        for outcome in [
            keys.cipher(&client, "acme").await,
            keys.create(&client, "acme").await,
        ] {
            assert!(matches!(outcome, Err(PostgresError::Destroyed(_))));
        }
        assert!(matches!(
            keys.rotate(&client, "acme").await,
            Err(PostgresError::NoTenant(_))
        ));
        assert!(
            keys.list(&client, "acme")
                .await
                .unwrap()
                .iter()
                .all(|key| key.is_destroyed)
        );
        // Neither does another tenant's cipher open what is left.
        let umbrella = keys.cipher(&client, "umbrella").await.unwrap();
        let (left, row) = (sealed(&client, "acme", 1).await, 1_i64.to_be_bytes());
        assert!(umbrella.open(&email().cell(&row), &left).is_err());
        let own = sealed(&client, "umbrella", 1).await;
        assert!(umbrella.open(&email().cell(&row), &own).is_ok());
        assert!(matches!(
            keys.cipher(&client, "nobody").await,
            Err(PostgresError::NoTenant(_))
        ));
    });
}

pub(super) fn a_swapped_key_is_refused() {
    wait(async {
        let server = Postgres::start(&[]);
        let (_, client, keys) = prepared(&server).await;
        keys.create(&client, "acme").await.unwrap();
        keys.create(&client, "umbrella").await.unwrap();
        // A transaction, and a client of a pool, do as well as a client.
        for forgery in [
            "UPDATE katachi_tenant_keys SET wrapped = (SELECT wrapped FROM katachi_tenant_keys WHERE tenant = 'umbrella') WHERE tenant = 'acme'",
            "UPDATE katachi_tenant_keys SET key_id = '\\x0102030405060708' WHERE tenant = 'acme'",
            "UPDATE katachi_tenant_keys SET wrapped = set_byte(wrapped, 90, get_byte(wrapped, 90) # 1) WHERE tenant = 'acme'",
            "UPDATE katachi_tenant_keys SET wrapped = '' WHERE tenant = 'acme'",
        ] {
            client.batch_execute("BEGIN").await.unwrap();
            client.batch_execute(forgery).await.unwrap();
            let outcome = keys.cipher(&client, "acme").await;
            assert!(
                matches!(outcome, Err(PostgresError::Column(_))),
                "{forgery}"
            );
            client.batch_execute("ROLLBACK").await.unwrap();
        }
        let before = keys.cipher(&client, "acme").await.unwrap().key_id();
        assert_eq!(keys.rewrap(&client, "acme").await.unwrap(), 1);
        assert_eq!(keys.cipher(&client, "acme").await.unwrap().key_id(), before);
    });
}
