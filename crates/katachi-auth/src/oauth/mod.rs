//! Sign-in at somebody else's server: OAuth 2.0 code + PKCE, at GitHub, Google or any
//! OpenID provider by discovery.
//!
//! ```text
//!   browser                     we                        provider
//!      │  sign in               │                             │
//!      ├───────────────────────▶│ begin: one record, digests  │
//!      │◀─ cookie, redirect ────┤                             │
//!      ├───────── state, nonce, code_challenge ──────────────▶│
//!      │◀──────── code, state, iss ───────────────────────────┤
//!      ├─ cookie, code, state ─▶│ finish: take the record     │
//!      │                        ├── code, code_verifier ─────▶│
//!      │                        │◀─ ID token ─────────────────┤
//!      │◀── a new session ──────┤ verified through ring       │
//! ```
//!
//! [`Provider::begin`] keeps one record, which [`Provider::finish`] takes away: it is
//! good once, for ten minutes, in the browser that holds the cookie, for the provider it
//! was made for (RFC 9700 section 4.4). `iss` is checked where the provider sends or
//! promises it (RFC 9207). PKCE verifier and nonce are derived from the cookie, so the
//! record holds digests alone.
//!
//! HTTP comes in through [`Fetch`]; with the feature `reqwest` there is [`Reqwest`]. A
//! program with a browser on the same machine receives the redirect through
//! [`loopback`]. [`DeviceClient`] is for programs without one.
//!
//! # What it refuses to do
//!
//! Implicit and hybrid flows, `plain` PKCE, ID tokens with `none` or HMAC, keys that a
//! token names by itself, redirects of the provider's endpoints, and linking accounts by
//! e-mail address: an [`Identity`] is issuer and subject.

mod callback;
mod device;
mod discovery;
mod exchange;
mod fetch;
mod github;
pub mod id_token;
mod identity;
mod login;
#[cfg(feature = "loopback")]
pub mod loopback;
mod provider;
#[cfg(feature = "reqwest")]
mod reqwest;

pub use callback::{Callback, CallbackError};
pub use device::{DeviceClient, Polled};
pub use discovery::SetUpError;
pub use exchange::Tokens;
pub use fetch::{Fetch, FetchError};
pub use identity::{Email, Identity};
pub use login::{
    BeginError, Begun, LoginError, LoginStore, MemoryLogins, Pending, ReturnTo, ReturnToError,
};
pub use provider::{Client, Provider, SignedIn};

#[cfg(feature = "reqwest")]
pub use self::reqwest::Reqwest;
