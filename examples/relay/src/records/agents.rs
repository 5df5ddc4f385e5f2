//! Agents, and the sealed secrets behind their signing keys.

use super::rotation::{Kept, Names, Sealed};
use super::store::{Cover, ReadTx, Row, Tx, Value, cell, int, values};
use super::users;
use super::{AGENT_KEYS, RecordsError, SEALED as SECRET, cloudflare};

/// An agent of an account.
#[derive(Clone, Debug)]
pub(crate) struct AgentRow {
    pub(crate) id: String,
    pub(crate) user_id: String,
    pub(crate) host_name: String,
    pub(crate) os: String,
    pub(crate) version: String,
    pub(crate) approved_at: u64,
    pub(crate) seen_at: Option<u64>,
    pub(crate) state: String,
    /// Since when its key is refused, because two places use it.
    pub(crate) quarantined_at: Option<u64>,
}

/// A signing key as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct KeyRow {
    pub(crate) id: String,
    pub(crate) agent_id: String,
    pub(crate) user_id: String,
    pub(crate) version: u64,
    pub(crate) sealed: Vec<u8>,
    pub(crate) revoked: bool,
    /// Of its agent.
    pub(crate) quarantined: bool,
}

const AGENTS: &str = "agents";

pub(super) const SEALED: Sealed = Sealed {
    table: AGENTS,
    account: "user_id",
    columns: &["host_name", "os", "version"],
    names: Names::Text(&["id"]),
    version: None,
    kept: Kept::InPostgres,
};

pub(super) const SEALED_KEYS: Sealed = Sealed {
    table: AGENT_KEYS,
    account: "user_id",
    columns: &[SECRET],
    names: Names::Text(&["id"]),
    version: Some("version"),
    kept: Kept::Everywhere,
};

/// Most agents of one account.
pub(crate) const MOST_AGENTS: u64 = 256;

pub(crate) fn add(tx: &Tx<'_>, agent: &AgentRow, key: &KeyRow) -> Result<(), RecordsError> {
    let cover = tx.cover(&agent.user_id, &users::tenant_key(tx, &agent.user_id)?)?;
    let covered = |column, text: &str| -> Result<Value, RecordsError> {
        cover.seal(&cell(AGENTS, column, &agent.id), text)
    };
    tx.execute(
        "INSERT INTO agents (id, user_id, host_name, os, version, approved_at, seen_at, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        values![
            &agent.id,
            &agent.user_id,
            covered("host_name", &agent.host_name)?,
            covered("os", &agent.os)?,
            covered("version", &agent.version)?,
            int(agent.approved_at),
            agent.seen_at.map(int),
            &agent.state,
        ],
    )?;
    tx.execute(
        "INSERT INTO agent_keys (id, agent_id, user_id, version, sealed, revoked)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        values![
            &key.id,
            &key.agent_id,
            &key.user_id,
            int(key.version),
            &key.sealed,
            key.revoked
        ],
    )?;
    Ok(())
}

pub(crate) fn count(tx: &ReadTx<'_>, user_id: &str) -> Result<u64, RecordsError> {
    let count = tx.query_one(
        "SELECT count(*) FROM agents WHERE user_id = ?1",
        values![user_id],
        |row| row.uint(0),
    )?;
    Ok(count.unwrap_or_default())
}

pub(crate) fn of_user(tx: &ReadTx<'_>, user_id: &str) -> Result<Vec<AgentRow>, RecordsError> {
    let cover = tx.cover(user_id, &users::tenant_key(tx, user_id)?)?;
    tx.query(
        "SELECT id, user_id, host_name, os, version, approved_at, seen_at, state, quarantined_at
         FROM agents WHERE user_id = ?1 ORDER BY approved_at DESC, id",
        values![user_id],
        |row| read(&cover, row),
    )
}

/// The agent, if it belongs to the account.
pub(crate) fn one(
    tx: &ReadTx<'_>,
    user_id: &str,
    id: &str,
) -> Result<Option<AgentRow>, RecordsError> {
    let cover = tx.cover(user_id, &users::tenant_key(tx, user_id)?)?;
    tx.query_one(
        "SELECT id, user_id, host_name, os, version, approved_at, seen_at, state, quarantined_at
         FROM agents WHERE user_id = ?1 AND id = ?2",
        values![user_id, id],
        |row| read(&cover, row),
    )
}

fn read(cover: &Cover, row: &Row<'_>) -> Result<AgentRow, RecordsError> {
    let id: String = row.get(0)?;
    let covered = |column, at| cover.open(&cell(AGENTS, column, &id), row, at);
    Ok(AgentRow {
        user_id: row.get(1)?,
        host_name: covered("host_name", 2)?,
        os: covered("os", 3)?,
        version: covered("version", 4)?,
        approved_at: row.uint(5)?,
        seen_at: time(row, 6)?,
        state: row.get(7)?,
        quarantined_at: time(row, 8)?,
        id,
    })
}

fn time(row: &Row<'_>, at: usize) -> Result<Option<u64>, RecordsError> {
    let time = row.get::<Option<i64>>(at)?;
    Ok(time.and_then(|time| u64::try_from(time).ok()))
}

/// The agent lives, and its vault was saved so often; the highest that it ever said.
pub(crate) fn seen(
    tx: &Tx<'_>,
    id: &str,
    state: &str,
    vault_generation: Option<u64>,
    now: u64,
) -> Result<Option<u64>, RecordsError> {
    let said = int(vault_generation.unwrap_or_default());
    tx.execute(
        "UPDATE agents SET seen_at = ?2, state = ?3,
             vault_generation = CASE WHEN ?4 > vault_generation THEN ?4 ELSE vault_generation END
         WHERE id = ?1",
        values![id, int(now), state, said],
    )?;
    let known = tx.query_one(
        "SELECT vault_generation FROM agents WHERE id = ?1",
        values![id],
        |row| row.uint(0),
    )?;
    Ok(known.filter(|&known| known > 0))
}

/// The agent unregistered itself: nothing of it remains.
pub(crate) fn erase(tx: &Tx<'_>, id: &str) -> Result<(), RecordsError> {
    tx.execute("DELETE FROM agent_keys WHERE agent_id = ?1", values![id])?;
    tx.execute("DELETE FROM agents WHERE id = ?1", values![id])?;
    cloudflare::give_up(tx, id)?;
    tx.wake_nodes()
}

/// The owner removed the agent; `false` if the account has no such agent.
pub(crate) fn revoke(tx: &Tx<'_>, user_id: &str, id: &str) -> Result<bool, RecordsError> {
    let removed = tx.execute(
        "DELETE FROM agents WHERE user_id = ?1 AND id = ?2",
        values![user_id, id],
    )?;
    if removed == 1 {
        tx.execute(
            "UPDATE agent_keys SET revoked = ?2 WHERE agent_id = ?1",
            values![id, true],
        )?;
        cloudflare::give_up(tx, id)?;
        tx.wake_nodes()?;
    }
    Ok(removed == 1)
}

/// Refuses the agent's key from now on; `false` if that is so already.
pub(crate) fn quarantine(tx: &Tx<'_>, id: &str, now: u64) -> Result<bool, RecordsError> {
    let changed = tx.execute(
        "UPDATE agents SET quarantined_at = ?2 WHERE id = ?1 AND quarantined_at IS NULL",
        values![id, int(now)],
    )?;
    Ok(changed == 1)
}

/// The owner lets the agent in again; `false` if it was not kept out.
pub(crate) fn release(tx: &Tx<'_>, user_id: &str, id: &str) -> Result<bool, RecordsError> {
    let changed = tx.execute(
        "UPDATE agents SET quarantined_at = NULL
         WHERE user_id = ?1 AND id = ?2 AND quarantined_at IS NOT NULL",
        values![user_id, id],
    )?;
    Ok(changed == 1)
}

/// Every signing key.
pub(crate) fn keys(tx: &ReadTx<'_>) -> Result<Vec<KeyRow>, RecordsError> {
    tx.query(
        "SELECT k.id, k.agent_id, k.user_id, k.version, k.sealed, k.revoked,
                (SELECT a.quarantined_at FROM agents a WHERE a.id = k.agent_id)
         FROM agent_keys k",
        values![],
        read_key,
    )
}

/// The signing keys of one agent.
pub(crate) fn keys_of(tx: &ReadTx<'_>, agent_id: &str) -> Result<Vec<KeyRow>, RecordsError> {
    tx.query(
        "SELECT k.id, k.agent_id, k.user_id, k.version, k.sealed, k.revoked,
                (SELECT a.quarantined_at FROM agents a WHERE a.id = k.agent_id)
         FROM agent_keys k WHERE k.agent_id = ?1",
        values![agent_id],
        read_key,
    )
}

/// A signing key by its identifier.
pub(crate) fn key(tx: &ReadTx<'_>, id: &str) -> Result<Option<KeyRow>, RecordsError> {
    tx.query_one(
        "SELECT k.id, k.agent_id, k.user_id, k.version, k.sealed, k.revoked,
                (SELECT a.quarantined_at FROM agents a WHERE a.id = k.agent_id)
         FROM agent_keys k WHERE k.id = ?1",
        values![id],
        read_key,
    )
}

fn read_key(row: &Row<'_>) -> Result<KeyRow, RecordsError> {
    Ok(KeyRow {
        id: row.get(0)?,
        agent_id: row.get(1)?,
        user_id: row.get(2)?,
        version: row.uint(3)?,
        sealed: row.get(4)?,
        revoked: row.get(5)?,
        quarantined: time(row, 6)?.is_some(),
    })
}
