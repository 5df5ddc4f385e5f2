//! Token buckets that several relays share: one row for each key that has not waited
//! long enough to be as if it had never been seen.

use std::time::Duration;

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

/// Takes one token of `who`, or says how long to wait for the next. Known keys wait
/// for nobody but themselves.
pub(crate) fn take(
    tx: &Tx<'_>,
    rate: Rate,
    who: &str,
) -> Result<Result<(), Duration>, RecordsError> {
    let now = tx.now()?;
    let key = tx.tag(THROTTLES, "who", &format!("{} {who}", rate.what))?;
    let (fresh, room) = (now.after(rate.every), now.after(rate.every * rate.burst));
    let (fresh, room) = (int(fresh.as_unix_millis()), int(room.as_unix_millis()));
    let (now, every) = (
        int(now.as_unix_millis()),
        int(rate.every.as_millis() as u64),
    );
    for _ in 0..3 {
        let taken = tx.execute(
            "UPDATE throttles
             SET full_ms = CASE WHEN full_ms > ?2 THEN full_ms + ?3 ELSE ?4 END
             WHERE who = ?1 AND CASE WHEN full_ms > ?2 THEN full_ms + ?3 ELSE ?4 END <= ?5",
            &[
                key.clone(),
                now.into(),
                every.into(),
                fresh.into(),
                room.into(),
            ],
        )?;
        if taken == 1 {
            return Ok(Ok(()));
        }
        let full = tx.query_one(
            "SELECT full_ms FROM throttles WHERE who = ?1",
            std::slice::from_ref(&key),
            |row| row.get::<i64>(0),
        )?;
        if let Some(full) = full {
            let wait = full.max(now) + every - room;
            if wait > 0 {
                let wait = u64::try_from(wait).unwrap_or_default();
                return Ok(Err(Duration::from_millis(wait)));
            }
            // Another's first token came between the two statements.
            continue;
        }
        // Room is counted by one at a time.
        tx.lock(THROTTLES)?;
        tx.execute("DELETE FROM throttles WHERE full_ms <= ?1", values![now])?;
        let count = tx.query_one("SELECT count(*) FROM throttles", values![], |row| {
            row.uint(0)
        })?;
        if count.unwrap_or_default() >= MOST_KEYS {
            return Ok(Err(rate.every));
        }
        let first = tx.execute(
            "INSERT INTO throttles (who, full_ms) VALUES (?1, ?2) ON CONFLICT (who) DO NOTHING",
            &[key.clone(), fresh.into()],
        )?;
        if first == 1 {
            return Ok(Ok(()));
        }
    }
    Ok(Err(rate.every))
}
