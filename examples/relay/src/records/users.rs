//! Accounts.

use katachi_store::database::{DatabaseError, ReadTx, Tx, params};

use super::int;

/// An account.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) email: String,
}

/// What a sign-in is checked against.
pub(crate) struct Credentials {
    pub(crate) user: User,
    /// An Argon2id record.
    pub(crate) password: String,
}

/// Opens an account; `false` if the address has one.
pub(crate) fn create(
    tx: &Tx<'_>,
    user: &User,
    password: &str,
    tenant_key: &[u8],
    now: u64,
) -> Result<bool, DatabaseError> {
    let rows = tx.execute(
        "INSERT INTO users (id, email, password, tenant_key, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (email) DO NOTHING",
        params![user.id, user.email, password, tenant_key, int(now)],
    )?;
    Ok(rows == 1)
}

pub(crate) fn by_email(tx: &ReadTx<'_>, email: &str) -> Result<Option<Credentials>, DatabaseError> {
    tx.query_one(
        "SELECT id, email, password FROM users WHERE email = ?1",
        [email],
        |row| {
            let user = User {
                id: row.get(0)?,
                email: row.get(1)?,
            };
            Ok(Credentials {
                user,
                password: row.get(2)?,
            })
        },
    )
}

pub(crate) fn by_id(tx: &ReadTx<'_>, id: &str) -> Result<Option<User>, DatabaseError> {
    tx.query_one("SELECT id, email FROM users WHERE id = ?1", [id], |row| {
        Ok(User {
            id: row.get(0)?,
            email: row.get(1)?,
        })
    })
}

/// The wrapped key of the account's secrets.
pub(crate) fn tenant_key(tx: &ReadTx<'_>, id: &str) -> Result<Option<Vec<u8>>, DatabaseError> {
    tx.query_one("SELECT tenant_key FROM users WHERE id = ?1", [id], |row| {
        row.get(0)
    })
}

/// Replaces the password record, after its parameters were raised.
pub(crate) fn set_password(tx: &Tx<'_>, id: &str, password: &str) -> Result<(), DatabaseError> {
    tx.execute(
        "UPDATE users SET password = ?2 WHERE id = ?1",
        params![id, password],
    )?;
    Ok(())
}
