//! All is sealed again, and nothing under a former key is left or let in.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn all_is_sealed_under_a_new_key_and_nothing_is_left_of_the_former_one() {
    everywhere(|place| {
        let serving = place.open();
        let names = ["ana", "bob", "eve"];
        let accounts = names.map(|name| account(&serving, name));
        let former = accounts.each_ref().map(|account| sealed(&serving, account));
        let mut seen = Vec::new();
        let done = run(&place.open_beside(), None, |progress| {
            seen.push((progress.rotated, progress.accounts));
        })
        .unwrap();
        assert_eq!(seen, [(0, 3), (1, 3), (2, 3), (3, 3)]);
        // Address, password; host, system, version; key; command, variables, agents;
        // secret; label; address of a mail.
        let each = if place.postgres.is_some() { 12 } else { 2 };
        assert_eq!((done.rotated, done.values), (3, 3 * each));
        for ((account, name), (key, secret)) in accounts.iter().zip(names).zip(former) {
            assert_opens(&serving, account, name);
            assert_eq!(rotations(&serving, account), 1);
            let (new_key, new_secret) = sealed(&serving, account);
            assert_ne!(new_key, key);
            let old = serving.0.keys.open(account, &key).unwrap();
            let new = serving.0.keys.open(account, &new_key).unwrap();
            let place_of = format!("{}/{}", secret.config, secret.name);
            let cell = Cell {
                table: "mcp_secrets",
                column: "sealed",
                row: place_of.as_bytes(),
                version: secret.version,
            };
            assert!(old.open(&cell, &secret.sealed).is_ok(), "the test is wrong");
            assert!(new.open(&cell, &secret.sealed).is_err());
            assert!(old.open(&cell, &new_secret.sealed).is_err());
            if place.postgres.is_some() {
                let everything = everything(place);
                let holds = |bytes: &[u8]| everything.contains(&hex(bytes));
                assert!(
                    holds(new.key_id().as_bytes()) && holds(&new_key),
                    "no such search"
                );
                assert!(!holds(old.key_id().as_bytes()), "the former key is named");
                assert!(!holds(&key), "the former key is there");
            }
        }
        assert_eq!(
            all(&serving).rotated,
            3,
            "a run that was finished is gone on with"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_sealed_column_is_forgotten() {
    in_postgres(|place| {
        drop(place.open());
        let columns = place
            .sql(
                "SELECT table_name || '.' || column_name FROM information_schema.columns
                 WHERE table_schema = 'katachi_relay' AND data_type = 'bytea'
                   AND is_generated = 'NEVER'",
            )
            .unwrap();
        // Digests, tags, wrapped keys, and what the key of the service seals.
        let others = [
            "audit.hash",
            "device_grants.device_code",
            "device_grants.record",
            "device_grants.user_code",
            "guesses.subject",
            "identities.key",
            "mail_tokens.digest",
            "nodes.incarnation",
            "nodes.keyset",
            "nodes.public_key",
            "service.proof",
            "service.wrapped_key",
            "sessions.digest",
            "sign_ins.record",
            "sign_ins.state",
            "throttles.who",
            "users.email",
            "users.tenant_key",
        ];
        let sealed = SEALED.iter().flat_map(|sealed| {
            let columns = sealed.columns.iter();
            columns.map(|column| format!("{}.{column}", sealed.table))
        });
        let sealed: Vec<String> = sealed.collect();
        for column in columns.lines() {
            let known = others.contains(&column) || sealed.iter().any(|sealed| sealed == column);
            assert!(known, "does a rotation seal {column} again?");
        }
        for column in &sealed {
            assert!(columns.lines().any(|found| found == column), "{column}");
        }
    })
    .await;
}

/// What a writer sealed before a rotation began, it writes before the rotation goes on.

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_names_a_former_key_is_refused_by_the_database_itself() {
    in_postgres(|place| {
        let serving = place.open();
        let ana = account(&serving, "ana");
        let (_, former) = sealed(&serving, &ana);
        all(&serving);
        // What a relay of an older version writes, which sealed it before.
        for table in ["mcp_secrets", "agent_keys"] {
            let written = place.sql(&format!(
                "UPDATE katachi_relay.{table} SET sealed = decode('{}', 'hex')",
                hex(&former.sealed)
            ));
            assert!(written.unwrap_err().contains("account_key"), "{table}");
        }
        let written = place.sql(&format!(
            "UPDATE katachi_relay.users SET password = decode('{}', 'hex')",
            hex(&former.sealed)
        ));
        assert!(written.unwrap_err().contains("users_one_key"));
        let written = place.sql("DELETE FROM katachi_relay.users");
        assert_eq!(written, Ok("DELETE 1".to_owned()), "an account cannot go");
    })
    .await;
}
