//! Where grants live between the program's start and its token.

use std::collections::HashMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::replay::Unavailable;

/// One device authorization. It holds no code in the clear, so a stolen table redeems
/// nothing.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// SHA-256 of the device code.
    pub device_code: [u8; 32],
    /// HMAC of the user code under the server's pepper: the code is short, so a plain
    /// digest of it could be guessed.
    pub user_code: [u8; 32],
    /// The client that started it.
    pub client_id: String,
    /// Thumbprint (RFC 7638) of the key that every poll must prove, if any.
    pub thumbprint: Option<String>,
    /// What the approving person should see (host, system, address), in the caller's form.
    pub details: String,
    /// When it was started.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// Seconds that the client must wait between polls; only ever grows.
    pub interval: u32,
    /// The last poll.
    pub last_poll: Option<Timestamp>,
    /// Polls that came too early.
    pub strikes: u32,
    /// How far it got.
    pub state: GrantState,
}

/// How far a grant got.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantState {
    /// Nobody has decided.
    Pending,
    /// `by` said yes.
    Approved {
        /// The account.
        by: String,
    },
    /// Somebody said no, or the client polled without restraint.
    Denied,
    /// The client has been told of the approval, once.
    Consumed,
}

/// Names a grant by one of its codes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Find {
    /// By [`Grant::device_code`].
    DeviceCode([u8; 32]),
    /// By [`Grant::user_code`].
    UserCode([u8; 32]),
}

/// What became of a new grant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inserted {
    /// It is stored.
    Stored,
    /// A live grant has this user code; try another.
    Taken,
    /// No room.
    Full,
}

/// Keeps grants.
///
/// # Security
///
/// [`Self::change`] must be atomic: two calls for one grant never both see it before
/// the other's change. A store that breaks this hands one approval out twice. In SQL
/// it is a transaction that locks the row.
pub trait DeviceStore: Send + Sync {
    /// Stores a new grant. `now` lets the store drop those that have expired.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    fn insert(&self, grant: Grant, now: Timestamp) -> Result<Inserted, Unavailable>;

    /// Lets `change` see and modify one grant, atomically. Returns whether it exists.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked or the change was not kept.
    fn change(&self, find: &Find, change: &mut dyn FnMut(&mut Grant)) -> Result<bool, Unavailable>;
}

/// Grants in the memory of one process, at most as many as given.
#[derive(Debug)]
pub struct MemoryDeviceStore {
    capacity: usize,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    grants: HashMap<[u8; 32], Grant>,
    /// User code to device code.
    by_user_code: HashMap<[u8; 32], [u8; 32]>,
}

impl MemoryDeviceStore {
    /// An empty store for at most `capacity` live grants.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            tables: Mutex::default(),
        }
    }
}

impl DeviceStore for MemoryDeviceStore {
    fn insert(&self, grant: Grant, now: Timestamp) -> Result<Inserted, Unavailable> {
        let mut tables = self.tables.lock().map_err(|_| poisoned())?;
        let Tables {
            grants,
            by_user_code,
        } = &mut *tables;
        if grants.len() >= self.capacity {
            grants.retain(|_, grant| grant.expires > now);
            by_user_code.retain(|_, device_code| grants.contains_key(device_code));
        }
        if grants.len() >= self.capacity {
            return Ok(Inserted::Full);
        }
        if let Some(holder) = by_user_code.get(&grant.user_code) {
            if grants
                .get(holder)
                .is_some_and(|holder| holder.expires > now)
            {
                return Ok(Inserted::Taken);
            }
            grants.remove(holder);
        }
        by_user_code.insert(grant.user_code, grant.device_code);
        grants.insert(grant.device_code, grant);
        Ok(Inserted::Stored)
    }

    fn change(&self, find: &Find, change: &mut dyn FnMut(&mut Grant)) -> Result<bool, Unavailable> {
        let mut tables = self.tables.lock().map_err(|_| poisoned())?;
        let device_code = match find {
            Find::DeviceCode(code) => Some(*code),
            Find::UserCode(code) => tables.by_user_code.get(code).copied(),
        };
        let grant = device_code.and_then(|code| tables.grants.get_mut(&code));
        Ok(grant.map(change).is_some())
    }
}

fn poisoned() -> Unavailable {
    Unavailable::new("a thread panicked inside the device store")
}
