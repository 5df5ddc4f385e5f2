//! How often somebody may be wrong about a user code (RFC 8628 section 5.1).
//!
//! A code has 34.5 bits, so the number of guesses is the security. Every guess is
//! counted for the browser session, the account, the address prefix and for all
//! together; the first that has used up its number stops it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use crate::clock::Timestamp;

/// Wrong guesses allowed in [`GuessLimits::period`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GuessLimits {
    /// For one browser session.
    pub session: u32,
    /// For one account.
    pub account: u32,
    /// For one address prefix: /24 of IPv4, /56 of IPv6.
    pub prefix: u32,
    /// For everybody together.
    pub global: u32,
    /// Until wrong guesses are forgotten.
    pub period: Duration,
    /// Sessions, accounts and prefixes counted at once; beyond it nobody may guess.
    pub subjects: usize,
}

impl Default for GuessLimits {
    /// 5, 20, 50 and 1000 in an hour: against 100 live codes, odds of 1 in 256,000 an hour.
    fn default() -> Self {
        Self {
            session: 5,
            account: 20,
            prefix: 50,
            global: 1000,
            period: Duration::from_secs(3600),
            subjects: 65_536,
        }
    }
}

/// Who types a code.
#[derive(Clone, Copy, Debug)]
pub struct Guesser<'a> {
    /// The browser session.
    pub session: &'a str,
    /// The account that is signed in.
    pub account: &'a str,
    /// The address of the connection, not of a header that anyone can write.
    pub address: IpAddr,
}

/// Too many wrong guesses: 429.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("too many wrong codes: ask again in {} s", .retry_after.as_secs())]
pub struct TooManyGuesses {
    /// For the `Retry-After` header.
    pub retry_after: Duration,
}

/// Counts wrong guesses.
#[derive(Debug)]
pub struct Guesses {
    limits: GuessLimits,
    counts: Mutex<HashMap<Subject, Count>>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Subject {
    Session(String),
    Account(String),
    Prefix([u8; 8]),
    Everybody,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    wrong: u32,
    since: Timestamp,
}

impl Guesses {
    /// Counts from nothing.
    #[must_use]
    pub fn new(limits: GuessLimits) -> Self {
        Self {
            limits,
            counts: Mutex::default(),
        }
    }

    fn subjects(&self, who: &Guesser<'_>) -> [(Subject, u32); 4] {
        [
            (
                Subject::Session(who.session.to_owned()),
                self.limits.session,
            ),
            (
                Subject::Account(who.account.to_owned()),
                self.limits.account,
            ),
            (Subject::Prefix(prefix(who.address)), self.limits.prefix),
            (Subject::Everybody, self.limits.global),
        ]
    }

    /// Counts a guess before it is looked at, so that guesses made at once all count.
    ///
    /// # Errors
    ///
    /// Returns [`TooManyGuesses`] if one of the numbers is used up.
    pub fn begin(&self, who: &Guesser<'_>, now: Timestamp) -> Result<(), TooManyGuesses> {
        let period = self.limits.period;
        let refused = |since: Timestamp| TooManyGuesses {
            retry_after: since.after(period).since(now).max(Duration::from_secs(1)),
        };
        // After a panic the counts are unknown, and nobody may guess.
        let mut counts = self.counts.lock().map_err(|_| refused(now))?;
        let subjects = self.subjects(who);
        if counts.len() + subjects.len() > self.limits.subjects {
            counts.retain(|_, count| now.since(count.since) < period);
            if counts.len() + subjects.len() > self.limits.subjects {
                return Err(refused(now));
            }
        }
        for (subject, limit) in &subjects {
            if let Some(count) = counts.get_mut(subject) {
                if now.since(count.since) >= period {
                    counts.remove(subject);
                } else if count.wrong >= *limit {
                    return Err(refused(count.since));
                }
            }
        }
        for (subject, _) in subjects {
            counts
                .entry(subject)
                .or_insert(Count {
                    wrong: 0,
                    since: now,
                })
                .wrong += 1;
        }
        Ok(())
    }

    /// Takes a guess back: it was right.
    pub fn right(&self, who: &Guesser<'_>) {
        let Ok(mut counts) = self.counts.lock() else {
            return;
        };
        for (subject, _) in self.subjects(who) {
            if let Some(count) = counts.get_mut(&subject) {
                count.wrong = count.wrong.saturating_sub(1);
            }
        }
    }
}

/// /24 of IPv4 (also where it is mapped into IPv6), /56 of IPv6; the first byte tells
/// the family.
fn prefix(address: IpAddr) -> [u8; 8] {
    let mut prefix = [0; 8];
    match address.to_canonical() {
        IpAddr::V4(address) => {
            prefix[0] = 4;
            prefix[1..4].copy_from_slice(&address.octets()[..3]);
        }
        IpAddr::V6(address) => {
            prefix[0] = 6;
            prefix[1..].copy_from_slice(&address.octets()[..7]);
        }
    }
    prefix
}
