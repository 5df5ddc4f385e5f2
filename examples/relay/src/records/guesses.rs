//! Wrong guesses at user codes, counted over all nodes.

use std::time::Duration;

use super::RecordsError;
use super::store::{Tx, int, values};

/// Who guesses, and how often it may be wrong in a period.
pub(crate) struct Subject {
    /// Session, account, prefix, all: what `who` is.
    pub(crate) what: &'static str,
    pub(crate) who: String,
    pub(crate) limit: u32,
}

const GUESSES: &str = "guesses";

/// Until wrong guesses are forgotten.
const PERIOD: Duration = Duration::from_secs(3600);

/// Counts a guess before it is looked at, so that guesses made at once all count. The
/// first of `subjects` that has used up its number stops it, and those after it are
/// not counted: nobody can use up the number of all by going on.
pub(crate) fn begin(
    tx: &Tx<'_>,
    subjects: &[Subject],
) -> Result<Result<(), Duration>, RecordsError> {
    let now = tx.now()?;
    let old = int(now.before(PERIOD).as_unix_millis());
    let now = int(now.as_unix_millis());
    tx.execute("DELETE FROM guesses WHERE since_ms <= ?1", values![old])?;
    for subject in subjects {
        let counted = tx.query_one(
            "INSERT INTO guesses AS g (subject, wrong, since_ms) VALUES (?1, 1, ?2)
             ON CONFLICT (subject) DO UPDATE SET wrong = g.wrong + 1
             RETURNING wrong, since_ms",
            &[subject.tag(tx)?, now.into()],
            |row| Ok((row.uint(0)?, row.get::<i64>(1)?)),
        )?;
        let (wrong, since) = counted.unwrap_or((u64::MAX, now));
        if wrong > u64::from(subject.limit) {
            let age = u64::try_from(now - since).unwrap_or_default();
            let wait = PERIOD.saturating_sub(Duration::from_millis(age));
            return Ok(Err(wait.max(Duration::from_secs(1))));
        }
    }
    Ok(Ok(()))
}

/// Takes a guess back: it was right.
pub(crate) fn right(tx: &Tx<'_>, subjects: &[Subject]) -> Result<(), RecordsError> {
    for subject in subjects {
        tx.execute(
            "UPDATE guesses SET wrong = wrong - 1 WHERE subject = ?1 AND wrong > 0",
            &[subject.tag(tx)?],
        )?;
    }
    Ok(())
}

impl Subject {
    fn tag(&self, tx: &Tx<'_>) -> Result<super::store::Value, RecordsError> {
        tx.tag(GUESSES, "subject", &format!("{} {}", self.what, self.who))
    }
}
