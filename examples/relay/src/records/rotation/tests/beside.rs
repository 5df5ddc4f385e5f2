//! A rotation beside writers and other rotations.

use std::sync::mpsc;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_is_waited_for_and_what_is_written_opens() {
    everywhere(|place| {
        let serving = place.open();
        let ana = account(&serving, "ana");
        let (has_sealed, sealed_it) = mpsc::channel();
        std::thread::scope(|scope| {
            // Dropped by a failure, it ends the writer.
            let (go_on, may_go_on) = mpsc::channel::<()>();
            let runtime = tokio::runtime::Handle::current();
            let writer = scope.spawn({
                let (serving, ana, runtime) = (&serving, &ana, runtime.clone());
                move || {
                    let _runtime = runtime.enter();
                    serving.write_now(|tx| {
                        // As `put` does it: the key, a ciphertext, and only then the row.
                        users::tenant_key(tx, ana)?;
                        let row = SecretRow {
                            config: "github".to_owned(),
                            name: "LATE".to_owned(),
                            version: 2,
                            sealed: Vec::new(),
                        };
                        let mut rows = [(row, Sensitive::new("late"))];
                        serving.seal_mcp(tx, ana, &mut rows)?;
                        has_sealed.send(()).unwrap();
                        may_go_on.recv().unwrap();
                        let [(row, _)] = rows;
                        tx.execute(
                            "INSERT INTO mcp_secrets (user_id, config, name, version, sealed)
                             VALUES (?1, ?2, ?3, ?4, ?5)",
                            values![ana, row.config, row.name, 2_i64, row.sealed],
                        )
                    })
                }
            });
            sealed_it.recv().unwrap();
            let (report, progress) = mpsc::channel();
            let rotation = scope.spawn({
                let runtime = runtime.clone();
                move || {
                    let _runtime = runtime.enter();
                    run(&place.open_beside(), None, |seen| {
                        report.send(seen.rotated).unwrap();
                    })
                }
            });
            // In PostgreSQL it begins, and comes no further, however long it tries.
            let longer = GIVE_WAY * 3;
            if place.postgres.is_some() {
                assert_eq!(progress.recv(), Ok(0));
            }
            assert!(progress.recv_timeout(longer).is_err(), "it did not wait");
            go_on.send(()).unwrap();
            assert_eq!(writer.join().unwrap().unwrap(), 1);
            assert_eq!(rotation.join().unwrap().unwrap().rotated, 1);
        });
        let late = serving.read_now(|tx| {
            let mut rows = mcp::secrets_of(tx, &ana, "github")?;
            rows.retain(|row| row.name == "LATE");
            serving.open_mcp(tx, &ana, &rows)
        });
        assert_eq!(late.unwrap()[0].expose_secret(), "late");
        assert_opens_but_secrets(&serving, &ana);
    })
    .await;
}

fn assert_opens_but_secrets(records: &Records, account: &str) {
    let opened = records.read_now(|tx| users::by_id(tx, account));
    assert_eq!(opened.unwrap().unwrap().email, "ana@example.org");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_change_each_key_once() {
    everywhere(|place| {
        let serving = place.open();
        let names = ["ana", "bob", "eve", "joe"];
        let accounts = names.map(|name| account(&serving, name));
        let rotated: u64 = std::thread::scope(|scope| {
            let runtime = tokio::runtime::Handle::current();
            let runs = [(), ()].map(|()| {
                let runtime = runtime.clone();
                scope.spawn(move || {
                    let _runtime = runtime.enter();
                    all(&place.open_beside()).rotated
                })
            });
            runs.into_iter().map(|run| run.join().unwrap()).sum()
        });
        // The second may begin when the first has ended.
        let each = accounts
            .each_ref()
            .map(|account| rotations(&serving, account));
        assert!(each == [1; 4] || each == [2; 4], "{each:?}");
        assert_eq!(rotated, each.iter().sum::<usize>() as u64);
        for (account, name) in accounts.iter().zip(names) {
            assert_opens(&serving, account, name);
        }
    })
    .await;
}
