//! Both databases, with everything in them that an account's key seals.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod again;
mod beside;
mod complete;
mod former;

use std::process::Command;

use katachi_auth::clock::Timestamp;
use katachi_auth::mail::{Address, Link, LinkStore as _, Purpose, Put};
use katachi_auth::session::TokenDigest;
use katachi_crypto::Secret;
use katachi_protocol::Sensitive;
use tempfile::TempDir;

use super::*;
use crate::config::{DatabaseSource, KeychainUse, PostgresUrl};
use crate::machine;
use crate::records::agents::{AgentRow, KeyRow};
use crate::records::identities::{Linked, Who};
use crate::records::mcp::{ConfigRow, SecretRow};
use crate::records::new_id;
use server::{Postgres, binaries};

#[path = "../../../../../../crates/katachi-store/tests/support/postgres.rs"]
mod server;

/// When the accounts here begin, in seconds.
const BEGUN: u64 = 1_000;

/// Where records are, and what they are opened with.
struct Place {
    dir: TempDir,
    source: DatabaseSource,
    postgres: Option<Postgres>,
}

impl Place {
    fn embedded() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            source: DatabaseSource::Embedded,
            postgres: None,
        }
    }

    fn postgres() -> Self {
        let postgres = Postgres::start(&[]);
        let source = DatabaseSource::Postgres(Box::new(url(&postgres, "postgres")));
        Self {
            dir: tempfile::tempdir().unwrap(),
            source,
            postgres: Some(postgres),
        }
    }

    /// As the relay does that serves.
    fn open(&self) -> Records {
        let vault = machine::open_vault(self.dir.path(), KeychainUse::Never).unwrap();
        Records::open(&self.source, None, self.dir.path(), vault).unwrap()
    }

    /// As the command does.
    fn open_beside(&self) -> Records {
        let vault = machine::open_vault(self.dir.path(), KeychainUse::Never).unwrap();
        Records::open_beside(&self.source, self.dir.path(), vault).unwrap()
    }

    /// Runs SQL as the owner of the PostgreSQL; what it prints, or what was refused.
    fn sql(&self, sql: &str) -> Result<String, String> {
        let postgres = self.postgres.as_ref().unwrap();
        let arguments = ["-v", "ON_ERROR_STOP=1", "-Atc", sql, "postgres"];
        tool(postgres, "psql", &arguments)
    }
}

fn url(postgres: &Postgres, database: &str) -> PostgresUrl {
    let socket = postgres.socket_directory().to_str().unwrap();
    let socket = socket.replace('/', "%2F");
    let url = format!(
        "postgres://postgres@{socket}:{}/{database}",
        postgres.port()
    );
    PostgresUrl::parse(&url).unwrap()
}

fn tool(postgres: &Postgres, program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(binaries().unwrap().join(program))
        .arg("-h")
        .arg(postgres.socket_directory())
        .args(["-p", &postgres.port().to_string(), "-U", "postgres"])
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

/// Runs `test` for both places, where a runtime is at hand and threads may wait.
async fn everywhere(test: fn(&Place)) {
    for make in [Place::embedded, Place::postgres] {
        tokio::task::spawn_blocking(move || test(&make()))
            .await
            .unwrap();
    }
}

async fn in_postgres(test: fn(&Place)) {
    let run = move || test(&Place::postgres());
    tokio::task::spawn_blocking(run).await.unwrap();
}

/// An account that has something of everything.
fn account(records: &Records, name: &str) -> String {
    let id = records
        .write_now(|tx| {
            let user = users::User {
                id: new_id()?,
                email: format!("{name}@example.org"),
                verified: true,
            };
            let key = records.new_tenant_key(&user.id)?;
            let record = format!("record of {name}");
            assert!(users::create(tx, &user, Some(&record), &key, BEGUN)?);
            let agent = AgentRow {
                id: format!("agent-{name}"),
                user_id: user.id.clone(),
                host_name: format!("host of {name}"),
                os: "Linux".to_owned(),
                version: "1".to_owned(),
                approved_at: BEGUN,
                seen_at: None,
                state: "idle".to_owned(),
                quarantined_at: None,
            };
            let mut key = KeyRow {
                id: format!("key-{name}"),
                agent_id: agent.id.clone(),
                user_id: user.id.clone(),
                version: 1,
                sealed: Vec::new(),
                revoked: false,
                quarantined: false,
            };
            key.sealed = records.seal_agent_key(tx, &key, &Secret::new([7; 32]))?;
            agents::add(tx, &agent, &key)?;
            for version in 1..=2 {
                put(records, tx, &user.id, "github", version, name)?;
            }
            let linked = Linked {
                id: format!("identity-{name}"),
                issuer: "https://id.example".to_owned(),
                label: format!("{name} there"),
                linked_at: BEGUN,
            };
            assert!(identities::link(tx, &user.id, name, &linked)?);
            Ok::<_, RecordsError>(user.id)
        })
        .unwrap();
    mail(records, &id, name);
    id
}

/// Stores a configuration with one secret.
fn put(
    records: &Records,
    tx: &Tx<'_>,
    account: &str,
    config: &str,
    version: u64,
    name: &str,
) -> Result<(), RecordsError> {
    let row = SecretRow {
        config: config.to_owned(),
        name: "TOKEN".to_owned(),
        version,
        sealed: Vec::new(),
    };
    let mut rows = [(row, Sensitive::new(format!("secret of {name}")))];
    records.seal_mcp(tx, account, &mut rows)?;
    let config = ConfigRow {
        name: config.to_owned(),
        command: format!("[\"{name}\"]"),
        env: "{}".to_owned(),
        released_to: "[]".to_owned(),
        version,
        updated_at: BEGUN,
    };
    let rows = rows.map(|(row, _)| row);
    mcp::put(tx, account, &config, &rows)
}

fn mail(records: &Records, account: &str, name: &str) {
    let link = Link {
        digest: TokenDigest::of(name),
        purpose: Purpose::VerifyAddress,
        account: account.to_owned(),
        address: Address::parse(&format!("{name}@example.org")).unwrap(),
        created: Timestamp::from_unix_millis(0),
        expires: Timestamp::from_unix_millis(u64::from(u32::MAX)),
    };
    let stored = records
        .mail_tokens()
        .put(link, Timestamp::from_unix_millis(0));
    assert_eq!(stored.unwrap(), Put::Stored);
}

/// Opens everything that [`account`] and [`put`] sealed.
fn assert_opens(records: &Records, account: &str, name: &str) {
    let email = format!("{name}@example.org");
    records
        .read_now(|tx| {
            assert_eq!(users::by_id(tx, account)?.unwrap().email, email);
            let found = users::by_email(tx, &email)?.unwrap();
            assert_eq!(found.password, Some(format!("record of {name}")));
            let agents = agents::of_user(tx, account)?;
            assert_eq!(agents[0].host_name, format!("host of {name}"));
            for key in agents::keys_of(tx, &agents[0].id)? {
                let secret = records.open_agent_key(tx, &key)?;
                assert_eq!(secret.expose_secret(), &[7; 32]);
            }
            for config in mcp::configs(tx, account)? {
                assert_eq!(config.command, format!("[\"{name}\"]"));
                let rows = mcp::secrets_of(tx, account, &config.name)?;
                let secrets = records.open_mcp(tx, account, &rows)?;
                assert_eq!(secrets[0].expose_secret(), format!("secret of {name}"));
            }
            let linked = identities::of(tx, account)?;
            assert_eq!(linked[0].label, format!("{name} there"));
            let who = Who {
                issuer: "https://id.example",
                subject: name,
            };
            assert_eq!(identities::account(tx, who)?.as_deref(), Some(account));
            let (_, intact) = audit::newest(tx, &records.audit_key(), account)?;
            assert!(intact);
            Ok::<_, RecordsError>(())
        })
        .unwrap();
    let link = records.mail_tokens().take(&TokenDigest::of(name)).unwrap();
    assert_eq!(link.unwrap().address.as_str(), email);
    mail(records, account, name);
}

/// The account's wrapped key, and a secret that it sealed.
fn sealed(records: &Records, account: &str) -> (Vec<u8>, SecretRow) {
    records
        .read_now(|tx| {
            let secret = mcp::secrets(tx, account)?.remove(0);
            Ok::<_, RecordsError>((users::tenant_key(tx, account)?, secret))
        })
        .unwrap()
}

fn all(records: &Records) -> Progress {
    let done = run(records, None, |_| {}).unwrap();
    assert!(done.failed.is_empty(), "{:?}", done.failed);
    done
}

fn rotations(records: &Records, account: &str) -> usize {
    let log = records.read_now(|tx| audit::newest(tx, &records.audit_key(), account));
    let (entries, _) = log.unwrap();
    let rotated = entries.iter().filter(|entry| entry.action == "key_rotated");
    rotated.count()
}

fn hex(bytes: &[u8]) -> String {
    audit::hex(bytes)
}

/// Every row of every table, as PostgreSQL writes it.
fn everything(place: &Place) -> String {
    let tables = place
        .sql(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'katachi_relay'",
        )
        .unwrap();
    let tables = tables.lines().map(|table| {
        let sql = format!("SELECT t::text FROM katachi_relay.{table} t");
        place.sql(&sql).unwrap()
    });
    tables.collect()
}
