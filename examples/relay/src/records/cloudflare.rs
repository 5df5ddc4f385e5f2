//! Tunnels at Cloudflare: a row from before the first call until after the last.

use super::RecordsError;
use super::store::{ReadTx, Tx, int, values};

/// The tables, one form for both databases but for the last word of it.
macro_rules! table {
    ($end:literal) => {
        concat!(
            "-- `agent_id` outlives its agent until the tunnel is removed: `removing` is 1
    -- then. Nobody else works on the row before `due_at`, in seconds.
    CREATE TABLE cloudflare_tunnels (
        agent_id    TEXT PRIMARY KEY,
        hostname    TEXT NOT NULL UNIQUE,
        removing    BIGINT NOT NULL,
        tries       BIGINT NOT NULL,
        due_at      BIGINT NOT NULL
    )",
            $end
        )
    };
}
pub(super) const TABLE: &str = table!(" WITHOUT ROWID;");
pub(super) const POSTGRES_TABLE: &str = table!(";");

/// A tunnel whose agent is gone.
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    pub(crate) agent: String,
    pub(crate) hostname: String,
    /// How often it failed.
    pub(crate) tries: u64,
}

/// The agent's public name, if it has one and is not gone.
pub(crate) fn hostname(tx: &ReadTx<'_>, agent: &str) -> Result<Option<String>, RecordsError> {
    tx.query_one(
        "SELECT hostname FROM cloudflare_tunnels WHERE agent_id = ?1 AND removing = 0",
        values![agent],
        |row| row.get(0),
    )
}

/// Reserves the row of a living agent until `until`, made with `fresh` as its name if
/// there is none. `None` while somebody else works on it.
pub(crate) fn reserve(
    tx: &Tx<'_>,
    agent: &str,
    fresh: &str,
    now: u64,
    until: u64,
) -> Result<Option<String>, RecordsError> {
    tx.lock(&format!("katachi-relay/cloudflare/{agent}"))?;
    tx.execute(
        "INSERT INTO cloudflare_tunnels (agent_id, hostname, removing, tries, due_at)
         SELECT id, ?2, 0, 0, 0 FROM agents WHERE id = ?1
         ON CONFLICT (agent_id) DO NOTHING",
        values![agent, fresh],
    )?;
    let reserved = tx.execute(
        "UPDATE cloudflare_tunnels SET due_at = ?3
         WHERE agent_id = ?1 AND removing = 0 AND due_at <= ?2",
        values![agent, int(now), int(until)],
    )?;
    match reserved {
        1 => hostname(tx, agent),
        _ => Ok(None),
    }
}

/// Ends a reservation. The agent may have gone meanwhile: then the row is due.
pub(crate) fn release(tx: &Tx<'_>, agent: &str) -> Result<(), RecordsError> {
    tx.execute(
        "UPDATE cloudflare_tunnels SET due_at = 0 WHERE agent_id = ?1",
        values![agent],
    )?;
    Ok(())
}

/// The agent is gone, and its tunnel has to go.
pub(super) fn give_up(tx: &Tx<'_>, agent: &str) -> Result<(), RecordsError> {
    tx.execute(
        "UPDATE cloudflare_tunnels SET removing = 1 WHERE agent_id = ?1",
        values![agent],
    )?;
    Ok(())
}

/// Takes a tunnel that is to be removed, until `until`.
pub(crate) fn next_removal(
    tx: &Tx<'_>,
    now: u64,
    until: u64,
) -> Result<Option<Removal>, RecordsError> {
    tx.lock("katachi-relay/cloudflare/removals")?;
    let next = tx.query_one(
        "SELECT agent_id, hostname, tries FROM cloudflare_tunnels
         WHERE removing = 1 AND due_at <= ?1 ORDER BY due_at LIMIT 1",
        values![int(now)],
        |row| {
            Ok(Removal {
                agent: row.get(0)?,
                hostname: row.get(1)?,
                tries: row.uint(2)?,
            })
        },
    )?;
    if let Some(removal) = &next {
        tx.execute(
            "UPDATE cloudflare_tunnels SET due_at = ?2 WHERE agent_id = ?1",
            values![&removal.agent, int(until)],
        )?;
    }
    Ok(next)
}

/// It failed; not again before `due`.
pub(crate) fn try_later(tx: &Tx<'_>, agent: &str, due: u64) -> Result<(), RecordsError> {
    tx.execute(
        "UPDATE cloudflare_tunnels SET tries = tries + 1, due_at = ?2 WHERE agent_id = ?1",
        values![agent, int(due)],
    )?;
    Ok(())
}

/// Nothing of it is left at Cloudflare.
pub(crate) fn removed(tx: &Tx<'_>, agent: &str) -> Result<(), RecordsError> {
    tx.execute(
        "DELETE FROM cloudflare_tunnels WHERE agent_id = ?1 AND removing = 1",
        values![agent],
    )?;
    Ok(())
}
