//! A run that meets what does not open, or was ended before.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_open_keeps_its_account_s_key_and_is_named() {
    everywhere(|place| {
        let serving = place.open();
        let (ana, bob) = (account(&serving, "ana"), account(&serving, "bob"));
        let (key, _) = sealed(&serving, &ana);
        // The header still names the key.
        let damage = |records: &Records, from: u8| {
            records.write_now(|tx| {
                let sealed = mcp::secrets(tx, &ana)?.remove(0).sealed;
                let mut damaged = sealed.clone();
                *damaged.last_mut().unwrap() ^= from;
                tx.execute(
                    "UPDATE mcp_secrets SET sealed = ?2 WHERE user_id = ?1",
                    values![&ana, damaged],
                )
            })
        };
        damage(&serving, 1).unwrap();
        let done = run(&serving, None, |_| {}).unwrap();
        assert_eq!((done.rotated, done.failed.len()), (1, 1));
        assert!(
            done.failed[&ana].starts_with("mcp_secrets.sealed of github/TOKEN: "),
            "{:?}",
            done.failed
        );
        assert_eq!(sealed(&serving, &ana).0, key);
        assert_eq!(rotations(&serving, &ana), 0);
        assert_opens(&serving, &bob, "bob");
        // Once it is mended, the next run has that one left.
        damage(&serving, 1).unwrap();
        let done = run(&serving, None, |_| {}).unwrap();
        assert!(done.continued && done.failed.is_empty());
        assert_eq!((done.accounts, done.rotated), (1, 1));
        assert_opens(&serving, &ana, "ana");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_where_one_was_ended_and_age_is_asked_for() {
    everywhere(|place| {
        let serving = place.open();
        let accounts: Vec<String> = ["ana", "bob", "eve"]
            .map(|name| account(&serving, name))
            .into();
        let of = |records: &Records| {
            accounts
                .iter()
                .map(|a| rotations(records, a))
                .sum::<usize>()
        };
        // One that was ended after its first account.
        let (before, _) = serving.write_now(|tx| begin(tx, None)).unwrap();
        serving
            .write_now(|tx| rotate(&serving, tx, &accounts[1], before))
            .unwrap()
            .unwrap();
        // Who comes later with the same account in hand leaves it as it is.
        let again = serving.write_now(|tx| rotate(&serving, tx, &accounts[1], before));
        assert_eq!(again.unwrap(), None);
        let done = all(&serving);
        assert!(done.continued);
        assert_eq!((done.accounts, done.rotated, of(&serving)), (2, 2, 3));
        // Nothing is as old as that; everything is as old as this.
        let age = |seconds| run(&serving, Some(Duration::from_secs(seconds)), |_| {}).unwrap();
        assert_eq!(age(3600).rotated, 0);
        serving
            .write_now(|tx| {
                let sql = "UPDATE users SET key_made_ms = key_made_ms - 7200000 WHERE id = ?1";
                tx.execute(sql, values![&accounts[2]])
            })
            .unwrap();
        assert_eq!(age(3600).rotated, 1);
        assert_eq!(age(0).rotated, 3);
        // One that was ended long ago says nothing of today.
        serving.write_now(|tx| begin(tx, None)).unwrap();
        let (before, _) = serving.write_now(|tx| begin(tx, None)).unwrap();
        serving
            .write_now(|tx| rotate(&serving, tx, &accounts[1], before))
            .unwrap();
        serving
            .write_now(|tx| {
                let sql = "UPDATE key_rotation SET begun_ms = begun_ms - 86400000";
                tx.execute(sql, values![])
            })
            .unwrap();
        let done = all(&serving);
        assert!(!done.continued && done.rotated == 3);
        // Nor does a clock that was set back since keep a key.
        serving
            .write_now(|tx| {
                let sql = "UPDATE users SET key_made_ms = key_made_ms + 7200000";
                tx.execute(sql, values![])
            })
            .unwrap();
        assert_eq!(all(&serving).rotated, 3);
        for (account, name) in accounts.iter().zip(["ana", "bob", "eve"]) {
            assert_opens(&serving, account, name);
        }
    })
    .await;
}
