//! The replay store in a real PostgreSQL that the tests start.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

#[cfg(target_os = "linux")]
#[path = "../../katachi-store/tests/support/postgres.rs"]
mod server;
#[cfg(target_os = "linux")]
mod shared;

#[cfg(target_os = "linux")]
mod linux {
    use std::process::ExitCode;
    use std::sync::Arc;
    use std::time::Duration;

    use katachi_auth::replay::{AsyncReplayStore, PostgresReplay, SharedLimits, Spend};
    use rustls::RootCertStore;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::server::{self, Postgres};
    use super::shared::{self, Call, Clock, LIMITS, Load, wait};

    pub(super) fn main() -> ExitCode {
        let cases: &[(&'static str, fn())] = &[
            (
                "s09 s10 of many copies at once, on one node and on three, one is fresh",
                copies,
            ),
            (
                "s10 of 66 copies of a signed request over three nodes one has an effect",
                signed_copies,
            ),
            (
                "s16 a promoted replica that lacks entries begins a new epoch",
                failover,
            ),
            (
                "s16 failed over to a replica under load, nothing acts twice",
                failover_under_load,
            ),
            ("the rules of every store", rules),
            ("s11 a full store forgets nothing", fills),
            ("old entries are dropped", rolls),
            (
                "s16 killed and started again under load, nothing acts twice",
                killed_under_load,
            ),
            (
                "one process of the server dies: everything is forgotten, and known to be",
                one_process,
            ),
            ("a server that hangs has a deadline", hangs),
            ("s15 a clock that steps re-opens nothing", clock_steps),
            (
                "logged tables, plain text and strangers are refused",
                refused,
            ),
        ];
        shared::main("PostgreSQL", server::binaries().is_none(), cases)
    }

    fn roots(pem: &str) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
            .unwrap();
        roots
    }

    fn store(server: &Postgres, limits: SharedLimits) -> PostgresReplay {
        PostgresReplay::tls(
            server.url().parse().unwrap(),
            roots(&server.authority),
            limits,
        )
        .unwrap()
        .deadline(Duration::from_secs(10))
    }

    fn nodes(server: &Postgres) -> Vec<Arc<PostgresReplay>> {
        (0..3).map(|_| Arc::new(store(server, LIMITS))).collect()
    }

    async fn admin(server: &Postgres) -> tokio_postgres::Client {
        let config: tokio_postgres::Config = server.local_url().parse().unwrap();
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    fn copies() {
        wait(async {
            let server = Postgres::start(&[]);
            let nodes = nodes(&server);
            // Servers that start at once.
            let (one, two, three) =
                tokio::join!(nodes[0].install(), nodes[1].install(), nodes[2].install());
            one.and(two).and(three).unwrap();
            shared::copies_at_once(&nodes).await;
        });
    }

    fn signed_copies() {
        wait(async {
            let server = Postgres::start(&[]);
            store(&server, LIMITS).install().await.unwrap();
            let nodes = (0..3).map(|_| store(&server, LIMITS)).collect();
            shared::signed_copies(nodes).await;
        });
    }

    /// Ends in time, or fails.
    async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        for _ in 0..1000 {
            if is_so().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{what}");
    }

    /// A replica that follows, and will promise nothing about the last moments.
    async fn follower(primary: &Postgres) -> Postgres {
        let replica = primary.replica();
        let admin = admin(primary).await;
        until("nobody follows", async || {
            let query = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'";
            let rows = admin.query(query, &[]).await.unwrap();
            rows.iter().any(|row| row.get::<_, &str>(0) == "async")
        })
        .await;
        replica
    }

    async fn count(client: &tokio_postgres::Client, table: &str) -> i64 {
        let query = format!("SELECT count(*) FROM {table}");
        client.query_one(&query, &[]).await.unwrap().get(0)
    }

    async fn promote(replica: &Postgres) {
        let admin = admin(replica).await;
        let row = admin.query_one("SELECT pg_promote()", &[]).await.unwrap();
        assert!(row.get::<_, bool>(0));
    }

    fn failover() {
        wait(async {
            let mut primary = Postgres::start(&[]);
            let first = store(&primary, LIMITS);
            first.install().await.unwrap();
            let primary_admin = admin(&primary).await;
            primary_admin
                .batch_execute("CREATE TABLE control (spent int)")
                .await
                .unwrap();
            let replica = follower(&primary).await;
            let epoch = first.epoch().await.unwrap();
            // A replica is not asked.
            let second = store(&replica, LIMITS);
            assert!(Call::new(epoch).spend(&second).await.is_err());

            let mut spent = Vec::new();
            for number in 0..100 {
                if number == 50 {
                    let replica_admin = admin(&replica).await;
                    until("the replica does not keep up", async || {
                        count(&replica_admin, "control").await == 50
                    })
                    .await;
                    // Nothing more reaches it, not even what waits in a socket.
                    replica.signal("-STOP");
                    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_replication";
                    assert_eq!(primary_admin.query(cut, &[]).await.unwrap().len(), 1);
                }
                let call = Call::new(epoch);
                assert_eq!(call.spend(&first).await.unwrap(), Spend::Fresh);
                primary_admin
                    .execute("INSERT INTO control VALUES ($1)", &[&number])
                    .await
                    .unwrap();
                spent.push(call);
            }
            primary.kill();
            replica.signal("-CONT");
            promote(&replica).await;
            // The control: what was committed in a logged table is gone there.
            let replica_admin = admin(&replica).await;
            assert_eq!(count(&replica_admin, "control").await, 50);
            for call in &spent {
                assert_eq!(call.spend(&second).await.unwrap(), Spend::StaleEpoch);
            }
            let fresh = Call::new(second.epoch().await.unwrap());
            assert_ne!(fresh.epoch, epoch);
            assert_eq!(fresh.spend(&second).await.unwrap(), Spend::Fresh);
        });
    }

    fn failover_under_load() {
        wait(async {
            let mut primary = Postgres::start(&[]);
            store(&primary, LIMITS).install().await.unwrap();
            let replica = follower(&primary).await;
            // Each node knows both and uses the one that takes writes.
            let node = || {
                let config = format!(
                    "host=localhost,localhost hostaddr=127.0.0.1,127.0.0.1 port={},{} \
                     user=postgres dbname=postgres password='{}' target_session_attrs=read-write",
                    primary.port(),
                    replica.port(),
                    server::PASSWORD,
                );
                let mut both = roots(&primary.authority);
                both.extend(roots(&replica.authority).roots);
                let store = PostgresReplay::tls(config.parse().unwrap(), both, LIMITS);
                Arc::new(store.unwrap().deadline(Duration::from_secs(10)))
            };
            let nodes: Vec<_> = (0..3).map(|_| node()).collect();
            let before = nodes[0].epoch().await.unwrap();
            let load = Load::start(&nodes);
            load.more(100).await;
            primary.kill();
            promote(&replica).await;
            load.more(100).await;
            assert!(load.refused() > 0, "nobody noticed");
            assert_ne!(nodes[0].epoch().await.unwrap(), before);
            load.end(&*nodes[0]).await;
        });
    }

    fn rules() {
        wait(async {
            let server = Postgres::start(&[]);
            let store = store(&server, LIMITS);
            assert!(store.epoch().await.is_err(), "nothing is installed");
            store.install().await.unwrap();
            shared::rules(&store).await;
            let before = store.epoch().await.unwrap();
            let after = store.start_new_epoch().await.unwrap();
            assert_ne!(before, after);
            let stale = Call::new(before);
            assert_eq!(stale.spend(&store).await.unwrap(), Spend::StaleEpoch);
            store.install().await.unwrap();
            assert_eq!(
                store.epoch().await.unwrap(),
                after,
                "installing again forgets nothing"
            );
            let other_window = self::store(
                &server,
                SharedLimits {
                    window: 30,
                    ..LIMITS
                },
            );
            assert!(Call::new(after).spend(&other_window).await.is_err());
        });
    }

    fn fills() {
        wait(async {
            let server = Postgres::start(&[]);
            let large = store(&server, LIMITS);
            large.install().await.unwrap();
            let small = store(
                &server,
                SharedLimits {
                    requests_per_key: 50,
                    ..LIMITS
                },
            );
            shared::fills(&large, &small, 50).await;
            let small = store(
                &server,
                SharedLimits {
                    requests: 1200,
                    ..LIMITS
                },
            );
            let epoch = large.start_new_epoch().await.unwrap();
            let mut fresh = 0;
            let mut outcome = Spend::Fresh;
            while outcome == Spend::Fresh && fresh < 5000 {
                outcome = Call::new(epoch).spend(&small).await.unwrap();
                fresh += u32::from(outcome == Spend::Fresh);
            }
            // Counted by pages of the table, of which every connection fills its own; and
            // half a window may end in between.
            assert!(
                outcome == Spend::Full && (600..=3600).contains(&fresh),
                "{outcome:?} after {fresh}"
            );
        });
    }

    fn rolls() {
        wait(async {
            let server = Postgres::start(&[]);
            let store = store(
                &server,
                SharedLimits {
                    window: 2,
                    ..LIMITS
                },
            );
            store.install().await.unwrap();
            let sent = shared::rolls(&store).await;
            let row = admin(&server)
                .await
                .query_one("SELECT count(*) FROM katachi_replay.entry", &[])
                .await
                .unwrap();
            let kept = usize::try_from(row.get::<_, i64>(0)).unwrap();
            assert!(kept < sent * 3 / 4, "{kept} of {sent}");
        });
    }

    fn killed_under_load() {
        wait(async {
            let mut server = Postgres::start(&[]);
            let nodes = nodes(&server);
            nodes[0].install().await.unwrap();
            let load = Load::start(&nodes);
            for _ in 0..3 {
                load.more(50).await;
                server.kill();
                tokio::time::sleep(Duration::from_millis(50)).await;
                server.run();
            }
            load.more(50).await;
            assert!(
                load.refused() > 0,
                "nobody noticed that the server was gone"
            );
            load.end(&*nodes[0]).await;
        });
    }

    fn one_process() {
        wait(async {
            let server = Postgres::start(&["restart_after_crash=on"]);
            let store = store(&server, LIMITS);
            store.install().await.unwrap();
            let call = Call::new(store.epoch().await.unwrap());
            assert_eq!(call.spend(&store).await.unwrap(), Spend::Fresh);
            let admin = admin(&server).await;
            let row = admin
                .query_one("SELECT pg_backend_pid()", &[])
                .await
                .unwrap();
            server.kill_backend(row.get(0));
            // The server restarts by itself; its start time stays.
            let mut outcome = call.spend(&store).await;
            for _ in 0..200 {
                if outcome.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                outcome = call.spend(&store).await;
            }
            assert_ne!(outcome.unwrap(), Spend::Fresh);
            let fresh = Call::new(store.epoch().await.unwrap());
            assert_ne!(fresh.epoch, call.epoch);
            assert_eq!(fresh.spend(&store).await.unwrap(), Spend::Fresh);
        });
    }

    fn hangs() {
        wait(async {
            let mut server = Postgres::start(&[]);
            let deadline = Duration::from_secs(3);
            store(&server, LIMITS).install().await.unwrap();
            let store = store(&server, LIMITS).deadline(deadline);
            let call = Call::new(store.epoch().await.unwrap());
            let admin = admin(&server).await;
            // Somebody holds what spending needs.
            admin
                .batch_execute("SELECT pg_advisory_lock(7310877420)")
                .await
                .unwrap();
            assert!(call.spend(&store).await.is_err());
            admin
                .batch_execute("SELECT pg_advisory_unlock_all()")
                .await
                .unwrap();
            let after = call.spend(&store).await.unwrap();
            assert!(matches!(after, Spend::Fresh | Spend::Replayed));
            server.kill();
            shared::gives_up_in_time(&store, &call, deadline).await;
        });
    }

    fn clock_steps() {
        wait(async {
            let clock = Clock::new();
            let environment = clock.environment();
            let environment: Vec<_> = environment
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let server = Postgres::start_in(&[], &environment);
            let store = store(&server, LIMITS);
            store.install().await.unwrap();
            shared::clock_steps(&store, &clock).await;
        });
    }

    fn refused() {
        wait(async {
            let server = Postgres::start(&[]);
            store(&server, LIMITS).install().await.unwrap();
            let (other, ..) = server::certificates();
            let config = || server.url().parse::<tokio_postgres::Config>().unwrap();
            let stranger = PostgresReplay::tls(config(), roots(&other), LIMITS).unwrap();
            assert!(stranger.epoch().await.is_err());
            assert!(PostgresReplay::local(config(), LIMITS).is_err());
            let local = PostgresReplay::local(server.local_url().parse().unwrap(), LIMITS).unwrap();
            assert!(local.epoch().await.is_ok());
            let plain = Postgres::start(&["ssl=off"]);
            assert!(store(&plain, LIMITS).epoch().await.is_err());

            let admin = admin(&server).await;
            admin
                .batch_execute("ALTER TABLE katachi_replay.entry_3 SET LOGGED")
                .await
                .unwrap();
            let error = store(&server, LIMITS)
                .epoch()
                .await
                .unwrap_err()
                .to_string();
            assert!(error.contains("UNLOGGED"), "{error}");
        });
    }
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
