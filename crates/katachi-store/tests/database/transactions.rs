//! Transactions, threads and panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use katachi_store::database::{DatabaseError, Profile};

use crate::support::{Place, add, texts};

#[test]
fn an_error_rolls_the_transaction_back() {
    let place = Place::new();
    let db = place.open(Profile::Compat);
    let outcome = db.write(|tx| {
        tx.execute("INSERT INTO note (text) VALUES ('gone')", [])?;
        Err::<(), _>(DatabaseError::Argument { what: "on purpose" })
    });
    assert!(matches!(outcome, Err(DatabaseError::Argument { .. })));
    assert!(texts(&db).is_empty());
}

#[test]
fn a_panic_rolls_the_transaction_back_and_the_next_one_works() {
    let place = Place::new();
    let db = place.open(Profile::Compat);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        db.write(|tx| {
            tx.execute("INSERT INTO note (text) VALUES ('gone')", [])?;
            if texts(&db).is_empty() {
                panic!("on purpose");
            }
            Ok::<_, DatabaseError>(())
        })
    }));
    assert!(outcome.is_err());
    add(&db, "kept");
    assert_eq!(texts(&db), ["kept"]);
}

#[test]
fn a_statement_that_ends_the_transaction_is_noticed() {
    let place = Place::new();
    let db = place.open(Profile::Compat);
    let outcome = db.write(|tx| {
        tx.execute("INSERT INTO note VALUES (1, 'gone')", [])?;
        let failed = tx.execute("INSERT OR ROLLBACK INTO note VALUES (1, 'twice')", []);
        assert!(matches!(failed, Err(DatabaseError::Constraint { .. })));
        tx.execute(
            "INSERT INTO note VALUES (2, 'would be committed by itself')",
            [],
        )
    });
    assert!(
        matches!(outcome, Err(DatabaseError::TransactionEnded)),
        "{outcome:?}"
    );
    assert!(texts(&db).is_empty());
}

#[test]
fn a_read_transaction_cannot_write() {
    let place = Place::new();
    let db = place.open(Profile::Compat);
    let outcome = db.read(|tx| {
        tx.query(
            "INSERT INTO note (text) VALUES ('x') RETURNING id",
            [],
            |row| row.get::<_, i64>(0),
        )
    });
    assert!(
        matches!(outcome, Err(DatabaseError::WriteInRead)),
        "{outcome:?}"
    );
}

#[test]
fn a_write_inside_a_write_is_refused_and_not_stuck() {
    let place = Place::new();
    let db = place.open(Profile::Compat);
    db.write(|_| {
        let nested = db.write(|tx| tx.execute("DELETE FROM note", []));
        assert!(matches!(nested, Err(DatabaseError::Nested)));
        Ok::<_, DatabaseError>(())
    })
    .unwrap();
}

#[test]
fn a_reader_sees_one_state_while_another_thread_writes() {
    let place = Place::new();
    let db = place.open(Profile::Fast);
    add(&db, "before");
    db.read(|tx| {
        let count = |tx: &katachi_store::database::ReadTx<'_>| {
            tx.query_one("SELECT count(*) FROM note", [], |row| row.get::<_, i64>(0))
        };
        assert_eq!(count(tx)?, Some(1));
        std::thread::scope(|scope| scope.spawn(|| add(&db, "meanwhile")).join().unwrap());
        assert_eq!(count(tx)?, Some(1));
        Ok::<_, DatabaseError>(())
    })
    .unwrap();
    assert_eq!(texts(&db).len(), 2);
}

#[test]
fn eight_threads_lose_nothing_and_read_all_the_while() {
    let place = Place::new();
    let db = place.open(Profile::Fast);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let db = db.clone();
            scope.spawn(move || {
                for number in 0..50 {
                    add(&db, &format!("{thread}/{number}"));
                    let count: Option<i64> = db
                        .read(|tx| tx.query_one("SELECT count(*) FROM note", [], |row| row.get(0)))
                        .unwrap();
                    assert!(count >= Some(number + 1));
                }
            });
        }
    });
    let mut all = texts(&db);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 8 * 50);
}

#[test]
fn errors_name_the_schema_and_never_a_value() {
    let place = Place::new();
    let db = place.open(Profile::Compat);
    let secret = "the value nobody may see";
    let outcomes = [
        db.write(|tx| tx.execute(&format!("INSERT INTO nowhere VALUES ('{secret}')"), [])),
        db.write(|tx| tx.execute("INSERT INTO note (id, text) VALUES (?1, 'x')", [secret])),
        db.write(|tx| tx.execute("INSERT INTO note (text) VALUES (NULL)", [])),
        db.read(|tx| {
            let sql = format!("SELECT '{secret}'");
            tx.query_one(&sql, [], |row| row.get::<_, i64>(0))
                .map(|_| 0)
        }),
    ];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(
            !format!("{error} {error:?}").contains("nobody"),
            "{error:?}"
        );
    }
}
