//! Two hundred rows of 200 bytes into PostgreSQL and back: sealed here, and by
//! pgcrypto inside the server with its fastest key derivation (its default takes a
//! hundred times as long). Both ways over the same Unix socket, in the same server.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use katachi_crypto::LocalKeyEncryptor;
use katachi_crypto::envelope::DataKey;
use katachi_store::column::{Cell, ColumnCipher, TenantKeys};
use tokio_postgres::{Client, NoTls};

#[allow(dead_code)]
#[path = "../../crates/katachi-store/tests/support/postgres.rs"]
mod server;

const ROWS: i64 = 200;
const OPTIONS: &str = "cipher-algo=aes256, s2k-mode=0, compress-algo=0";

fn cipher() -> ColumnCipher {
    let key = DataKey::generate().expect("randomness");
    let tenants = TenantKeys::new(LocalKeyEncryptor::new(key));
    let wrapped = tenants.generate("acme").expect("randomness");
    tenants.open("acme", &wrapped).expect("it was just made")
}

fn cell(row: &[u8]) -> Cell<'_> {
    Cell {
        table: "t",
        column: "value",
        row,
        version: 1,
    }
}

async fn ours(client: &Client, cipher: &ColumnCipher, plain: &[u8]) {
    let ids: Vec<i64> = (0..ROWS).collect();
    let sealed: Vec<Vec<u8>> = ids
        .iter()
        .map(|id| cipher.seal(&cell(&id.to_be_bytes()), plain).expect("short"))
        .collect();
    client
        .execute(
            "INSERT INTO t SELECT * FROM unnest($1::bigint[], $2::bytea[])",
            &[&ids, &sealed],
        )
        .await
        .expect("inserted");
    for row in client
        .query("SELECT id, value FROM t", &[])
        .await
        .expect("read")
    {
        let id: i64 = row.get(0);
        let opened = cipher.open(&cell(&id.to_be_bytes()), row.get(1));
        black_box(opened.expect("it was sealed here"));
    }
}

async fn pgcrypto(client: &Client, password: &str, plain: &[u8]) {
    let ids: Vec<i64> = (0..ROWS).collect();
    let values = vec![plain; ids.len()];
    client
        .execute(
            "INSERT INTO t SELECT id, pgp_sym_encrypt_bytea(value, $3, $4)
             FROM unnest($1::bigint[], $2::bytea[]) AS n (id, value)",
            &[&ids, &values, &password, &OPTIONS],
        )
        .await
        .expect("inserted");
    let rows = client
        .query(
            "SELECT id, pgp_sym_decrypt_bytea(value, $1) FROM t",
            &[&password],
        )
        .await
        .expect("read");
    for row in rows {
        black_box(row.get::<_, &[u8]>(1));
    }
}

fn column(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("column");
    group.sample_size(20);
    if server::binaries().is_none() {
        eprintln!("PostgreSQL is not installed: the row column/pgcrypto stays empty");
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = server::Postgres::start(&["fsync=off"]);
    let config: tokio_postgres::Config = server.local_url().parse().expect("an address");
    let (client, connection) = runtime.block_on(config.connect(NoTls)).expect("connected");
    runtime.spawn(connection);
    let batch = |sql: &str| runtime.block_on(client.batch_execute(sql));
    batch("CREATE TABLE t (id bigint PRIMARY KEY, value bytea)").expect("a table");
    let (cipher, plain) = (cipher(), [b'x'; 200]);
    group.bench_function("ours", |bencher| {
        bencher.iter(|| {
            batch("TRUNCATE t").expect("emptied");
            runtime.block_on(ours(&client, &cipher, &plain));
        });
    });
    if batch("CREATE EXTENSION pgcrypto").is_ok() {
        group.bench_function("pgcrypto", |bencher| {
            bencher.iter(|| {
                batch("TRUNCATE t").expect("emptied");
                runtime.block_on(pgcrypto(&client, "a password of the bench", &plain));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, column);
criterion_main!(benches);
