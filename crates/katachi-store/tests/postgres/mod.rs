//! What is tried, and what several cases need.

mod connecting;
mod crashes;
mod examples;
mod moving;
mod rotating;
#[path = "../support/postgres.rs"]
mod server;

use std::process::ExitCode;
use std::time::Duration;

use katachi_crypto::envelope::DataKey;
use katachi_crypto::{KeyId, LocalKeyEncryptor, Secret};
use katachi_store::column::TenantKeys;
use katachi_store::postgres::{Connector, KeyTable, SealedColumn};
use libtest_mimic::{Arguments, Failed, Trial};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use server::Postgres;
use tokio_postgres::Client;

const CASES: [(&str, fn()); 11] = [
    ("a moved value is refused", moving::a_moved_value_is_refused),
    (
        "equal values are found, during a rotation too",
        moving::equal_values_are_found,
    ),
    (
        "a destroyed tenant is unreadable",
        moving::a_destroyed_tenant_is_unreadable,
    ),
    (
        "a key swapped in the table is refused",
        moving::a_swapped_key_is_refused,
    ),
    (
        "TLS is required and verified",
        connecting::tls_is_required_and_verified,
    ),
    (
        "a server that hangs has a deadline",
        connecting::a_server_that_hangs_has_a_deadline,
    ),
    (
        "the database holds every value to its key",
        rotating::every_value_has_its_key,
    ),
    (
        "damaged values are named and keep their key",
        rotating::damaged_values_are_named,
    ),
    (
        "every type of primary key rotates",
        rotating::every_type_of_primary_key,
    ),
    ("the examples run", examples::run),
    (
        "nothing is lost when all are killed",
        crashes::nothing_is_lost,
    ),
];

pub(crate) fn main() -> ExitCode {
    if let Some(code) = crashes::worker() {
        return code;
    }
    let missing = server::binaries().is_none();
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
    let trials = CASES
        .into_iter()
        .map(|(name, case)| match missing {
            true if required => {
                Trial::test(name, || Err(Failed::from("PostgreSQL is not installed")))
            }
            true => Trial::test(
                format!("{name} (ignored: PostgreSQL is not installed)"),
                || Ok(()),
            )
            .with_ignored_flag(true),
            false => Trial::test(name, move || {
                case();
                Ok(())
            }),
        })
        .collect();
    let mut arguments = Arguments::from_args();
    // Each starts a server.
    arguments.test_threads.get_or_insert(2);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs an asynchronous test.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(1800), future)
                .await
                .unwrap()
        })
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    roots
}

fn connector(server: &Postgres) -> Connector {
    Connector::tls(server.url().parse().unwrap(), roots(&server.authority)).unwrap()
}

fn keys() -> KeyTable<LocalKeyEncryptor> {
    let master = DataKey::from_parts(KeyId::from_bytes([7; 8]), Secret::new([9; 32]));
    KeyTable::new(TenantKeys::new(LocalKeyEncryptor::new(master)))
}

fn email() -> SealedColumn {
    SealedColumn::new("users", "email").blind_index("email_tag", 64)
}

const USERS: &str = "CREATE TABLE users (
    tenant text NOT NULL, id bigint NOT NULL, email bytea, email_tag bytea, name bytea,
    PRIMARY KEY (tenant, id))";

/// A server with the tables, and a client of it.
async fn prepared(server: &Postgres) -> (Connector, Client, KeyTable<LocalKeyEncryptor>) {
    let connector = connector(server);
    let client = connector.connect().await.unwrap();
    let keys = keys();
    keys.install(&client).await.unwrap();
    client.batch_execute(USERS).await.unwrap();
    email().install(&client).await.unwrap();
    (connector, client, keys)
}

/// Seals and stores an e-mail address.
async fn put(
    client: &Client,
    cipher: &katachi_store::column::ColumnCipher,
    id: i64,
    value: &str,
) -> Result<(), tokio_postgres::Error> {
    let column = email();
    let sealed = cipher
        .seal(&column.cell(&id.to_be_bytes()), value.as_bytes())
        .unwrap();
    let tag = column.tag(cipher, value.as_bytes()).unwrap();
    client
        .execute(
            "INSERT INTO users (tenant, id, email, email_tag) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant, id) DO UPDATE SET email = excluded.email, email_tag = excluded.email_tag",
            &[&cipher.tenant(), &id, &sealed, &tag],
        )
        .await
        .map(drop)
}

async fn sealed(client: &Client, tenant: &str, id: i64) -> Vec<u8> {
    client
        .query_one(
            "SELECT email FROM users WHERE tenant = $1 AND id = $2",
            &[&tenant, &id],
        )
        .await
        .unwrap()
        .get(0)
}
