//! The examples, against a server that is there.

#[allow(dead_code, reason = "its `main` reads the environment")]
#[path = "../../examples/columns_postgres.rs"]
mod columns_postgres;
#[allow(dead_code, reason = "its `main` reads the environment")]
#[path = "../../examples/columns_sqlx.rs"]
mod columns_sqlx;

use super::{Postgres, server, wait};

pub(super) fn run() {
    wait(async {
        let server = Postgres::start(&[]);
        columns_postgres::run(&server.url(), &server.authority)
            .await
            .unwrap();
        let authority = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(authority.path(), &server.authority).unwrap();
        let password = server::PASSWORD.replace(' ', "%20");
        let url = format!(
            "postgres://postgres:{password}@localhost:{}/postgres",
            server.port()
        );
        columns_sqlx::run(&url, authority.path()).await.unwrap();
    });
}
