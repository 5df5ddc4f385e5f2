//! Rotation without end, by a worker process that is killed again and again, in a
//! server that is killed again and again, while writers write and remember.

use std::collections::HashMap;
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use katachi_crypto::{KeyId, LocalKeyEncryptor};
use katachi_store::column::{ColumnCipher, ColumnError};
use katachi_store::postgres::{Connector, KeyTable, PostgresError, Rotation, is_retired_key};
use tokio_postgres::Client;

use super::{Postgres, connector, email, keys, prepared, put, roots, sealed, wait};

const WORKER: &str = "KATACHI_ROTATION_WORKER";
const AUTHORITY: &str = "KATACHI_ROTATION_AUTHORITY";
const WRITERS: i64 = 4;
const ROWS: i64 = 60;

/// In a worker process: rotates without end.
pub(super) fn worker() -> Option<ExitCode> {
    let url = std::env::var(WORKER).ok()?;
    let authority = std::env::var(AUTHORITY).unwrap();
    wait(async {
        let connector = Connector::tls(url.parse().unwrap(), roots(&authority)).unwrap();
        loop {
            let Ok(client) = connector.connect().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let keys = keys();
            let finished = keys
                .list(&client, "acme")
                .await
                .is_ok_and(|keys| keys.len() == 1);
            if finished && keys.rotate(&client, "acme").await.is_err() {
                continue;
            }
            let rotation = Rotation::new(&connector, &keys).column(email()).batch(16);
            match rotation.run("acme", |_| {}).await {
                Ok(progress) => assert_eq!(progress.refused, 0, "{progress:?}"),
                Err(PostgresError::Database(_) | PostgresError::Timeout(_)) => {}
                Err(error) => panic!("{error}"),
            }
            // A writer with an old cipher may have come in between.
            match keys.retire(&client, "acme").await {
                Ok(_)
                | Err(
                    PostgresError::StillNeeded(_)
                    | PostgresError::Database(_)
                    | PostgresError::Timeout(_),
                ) => {}
                Err(error) => panic!("{error}"),
            }
        }
    })
}

fn start_worker(server: &Postgres) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .env(WORKER, server.url())
        .env(AUTHORITY, &server.authority)
        .spawn()
        .unwrap()
}

/// Ends a worker whatever happens.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn nothing_is_lost() {
    let long = std::env::var_os("KATACHI_LONG").is_some_and(|value| value == "1");
    let rounds = if long { 100 } else { 12 };
    wait(async {
        // Processes are killed, not the machine: what was written stays written.
        let mut server = Postgres::start(&["fsync=off"]);
        let (_, client, keys) = prepared(&server).await;
        let first = keys.create(&client, "acme").await.unwrap();
        for id in 0..WRITERS * ROWS {
            put(&client, &first, id, "0").await.unwrap();
        }
        drop(client);
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let writer = Writer {
                    number,
                    connector: connector(&server),
                    stop: stop.clone(),
                    writes: writes.clone(),
                    model: (0..ROWS).map(|row| (row * WRITERS + number, 0)).collect(),
                };
                tokio::spawn(writer.run())
            })
            .collect();

        let whole = undisturbed(&server, &keys, first.key_id()).await;
        for round in 0..rounds {
            let mut worker = Worker(start_worker(&server));
            // Not always the same moment: the primes spread over a rotation and a bit.
            let part = 0.2 + f64::from(round * 37 % 211) / 211.0;
            tokio::time::sleep(whole.mul_f64(part)).await;
            if let Some(status) = worker.0.try_wait().unwrap() {
                panic!("the worker ended by itself: {status}");
            }
            if round % 3 == 2 {
                server.kill();
                server.run();
            }
        }
        // Whoever died in the middle, the next one ends it.
        stop.store(true, Ordering::Relaxed);
        let mut model = HashMap::new();
        for writer in writers {
            model.extend(writer.await.unwrap());
        }
        let connector = connector(&server);
        let client = connector.connect().await.unwrap();
        keys.rotate(&client, "acme").await.unwrap();
        let rotation = Rotation::new(&connector, &keys).column(email());
        let progress = rotation.run("acme", |_| {}).await.unwrap();
        assert_eq!(progress.refused, 0);
        assert!(!keys.retire(&client, "acme").await.unwrap().is_empty());
        let cipher = keys.cipher(&client, "acme").await.unwrap();
        assert_eq!(cipher.key_ids().count(), 1);
        assert_ne!(cipher.key_id(), first.key_id());
        assert_eq!(model.len() as i64, WRITERS * ROWS);
        for (id, value) in model {
            let opened = cipher
                .open(
                    &email().cell(&id.to_be_bytes()),
                    &sealed(&client, "acme", id).await,
                )
                .unwrap();
            assert_eq!(
                opened.expose_secret(),
                value.to_string().as_bytes(),
                "row {id}"
            );
            let tag = email().tag(&cipher, value.to_string().as_bytes()).unwrap();
            let row = client
                .query_one(
                    "SELECT email_tag FROM users WHERE tenant = 'acme' AND id = $1",
                    &[&id],
                )
                .await
                .unwrap();
            assert_eq!(row.get::<_, Option<Vec<u8>>>(0), tag, "row {id}");
        }
        let writes = writes.load(Ordering::Relaxed);
        assert!(writes > 100, "only {writes} writes");
    });
}

/// How long a worker takes on this machine, from its start until the key is retired with
/// which the rows were written.
async fn undisturbed(
    server: &Postgres,
    keys: &KeyTable<LocalKeyEncryptor>,
    first: KeyId,
) -> Duration {
    let _worker = Worker(start_worker(server));
    let began = Instant::now();
    let client = connector(server).connect().await.unwrap();
    loop {
        let kept = keys.list(&client, "acme").await.unwrap();
        if kept.iter().all(|key| key.id != first) {
            return began.elapsed();
        }
        let waited = began.elapsed();
        assert!(waited < Duration::from_secs(60), "no rotation ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Writes its own rows, and knows what each must hold.
struct Writer {
    number: i64,
    connector: Connector,
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    model: HashMap<i64, u64>,
}

impl Writer {
    async fn run(mut self) -> HashMap<i64, u64> {
        let keys = keys();
        let mut next = 1;
        let mut unsure: Option<(i64, u64)> = None;
        'connected: loop {
            let (client, mut cipher) = loop {
                let connected = async {
                    let client = self.connector.connect().await?;
                    let cipher = keys.cipher(&client, "acme").await?;
                    Ok::<_, PostgresError>((client, cipher))
                };
                match connected.await {
                    Ok(connected) => break connected,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            // A write without an answer took effect or did not.
            if let Some((id, value)) = unsure {
                let Ok(found) = self.read(&client, &mut cipher, id).await else {
                    continue 'connected;
                };
                assert!(
                    found == value || found == self.model[&id],
                    "row {id} has {found}"
                );
                self.model.insert(id, found);
                unsure = None;
            }
            while !self.stop.load(Ordering::Relaxed) {
                let id = (next as i64 * 7 % ROWS) * WRITERS + self.number;
                next += 1;
                let Ok(found) = self.read(&client, &mut cipher, id).await else {
                    continue 'connected;
                };
                assert_eq!(found, self.model[&id], "row {id}");
                loop {
                    match put(&client, &cipher, id, &next.to_string()).await {
                        Ok(()) => break,
                        Err(error) if is_retired_key(&error) => {
                            match keys.cipher(&client, "acme").await {
                                Ok(newer) => cipher = newer,
                                Err(_) => continue 'connected,
                            }
                        }
                        Err(_) => {
                            unsure = Some((id, next));
                            continue 'connected;
                        }
                    }
                }
                self.model.insert(id, next);
                self.writes.fetch_add(1, Ordering::Relaxed);
            }
            return self.model;
        }
    }

    /// What a row holds. Fails if the connection does.
    async fn read(
        &self,
        client: &Client,
        cipher: &mut ColumnCipher,
        id: i64,
    ) -> Result<u64, PostgresError> {
        loop {
            let row = client
                .query_one(
                    "SELECT email FROM users WHERE tenant = 'acme' AND id = $1",
                    &[&id],
                )
                .await?;
            match cipher.open(&email().cell(&id.to_be_bytes()), row.get(0)) {
                Ok(value) => {
                    return Ok(std::str::from_utf8(value.expose_secret())
                        .unwrap()
                        .parse()
                        .unwrap());
                }
                Err(ColumnError::UnknownKey { .. }) => {
                    *cipher = keys().cipher(client, "acme").await?
                }
                Err(error) => panic!("row {id}: {error}"),
            }
        }
    }
}
