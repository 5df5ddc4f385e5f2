//! Links that prove that somebody reads an address's mail.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Address;
use crate::clock::Timestamp;
use crate::replay::Unavailable;
use crate::session::{Token, TokenDigest};

/// What a link is good for, and nothing else.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The address belongs to the account.
    VerifyAddress,
    /// The account gets a new password.
    ResetPassword,
}

/// A link as the server keeps it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Digest of its token.
    pub digest: TokenDigest,
    /// What it is good for.
    pub purpose: Purpose,
    /// The account.
    pub account: String,
    /// Where it was sent.
    pub address: Address,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

/// What a redeemed link proves.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use = "the link is used up: do now what it was for"]
pub struct Confirmed {
    /// The account that the link was made for.
    pub account: String,
    /// The address that somebody reads the mail of.
    pub address: Address,
}

/// What became of a new link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Put {
    /// It is stored, and the account's older link for the same purpose is dead.
    Stored,
    /// The account's last link for this purpose is not old enough.
    TooSoon,
    /// No room.
    Full,
}

/// Keeps links, one for each account and purpose.
///
/// # Security
///
/// [`Self::take`] must be atomic: of two calls for one digest only one gets the link.
pub trait LinkStore: Send + Sync {
    /// Stores a link in the place of the account's older one for the same purpose, unless
    /// that was created after `unless_after`.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    fn put(&self, link: Link, unless_after: Timestamp) -> Result<Put, Unavailable>;

    /// Removes the link with this digest and hands it out.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    fn take(&self, digest: &TokenDigest) -> Result<Option<Link>, Unavailable>;
}

/// Issues and redeems links.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    lifetime: Duration,
    rest: Duration,
}

impl Default for Links {
    /// Good for an hour, one a minute for each account.
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(3600),
            rest: Duration::from_secs(60),
        }
    }
}

impl Links {
    /// Links that live for `lifetime`, of which an account gets one in `rest`, so that
    /// nobody's mailbox is flooded in our name.
    #[must_use]
    pub const fn new(lifetime: Duration, rest: Duration) -> Self {
        Self { lifetime, rest }
    }

    /// Makes the token of a link for `account`, to be sent to `address`; none if it asked
    /// too often or there is no room. Whoever asked hears the same in every case.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store or the system's randomness gives no answer.
    pub fn issue(
        &self,
        store: &(impl LinkStore + ?Sized),
        purpose: Purpose,
        account: &str,
        address: &Address,
        now: Timestamp,
    ) -> Result<Option<Token>, Unavailable> {
        let token = Token::generate()?;
        let link = Link {
            digest: token.digest(),
            purpose,
            account: account.to_owned(),
            address: address.clone(),
            created: now,
            expires: now.after(self.lifetime),
        };
        let put = store.put(link, now.before(self.rest))?;
        Ok((put == Put::Stored).then_some(token))
    }

    /// Uses a link up.
    ///
    /// # Security
    ///
    /// Redeem on `POST` alone: programs that scan mail open every link. After
    /// [`Purpose::ResetPassword`] end all sessions of the account and revoke its refresh
    /// tokens; after [`Purpose::VerifyAddress`] make sure that [`Confirmed::address`] is
    /// still the one the account wants.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store gives no answer.
    pub fn redeem(
        &self,
        store: &(impl LinkStore + ?Sized),
        purpose: Purpose,
        token: &str,
        now: Timestamp,
    ) -> Result<Option<Confirmed>, Unavailable> {
        if token.len() != Token::TEXT_LEN {
            return Ok(None);
        }
        let link = store.take(&TokenDigest::of(token))?;
        Ok(link
            .filter(|link| link.purpose == purpose && link.expires > now)
            .map(|link| Confirmed {
                account: link.account,
                address: link.address,
            }))
    }
}

/// Links in the memory of one process, at most as many as given.
#[derive(Debug)]
pub struct MemoryLinks {
    capacity: usize,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    links: HashMap<TokenDigest, Link>,
    /// The digest of each account's link.
    latest: HashMap<(Purpose, String), TokenDigest>,
}

impl MemoryLinks {
    /// An empty store for at most `capacity` links.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            tables: Mutex::default(),
        }
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Tables>, Unavailable> {
        self.tables
            .lock()
            .map_err(|_| Unavailable::new("a thread panicked inside the link store"))
    }
}

impl LinkStore for MemoryLinks {
    fn put(&self, link: Link, unless_after: Timestamp) -> Result<Put, Unavailable> {
        let mut tables = self.lock()?;
        let Tables { links, latest } = &mut *tables;
        let holder = (link.purpose, link.account.clone());
        if let Some(digest) = latest.get(&holder) {
            let recent = links.get(digest);
            if recent.is_some_and(|old| old.created > unless_after) {
                return Ok(Put::TooSoon);
            }
            links.remove(digest);
        }
        if links.len() >= self.capacity {
            links.retain(|_, old| old.expires > link.created);
            latest.retain(|_, digest| links.contains_key(digest));
        }
        if links.len() >= self.capacity {
            return Ok(Put::Full);
        }
        latest.insert(holder, link.digest);
        links.insert(link.digest, link);
        Ok(Put::Stored)
    }

    fn take(&self, digest: &TokenDigest) -> Result<Option<Link>, Unavailable> {
        let mut tables = self.lock()?;
        let link = tables.links.remove(digest);
        if let Some(link) = &link {
            tables.latest.remove(&(link.purpose, link.account.clone()));
        }
        Ok(link)
    }
}
