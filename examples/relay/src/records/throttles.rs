//! Token buckets that several relays share: one row for each key that has not waited
//! long enough to be as if it had never been seen.

use std::time::Duration;

use katachi_auth::clock::Timestamp;

use super::RecordsError;
use super::store::{Tx, int, values};

/// How often each key can do something: `burst` times at once, and then once every
/// `every`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) what: &'static str,
    pub(crate) burst: u32,
    pub(crate) every: Duration,
}

const THROTTLES: &str = "throttles";

/// Most keys. When all are taken, unknown keys are refused.
const MOST_KEYS: u64 = 65_536;

/// Takes one token of `who`, or says how long to wait for the next.
pub(crate) fn take(
    tx: &Tx<'_>,
    rate: Rate,
    who: &str,
    now: Timestamp,
) -> Result<Result<(), Duration>, RecordsError> {
    tx.lock(THROTTLES)?;
    tx.execute(
        "DELETE FROM throttles WHERE full_ms <= ?1",
        values![int(now.as_unix_millis())],
    )?;
    let key = tx.tag(THROTTLES, "who", &format!("{} {who}", rate.what))?;
    let full = tx.query_one(
        "SELECT full_ms FROM throttles WHERE who = ?1",
        std::slice::from_ref(&key),
        |row| row.uint(0),
    )?;
    if full.is_none() {
        let count = tx.query_one("SELECT count(*) FROM throttles", values![], |row| {
            row.uint(0)
        })?;
        if count.unwrap_or_default() >= MOST_KEYS {
            return Ok(Err(rate.every));
        }
    }
    let room = now.after(rate.every * rate.burst);
    let next = full
        .map_or(now, Timestamp::from_unix_millis)
        .after(rate.every);
    if next > room {
        return Ok(Err(next.since(room)));
    }
    tx.execute(
        "INSERT INTO throttles (who, full_ms) VALUES (?1, ?2)
         ON CONFLICT (who) DO UPDATE SET full_ms = excluded.full_ms",
        &[key, int(next.as_unix_millis()).into()],
    )?;
    Ok(Ok(()))
}
