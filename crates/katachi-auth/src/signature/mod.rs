//! Signed requests and responses: RFC 9421 in a byte-strict profile.
//!
//! The standard leaves to the sender what is covered, in which order, how parameters
//! are spelled and whether the body counts. A [`Profile`] decides all of that for
//! both ends. The verifier then works on the bytes as they were received and accepts
//! one spelling only, so there is nothing that a middle-man could add, reorder or
//! re-escape without breaking the signature.
//!
//! ```text
//! Content-Digest: sha-256=:…:
//! Katachi-Epoch: <22 characters>
//! Signature-Input: katachi=("@method" "@authority" "@path" "@query" "content-digest" "katachi-epoch");created=…;expires=…;nonce="…";keyid="…";tag="katachi-agent/1"
//! Signature: katachi=:<MAC>:
//! ```
//!
//! A message carries this one signature. A proxy that wants to add a signature of
//! its own takes ours off first.
//!
//! The server checks with a [`Verifier`], which gives [`Authentic`], and spends the
//! nonce, which gives [`Verified`]. A [`Refusal`] knows what the peer may hear
//! ([`Refusal::answer`]) and what the log should say (its `Display`). The client
//! signs with a [`Signer`] and believes an answer only through [`verify_response`].

mod base;
mod digest;
#[cfg(feature = "generic")]
pub mod generic;
#[cfg(feature = "http")]
mod head;
#[cfg(feature = "http")]
mod http;
mod input;
mod key;
#[cfg(feature = "tower")]
pub mod layer;
mod message;
mod profile;
mod refusal;
mod response;
mod sign;
mod verify;

#[cfg(feature = "http")]
pub use head::AuthenticHead;
#[cfg(feature = "http")]
pub use http::{RequestParts, ResponseParts, apply_headers};
pub use input::{InputError, RequestInput};
pub use key::{KeyId, Keys, KnownKey, ParseKeyIdError, SigningKey, VerifyingKey, derive_key};
pub use message::{Request, RequestView, Response, ResponseView};
pub use profile::Profile;
pub use refusal::{Answer, Fault, Reason, Refusal};
pub use response::{ClockOffset, ResponseError, VerifiedResponse, sign_response, verify_response};
pub use sign::{Freshness, SignError, SignedRequest, Signer};
pub use verify::{Authentic, Context, RequestBinding, Verified, Verifier};
