//! Device authorizations under way.

use katachi_auth::clock::Timestamp;
use katachi_auth::device::{DeviceStore, Find, Grant, Inserted};
use katachi_auth::replay::Unavailable;
use katachi_store::column::Cell;

use super::RecordsError;
use super::store::{Cover, Store, Tx, Value, int, values};

const GRANTS: &str = "device_grants";

/// Most device authorizations at once.
const MOST_GRANTS: u64 = 4096;

/// Keeps device authorizations in the database, each change in a transaction
/// of its own.
#[derive(Clone, Debug)]
pub(crate) struct Grants(Store);

impl Grants {
    pub(super) fn new(store: Store) -> Self {
        Self(store)
    }
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
                tx.lock(GRANTS)?;
                let (sql, code) = match find {
                    Find::DeviceCode(code) => (
                        "SELECT device_code, record FROM device_grants WHERE device_code = ?1",
                        code,
                    ),
                    Find::UserCode(code) => (
                        "SELECT device_code, record FROM device_grants WHERE user_code = ?1",
                        code,
                    ),
                };
                let cover = tx.service_cover();
                let found = tx.query_one(sql, values![code.as_slice()], |row| {
                    let device_code: Vec<u8> = row.get(0)?;
                    cover.open(&cell(&device_code), row, 1)
                })?;
                let Some(record) = found else {
                    return Ok(false);
                };
                let mut grant: Grant = serde_json::from_str(&record)?;
                change(&mut grant);
                tx.execute(
                    "UPDATE device_grants SET record = ?2 WHERE device_code = ?1",
                    values![grant.device_code.as_slice(), sealed(&cover, &grant)?],
                )?;
                Ok(true)
            })
            .map_err(Unavailable::new)
    }
}

fn insert(tx: &Tx<'_>, grant: &Grant, now: Timestamp) -> Result<Inserted, RecordsError> {
    tx.lock(GRANTS)?;
    tx.execute(
        "DELETE FROM device_grants WHERE expires_ms <= ?1",
        values![int(now.as_unix_millis())],
    )?;
    let count = tx.query_one("SELECT count(*) FROM device_grants", values![], |row| {
        row.uint(0)
    })?;
    if count.unwrap_or_default() >= MOST_GRANTS {
        return Ok(Inserted::Full);
    }
    let rows = tx.execute(
        "INSERT INTO device_grants (device_code, user_code, expires_ms, record) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (user_code) DO NOTHING",
        values![
            grant.device_code.as_slice(),
            grant.user_code.as_slice(),
            int(grant.expires.as_unix_millis()),
            sealed(&tx.service_cover(), grant)?,
        ],
    )?;
    Ok(if rows == 1 {
        Inserted::Stored
    } else {
        Inserted::Taken
    })
}

fn sealed(cover: &Cover, grant: &Grant) -> Result<Value, RecordsError> {
    cover.seal(&cell(&grant.device_code), &serde_json::to_string(grant)?)
}

fn cell(device_code: &[u8]) -> Cell<'_> {
    Cell {
        table: GRANTS,
        column: "record",
        row: device_code,
        version: 1,
    }
}
