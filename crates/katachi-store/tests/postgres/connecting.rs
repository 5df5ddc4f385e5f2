//! Connections that must not be made, and servers that do not answer.

use std::time::{Duration, Instant};

use katachi_store::postgres::{Connector, PostgresError, Rotation};

use super::{Postgres, connector, email, prepared, put, roots, server, wait};

pub(super) fn tls_is_required_and_verified() {
    wait(async {
        let server = Postgres::start(&[]);
        let config = || server.url().parse::<tokio_postgres::Config>().unwrap();
        let client = connector(&server).connect().await.unwrap();
        let encrypted: bool = client
            .query_one(
                "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        assert!(encrypted, "the control");

        let (other, ..) = server::certificates();
        let stranger = Connector::tls(config(), roots(&other)).unwrap();
        assert!(matches!(
            stranger.connect().await,
            Err(PostgresError::Database(_))
        ));
        let mut elsewhere = tokio_postgres::Config::new();
        elsewhere
            .host("db.example.com")
            .hostaddr("127.0.0.1".parse().unwrap())
            .port(server.port())
            .user("postgres")
            .password(server::PASSWORD);
        let misnamed = Connector::tls(elsewhere, roots(&server.authority)).unwrap();
        assert!(matches!(
            misnamed.connect().await,
            Err(PostgresError::Database(_))
        ));
        // Asking for less does not help.
        let careless: tokio_postgres::Config =
            format!("{} sslmode=disable", server.url()).parse().unwrap();
        let client = Connector::tls(careless.clone(), roots(&server.authority)).unwrap();
        assert!(client.connect().await.is_ok());
        assert!(Connector::local(careless).is_err());

        let local: tokio_postgres::Config = server.local_url().parse().unwrap();
        assert!(Connector::tls(local.clone(), roots(&other)).is_err());
        let client = Connector::local(local).unwrap().connect().await.unwrap();
        assert!(client.batch_execute("SELECT 1").await.is_ok());

        let plain = Postgres::start(&["ssl=off"]);
        let refused = connector(&plain).connect().await.unwrap_err();
        assert!(matches!(refused, PostgresError::Database(_)), "{refused}");
        let (client, connection) = plain
            .url()
            .parse::<tokio_postgres::Config>()
            .unwrap()
            .connect(tokio_postgres::NoTls)
            .await
            .expect("the control: it does let in who asks for no TLS");
        drop((client, connection));
    });
}

pub(super) fn a_server_that_hangs_has_a_deadline() {
    wait(async {
        // One that accepts and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let url = format!("host=localhost hostaddr=127.0.0.1 port={port} user=postgres");
        let begun = Instant::now();
        let (authority, ..) = server::certificates();
        let outcome = Connector::tls(url.parse().unwrap(), roots(&authority))
            .unwrap()
            .deadline(Duration::from_millis(300))
            .connect()
            .await;
        assert!(matches!(outcome, Err(PostgresError::Timeout(_))));
        assert!(begun.elapsed() < Duration::from_secs(5));

        // A row that somebody else holds locked.
        let server = Postgres::start(&[]);
        let (connector, client, keys) = prepared(&server).await;
        let cipher = keys.create(&client, "acme").await.unwrap();
        put(&client, &cipher, 1, "ann@example.com").await.unwrap();
        keys.rotate(&client, "acme").await.unwrap();
        client
            .batch_execute("BEGIN; SELECT * FROM users FOR UPDATE")
            .await
            .unwrap();
        let connector = connector.deadline(Duration::from_millis(400));
        let rotation = Rotation::new(&connector, &keys)
            .column(email())
            .deadline(Duration::from_secs(2));
        let outcome = rotation.run("acme", |_| {}).await;
        let Err(PostgresError::Unfinished(_, progress)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!((progress.found, progress.resealed), (1, 0));
        assert!(progress.reconnects > 0);
        client.batch_execute("ROLLBACK").await.unwrap();
        // What the last attempt had sent may still have been done.
        let done = rotation.run("acme", |_| {}).await.unwrap();
        assert_eq!(done.resealed, done.found);
        assert_eq!(keys.retire(&client, "acme").await.unwrap().len(), 1);
    });
}
