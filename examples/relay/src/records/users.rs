//! Accounts.

use super::RecordsError;
use super::rotation::{Kept, Names, Sealed};
use super::store::{ReadTx, Tx, cell, int, values};

/// An account.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) email: String,
    /// Whether somebody showed that they read the address's mail.
    pub(crate) verified: bool,
}

/// What a sign-in is checked against.
pub(crate) struct Credentials {
    pub(crate) user: User,
    /// An Argon2id record, unless the account is opened at a provider alone.
    pub(crate) password: Option<String>,
}

pub(super) const SEALED: Sealed = Sealed {
    table: USERS,
    account: "id",
    columns: &[ADDRESS, PASSWORD],
    names: Names::Text(&["id"]),
    version: None,
    kept: Kept::InPostgres,
};

const USERS: &str = "users";
const ADDRESS: &str = "address";
const PASSWORD: &str = "password";

/// What stands in place of a record where there is no password.
const NO_PASSWORD: &str = "";

/// Opens an account; `false` if the address has one. `tenant_key` is made in the same
/// transaction, which no rotation of what wraps it overlaps.
pub(crate) fn create(
    tx: &Tx<'_>,
    user: &User,
    password: Option<&str>,
    tenant_key: &[u8],
    now: u64,
) -> Result<bool, RecordsError> {
    let cover = tx.cover(&user.id, tenant_key)?;
    let rows = tx.execute(
        "INSERT INTO users (id, email, address, password, tenant_key, key_made_ms, created_at, verified_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (email) DO NOTHING",
        values![
            &user.id,
            tx.tag(USERS, "email", &user.email)?,
            cover.seal(&cell(USERS, ADDRESS, &user.id), &user.email)?,
            cover.seal(
                &cell(USERS, PASSWORD, &user.id),
                password.unwrap_or(NO_PASSWORD)
            )?,
            tenant_key,
            int(tx.now()?.as_unix_millis()),
            int(now),
            user.verified.then(|| int(now)),
        ],
    )?;
    Ok(rows == 1)
}

pub(crate) fn by_email(tx: &ReadTx<'_>, email: &str) -> Result<Option<Credentials>, RecordsError> {
    tx.query_one(
        "SELECT id, tenant_key, password, verified_at FROM users WHERE email = ?1",
        values![tx.tag(USERS, "email", email)?],
        |row| {
            let id: String = row.get(0)?;
            let cover = tx.cover(&id, &row.get::<Vec<u8>>(1)?)?;
            let password = cover.open(&cell(USERS, PASSWORD, &id), row, 2)?;
            Ok(Credentials {
                password: Some(password).filter(|record| record != NO_PASSWORD),
                user: User {
                    id,
                    email: email.to_owned(),
                    verified: row.get::<Option<i64>>(3)?.is_some(),
                },
            })
        },
    )
}

pub(crate) fn by_id(tx: &ReadTx<'_>, id: &str) -> Result<Option<User>, RecordsError> {
    tx.query_one(
        "SELECT tenant_key, address, verified_at FROM users WHERE id = ?1",
        values![id],
        |row| {
            let cover = tx.cover(id, &row.get::<Vec<u8>>(0)?)?;
            Ok(User {
                id: id.to_owned(),
                email: cover.open(&cell(USERS, ADDRESS, id), row, 1)?,
                verified: row.get::<Option<i64>>(2)?.is_some(),
            })
        },
    )
}

/// The wrapped key of the account's secrets. It is theirs until the transaction ends:
/// one that writes asks for it before it reads what the key sealed.
pub(crate) fn tenant_key(tx: &ReadTx<'_>, id: &str) -> Result<Vec<u8>, RecordsError> {
    tx.query_one(
        &format!("SELECT tenant_key FROM users WHERE id = ?1{}", tx.hold()),
        values![id],
        |row| row.get(0),
    )?
    .ok_or(RecordsError::NoTenantKey)
}

/// Replaces the password record, after its parameters were raised.
pub(crate) fn set_password(tx: &Tx<'_>, id: &str, password: &str) -> Result<(), RecordsError> {
    let cover = tx.cover(id, &tenant_key(tx, id)?)?;
    tx.execute(
        "UPDATE users SET password = ?2 WHERE id = ?1",
        values![id, cover.seal(&cell(USERS, PASSWORD, id), password)?],
    )?;
    Ok(())
}

/// Whether the account can be signed in to by password.
pub(crate) fn has_password(tx: &ReadTx<'_>, id: &str) -> Result<bool, RecordsError> {
    let record = tx.query_one(
        "SELECT tenant_key, password FROM users WHERE id = ?1",
        values![id],
        |row| {
            let cover = tx.cover(id, &row.get::<Vec<u8>>(0)?)?;
            cover.open(&cell(USERS, PASSWORD, id), row, 1)
        },
    )?;
    Ok(record.is_some_and(|record| record != NO_PASSWORD))
}

/// Notes that somebody showed that they read the address's mail.
pub(crate) fn set_verified(tx: &Tx<'_>, id: &str, now: u64) -> Result<(), RecordsError> {
    tx.execute(
        "UPDATE users SET verified_at = ?2 WHERE id = ?1 AND verified_at IS NULL",
        values![id, int(now)],
    )?;
    Ok(())
}
