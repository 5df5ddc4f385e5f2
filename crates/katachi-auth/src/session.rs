//! Sessions of people in browsers, and bearer tokens.
//!
//! A [`Token`] is 256 random bits, shown to its holder once. The server keeps its
//! SHA-256 alone: the token has so much entropy that nothing slower is needed, and a
//! stolen table signs nobody in. A session ends by idling, by age, or by being told to,
//! always on the server's side.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_crypto::{Secret, SecretString};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::replay::Unavailable;

/// A bearer token. Show it to its holder and drop it.
#[derive(Debug)]
pub struct Token(SecretString);

impl Token {
    /// Length as text, in characters.
    pub const TEXT_LEN: usize = 43;

    /// A random token.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the operating system gives no randomness.
    pub fn generate() -> Result<Self, Unavailable> {
        let secret = Secret::<32>::random().map_err(Unavailable::new)?;
        Ok(Self(SecretString::new(
            URL_SAFE_NO_PAD.encode(secret.expose_secret()),
        )))
    }

    /// The token as text.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        self.0.expose_secret()
    }

    /// What the server keeps of it.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest::of(self.expose_secret())
    }

    /// The value of a `Set-Cookie` header that keeps the token in a browser: `name`
    /// gets the prefix `__Host-`, so that no other host can set it, and no script or
    /// other site's page can read or send it.
    #[must_use]
    pub fn set_cookie(&self, name: &str, max_age: Duration) -> String {
        format!(
            "__Host-{name}={}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={}",
            self.expose_secret(),
            max_age.as_secs()
        )
    }
}

/// The value of a `Set-Cookie` header that makes a browser forget the token.
#[must_use]
pub fn clear_cookie(name: &str) -> String {
    format!("__Host-{name}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0")
}

/// The value of the cookie `__Host-name` in a `Cookie` header; none if it is absent or
/// stands there twice.
#[must_use]
pub fn cookie<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let mut found = header.split(';').filter_map(|pair| {
        pair.trim()
            .strip_prefix("__Host-")?
            .strip_prefix(name)?
            .strip_prefix('=')
    });
    let first = found.next();
    if found.next().is_some() { None } else { first }
}

/// SHA-256 of a token.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of a token that somebody presents.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }

    /// The digest with these bytes, as a store kept them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes, for a store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A session as the server keeps it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Digest of its token.
    pub digest: TokenDigest,
    /// Whose session it is.
    pub account: String,
    /// When the person signed in.
    pub created: Timestamp,
    /// When it was last used.
    pub seen: Timestamp,
}

/// How long sessions live.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lifetimes {
    /// Without use.
    pub idle: Duration,
    /// In all.
    pub absolute: Duration,
}

impl Default for Lifetimes {
    /// 12 hours and 30 days.
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(12 * 3600),
            absolute: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

impl Lifetimes {
    /// Whether `session` is over.
    #[must_use]
    pub fn ended(&self, session: &Session, now: Timestamp) -> bool {
        now.since(session.seen) >= self.idle || now.since(session.created) >= self.absolute
    }
}

/// Keeps sessions.
pub trait SessionStore: Send + Sync {
    /// Stores a session.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    fn insert(&self, session: Session) -> Result<(), Unavailable>;

    /// The session with this digest.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    fn find(&self, digest: &TokenDigest) -> Result<Option<Session>, Unavailable>;

    /// Notes that a session was used.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    fn touch(&self, digest: &TokenDigest, now: Timestamp) -> Result<(), Unavailable>;

    /// Ends one session. Returns whether it was there; of two calls for one session
    /// only one is told so.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    fn remove(&self, digest: &TokenDigest) -> Result<bool, Unavailable>;

    /// Ends all sessions of an account.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    fn remove_all(&self, account: &str) -> Result<(), Unavailable>;
}

/// Begins, checks and ends sessions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sessions {
    lifetimes: Lifetimes,
}

/// A use is noted at most this often, so that reading a page is not always a write.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

impl Sessions {
    /// Sessions that live as long as `lifetimes` says.
    #[must_use]
    pub const fn new(lifetimes: Lifetimes) -> Self {
        Self { lifetimes }
    }

    /// How long sessions live.
    #[must_use]
    pub const fn lifetimes(&self) -> &Lifetimes {
        &self.lifetimes
    }

    /// Begins a session. Call it at every sign-in: a token from before is never
    /// carried over, so nobody can plant one.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store or the system's randomness gives no answer.
    pub fn begin(
        &self,
        store: &(impl SessionStore + ?Sized),
        account: &str,
        now: Timestamp,
    ) -> Result<Token, Unavailable> {
        let token = Token::generate()?;
        let session = Session {
            digest: token.digest(),
            account: account.to_owned(),
            created: now,
            seen: now,
        };
        store.insert(session)?;
        Ok(token)
    }

    /// The live session that `token` opens, or none.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store gives no answer.
    pub fn check(
        &self,
        store: &(impl SessionStore + ?Sized),
        token: &str,
        now: Timestamp,
    ) -> Result<Option<Session>, Unavailable> {
        if token.len() != Token::TEXT_LEN {
            return Ok(None);
        }
        let digest = TokenDigest::of(token);
        let Some(session) = store.find(&digest)? else {
            return Ok(None);
        };
        if self.lifetimes.ended(&session, now) {
            store.remove(&digest)?;
            return Ok(None);
        }
        if now.since(session.seen) >= TOUCH_EVERY {
            store.touch(&digest, now)?;
        }
        Ok(Some(session))
    }

    /// Replaces the token of a live session, when its holder's rights change. The old
    /// token is dead; of two replacements at once only one succeeds.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store or the system's randomness gives no answer.
    pub fn rotate(
        &self,
        store: &(impl SessionStore + ?Sized),
        token: &str,
        now: Timestamp,
    ) -> Result<Option<Token>, Unavailable> {
        let Some(session) = self.check(store, token, now)? else {
            return Ok(None);
        };
        let fresh = Token::generate()?;
        if !store.remove(&session.digest)? {
            return Ok(None);
        }
        store.insert(Session {
            digest: fresh.digest(),
            seen: now,
            ..session
        })?;
        Ok(Some(fresh))
    }

    /// Ends the session that `token` opens.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store gives no answer.
    pub fn end(
        &self,
        store: &(impl SessionStore + ?Sized),
        token: &str,
    ) -> Result<(), Unavailable> {
        store.remove(&TokenDigest::of(token)).map(drop)
    }
}

/// Sessions in the memory of one process.
#[derive(Debug, Default)]
pub struct MemorySessions(Mutex<HashMap<TokenDigest, Session>>);

impl MemorySessions {
    /// No sessions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops the sessions that have ended by `now`.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if a thread panicked inside.
    pub fn purge(&self, lifetimes: &Lifetimes, now: Timestamp) -> Result<(), Unavailable> {
        self.lock()?
            .retain(|_, session| !lifetimes.ended(session, now));
        Ok(())
    }

    fn lock(
        &self,
    ) -> Result<std::sync::MutexGuard<'_, HashMap<TokenDigest, Session>>, Unavailable> {
        self.0
            .lock()
            .map_err(|_| Unavailable::new("a thread panicked inside the session store"))
    }
}

impl SessionStore for MemorySessions {
    fn insert(&self, session: Session) -> Result<(), Unavailable> {
        self.lock()?.insert(session.digest, session);
        Ok(())
    }

    fn find(&self, digest: &TokenDigest) -> Result<Option<Session>, Unavailable> {
        Ok(self.lock()?.get(digest).cloned())
    }

    fn touch(&self, digest: &TokenDigest, now: Timestamp) -> Result<(), Unavailable> {
        if let Some(session) = self.lock()?.get_mut(digest) {
            session.seen = session.seen.max(now);
        }
        Ok(())
    }

    fn remove(&self, digest: &TokenDigest) -> Result<bool, Unavailable> {
        Ok(self.lock()?.remove(digest).is_some())
    }

    fn remove_all(&self, account: &str) -> Result<(), Unavailable> {
        self.lock()?.retain(|_, session| session.account != account);
        Ok(())
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

    #[test]
    fn a_session_ends_by_idling_by_age_and_by_being_told() {
        let (sessions, store) = (Sessions::default(), MemorySessions::new());
        let live = |token: &Token, now| {
            sessions
                .check(&store, token.expose_secret(), now)
                .unwrap()
                .is_some()
        };
        let hour = Duration::from_secs(3600);

        let token = sessions.begin(&store, "ana", NOW).unwrap();
        assert!(live(&token, NOW.after(hour * 11)));
        assert!(live(&token, NOW.after(hour * 22)), "use keeps it alive");
        assert!(!live(&token, NOW.after(hour * 34)), "idle for twelve hours");
        assert!(!live(&token, NOW.after(hour * 22)), "ended is ended");

        let token = sessions.begin(&store, "ana", NOW).unwrap();
        for used in 1..72 {
            assert!(live(&token, NOW.after(hour * 10 * used)));
        }
        assert!(!live(&token, NOW.after(hour * 720)), "thirty days old");

        let token = sessions.begin(&store, "ana", NOW).unwrap();
        sessions.end(&store, token.expose_secret()).unwrap();
        assert!(!live(&token, NOW));

        let tokens = [(); 3].map(|()| sessions.begin(&store, "ana", NOW).unwrap());
        let other = sessions.begin(&store, "ben", NOW).unwrap();
        store.remove_all("ana").unwrap();
        assert!(tokens.iter().all(|token| !live(token, NOW)));
        assert!(live(&other, NOW));
    }

    #[test]
    fn rotation_kills_the_old_token_and_keeps_the_age() {
        let (sessions, store) = (Sessions::default(), MemorySessions::new());
        let old = sessions.begin(&store, "ana", NOW).unwrap();
        let later = NOW.after(Duration::from_secs(100));
        let fresh = sessions
            .rotate(&store, old.expose_secret(), later)
            .unwrap()
            .unwrap();
        assert!(
            sessions
                .check(&store, old.expose_secret(), later)
                .unwrap()
                .is_none()
        );
        assert!(
            sessions
                .rotate(&store, old.expose_secret(), later)
                .unwrap()
                .is_none()
        );
        let session = sessions
            .check(&store, fresh.expose_secret(), later)
            .unwrap()
            .unwrap();
        assert_eq!((session.account.as_str(), session.created), ("ana", NOW));
    }

    #[test]
    fn a_store_and_a_log_hold_no_token() {
        let (sessions, store) = (Sessions::default(), MemorySessions::new());
        let token = sessions.begin(&store, "ana", NOW).unwrap();
        let shown = format!("{store:?} {token:?}");
        assert!(!shown.contains(token.expose_secret()));
        assert!(
            sessions
                .check(&store, &token.digest().to_string(), NOW)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn l08_a_cookie_is_bound_to_the_host_and_read_only_once() {
        let token = Token::generate().unwrap();
        let set = token.set_cookie("katachi", Duration::from_secs(60));
        for part in [
            "__Host-katachi=",
            "; Secure",
            "; HttpOnly",
            "; SameSite=Lax",
            "; Path=/",
        ] {
            assert!(set.contains(part), "{set}");
        }
        assert!(!set.contains("Domain"));
        let value = token.expose_secret();
        let header = format!("a=b; __Host-katachi={value}; __Host-katachi2=x");
        assert_eq!(cookie(&header, "katachi"), Some(value));
        assert_eq!(cookie("katachi=x", "katachi"), None);
        assert_eq!(
            cookie("__Host-katachi=x; __Host-katachi=y", "katachi"),
            None
        );
    }
}
