//! Rotation without accidents: what the database enforces, and what is reported.

use katachi_store::postgres::{PostgresError, Rotation, RowKey, SealedColumn, is_retired_key};

use super::{Postgres, email, prepared, put, sealed, wait};

pub(super) fn every_value_has_its_key() {
    wait(async {
        let server = Postgres::start(&[]);
        let (connector, client, keys) = prepared(&server).await;
        email().install(&client).await.unwrap(); // again, which changes nothing
        let old = keys.create(&client, "acme").await.unwrap();
        for id in 0..100 {
            put(&client, &old, id, &format!("{id}@example.com"))
                .await
                .unwrap();
        }
        let new = keys.rotate(&client, "acme").await.unwrap();
        assert_ne!(new, old.key_id());
        // The old key is still needed, and the database knows.
        assert!(matches!(
            keys.retire(&client, "acme").await,
            Err(PostgresError::StillNeeded(id)) if id == old.key_id()
        ));
        let not_tied = Rotation::new(&connector, &keys).column(SealedColumn::new("users", "name"));
        assert!(matches!(
            not_tied.run("acme", |_| {}).await,
            Err(PostgresError::NotInstalled(_))
        ));

        // A writer with the old cipher may go on until the key is retired.
        let rotation = Rotation::new(&connector, &keys).column(email()).batch(7);
        let mut reports = Vec::new();
        let done = rotation
            .run("acme", |progress| reports.push(progress.resealed))
            .await
            .unwrap();
        assert_eq!((done.found, done.resealed, done.refused), (100, 100, 0));
        assert_eq!(reports.first(), Some(&7));
        assert!(reports.is_sorted() && reports.len() >= 15);
        put(&client, &old, 3, "late@example.com").await.unwrap();
        assert!(keys.retire(&client, "acme").await.is_err());
        assert_eq!(rotation.run("acme", |_| {}).await.unwrap().resealed, 1);
        assert_eq!(keys.retire(&client, "acme").await.unwrap(), [old.key_id()]);
        let refused = put(&client, &old, 3, "too late").await.unwrap_err();
        assert!(is_retired_key(&refused), "{refused:?}");

        let cipher = keys.cipher(&client, "acme").await.unwrap();
        assert_eq!(cipher.key_ids().collect::<Vec<_>>(), [new]);
        for id in 0..100_i64 {
            let value = cipher
                .open(
                    &email().cell(&id.to_be_bytes()),
                    &sealed(&client, "acme", id).await,
                )
                .unwrap();
            let expected = if id == 3 {
                "late@example.com".to_owned()
            } else {
                format!("{id}@example.com")
            };
            assert_eq!(value.expose_secret(), expected.as_bytes());
        }
        // Nothing to do is done at once.
        assert_eq!(rotation.run("acme", |_| {}).await.unwrap().found, 0);
    });
}

pub(super) fn damaged_values_are_named() {
    wait(async {
        let server = Postgres::start(&[]);
        let (connector, client, keys) = prepared(&server).await;
        let old = keys.create(&client, "acme").await.unwrap();
        for id in 0..50 {
            put(&client, &old, id, "ann@example.com").await.unwrap();
        }
        client
            .batch_execute("UPDATE users SET email = set_byte(email, 80, get_byte(email, 80) # 1) WHERE id IN (20, 31)")
            .await
            .unwrap();
        keys.rotate(&client, "acme").await.unwrap();
        let rotation = Rotation::new(&connector, &keys).column(email()).batch(10);
        for resealed in [48, 0] {
            let done = rotation.run("acme", |_| {}).await.unwrap();
            assert_eq!((done.resealed, done.refused), (resealed, 2));
            let rows: Vec<_> = done
                .refused_rows
                .iter()
                .map(|(.., row)| row.as_str())
                .collect();
            assert_eq!(rows, ["20", "31"]);
        }
        assert!(matches!(
            keys.retire(&client, "acme").await,
            Err(PostgresError::StillNeeded(_))
        ));
        client
            .batch_execute("DELETE FROM users WHERE id IN (20, 31)")
            .await
            .unwrap();
        assert_eq!(keys.retire(&client, "acme").await.unwrap().len(), 1);
    });
}

pub(super) fn every_type_of_primary_key() {
    wait(async {
        let server = Postgres::start(&[]);
        let (connector, client, keys) = prepared(&server).await;
        let uuid = [
            0x12_u8, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8,
        ];
        let long = vec![5_u8; 3 << 20];
        for (kind, sql_type, literal, bytes) in [
            (
                RowKey::BigInt,
                "bigint",
                "-5",
                (-5_i64).to_be_bytes().to_vec(),
            ),
            (
                RowKey::Uuid,
                "uuid",
                "'12345678-9abc-def0-0102-030405060708'",
                uuid.to_vec(),
            ),
            (
                RowKey::Text,
                "text",
                "'größe''1'",
                "größe'1".as_bytes().to_vec(),
            ),
            (RowKey::Bytes, "bytea", "'\\x00ff27'", vec![0, 255, 39]),
        ] {
            let table = format!("Of {sql_type}");
            client
                .batch_execute(&format!(
                    "CREATE TABLE \"{table}\" (\"Account\" text, \"the key\" {sql_type} PRIMARY KEY, value bytea, other bytea)"
                ))
                .await
                .unwrap();
            let columns = ["value", "other"].map(|column| {
                SealedColumn::new(&table, column)
                    .tenant_column("Account")
                    .row_key("the key", kind)
                    .version(7)
            });
            let tenant = format!("tenant of {sql_type}");
            let old = keys.create(&client, &tenant).await.unwrap();
            for column in &columns {
                column.install(&client).await.unwrap();
            }
            let value = old.seal(&columns[0].cell(&bytes), &long).unwrap();
            client
                .execute(
                    &format!("INSERT INTO \"{table}\" VALUES ($1, {literal}, $2, NULL)"),
                    &[&tenant, &value],
                )
                .await
                .unwrap();
            keys.rotate(&client, &tenant).await.unwrap();
            let [one, two] = columns.clone();
            let rotation = Rotation::new(&connector, &keys).column(one).column(two);
            let done = rotation.run(&tenant, |_| {}).await.unwrap();
            assert_eq!((done.resealed, done.refused), (1, 0), "{sql_type}");
            keys.retire(&client, &tenant).await.unwrap();
            let cipher = keys.cipher(&client, &tenant).await.unwrap();
            let row = client
                .query_one(&format!("SELECT value FROM \"{table}\""), &[])
                .await
                .unwrap();
            let opened = cipher.open(&columns[0].cell(&bytes), row.get(0)).unwrap();
            assert_eq!(opened.expose_secret(), long);
        }
    });
}
