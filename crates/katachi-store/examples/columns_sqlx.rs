//! Sealed columns with sqlx: the cipher needs no driver of its own.
//!
//! ```sh
//! DATABASE_URL=postgres://app:secret@db.example.com/app DATABASE_CA=ca.pem \
//!     cargo run -p katachi-store --example columns_sqlx
//! ```

use std::error::Error;
use std::path::Path;

use katachi_store::Vault;
use katachi_store::binding::Unbound;
use katachi_store::column::{Cell, TenantKeys};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let authority = std::env::var("DATABASE_CA")?;
    run(&std::env::var("DATABASE_URL")?, Path::new(&authority)).await
}

/// Does everything once, and leaves nothing behind.
pub(crate) async fn run(url: &str, authority: &Path) -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let vault = Vault::builder(home.path().join("vault"))
        .binding(Unbound)
        .file_slot(home.path().join("secret"))
        .create()?;

    let options: PgConnectOptions = url.parse()?;
    let options = options
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert(authority);
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .connect_with(options)
        .await?;
    sqlx::query("CREATE TABLE example_accounts (name text PRIMARY KEY, wrapped_key bytea)")
        .execute(&pool)
        .await?;
    sqlx::query(
        "CREATE TABLE example_tokens (account text, id bigint PRIMARY KEY, token bytea, tag bytea)",
    )
    .execute(&pool)
    .await?;

    // The account's key lies, wrapped, beside the account.
    let tenants = TenantKeys::from_vault(&vault, "example")?;
    sqlx::query("INSERT INTO example_accounts VALUES ($1, $2)")
        .bind("acme")
        .bind(tenants.generate("acme")?)
        .execute(&pool)
        .await?;
    let wrapped: Vec<u8> =
        sqlx::query_scalar("SELECT wrapped_key FROM example_accounts WHERE name = $1")
            .bind("acme")
            .fetch_one(&pool)
            .await?;
    let cipher = tenants.open("acme", &wrapped)?;

    let (id, token) = (7_i64, b"ghp_example");
    let row = id.to_be_bytes();
    let cell = Cell {
        table: "example_tokens",
        column: "token",
        row: &row,
        version: 1,
    };
    let index = cipher.index("example_tokens", "token");
    sqlx::query("INSERT INTO example_tokens VALUES ($1, $2, $3, $4)")
        .bind("acme")
        .bind(id)
        .bind(cipher.seal(&cell, token)?)
        .bind(index.tag(token, 64)?)
        .execute(&pool)
        .await?;

    let sealed: Vec<u8> =
        sqlx::query_scalar("SELECT token FROM example_tokens WHERE account = $1 AND tag = $2")
            .bind("acme")
            .bind(index.tag(token, 64)?)
            .fetch_one(&pool)
            .await?;
    assert_eq!(cipher.open(&cell, &sealed)?.expose_secret(), token);
    println!("found by its tag, and opened in its place");

    sqlx::query("DROP TABLE example_accounts, example_tokens")
        .execute(&pool)
        .await?;
    Ok(())
}
