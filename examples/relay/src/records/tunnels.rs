//! Which node of a cluster has the tunnel of an agent: the row is the truth, and the
//! highest generation the newest tunnel.

use super::RecordsError;
use super::store::{ReadTx, Tx, int, values};

/// A tunnel that a node has claimed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) generation: u64,
    /// The agent had one already, on a node that lives.
    pub(crate) replaced: bool,
}

/// Where the tunnel of an agent is.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) generation: u64,
}

/// Claims the tunnel of `agent` for a node. `None` if the node's lease is over, or a
/// newer tunnel was claimed meanwhile.
pub(crate) fn claim(
    tx: &Tx<'_>,
    agent: &str,
    node: &str,
    incarnation: &[u8],
) -> Result<Option<Claim>, RecordsError> {
    // Its number comes before the lock, so that two claims are in the order in
    // which their tunnels were opened.
    let generation = tx.query_one(
        "SELECT nextval('tunnel_generations') FROM nodes
         WHERE name = ?1 AND incarnation = ?2 AND expires > clock_timestamp()",
        values![node, incarnation],
        |row| row.uint(0),
    )?;
    let Some(generation) = generation else {
        return Ok(None);
    };
    let former = tx.query_one(
        "SELECT t.node, n.expires > clock_timestamp() FROM tunnels t
         JOIN nodes n ON n.name = t.node WHERE t.agent_id = ?1 FOR UPDATE OF t",
        values![agent],
        |row| Ok((row.get::<String>(0)?, row.get::<bool>(1)?)),
    )?;
    let claimed = tx.execute(
        "INSERT INTO tunnels AS t (agent_id, node, generation) VALUES (?1, ?2, ?3)
         ON CONFLICT (agent_id) DO UPDATE SET node = excluded.node, generation = excluded.generation
         WHERE t.generation < excluded.generation",
        values![agent, node, int(generation)],
    )?;
    if claimed == 0 {
        return Ok(None);
    }
    if former.as_ref().is_some_and(|(owner, _)| owner != node) {
        tx.wake_nodes()?;
    }
    Ok(Some(Claim {
        generation,
        replaced: former.is_some_and(|(_, lives)| lives),
    }))
}

/// Gives a tunnel up, unless a newer one was claimed.
pub(crate) fn release(tx: &Tx<'_>, agent: &str, generation: u64) -> Result<(), RecordsError> {
    tx.execute(
        "DELETE FROM tunnels WHERE agent_id = ?1 AND generation = ?2",
        values![agent, int(generation)],
    )?;
    Ok(())
}

/// Who has the tunnel of `agent`, if that node lives.
pub(crate) fn owner(tx: &ReadTx<'_>, agent: &str) -> Result<Option<Owner>, RecordsError> {
    tx.query_one(
        "SELECT n.name, n.address, t.generation FROM tunnels t JOIN nodes n ON n.name = t.node
         WHERE t.agent_id = ?1 AND n.expires > clock_timestamp()",
        values![agent],
        |row| {
            Ok(Owner {
                node: row.get(0)?,
                address: row.get(1)?,
                generation: row.uint(2)?,
            })
        },
    )
}

/// The agents of an account that have a tunnel to a node that lives.
pub(crate) fn online(tx: &ReadTx<'_>, user: &str) -> Result<Vec<String>, RecordsError> {
    tx.query(
        "SELECT a.id FROM agents a JOIN tunnels t ON t.agent_id = a.id
         JOIN nodes n ON n.name = t.node
         WHERE a.user_id = ?1 AND n.expires > clock_timestamp()",
        values![user],
        |row| row.get(0),
    )
}
