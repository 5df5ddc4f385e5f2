//! Passwords: Argon2id records, with bounded memory and equal time.
//!
//! A record is the usual text `$argon2id$v=19$m=…,t=…,p=…$salt$hash`, so other
//! software can read it. A login with an unknown name costs as much time as one with
//! a known name, a flood of logins takes no more memory than was allowed, and a record
//! made with lower costs is replaced at the next login.
//!
//! Hashing takes tens of milliseconds and 19 MiB or more. In an asynchronous program
//! call it where blocking is allowed.

use std::fmt;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use katachi_crypto::password::{Params, Scratch};
use katachi_crypto::{Secret, SecretString, random};

/// A stored password: enough to check one, not to know it.
#[derive(Clone, Eq, PartialEq)]
pub struct Record {
    params: Params,
    salt: [u8; 16],
    hash: [u8; 32],
}

/// What went wrong with a password.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// 413: longer than [`Passwords::MAX_LEN`]. Nothing was hashed.
    #[error("the password is longer than {} bytes", Passwords::MAX_LEN)]
    TooLong,
    /// 422: shorter than [`Passwords::MIN_LEN`]. Only new passwords are refused for it.
    #[error("the password is shorter than {} characters", Passwords::MIN_LEN)]
    TooShort,
    /// 503: too many are hashed at once; ask again later.
    #[error("too many passwords are being hashed: ask again later")]
    Busy,
    /// The stored text is not a record, or its costs are outside the accepted range.
    #[error("not a password record: `$argon2id$v=19$m=…,t=…,p=…$salt$hash` was expected")]
    Record,
    /// 503: the operating system gave no randomness.
    #[error("the operating system gave no randomness")]
    Randomness,
}

/// What a login attempt showed.
#[derive(Debug)]
#[must_use = "only `Right` may sign in"]
pub enum Verdict {
    /// The password is right. `replace` is a record with the current costs, to store in
    /// place of the old one.
    Right {
        /// Present if the old record's costs are lower than today's.
        replace: Option<Record>,
    },
    /// The password is wrong, or there is no such account.
    Wrong,
}

/// Hashes and checks passwords, a few at a time.
pub struct Passwords {
    params: Params,
    patience: Duration,
    /// A piece of memory for each that may hash. Kept, since an allocator that is asked
    /// by many threads keeps far more.
    free: Mutex<Vec<Scratch>>,
    freed: Condvar,
}

impl Passwords {
    /// Longest password, in bytes.
    pub const MAX_LEN: usize = 1024;
    /// Shortest new password, in characters (NIST SP 800-63B).
    pub const MIN_LEN: usize = 8;

    /// Hashes with `params`, at most `at_once` at the same time: the memory taken is at
    /// most `at_once` times that of `params`, or of a record that costs more, and it is
    /// kept for the next login. Others wait two seconds for a place.
    #[must_use]
    pub fn new(params: Params, at_once: usize) -> Self {
        Self {
            params,
            patience: Duration::from_secs(2),
            free: Mutex::new((0..at_once.max(1)).map(|_| Scratch::new()).collect()),
            freed: Condvar::new(),
        }
    }

    /// Makes the record of a new password.
    ///
    /// # Errors
    ///
    /// Returns [`PasswordError`] if the password is too short or too long, or no place
    /// became free.
    pub fn hash(&self, password: &SecretString) -> Result<Record, PasswordError> {
        if password.expose_secret().chars().count() < Self::MIN_LEN {
            return Err(PasswordError::TooShort);
        }
        self.record(password)
    }

    fn record(&self, password: &SecretString) -> Result<Record, PasswordError> {
        let salt = random::bytes().map_err(|_| PasswordError::Randomness)?;
        let hash = *self.stretch(password, &salt, &self.params)?.expose_secret();
        Ok(Record {
            params: self.params,
            salt,
            hash,
        })
    }

    /// Checks a login. Pass `None` for `record` if there is no such account: the work is
    /// done all the same.
    ///
    /// # Security
    ///
    /// The work is that of today's costs for an unknown account and of the record's for a
    /// known one. Where costs were raised, records that were not used since stand out by
    /// their time.
    ///
    /// # Errors
    ///
    /// Returns [`PasswordError`] if the password is too long or no place became free.
    pub fn verify(
        &self,
        record: Option<&Record>,
        password: &SecretString,
    ) -> Result<Verdict, PasswordError> {
        let Some(record) = record else {
            self.stretch(password, &[0; 16], &self.params)?;
            return Ok(Verdict::Wrong);
        };
        let hash = self.stretch(password, &record.salt, &record.params)?;
        // Secrets compare in constant time.
        if hash != Secret::new(record.hash) {
            return Ok(Verdict::Wrong);
        }
        let replace = if cheaper(&record.params, &self.params) {
            // The person is in already; without a place the record stays as it is.
            self.record(password).ok()
        } else {
            None
        };
        Ok(Verdict::Right { replace })
    }

    fn stretch(
        &self,
        password: &SecretString,
        salt: &[u8; 16],
        params: &Params,
    ) -> Result<Secret<32>, PasswordError> {
        let password = password.expose_secret().as_bytes();
        if password.len() > Self::MAX_LEN {
            return Err(PasswordError::TooLong);
        }
        let mut place = self.take_place()?;
        let stretched = place.scratch.stretch(password, salt, params);
        // It is short enough, so it is memory that this machine lacks.
        stretched.map_err(|_| PasswordError::Busy)
    }

    fn take_place(&self) -> Result<Place<'_>, PasswordError> {
        let free = self.free.lock().map_err(|_| PasswordError::Busy)?;
        let (mut free, _) = self
            .freed
            .wait_timeout_while(free, self.patience, |free| free.is_empty())
            .map_err(|_| PasswordError::Busy)?;
        let scratch = free.pop().ok_or(PasswordError::Busy)?;
        Ok(Place {
            scratch,
            passwords: self,
        })
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords")
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

/// A place among those that may hash; given back on drop, also by a panic.
struct Place<'a> {
    scratch: Scratch,
    passwords: &'a Passwords,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Ok(mut free) = self.passwords.free.lock() {
            free.push(std::mem::take(&mut self.scratch));
        }
        self.passwords.freed.notify_one();
    }
}

fn cheaper(old: &Params, new: &Params) -> bool {
    old.memory_kib() < new.memory_kib() || old.iterations() < new.iterations()
}

impl Record {
    /// Reads a stored record.
    ///
    /// # Errors
    ///
    /// Returns [`PasswordError::Record`] for anything but an Argon2id record with a
    /// 16-byte salt, a 32-byte hash and costs in the accepted range.
    pub fn parse(text: &str) -> Result<Self, PasswordError> {
        Self::read(text).ok_or(PasswordError::Record)
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("$argon2id$v=19$")?.split('$');
        let (costs, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let mut costs = costs.split(',');
        let mut cost = |name: &str| {
            costs
                .next()?
                .strip_prefix(name)?
                .strip_prefix('=')?
                .parse::<u32>()
                .ok()
        };
        let params = Params::new(cost("m")?, cost("t")?, cost("p")?).ok()?;
        if costs.next().is_some() {
            return None;
        }
        let bytes = |text: &str| STANDARD_NO_PAD.decode(text).ok();
        Some(Self {
            params,
            salt: bytes(salt)?.try_into().ok()?,
            hash: bytes(hash)?.try_into().ok()?,
        })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "$argon2id$v=19$m={},t={},p={}${}${}",
            self.params.memory_kib(),
            self.params.iterations(),
            self.params.parallelism(),
            STANDARD_NO_PAD.encode(self.salt),
            STANDARD_NO_PAD.encode(self.hash),
        )
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(password: &str) -> SecretString {
        SecretString::new(password.to_owned())
    }

    #[test]
    fn the_right_password_is_right_and_no_other() {
        let passwords = Passwords::new(Params::FLOOR, 2);
        let record = passwords.hash(&text("correct horse")).unwrap();
        let check = |password| passwords.verify(Some(&record), &text(password)).unwrap();
        assert!(matches!(
            check("correct horse"),
            Verdict::Right { replace: None }
        ));
        assert!(matches!(check("correct horsf"), Verdict::Wrong));
        assert!(matches!(check(""), Verdict::Wrong));
        assert!(matches!(
            passwords.verify(None, &text("correct horse")),
            Ok(Verdict::Wrong)
        ));
        assert_ne!(
            record,
            passwords.hash(&text("correct horse")).unwrap(),
            "salted"
        );
    }

    #[test]
    fn l12_a_megabyte_is_refused_before_it_is_hashed() {
        let passwords = Passwords::new(Params::FLOOR, 1);
        let long = text(&"x".repeat(1 << 20));
        assert_eq!(passwords.hash(&long).unwrap_err(), PasswordError::TooLong);
        assert_eq!(
            passwords.verify(None, &long).unwrap_err(),
            PasswordError::TooLong
        );
        assert_eq!(
            passwords.hash(&text("short")).unwrap_err(),
            PasswordError::TooShort
        );
    }

    #[test]
    fn l14_raised_costs_replace_the_record_at_login() {
        let record = Passwords::new(Params::FLOOR, 1)
            .hash(&text("correct horse"))
            .unwrap();
        let raised = Passwords::new(Params::new(20 * 1024, 2, 1).unwrap(), 1);
        let verdict = raised
            .verify(Some(&record), &text("correct horse"))
            .unwrap();
        let Verdict::Right {
            replace: Some(better),
        } = verdict
        else {
            panic!("expected a replacement");
        };
        assert!(better.to_string().contains("m=20480,"));
        let again = raised
            .verify(Some(&better), &text("correct horse"))
            .unwrap();
        assert!(matches!(again, Verdict::Right { replace: None }));
    }

    #[test]
    fn a_record_reads_back_and_forged_costs_are_refused() {
        let record = Passwords::new(Params::FLOOR, 1)
            .hash(&text("correct horse"))
            .unwrap();
        let stored = record.to_string();
        assert_eq!(Record::parse(&stored).unwrap(), record);
        for bad in [
            String::new(),
            stored.replace("argon2id", "argon2i"),
            stored.replace("v=19", "v=16"),
            stored.replace("m=19456", "m=8"),
            stored.replace("m=19456", "m=4194304"),
            stored.replace("t=2", "t=1"),
            stored.replace("p=1", "p=1,x=2"),
            stored.replace("$m=", "$$m="),
            format!("{stored}$"),
            stored[..stored.len() - 2].to_owned(),
        ] {
            assert_eq!(Record::parse(&bad), Err(PasswordError::Record), "{bad}");
        }
    }

    #[test]
    fn no_more_than_allowed_hash_at_once() {
        let mut passwords = Passwords::new(Params::FLOOR, 1);
        passwords.patience = Duration::from_millis(10);
        let place = passwords.take_place().unwrap();
        let outcome = passwords.verify(None, &text("correct horse"));
        assert_eq!(outcome.unwrap_err(), PasswordError::Busy);
        drop(place);
        assert!(passwords.verify(None, &text("correct horse")).is_ok());
    }

    #[test]
    fn a_record_shows_neither_salt_nor_hash_in_logs() {
        let record = Passwords::new(Params::FLOOR, 1)
            .hash(&text("correct horse"))
            .unwrap();
        let shown = format!("{record:?}");
        let hash = STANDARD_NO_PAD.encode(record.hash);
        assert!(!shown.contains(&hash) && shown.contains("19456"));
    }
}
