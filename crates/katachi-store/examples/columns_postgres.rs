//! Sealed columns with tokio-postgres: store, search, rotate, destroy.
//!
//! ```sh
//! DATABASE_URL=postgres://app:secret@db.example.com/app DATABASE_CA=ca.pem \
//!     cargo run -p katachi-store --features postgres --example columns_postgres
//! ```

use std::error::Error;

use katachi_store::Vault;
use katachi_store::binding::Unbound;
use katachi_store::column::TenantKeys;
use katachi_store::postgres::{Connector, KeyTable, Rotation, SealedColumn};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let authority = std::fs::read_to_string(std::env::var("DATABASE_CA")?)?;
    run(&std::env::var("DATABASE_URL")?, &authority).await
}

/// Does everything once. Leaves nothing behind but an empty table of keys.
pub(crate) async fn run(url: &str, authority: &str) -> Result<(), Box<dyn Error>> {
    // A real program binds its vault to the machine, see the example `vault`.
    let home = tempfile::tempdir()?;
    let vault = Vault::builder(home.path().join("vault"))
        .binding(Unbound)
        .file_slot(home.path().join("secret"))
        .create()?;

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let server = Connector::tls(url.parse()?, roots)?;
    let client = server.connect().await?;

    let keys = KeyTable::new(TenantKeys::from_vault(&vault, "example")?);
    keys.install(&client).await?;
    client
        .batch_execute(
            "CREATE TABLE example_people (
                 tenant text, id bigint PRIMARY KEY, email bytea, email_tag bytea)",
        )
        .await?;
    let email = SealedColumn::new("example_people", "email").blind_index("email_tag", 64);
    email.install(&client).await?;

    let cipher = keys.create(&client, "acme").await?;
    for (id, address) in [(1_i64, "ann@example.com"), (2, "bob@example.com")] {
        let sealed = cipher.seal(&email.cell(&id.to_be_bytes()), address.as_bytes())?;
        let tag = email.tag(&cipher, address.as_bytes())?;
        client
            .execute(
                "INSERT INTO example_people VALUES ($1, $2, $3, $4)",
                &[&"acme", &id, &sealed, &tag],
            )
            .await?;
    }

    // A new key, and everything sealed with it.
    keys.rotate(&client, "acme").await?;
    let done = Rotation::new(&server, &keys)
        .column(email.clone())
        .run("acme", |progress| {
            println!("sealed again: {} of {}", progress.resealed, progress.found);
        })
        .await?;
    println!("retired: {:?}", keys.retire(&client, "acme").await?);
    assert_eq!(done.resealed, 2);

    // Found by its tag, opened in its place.
    let cipher = keys.cipher(&client, "acme").await?;
    let rows = client
        .query(
            "SELECT id, email FROM example_people WHERE tenant = $1 AND email_tag = ANY ($2)",
            &[&"acme", &email.tags(&cipher, b"bob@example.com")?],
        )
        .await?;
    for row in &rows {
        let id: i64 = row.get(0);
        let opened = cipher.open(&email.cell(&id.to_be_bytes()), row.get(1))?;
        println!(
            "row {id}: {}",
            String::from_utf8_lossy(opened.expose_secret())
        );
    }
    assert_eq!(rows.len(), 1);

    // The account ends: nothing of it can be opened again.
    keys.destroy(&client, "acme").await?;
    assert!(keys.cipher(&client, "acme").await.is_err());
    client.batch_execute("DROP TABLE example_people").await?;
    Ok(())
}
