//! Sign-ins under way at a provider, for whichever relay the browser comes back to.

use std::sync::{Mutex, PoisonError};

use katachi_auth::clock::Timestamp;
use katachi_auth::oauth::{LoginStore, Pending};
use katachi_auth::replay::Unavailable;
use katachi_auth::session::TokenDigest;
use katachi_store::column::Cell;
use serde::{Deserialize, Serialize};

use super::RecordsError;
use super::store::{Tx, int, values};

/// Most sign-ins under way.
const MOST_SIGN_INS: u64 = 4096;
const SIGN_INS: &str = "sign_ins";

/// A sign-in under way, and what for.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct SignIn {
    pub(crate) pending: Pending,
    /// The account that asked to be opened by this identity too, signed in then.
    pub(crate) link_to: Option<String>,
}

/// Keeps a sign-in; `false` if there is no room.
pub(crate) fn insert(tx: &Tx<'_>, sign_in: &SignIn, now: Timestamp) -> Result<bool, RecordsError> {
    tx.lock(SIGN_INS)?;
    tx.execute(
        "DELETE FROM sign_ins WHERE expires_ms <= ?1",
        values![int(now.as_unix_millis())],
    )?;
    let count = tx.query_one("SELECT count(*) FROM sign_ins", values![], |row| {
        row.uint(0)
    })?;
    if count.unwrap_or_default() >= MOST_SIGN_INS {
        return Ok(false);
    }
    let state = sign_in.pending.state.as_bytes();
    let record = serde_json::to_string(sign_in)?;
    tx.execute(
        "INSERT INTO sign_ins (state, expires_ms, record) VALUES (?1, ?2, ?3)",
        values![
            state.as_slice(),
            int(sign_in.pending.expires.as_unix_millis()),
            tx.service_cover().seal(&cell(state), &record)?,
        ],
    )?;
    Ok(true)
}

/// Removes the sign-in of `state` and hands it out: of several that ask at once, to one.
pub(crate) fn take(tx: &Tx<'_>, state: &TokenDigest) -> Result<Option<SignIn>, RecordsError> {
    let state = state.as_bytes();
    let cover = tx.service_cover();
    let found = tx.query_one(
        "SELECT record FROM sign_ins WHERE state = ?1",
        values![state.as_slice()],
        |row| cover.open(&cell(state), row, 0),
    )?;
    let Some(record) = found else {
        return Ok(None);
    };
    let removed = tx.execute(
        "DELETE FROM sign_ins WHERE state = ?1",
        values![state.as_slice()],
    )?;
    if removed == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&record)?))
}

fn cell(state: &[u8]) -> Cell<'_> {
    Cell {
        table: SIGN_INS,
        column: "record",
        row: state,
        version: 1,
    }
}

/// One sign-in on its way to or from the database, which is asked on threads that may
/// wait.
#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<Option<Pending>>);

impl Held {
    pub(crate) fn new(pending: Pending) -> Self {
        Self(Mutex::new(Some(pending)))
    }

    pub(crate) fn into_inner(self) -> Option<Pending> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoginStore for Held {
    fn insert(&self, pending: Pending, _: Timestamp) -> Result<bool, Unavailable> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(held.replace(pending).is_none())
    }

    fn take(&self, state: &TokenDigest) -> Result<Option<Pending>, Unavailable> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(held.take_if(|pending| pending.state == *state))
    }
}
