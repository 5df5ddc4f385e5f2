//! Accounts elsewhere that open one here, known by issuer and subject together
//! and by nothing else.

use super::RecordsError;
use super::rotation::{Kept, Names, Sealed};
use super::store::{ReadTx, Tx, Value, cell, int, values};
use super::users;

/// A linked identity, as its owner sees it.
#[derive(Clone, Debug)]
pub(crate) struct Linked {
    pub(crate) id: String,
    pub(crate) issuer: String,
    /// What the person is called there.
    pub(crate) label: String,
    pub(crate) linked_at: u64,
}

/// Who signed in elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) subject: &'a str,
}

const IDENTITIES: &str = "identities";
const LABEL: &str = "label";

pub(super) const SEALED: Sealed = Sealed {
    table: IDENTITIES,
    account: "user_id",
    columns: &[LABEL],
    names: Names::Text(&["id"]),
    version: None,
    kept: Kept::InPostgres,
};

/// Most identities of one account.
pub(crate) const MOST_IDENTITIES: usize = 16;

impl Who<'_> {
    /// No two of them are written alike.
    fn key(self, tx: &ReadTx<'_>) -> Result<Value, RecordsError> {
        let Self { issuer, subject } = self;
        let text = format!("{} {issuer}{subject}", issuer.len());
        tx.tag(IDENTITIES, "key", &text)
    }
}

/// The account that this identity opens.
pub(crate) fn account(tx: &ReadTx<'_>, who: Who<'_>) -> Result<Option<String>, RecordsError> {
    tx.query_one(
        "SELECT user_id FROM identities WHERE key = ?1",
        values![who.key(tx)?],
        |row| row.get(0),
    )
}

/// Every identity of an account, oldest first.
pub(crate) fn of(tx: &ReadTx<'_>, user_id: &str) -> Result<Vec<Linked>, RecordsError> {
    let cover = tx.cover(user_id, &users::tenant_key(tx, user_id)?)?;
    tx.query(
        "SELECT id, issuer, label, linked_at FROM identities WHERE user_id = ?1
         ORDER BY linked_at, id",
        values![user_id],
        |row| {
            let id: String = row.get(0)?;
            Ok(Linked {
                issuer: row.get(1)?,
                label: cover.open(&cell(IDENTITIES, LABEL, &id), row, 2)?,
                linked_at: row.uint(3)?,
                id,
            })
        },
    )
}

/// Links an identity to an account; `false` if it opens one already.
pub(crate) fn link(
    tx: &Tx<'_>,
    user_id: &str,
    subject: &str,
    linked: &Linked,
) -> Result<bool, RecordsError> {
    let cover = tx.cover(user_id, &users::tenant_key(tx, user_id)?)?;
    let who = Who {
        issuer: &linked.issuer,
        subject,
    };
    let rows = tx.execute(
        "INSERT INTO identities (key, id, user_id, issuer, label, linked_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (key) DO NOTHING",
        values![
            who.key(tx)?,
            &linked.id,
            user_id,
            &linked.issuer,
            cover.seal(&cell(IDENTITIES, LABEL, &linked.id), &linked.label)?,
            int(linked.linked_at),
        ],
    )?;
    Ok(rows == 1)
}

/// Takes one identity from an account.
pub(crate) fn unlink(tx: &Tx<'_>, user_id: &str, id: &str) -> Result<bool, RecordsError> {
    let rows = tx.execute(
        "DELETE FROM identities WHERE user_id = ?1 AND id = ?2",
        values![user_id, id],
    )?;
    Ok(rows == 1)
}

/// Takes all identities from an account.
pub(crate) fn unlink_all(tx: &Tx<'_>, user_id: &str) -> Result<usize, RecordsError> {
    tx.execute(
        "DELETE FROM identities WHERE user_id = ?1",
        values![user_id],
    )
}
