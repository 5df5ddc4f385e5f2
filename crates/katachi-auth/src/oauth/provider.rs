//! A provider, and the two steps of a sign-in there.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use katachi_crypto::SecretString;
use serde::Deserialize;

use super::callback::Outcome;
use super::discovery::{Description, SecretIn, check_url};
use super::exchange::{Exchange, Tokens};
use super::id_token::{self, Expected, IdTokenError, KeySet, Verified};
use super::login::{LIFETIME, derive};
use super::{
    BeginError, Begun, Callback, Email, Fetch, FetchError, Identity, LoginError, LoginStore,
    Pending, ReturnTo, SetUpError, fetch, github,
};
use crate::clock::Timestamp;
use crate::session::{Token, TokenDigest};

/// What a provider knows us by.
#[derive(Debug)]
pub struct Client {
    pub(super) id: String,
    pub(super) secret: Option<SecretString>,
    pub(super) redirect_uri: String,
}

impl Client {
    /// A server, which can keep a secret. `redirect_uri` is registered at the provider
    /// and should be of this provider alone (RFC 9700 section 4.4.2.2).
    pub fn confidential(
        id: impl Into<String>,
        secret: SecretString,
        redirect_uri: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            secret: Some(secret),
            redirect_uri: redirect_uri.into(),
        }
    }

    /// A program on somebody's machine, which cannot.
    pub fn public(id: impl Into<String>, redirect_uri: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            secret: None,
            redirect_uri: redirect_uri.into(),
        }
    }
}

/// Somebody signed in.
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "begin a session for this identity, and only for it"]
pub struct SignedIn {
    /// Who.
    pub identity: Identity,
    /// What the provider granted besides; drop it if nothing is asked of its API.
    pub tokens: Tokens,
    /// Where they were going.
    pub return_to: ReturnTo,
}

/// A server where people have accounts.
///
/// It is cheap to ask and remembers the provider's keys for an hour: keep one in your
/// server's state.
pub struct Provider {
    issuer: String,
    client_id: String,
    exchange: Exchange,
    scopes: &'static [&'static str],
    kind: Kind,
}

enum Kind {
    OpenId {
        jwks_uri: String,
        userinfo: Option<String>,
        sends_issuer: bool,
        keys: Mutex<Option<Fetched>>,
    },
    GitHub {
        api: String,
    },
}

#[derive(Clone)]
struct Fetched {
    keys: Arc<KeySet>,
    at: Timestamp,
}

const KEYS_LIVE: Duration = Duration::from_secs(3600);
/// Unknown keys make us ask again at most this often.
const KEYS_REST: Duration = Duration::from_secs(30);
const MAX_KEYS_LEN: usize = 256 * 1024;
const MAX_USERINFO_LEN: usize = 64 * 1024;

impl Provider {
    /// Google's issuer, for [`Self::discover`].
    pub const GOOGLE: &'static str = "https://accounts.google.com";

    /// A provider by its issuer: fetches its description and checks that it offers what a
    /// safe sign-in needs.
    ///
    /// # Errors
    ///
    /// Returns [`SetUpError`] if it cannot be reached, speaks for another, or does not.
    pub async fn discover(
        http: &impl Fetch,
        issuer: &str,
        client: Client,
    ) -> Result<Self, SetUpError> {
        let description = Description::fetch(http, issuer).await?;
        let exchange = Exchange::new(
            &client,
            &description.authorization_endpoint,
            &description.token_endpoint,
            description.secret_in()?,
        )?;
        Ok(Self {
            issuer: description.issuer,
            client_id: client.id,
            exchange,
            scopes: &["openid", "email", "profile"],
            kind: Kind::OpenId {
                jwks_uri: description.jwks_uri,
                userinfo: description.userinfo_endpoint,
                sends_issuer: description.authorization_response_iss_parameter_supported,
                keys: Mutex::default(),
            },
        })
    }

    /// GitHub.
    ///
    /// # Errors
    ///
    /// Returns [`SetUpError::Url`] if the client's redirect URI is none.
    pub fn github(client: Client) -> Result<Self, SetUpError> {
        Self::github_at(github::ISSUER, "https://api.github.com", client)
    }

    /// A GitHub Enterprise server, such as `https://git.example` with its API at
    /// `https://git.example/api/v3`.
    ///
    /// # Errors
    ///
    /// Returns [`SetUpError::Url`] if one of the URLs is none.
    pub fn github_at(host: &str, api: &str, client: Client) -> Result<Self, SetUpError> {
        let host = host.trim_end_matches('/');
        check_url("the issuer", host, false)?;
        check_url("the API", api, host.starts_with("http://"))?;
        let exchange = Exchange::new(
            &client,
            &format!("{host}/login/oauth/authorize"),
            &format!("{host}/login/oauth/access_token"),
            SecretIn::Body,
        )?;
        Ok(Self {
            issuer: host.to_owned(),
            client_id: client.id,
            exchange,
            scopes: github::SCOPES,
            kind: Kind::GitHub {
                api: api.trim_end_matches('/').to_owned(),
            },
        })
    }

    /// The provider's name, half of every [`Identity`] from there.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Begins a sign-in: redirect the browser to [`Begun::url`] and give it
    /// [`Begun::cookie`].
    ///
    /// # Errors
    ///
    /// Returns [`BeginError`] if there is no room or no answer from the store.
    pub fn begin(
        &self,
        store: &(impl LoginStore + ?Sized),
        return_to: ReturnTo,
        now: Timestamp,
    ) -> Result<Begun, BeginError> {
        let (state, cookie) = (Token::generate()?, Token::generate()?);
        let pending = Pending {
            state: state.digest(),
            cookie: cookie.digest(),
            provider: self.issuer.clone(),
            return_to,
            expires: now.after(LIFETIME),
        };
        if !store.insert(pending, now)? {
            return Err(BeginError::Full);
        }
        let state_text = state.expose_secret();
        let secret = |purpose| derive(cookie.expose_secret(), purpose, state_text);
        let url = self
            .exchange
            .url(self.scopes, state_text, &secret("nonce"), &secret("pkce"));
        Ok(Begun {
            url,
            state: state.digest(),
            cookie,
        })
    }

    /// Finishes a sign-in. `cookie` is the value of the cookie that came with the
    /// redirect.
    ///
    /// # Security
    ///
    /// Begin a new session for the identity ([`crate::session::Sessions::begin`]), whatever
    /// cookie the browser had, and clear the sign-in cookie.
    ///
    /// # Errors
    ///
    /// Returns [`LoginError`] if nobody signed in. The sign-in is over in any case.
    pub async fn finish(
        &self,
        http: &impl Fetch,
        store: &(impl LoginStore + ?Sized),
        callback: &Callback,
        cookie: &str,
        now: Timestamp,
    ) -> Result<SignedIn, LoginError> {
        let state = TokenDigest::of(callback.state());
        let pending = store.take(&state)?.ok_or(LoginError::State)?;
        if pending.expires <= now || pending.cookie != TokenDigest::of(cookie) {
            return Err(LoginError::State);
        }
        self.check_sender(&pending, callback)?;
        let code = match callback.outcome() {
            Outcome::Code(code) => code,
            Outcome::Error(error) => return Err(LoginError::Denied(error.clone())),
        };
        let verifier = derive(cookie, "pkce", callback.state());
        let (tokens, id_token) = self.exchange.redeem(http, code, &verifier).await?;
        let nonce = derive(cookie, "nonce", callback.state());
        let access = tokens.access.expose_secret();
        let identity = match &self.kind {
            Kind::GitHub { api } => github::identity(http, &self.issuer, api, access).await?,
            Kind::OpenId { userinfo, .. } => {
                let id_token = id_token.ok_or(LoginError::Answer("there is no ID token"))?;
                let identity = self.believe(http, &id_token, &nonce, now).await?;
                match userinfo {
                    Some(url) if identity.email.is_none() => {
                        ask_for_more(http, url, access, identity).await?
                    }
                    _ => identity,
                }
            }
        };
        Ok(SignedIn {
            identity,
            tokens,
            return_to: pending.return_to,
        })
    }

    /// RFC 9207 section 2.4, and RFC 9700 section 4.4 for providers that send no `iss`.
    fn check_sender(&self, pending: &Pending, callback: &Callback) -> Result<(), LoginError> {
        let says_us = match (&self.kind, callback.issuer()) {
            (Kind::OpenId { sends_issuer, .. }, None) => !sends_issuer,
            (Kind::OpenId { .. }, Some(issuer)) => issuer == self.issuer,
            // Older Enterprise servers send none.
            (Kind::GitHub { .. }, None) => true,
            (Kind::GitHub { .. }, Some(issuer)) => github::sends(&self.issuer, issuer),
        };
        if pending.provider == self.issuer && says_us {
            Ok(())
        } else {
            Err(LoginError::MixedUp)
        }
    }

    async fn believe(
        &self,
        http: &impl Fetch,
        token: &SecretString,
        nonce: &SecretString,
        now: Timestamp,
    ) -> Result<Identity, LoginError> {
        let expected = Expected {
            issuer: &self.issuer,
            client_id: &self.client_id,
            nonce: nonce.expose_secret(),
        };
        let check = |keys: &KeySet| id_token::verify(token.expose_secret(), keys, &expected, now);
        let known = self.keys(http, KEYS_LIVE, now).await?;
        let claims = match check(&known) {
            // Providers rotate their keys; a new one is worth another look.
            Err(IdTokenError::UnknownKey) => check(&*self.keys(http, KEYS_REST, now).await?)?,
            verdict => verdict?,
        };
        Ok(Identity {
            issuer: self.issuer.clone(),
            subject: claims.subject,
            email: claims.email.map(|address| Email {
                address,
                verified: claims.email_verified,
            }),
            name: claims.name,
        })
    }

    /// The provider's keys, no older than `age`.
    async fn keys(
        &self,
        http: &impl Fetch,
        age: Duration,
        now: Timestamp,
    ) -> Result<Arc<KeySet>, LoginError> {
        let Kind::OpenId { jwks_uri, keys, .. } = &self.kind else {
            return Err(LoginError::Answer("there are no keys"));
        };
        let remembered = keys.lock().ok().and_then(|keys| keys.clone());
        if let Some(fetched) = remembered
            // A clock that was set back makes them old.
            && fetched.at <= now
            && now.since(fetched.at) < age
        {
            return Ok(fetched.keys);
        }
        let kinds = "application/jwk-set+json, application/json";
        let accept = [("accept", kinds)];
        let json: serde_json::Value =
            fetch::get_json(http, jwks_uri, None, &accept, MAX_KEYS_LEN).await?;
        let set = KeySet::from_json(json).map_err(|_| FetchError::Malformed)?;
        let fetched = Arc::new(set);
        if let Ok(mut keys) = keys.lock() {
            *keys = Some(Fetched {
                keys: Arc::clone(&fetched),
                at: now,
            });
        }
        Ok(fetched)
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("issuer", &self.issuer)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct UserInfo {
    sub: String,
    email: Option<String>,
    #[serde(default)]
    email_verified: Verified,
    name: Option<String>,
}

/// OpenID Connect Core section 5.3: what the ID token does not say.
async fn ask_for_more(
    http: &impl Fetch,
    url: &str,
    access: &str,
    identity: Identity,
) -> Result<Identity, LoginError> {
    let accept = [("accept", "application/json")];
    let info: UserInfo =
        fetch::get_json(http, url, Some(access), &accept, MAX_USERINFO_LEN).await?;
    // Section 5.3.2: or it is about somebody else.
    if info.sub != identity.subject {
        return Err(LoginError::Answer("userinfo is about somebody else"));
    }
    Ok(Identity {
        email: info.email.map(|address| Email {
            address,
            verified: info.email_verified.is_true(),
        }),
        name: identity.name.or(info.name),
        ..identity
    })
}
