//! `tower` layers: a server's, behind which only verified requests arrive, and a
//! client's, which signs what goes out and believes only what was signed for it.
//!
//! The server, here axum:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use axum::{Extension, Router, routing::post};
//! use katachi_auth::replay::{Limits, MemoryReplay};
//! use katachi_auth::signature::layer::{Caller, Gate, VerifyLayer};
//! use katachi_auth::signature::{KeyId, KnownKey, Profile, Verifier, derive_key};
//! use katachi_crypto::Secret;
//!
//! # let key = derive_key(&Secret::new([1; 32]), "agent-1", &Profile::AGENT_REQUEST);
//! # let keys = Arc::new(KnownKey::new(KeyId::parse("k1")?, "agent-1", key));
//! # let app: Router = Router::new()
//! #     .route("/v1/run", post(|Extension(caller): Extension<Caller>| async move {
//! #         format!("hello {}", caller.owner())
//! #     }));
//! let verifier = Verifier::new(Profile::AGENT_REQUEST, ["api.example"]);
//! let gate = Gate::new(verifier, keys, MemoryReplay::new(Limits::default())?);
//! let app = app.layer(VerifyLayer::new(gate));
//! # let _ = app;
//! # Ok(())
//! # }
//! ```
//!
//! The client, over any `tower` service that sends `http` requests:
//!
//! ```
//! # use katachi_auth::signature::layer::CallSigner;
//! # use katachi_auth::signature::layer::SignLayer;
//! # use katachi_auth::signature::{KeyId, Profile, Signer, VerifyingKey, derive_key};
//! # use katachi_crypto::Secret;
//! # use tower::Layer as _;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let secret = Secret::new([1; 32]);
//! # let http = tower::service_fn(|_: http::Request<http_body_util::Full<bytes::Bytes>>| async {
//! #     Ok::<_, std::io::Error>(http::Response::new(http_body_util::Full::<bytes::Bytes>::default()))
//! # });
//! # let signer = Signer::new(
//! #     Profile::AGENT_REQUEST, KeyId::parse("k1")?, derive_key(&secret, "agent-1", &Profile::AGENT_REQUEST));
//! let answers: VerifyingKey = derive_key(&secret, "agent-1", &Profile::RELAY_RESPONSE).into();
//! let calls = CallSigner::new(signer, Profile::RELAY_RESPONSE, answers)?;
//! let client = SignLayer::new(calls).layer(http);
//! # let _ = client;
//! # Ok(())
//! # }
//! ```
//!
//! `cargo run -p katachi-auth --features tower --example signed_calls` runs both, with
//! `hyper` and with `reqwest`.

mod client;
mod server;

use std::error::Error as StdError;

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

pub use client::{CallError, CallSigner, Sign, SignLayer};
pub use server::{AnswerKeys, Caller, Gate, Verify, VerifyLayer};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Largest body collected unless another bound is set, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Why a body could not be collected.
enum Uncollected {
    TooLarge,
    Failed(BoxError),
}

/// Collects a body of at most `limit` bytes. One that announces more is not begun.
async fn collect<B>(body: B, limit: usize) -> Result<Bytes, Uncollected>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(Uncollected::TooLarge);
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Uncollected::TooLarge),
        Err(error) => Err(Uncollected::Failed(error)),
    }
}
