//! Device authorizations under way.

use katachi_auth::clock::Timestamp;
use katachi_auth::device::{DeviceStore, Find, Grant, Inserted};
use katachi_auth::replay::Unavailable;
use katachi_store::database::{Database, DatabaseError, Tx, params};

use super::{int, uint};

/// Most device authorizations at once.
const MOST_GRANTS: u64 = 4096;

/// Keeps device authorizations in the database, each change in a transaction
/// of its own.
#[derive(Clone, Debug)]
pub(crate) struct Grants(Database);

impl Grants {
    pub(super) fn new(database: Database) -> Self {
        Self(database)
    }
}

/// Whatever kept a change from being made.
#[derive(Debug, thiserror::Error)]
enum GrantError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("a stored device authorization cannot be read: {0}")]
    Record(#[from] serde_json::Error),
}

impl DeviceStore for Grants {
    fn insert(&self, grant: Grant, now: Timestamp) -> Result<Inserted, Unavailable> {
        self.0
            .write(|tx| insert(tx, &grant, now))
            .map_err(Unavailable::new)
    }

    fn change(&self, find: &Find, change: &mut dyn FnMut(&mut Grant)) -> Result<bool, Unavailable> {
        self.0
            .write(|tx| {
                let (sql, code) = match find {
                    Find::DeviceCode(code) => (
                        "SELECT record FROM device_grants WHERE device_code = ?1",
                        code,
                    ),
                    Find::UserCode(code) => (
                        "SELECT record FROM device_grants WHERE user_code = ?1",
                        code,
                    ),
                };
                let found = tx.query_one(sql, [code.as_slice()], |row| row.get::<_, String>(0))?;
                let Some(record) = found else {
                    return Ok(false);
                };
                let mut grant: Grant = serde_json::from_str(&record)?;
                change(&mut grant);
                tx.execute(
                    "UPDATE device_grants SET record = ?2 WHERE device_code = ?1",
                    params![grant.device_code.as_slice(), serde_json::to_string(&grant)?],
                )?;
                Ok::<_, GrantError>(true)
            })
            .map_err(Unavailable::new)
    }
}

fn insert(tx: &Tx<'_>, grant: &Grant, now: Timestamp) -> Result<Inserted, GrantError> {
    tx.execute(
        "DELETE FROM device_grants WHERE expires_ms <= ?1",
        [int(now.as_unix_millis())],
    )?;
    let count = tx.query_one("SELECT count(*) FROM device_grants", [], |row| uint(row, 0))?;
    if count.unwrap_or_default() >= MOST_GRANTS {
        return Ok(Inserted::Full);
    }
    let rows = tx.execute(
        "INSERT INTO device_grants (device_code, user_code, expires_ms, record) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (user_code) DO NOTHING",
        params![
            grant.device_code.as_slice(),
            grant.user_code.as_slice(),
            int(grant.expires.as_unix_millis()),
            serde_json::to_string(grant)?,
        ],
    )?;
    Ok(if rows == 1 {
        Inserted::Stored
    } else {
        Inserted::Taken
    })
}
