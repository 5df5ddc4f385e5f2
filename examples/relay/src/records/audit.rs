//! The audit log of each account, a chain of keyed hashes.
//!
//! Every entry's hash covers the entry and the hash before it, under a key of
//! the vault. Whoever can write to the database and not open the vault can cut
//! off the end of a chain, and cannot change, insert or remove an entry.

use katachi_crypto::mac::HmacKey;
use katachi_protocol::record::AuditEntry;

use super::RecordsError;
use super::store::{ReadTx, Row, Tx, int, values};

/// Something that happened in an account.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) at: u64,
    pub(crate) agent_id: Option<String>,
    pub(crate) action: &'static str,
    /// `key=value` of closed words and numbers; never text of the user.
    pub(crate) detail: String,
}

/// Most entries shown at once.
pub(crate) const SHOWN: u32 = 200;

/// Appends an entry. Returns its number and the new head of the chain.
pub(crate) fn append(
    tx: &Tx<'_>,
    key: &HmacKey,
    user_id: &str,
    event: &Event,
) -> Result<(u64, [u8; 32]), RecordsError> {
    tx.lock(user_id)?;
    let last = tx.query_one(
        "SELECT sequence, hash FROM audit WHERE user_id = ?1 ORDER BY sequence DESC LIMIT 1",
        values![user_id],
        |row| Ok((row.uint(0)?, row.get::<Vec<u8>>(1)?)),
    )?;
    let (sequence, previous) =
        last.map_or((1, Vec::new()), |(sequence, hash)| (sequence + 1, hash));
    let hash = link(
        key,
        &previous,
        user_id,
        sequence,
        event.at,
        event.agent_id.as_deref(),
        event.action,
        &event.detail,
    );
    tx.execute(
        "INSERT INTO audit (user_id, sequence, at, agent_id, action, detail, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        values![
            user_id,
            int(sequence),
            int(event.at),
            event.agent_id.as_deref(),
            event.action,
            &event.detail,
            hash.as_slice()
        ],
    )?;
    Ok((sequence, hash))
}

/// How often this happened to an agent after `since`, in seconds since 1970.
pub(crate) fn count(
    tx: &ReadTx<'_>,
    user_id: &str,
    agent_id: &str,
    action: &str,
    since: u64,
) -> Result<u64, RecordsError> {
    // The newest alone: what is counted is what happened lately.
    let count = tx.query_one(
        "SELECT count(*) FROM (SELECT at, agent_id, action FROM audit WHERE user_id = ?1
             ORDER BY sequence DESC LIMIT 1000) AS newest
         WHERE agent_id = ?2 AND action = ?3 AND at > ?4",
        values![user_id, agent_id, action, int(since)],
        |row| row.uint(0),
    )?;
    Ok(count.unwrap_or_default())
}

/// The newest entries, newest first, and whether they form a chain.
pub(crate) fn newest(
    tx: &ReadTx<'_>,
    key: &HmacKey,
    user_id: &str,
) -> Result<(Vec<AuditEntry>, bool), RecordsError> {
    // One more than is shown: the oldest one only lends its hash.
    let mut rows = tx.query(
        "SELECT sequence, at, agent_id, action, detail, hash FROM audit
         WHERE user_id = ?1 ORDER BY sequence DESC LIMIT ?2",
        values![user_id, SHOWN + 1],
        read,
    )?;
    let oldest_is_first = rows.last().is_none_or(|(entry, _)| entry.sequence == 1);
    let intact = rows
        .windows(2)
        .all(|pair| follows(key, user_id, &pair[1], &pair[0]))
        && match rows.last() {
            Some(first) if oldest_is_first => {
                follows(key, user_id, &(first.0.clone(), Vec::new()), first)
            }
            Some(_) => rows.len() > SHOWN as usize,
            None => true,
        };
    rows.truncate(SHOWN as usize);
    Ok((rows.into_iter().map(|(entry, _)| entry).collect(), intact))
}

type Link = (AuditEntry, Vec<u8>);

fn read(row: &Row<'_>) -> Result<Link, RecordsError> {
    let hash: Vec<u8> = row.get(5)?;
    let entry = AuditEntry {
        sequence: row.uint(0)?,
        at: row.uint(1)?,
        agent_id: row.get(2)?,
        action: row.get(3)?,
        detail: row.get(4)?,
        hash: hex(&hash),
    };
    Ok((entry, hash))
}

/// Whether `next` is the entry after `previous`, or the first if `previous`
/// has no hash.
fn follows(key: &HmacKey, user_id: &str, previous: &Link, next: &Link) -> bool {
    let entry = &next.0;
    let in_order = previous.1.is_empty() || entry.sequence == previous.0.sequence + 1;
    let agent_id = entry.agent_id.as_deref();
    let expected = link(
        key,
        &previous.1,
        user_id,
        entry.sequence,
        entry.at,
        agent_id,
        &entry.action,
        &entry.detail,
    );
    in_order && next.1 == expected
}

#[expect(clippy::too_many_arguments, reason = "the columns of one row")]
fn link(
    key: &HmacKey,
    previous: &[u8],
    user_id: &str,
    sequence: u64,
    at: u64,
    agent_id: Option<&str>,
    action: &str,
    detail: &str,
) -> [u8; 32] {
    let mut message = Vec::with_capacity(256);
    let mut field = |bytes: &[u8]| {
        message.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        message.extend_from_slice(bytes);
    };
    field(previous);
    field(user_id.as_bytes());
    field(&sequence.to_be_bytes());
    field(&at.to_be_bytes());
    field(&[u8::from(agent_id.is_some())]);
    field(agent_id.unwrap_or_default().as_bytes());
    field(action.as_bytes());
    field(detail.as_bytes());
    *key.sign(&message).as_bytes()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use katachi_crypto::Secret;
    use katachi_crypto::mac::HmacKey;
    use katachi_store::database::{Database, DatabaseKey, Options};

    use super::super::schema::MIGRATIONS;
    use super::super::store::{Store, values};
    use super::{Event, SHOWN, append, newest};

    fn log(entries: u64) -> (tempfile::TempDir, Store, HmacKey) {
        let dir = tempfile::tempdir().unwrap();
        let key = DatabaseKey::generate().unwrap();
        let options = Options::new().migrations(MIGRATIONS);
        let database = Database::open(dir.path().join("db"), &key, options).unwrap();
        let database = Store::Embedded(database);
        let chain = HmacKey::new(&Secret::new([1; 32]));
        database
            .write(|tx| {
                tx.execute(
                    "INSERT INTO users (id, email, password, tenant_key, created_at, address)
                 VALUES ('u', 'e', 'p', x'00', 0, 'e')",
                    values![],
                )?;
                for at in 0..entries {
                    let event = Event {
                        at,
                        agent_id: None,
                        action: "signed_in",
                        detail: String::new(),
                    };
                    append(tx, &chain, "u", &event)?;
                }
                Ok(())
            })
            .unwrap();
        (dir, database, chain)
    }

    fn is_intact(database: &Store, key: &HmacKey) -> bool {
        database.read(|tx| newest(tx, key, "u")).unwrap().1
    }

    #[test]
    fn a_chain_of_any_length_is_intact_and_shows_its_newest() {
        for entries in [
            0,
            1,
            2,
            u64::from(SHOWN),
            u64::from(SHOWN) + 1,
            u64::from(SHOWN) + 30,
        ] {
            let (_dir, database, key) = log(entries);
            let (shown, intact) = database.read(|tx| newest(tx, &key, "u")).unwrap();
            assert!(intact, "{entries}");
            assert_eq!(shown.len() as u64, entries.min(u64::from(SHOWN)));
            assert_eq!(shown.first().map_or(0, |entry| entry.sequence), entries);
        }
    }

    #[test]
    fn whoever_changes_an_entry_breaks_the_chain() {
        for tampering in [
            "UPDATE audit SET action = 'nothing' WHERE sequence = 2",
            "UPDATE audit SET at = 99 WHERE sequence = 1",
            "UPDATE audit SET agent_id = 'x' WHERE sequence = 3",
            "UPDATE audit SET detail = 'x' WHERE sequence = 5",
            "DELETE FROM audit WHERE sequence = 3",
            "DELETE FROM audit WHERE sequence = 1",
            "UPDATE audit SET sequence = 6 WHERE sequence = 5",
        ] {
            let (_dir, database, key) = log(5);
            assert!(is_intact(&database, &key));
            database
                .write(|tx| tx.execute(tampering, values![]))
                .unwrap();
            assert!(!is_intact(&database, &key), "{tampering}");
        }
    }

    #[test]
    fn entries_of_another_key_are_not_ours() {
        let (_dir, database, _) = log(3);
        assert!(!is_intact(&database, &HmacKey::new(&Secret::new([2; 32]))));
        let moved = database.write(|tx| {
            tx.execute(
                "INSERT INTO users (id, email, password, tenant_key, created_at, address)
                 VALUES ('v', 'f', 'p', x'00', 0, 'f')",
                values![],
            )?;
            tx.execute("UPDATE audit SET user_id = ?1", values!["v"])
        });
        moved.unwrap();
        let key = HmacKey::new(&Secret::new([1; 32]));
        assert!(!database.read(|tx| newest(tx, &key, "v")).unwrap().1);
    }
}
