//! Links in mail, as digests: one for each account and purpose.

use katachi_auth::mail::{Address, Link, LinkStore, Purpose, Put};
use katachi_auth::replay::Unavailable;
use katachi_auth::session::TokenDigest;
use katachi_store::column::Cell;

use super::RecordsError;
use super::rotation::{Kept, Names, Sealed};
use super::store::{Store, Tx, int, values};
use super::users;

const MAIL_TOKENS: &str = "mail_tokens";

pub(super) const SEALED: Sealed = Sealed {
    table: MAIL_TOKENS,
    account: "user_id",
    columns: &["address"],
    names: Names::Bytes("digest"),
    version: None,
    kept: Kept::InPostgres,
};

/// Keeps links in the database.
#[derive(Clone, Debug)]
pub(crate) struct MailTokens {
    store: Store,
    /// Hands out links of this account alone.
    only: Option<String>,
}

impl MailTokens {
    pub(super) fn new(store: Store) -> Self {
        Self { store, only: None }
    }

    /// The links of one account: others are as if they were not there.
    pub(crate) fn of(self, account: &str) -> Self {
        Self {
            only: Some(account.to_owned()),
            ..self
        }
    }
}

impl LinkStore for MailTokens {
    fn put(
        &self,
        link: Link,
        unless_after: katachi_auth::clock::Timestamp,
    ) -> Result<Put, Unavailable> {
        let put = |tx: &Tx<'_>| {
            tx.lock(&link.account)?;
            let purpose = word(link.purpose);
            let last = tx.query_one(
                "SELECT created_ms FROM mail_tokens WHERE user_id = ?1 AND purpose = ?2",
                values![&link.account, purpose],
                |row| row.uint(0),
            )?;
            if last.is_some_and(|last| last > unless_after.as_unix_millis()) {
                return Ok(Put::TooSoon);
            }
            tx.execute(
                "DELETE FROM mail_tokens WHERE expires_ms <= ?1 OR (user_id = ?2 AND purpose = ?3)",
                values![int(link.created.as_unix_millis()), &link.account, purpose],
            )?;
            let cover = tx.cover(&link.account, &users::tenant_key(tx, &link.account)?)?;
            tx.execute(
                "INSERT INTO mail_tokens (digest, user_id, purpose, address, created_ms, expires_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                values![
                    link.digest.as_bytes().as_slice(),
                    &link.account,
                    purpose,
                    cover.seal(&cell(&link.digest), link.address.as_str())?,
                    int(link.created.as_unix_millis()),
                    int(link.expires.as_unix_millis()),
                ],
            )?;
            Ok(Put::Stored)
        };
        self.store.write(put).map_err(Unavailable::new)
    }

    fn take(&self, digest: &TokenDigest) -> Result<Option<Link>, Unavailable> {
        self.store
            .write(|tx| take(tx, digest, self.only.as_deref()))
            .map_err(Unavailable::new)
    }
}

fn take(
    tx: &Tx<'_>,
    digest: &TokenDigest,
    only: Option<&str>,
) -> Result<Option<Link>, RecordsError> {
    let key = digest.as_bytes().as_slice();
    // The account's key first: what is read then is sealed with it.
    let account = tx.query_one(
        "SELECT user_id FROM mail_tokens WHERE digest = ?1",
        values![key],
        |row| row.get::<String>(0),
    )?;
    let Some(account) = account else {
        return Ok(None);
    };
    let cover = tx.cover(&account, &users::tenant_key(tx, &account)?)?;
    let found = tx.query_one(
        "SELECT purpose, address, created_ms, expires_ms FROM mail_tokens WHERE digest = ?1",
        values![key],
        |row| {
            let address = cover.open(&cell(digest), row, 1)?;
            let time = |at| {
                Ok::<_, RecordsError>(katachi_auth::clock::Timestamp::from_unix_millis(
                    row.uint(at)?,
                ))
            };
            Ok(Link {
                digest: *digest,
                purpose: match row.get::<String>(0)?.as_str() {
                    RESET => Purpose::ResetPassword,
                    _ => Purpose::VerifyAddress,
                },
                account: account.clone(),
                address: Address::parse(&address).map_err(|_| RecordsError::NotText)?,
                created: time(2)?,
                expires: time(3)?,
            })
        },
    )?;
    let Some(link) = found.filter(|link| only.is_none_or(|only| only == link.account)) else {
        return Ok(None);
    };
    // Of several that ask at once, one removes it.
    let removed = tx.execute("DELETE FROM mail_tokens WHERE digest = ?1", values![key])?;
    Ok((removed == 1).then_some(link))
}

const VERIFY: &str = "verify";
const RESET: &str = "reset";

fn word(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::VerifyAddress => VERIFY,
        Purpose::ResetPassword => RESET,
    }
}

fn cell(digest: &TokenDigest) -> Cell<'_> {
    Cell {
        table: MAIL_TOKENS,
        column: "address",
        row: digest.as_bytes(),
        version: 1,
    }
}
