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
                "of many copies at once, on one node and on three, one is fresh",
                copies,
            ),
            ("the rules of every store", rules),
            ("a full store forgets nothing", fills),
            ("old entries are dropped", rolls),
            (
                "killed and started again under load, nothing acts twice",
                killed_under_load,
            ),
            (
                "one process of the server dies: everything is forgotten, and known to be",
                one_process,
            ),
            ("a server that hangs has a deadline", hangs),
            ("a clock that steps re-opens nothing", clock_steps),
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
