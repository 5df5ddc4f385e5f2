//! Both databases, with everything in them that an account's key seals.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::path::Path;
use std::process::Command;
use std::sync::mpsc;

use katachi_auth::clock::Timestamp;
use katachi_auth::mail::{Address, Link, LinkStore as _, Purpose, Put};
use katachi_auth::session::TokenDigest;
use katachi_crypto::Secret;
use katachi_protocol::Sensitive;
use katachi_store::database::{Database, DatabaseKey, Options, Profile};
use tempfile::TempDir;

use super::*;
use crate::config::{DatabaseSource, KeychainUse, PostgresUrl};
use crate::machine;
use crate::records::agents::{AgentRow, KeyRow};
use crate::records::identities::{Linked, Who};
use crate::records::mcp::{ConfigRow, SecretRow};
use crate::records::{FILE, new_id, postgres, schema};
use server::{Postgres, binaries};

#[path = "../../../../../crates/katachi-store/tests/support/postgres.rs"]
mod server;

/// The last step of the schema before accounts' keys had an age.
const BEFORE: usize = 5;
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
            };
            let mut key = KeyRow {
                id: format!("key-{name}"),
                agent_id: agent.id.clone(),
                user_id: user.id.clone(),
                version: 1,
                sealed: Vec::new(),
                revoked: false,
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

#[tokio::test(flavor = "multi_thread")]
async fn all_is_sealed_under_a_new_key_and_nothing_is_left_of_the_former_one() {
    everywhere(|place| {
        let serving = place.open();
        let names = ["ana", "bob", "eve"];
        let accounts = names.map(|name| account(&serving, name));
        let former = accounts.each_ref().map(|account| sealed(&serving, account));
        let mut seen = Vec::new();
        let done = run(&place.open_beside(), None, |progress| {
            seen.push((progress.rotated, progress.accounts));
        })
        .unwrap();
        assert_eq!(seen, [(0, 3), (1, 3), (2, 3), (3, 3)]);
        // Address, password; host, system, version; key; command, variables, agents;
        // secret; label; address of a mail.
        let each = if place.postgres.is_some() { 12 } else { 2 };
        assert_eq!((done.rotated, done.values), (3, 3 * each));
        for ((account, name), (key, secret)) in accounts.iter().zip(names).zip(former) {
            assert_opens(&serving, account, name);
            assert_eq!(rotations(&serving, account), 1);
            let (new_key, new_secret) = sealed(&serving, account);
            assert_ne!(new_key, key);
            let old = serving.0.keys.open(account, &key).unwrap();
            let new = serving.0.keys.open(account, &new_key).unwrap();
            let place_of = format!("{}/{}", secret.config, secret.name);
            let cell = Cell {
                table: "mcp_secrets",
                column: "sealed",
                row: place_of.as_bytes(),
                version: secret.version,
            };
            assert!(old.open(&cell, &secret.sealed).is_ok(), "the test is wrong");
            assert!(new.open(&cell, &secret.sealed).is_err());
            assert!(old.open(&cell, &new_secret.sealed).is_err());
            if place.postgres.is_some() {
                let everything = everything(place);
                let holds = |bytes: &[u8]| everything.contains(&hex(bytes));
                assert!(
                    holds(new.key_id().as_bytes()) && holds(&new_key),
                    "no such search"
                );
                assert!(!holds(old.key_id().as_bytes()), "the former key is named");
                assert!(!holds(&key), "the former key is there");
            }
        }
        assert_eq!(
            all(&serving).rotated,
            3,
            "a run that was finished is gone on with"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_sealed_column_is_forgotten() {
    in_postgres(|place| {
        drop(place.open());
        let columns = place
            .sql(
                "SELECT table_name || '.' || column_name FROM information_schema.columns
                 WHERE table_schema = 'katachi_relay' AND data_type = 'bytea'
                   AND is_generated = 'NEVER'",
            )
            .unwrap();
        // Digests, tags, wrapped keys, and what the key of the service seals.
        let others = [
            "audit.hash",
            "device_grants.device_code",
            "device_grants.record",
            "device_grants.user_code",
            "guesses.subject",
            "identities.key",
            "mail_tokens.digest",
            "nodes.incarnation",
            "nodes.keyset",
            "nodes.public_key",
            "service.proof",
            "service.wrapped_key",
            "sessions.digest",
            "sign_ins.record",
            "sign_ins.state",
            "throttles.who",
            "users.email",
            "users.tenant_key",
        ];
        let sealed = SEALED.iter().flat_map(|sealed| {
            let columns = sealed.columns.iter();
            columns.map(|column| format!("{}.{column}", sealed.table))
        });
        let sealed: Vec<String> = sealed.collect();
        for column in columns.lines() {
            let known = others.contains(&column) || sealed.iter().any(|sealed| sealed == column);
            assert!(known, "does a rotation seal {column} again?");
        }
        for column in &sealed {
            assert!(columns.lines().any(|found| found == column), "{column}");
        }
    })
    .await;
}

/// What a writer sealed before a rotation began, it writes before the rotation goes on.
#[tokio::test(flavor = "multi_thread")]
async fn who_writes_is_waited_for_and_what_is_written_opens() {
    everywhere(|place| {
        let serving = place.open();
        let ana = account(&serving, "ana");
        let (has_sealed, sealed_it) = mpsc::channel();
        std::thread::scope(|scope| {
            // Dropped by a failure, it ends the writer.
            let (go_on, may_go_on) = mpsc::channel::<()>();
            let runtime = tokio::runtime::Handle::current();
            let writer = scope.spawn({
                let (serving, ana, runtime) = (&serving, &ana, runtime.clone());
                move || {
                    let _runtime = runtime.enter();
                    serving.write_now(|tx| {
                        // As `put` does it: the key, a ciphertext, and only then the row.
                        users::tenant_key(tx, ana)?;
                        let row = SecretRow {
                            config: "github".to_owned(),
                            name: "LATE".to_owned(),
                            version: 2,
                            sealed: Vec::new(),
                        };
                        let mut rows = [(row, Sensitive::new("late"))];
                        serving.seal_mcp(tx, ana, &mut rows)?;
                        has_sealed.send(()).unwrap();
                        may_go_on.recv().unwrap();
                        let [(row, _)] = rows;
                        tx.execute(
                            "INSERT INTO mcp_secrets (user_id, config, name, version, sealed)
                             VALUES (?1, ?2, ?3, ?4, ?5)",
                            values![ana, row.config, row.name, 2_i64, row.sealed],
                        )
                    })
                }
            });
            sealed_it.recv().unwrap();
            let (report, progress) = mpsc::channel();
            let rotation = scope.spawn({
                let runtime = runtime.clone();
                move || {
                    let _runtime = runtime.enter();
                    run(&place.open_beside(), None, |seen| {
                        report.send(seen.rotated).unwrap();
                    })
                }
            });
            // In PostgreSQL it begins, and comes no further, however long it tries.
            let longer = GIVE_WAY * 3;
            if place.postgres.is_some() {
                assert_eq!(progress.recv(), Ok(0));
            }
            assert!(progress.recv_timeout(longer).is_err(), "it did not wait");
            go_on.send(()).unwrap();
            assert_eq!(writer.join().unwrap().unwrap(), 1);
            assert_eq!(rotation.join().unwrap().unwrap().rotated, 1);
        });
        let late = serving.read_now(|tx| {
            let mut rows = mcp::secrets_of(tx, &ana, "github")?;
            rows.retain(|row| row.name == "LATE");
            serving.open_mcp(tx, &ana, &rows)
        });
        assert_eq!(late.unwrap()[0].expose_secret(), "late");
        assert_opens_but_secrets(&serving, &ana);
    })
    .await;
}

fn assert_opens_but_secrets(records: &Records, account: &str) {
    let opened = records.read_now(|tx| users::by_id(tx, account));
    assert_eq!(opened.unwrap().unwrap().email, "ana@example.org");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_names_a_former_key_is_refused_by_the_database_itself() {
    in_postgres(|place| {
        let serving = place.open();
        let ana = account(&serving, "ana");
        let (_, former) = sealed(&serving, &ana);
        all(&serving);
        // What a relay of an older version writes, which sealed it before.
        for table in ["mcp_secrets", "agent_keys"] {
            let written = place.sql(&format!(
                "UPDATE katachi_relay.{table} SET sealed = decode('{}', 'hex')",
                hex(&former.sealed)
            ));
            assert!(written.unwrap_err().contains("account_key"), "{table}");
        }
        let written = place.sql(&format!(
            "UPDATE katachi_relay.users SET password = decode('{}', 'hex')",
            hex(&former.sealed)
        ));
        assert!(written.unwrap_err().contains("users_one_key"));
        let written = place.sql("DELETE FROM katachi_relay.users");
        assert_eq!(written, Ok("DELETE 1".to_owned()), "an account cannot go");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_open_keeps_its_account_s_key_and_is_named() {
    everywhere(|place| {
        let serving = place.open();
        let (ana, bob) = (account(&serving, "ana"), account(&serving, "bob"));
        let (key, _) = sealed(&serving, &ana);
        // The header still names the key.
        let damage = |records: &Records, from: u8| {
            records.write_now(|tx| {
                let sealed = mcp::secrets(tx, &ana)?.remove(0).sealed;
                let mut damaged = sealed.clone();
                *damaged.last_mut().unwrap() ^= from;
                tx.execute(
                    "UPDATE mcp_secrets SET sealed = ?2 WHERE user_id = ?1",
                    values![&ana, damaged],
                )
            })
        };
        damage(&serving, 1).unwrap();
        let done = run(&serving, None, |_| {}).unwrap();
        assert_eq!((done.rotated, done.failed.len()), (1, 1));
        assert!(
            done.failed[&ana].starts_with("mcp_secrets.sealed of github/TOKEN: "),
            "{:?}",
            done.failed
        );
        assert_eq!(sealed(&serving, &ana).0, key);
        assert_eq!(rotations(&serving, &ana), 0);
        assert_opens(&serving, &bob, "bob");
        // Once it is mended, the next run has that one left.
        damage(&serving, 1).unwrap();
        let done = run(&serving, None, |_| {}).unwrap();
        assert!(done.continued && done.failed.is_empty());
        assert_eq!((done.accounts, done.rotated), (1, 1));
        assert_opens(&serving, &ana, "ana");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_where_one_was_ended_and_age_is_asked_for() {
    everywhere(|place| {
        let serving = place.open();
        let accounts: Vec<String> = ["ana", "bob", "eve"]
            .map(|name| account(&serving, name))
            .into();
        let of = |records: &Records| {
            accounts
                .iter()
                .map(|a| rotations(records, a))
                .sum::<usize>()
        };
        // One that was ended after its first account.
        let (before, _) = serving.write_now(|tx| begin(tx, None)).unwrap();
        serving
            .write_now(|tx| rotate(&serving, tx, &accounts[1], before))
            .unwrap()
            .unwrap();
        // Who comes later with the same account in hand leaves it as it is.
        let again = serving.write_now(|tx| rotate(&serving, tx, &accounts[1], before));
        assert_eq!(again.unwrap(), None);
        let done = all(&serving);
        assert!(done.continued);
        assert_eq!((done.accounts, done.rotated, of(&serving)), (2, 2, 3));
        // Nothing is as old as that; everything is as old as this.
        let age = |seconds| run(&serving, Some(Duration::from_secs(seconds)), |_| {}).unwrap();
        assert_eq!(age(3600).rotated, 0);
        serving
            .write_now(|tx| {
                let sql = "UPDATE users SET key_made_ms = key_made_ms - 7200000 WHERE id = ?1";
                tx.execute(sql, values![&accounts[2]])
            })
            .unwrap();
        assert_eq!(age(3600).rotated, 1);
        assert_eq!(age(0).rotated, 3);
        // One that was ended long ago says nothing of today.
        serving.write_now(|tx| begin(tx, None)).unwrap();
        let (before, _) = serving.write_now(|tx| begin(tx, None)).unwrap();
        serving
            .write_now(|tx| rotate(&serving, tx, &accounts[1], before))
            .unwrap();
        serving
            .write_now(|tx| {
                let sql = "UPDATE key_rotation SET begun_ms = begun_ms - 86400000";
                tx.execute(sql, values![])
            })
            .unwrap();
        let done = all(&serving);
        assert!(!done.continued && done.rotated == 3);
        // Nor does a clock that was set back since keep a key.
        serving
            .write_now(|tx| {
                let sql = "UPDATE users SET key_made_ms = key_made_ms + 7200000";
                tx.execute(sql, values![])
            })
            .unwrap();
        assert_eq!(all(&serving).rotated, 3);
        for (account, name) in accounts.iter().zip(["ana", "bob", "eve"]) {
            assert_opens(&serving, account, name);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_change_each_key_once() {
    everywhere(|place| {
        let serving = place.open();
        let names = ["ana", "bob", "eve", "joe"];
        let accounts = names.map(|name| account(&serving, name));
        let rotated: u64 = std::thread::scope(|scope| {
            let runtime = tokio::runtime::Handle::current();
            let runs = [(), ()].map(|()| {
                let runtime = runtime.clone();
                scope.spawn(move || {
                    let _runtime = runtime.enter();
                    all(&place.open_beside()).rotated
                })
            });
            runs.into_iter().map(|run| run.join().unwrap()).sum()
        });
        // The second may begin when the first has ended.
        let each = accounts
            .each_ref()
            .map(|account| rotations(&serving, account));
        assert!(each == [1; 4] || each == [2; 4], "{each:?}");
        assert_eq!(rotated, each.iter().sum::<usize>() as u64);
        for (account, name) in accounts.iter().zip(names) {
            assert_opens(&serving, account, name);
        }
    })
    .await;
}

/// What makes of a schema the one before accounts' keys had an age.
const UNDO: &str = "
    SET search_path = katachi_relay;
    ALTER TABLE agents DROP CONSTRAINT agents_one_key, DROP COLUMN key_id;
    ALTER TABLE agent_keys DROP COLUMN key_id;
    ALTER TABLE mcp_configs DROP CONSTRAINT mcp_configs_one_key, DROP COLUMN key_id;
    ALTER TABLE mcp_secrets DROP COLUMN key_id;
    ALTER TABLE identities DROP COLUMN key_id;
    ALTER TABLE mail_tokens DROP COLUMN key_id;
    ALTER TABLE users DROP CONSTRAINT users_one_key, DROP COLUMN key_id, DROP COLUMN key_made_ms;
    DROP INDEX agent_keys_by_user;
    DROP TABLE key_rotation;
    DELETE FROM migrations WHERE step = 5;";

#[tokio::test(flavor = "multi_thread")]
async fn an_older_database_in_postgresql_is_brought_up_to_date_and_its_keys_rotate() {
    in_postgres(|place| {
        let records = place.open();
        let ana = account(&records, "ana");
        let (key, _) = sealed(&records, &ana);
        drop(records);
        place.sql(UNDO).unwrap();
        // Which is what the older version made: both are described alike.
        let postgres = place.postgres.as_ref().unwrap();
        tool(postgres, "createdb", &["older"]).unwrap();
        postgres::make_former(&url(postgres, "older"), BEFORE).unwrap();
        let described = |database| {
            let dump = tool(postgres, "pg_dump", &["--schema-only", database]).unwrap();
            let lines = dump.lines().filter(|line| !line.starts_with('\\'));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(described("postgres"), described("older"));

        let records = place.open();
        assert_opens(&records, &ana, "ana");
        let made = place.sql("SELECT key_made_ms FROM katachi_relay.users");
        assert_eq!(made, Ok((BEGUN * 1000).to_string()));
        let old = run(&records, Some(Duration::from_secs(24 * 3600)), |_| {}).unwrap();
        assert_eq!(old.rotated, 1);
        assert_opens(&records, &ana, "ana");
        assert_ne!(sealed(&records, &ana).0, key);
    })
    .await;
}

#[test]
fn an_older_embedded_database_is_brought_up_to_date_and_its_keys_rotate() {
    let place = Place::embedded();
    let vault = machine::open_vault(place.dir.path(), KeychainUse::Never).unwrap();
    let keys = super::super::keys::Keys::Vault(std::sync::Arc::new(vault));
    write_former(&place.dir.path().join(FILE), &keys);
    let records = place.open();
    let (key, secret) = sealed(&records, "ana");
    let opens = |secret: SecretRow| {
        let opened = records.read_now(|tx| records.open_mcp(tx, "ana", &[secret]));
        assert_eq!(opened.unwrap()[0].expose_secret(), "secret of ana");
    };
    opens(secret);
    let made = records.read_now(|tx| {
        tx.query_one("SELECT key_made_ms FROM users", values![], |row| {
            row.uint(0)
        })
    });
    assert_eq!(made.unwrap(), Some(BEGUN * 1000));
    let old = run(&records, Some(Duration::from_secs(24 * 3600)), |_| {}).unwrap();
    assert_eq!((old.rotated, old.values), (1, 1));
    let (new_key, secret) = sealed(&records, "ana");
    assert_ne!(new_key, key);
    opens(secret);
}

/// An account with a secret, as the older version wrote it.
fn write_former(path: &Path, keys: &super::super::keys::Keys) {
    let super::super::keys::Keys::Vault(vault) = keys else {
        unreachable!("the test has a vault");
    };
    let options = Options::new()
        .profile(Profile::Fast)
        .migrations(&schema::MIGRATIONS[..BEFORE]);
    let key = DatabaseKey::from_vault(vault, "relay").unwrap();
    let database = Database::open(path, &key, options).unwrap();
    let wrapped = keys.generate("ana").unwrap();
    let cell = Cell {
        table: "mcp_secrets",
        column: "sealed",
        row: b"github/TOKEN",
        version: 1,
    };
    let cipher = keys.open("ana", &wrapped).unwrap();
    let sealed = cipher.seal(&cell, b"secret of ana").unwrap();
    let store = crate::records::store::Store::Embedded(database);
    store
        .write(|tx| {
            tx.execute(
                "INSERT INTO users (id, email, address, password, tenant_key, created_at)
                 VALUES ('ana', 'ana@example.org', 'ana@example.org', 'x', ?1, ?2)",
                values![wrapped, int(BEGUN)],
            )?;
            tx.execute(
                "INSERT INTO mcp_configs VALUES ('ana', 'github', '[]', '{}', '[]', 1, 0)",
                values![],
            )?;
            tx.execute(
                "INSERT INTO mcp_secrets VALUES ('ana', 'github', 'TOKEN', 1, ?1)",
                values![sealed],
            )
        })
        .unwrap();
}
