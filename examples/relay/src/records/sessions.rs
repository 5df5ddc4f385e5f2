//! Sessions of browsers, in the database.

use katachi_auth::clock::Timestamp;
use katachi_auth::replay::Unavailable;
use katachi_auth::session::{Session, SessionStore, TokenDigest};
use tokio::sync::watch;

use super::RecordsError;
use super::store::{Store, Tx, Value, int, values};

/// Most sessions of one account; those used least recently make room.
const MOST_SESSIONS: u32 = 32;

const REMOVE_ALL: &str = "DELETE FROM sessions WHERE user_id = ?1";

/// Keeps sessions in the database.
#[derive(Clone, Debug)]
pub(crate) struct SessionRows {
    store: Store,
    /// Told whenever a session is gone.
    ended: watch::Sender<()>,
}

impl SessionRows {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            ended: watch::Sender::new(()),
        }
    }

    /// Changes whenever any session is gone from the database.
    pub(crate) fn ended(&self) -> watch::Receiver<()> {
        self.ended.subscribe()
    }

    /// Forgets sessions last used before `seen` or begun before `begun`.
    pub(crate) fn sweep(&self, seen: Timestamp, begun: Timestamp) -> Result<usize, RecordsError> {
        let swept = self.store.write(|tx| {
            remove(
                tx,
                "DELETE FROM sessions WHERE seen_ms < ?1 OR created_ms < ?2",
                values![int(seen.as_unix_millis()), int(begun.as_unix_millis())],
            )
        })?;
        self.tell(swept);
        Ok(swept)
    }
}

impl SessionStore for SessionRows {
    fn insert(&self, session: Session) -> Result<(), Unavailable> {
        let insert = self.store.write(|tx| {
            tx.lock(&session.account)?;
            tx.execute(
                "INSERT INTO sessions (digest, user_id, created_ms, seen_ms) VALUES (?1, ?2, ?3, ?4)",
                values![
                    session.digest.as_bytes().as_slice(),
                    &session.account,
                    int(session.created.as_unix_millis()),
                    int(session.seen.as_unix_millis()),
                ],
            )?;
            remove(
                tx,
                "DELETE FROM sessions WHERE user_id = ?1 AND digest NOT IN (
                    SELECT digest FROM sessions WHERE user_id = ?1 ORDER BY seen_ms DESC LIMIT ?2)",
                values![&session.account, MOST_SESSIONS],
            )
        });
        let made_room = insert.map_err(Unavailable::new)?;
        self.tell(made_room);
        Ok(())
    }

    fn find(&self, digest: &TokenDigest) -> Result<Option<Session>, Unavailable> {
        let found = self.store.read(|tx| {
            tx.query_one(
                "SELECT user_id, created_ms, seen_ms FROM sessions WHERE digest = ?1",
                values![digest.as_bytes().as_slice()],
                |row| {
                    Ok(Session {
                        digest: *digest,
                        account: row.get(0)?,
                        created: Timestamp::from_unix_millis(row.uint(1)?),
                        seen: Timestamp::from_unix_millis(row.uint(2)?),
                    })
                },
            )
        });
        found.map_err(Unavailable::new)
    }

    fn touch(&self, digest: &TokenDigest, now: Timestamp) -> Result<(), Unavailable> {
        let touched = self.store.write(|tx| {
            tx.execute(
                "UPDATE sessions SET seen_ms = ?2 WHERE digest = ?1 AND seen_ms < ?2",
                values![digest.as_bytes().as_slice(), int(now.as_unix_millis())],
            )
        });
        touched.map(drop).map_err(Unavailable::new)
    }

    fn remove(&self, digest: &TokenDigest) -> Result<bool, Unavailable> {
        let removed = self.remove_where(
            "DELETE FROM sessions WHERE digest = ?1",
            values![digest.as_bytes().as_slice()],
        )?;
        Ok(removed == 1)
    }

    fn remove_all(&self, account: &str) -> Result<(), Unavailable> {
        self.remove_where(REMOVE_ALL, values![account]).map(drop)
    }
}

impl SessionRows {
    /// Removes all sessions of an account along with what else `tx` does; call
    /// [`Self::tell`] with their number once that is committed.
    pub(crate) fn remove_all_in(tx: &Tx<'_>, account: &str) -> Result<usize, RecordsError> {
        remove(tx, REMOVE_ALL, values![account])
    }

    /// Tells those who hold something for a session that some are gone.
    pub(crate) fn tell(&self, gone: usize) {
        if gone > 0 {
            self.ended.send_replace(());
        }
    }

    fn remove_where(&self, sql: &str, values: &[Value]) -> Result<usize, Unavailable> {
        let removed = self.store.write(|tx| remove(tx, sql, values));
        let removed = removed.map_err(Unavailable::new)?;
        self.tell(removed);
        Ok(removed)
    }
}

/// Removes sessions; the other nodes hear of it.
fn remove(tx: &Tx<'_>, sql: &str, values: &[Value]) -> Result<usize, RecordsError> {
    let removed = tx.execute(sql, values)?;
    if removed > 0 {
        tx.sessions_ended()?;
    }
    Ok(removed)
}
