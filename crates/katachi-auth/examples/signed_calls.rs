//! A server and its clients over a real socket: axum behind the verifying layer, `hyper`
//! and `reqwest` below the signing one.
//!
//! Run with `cargo run -p katachi-auth --features tower --example signed_calls`.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router, routing::post};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use katachi_auth::replay::{Limits, MemoryReplay};
use katachi_auth::signature::layer::{CallSigner, Caller, Gate, SignLayer, VerifyLayer};
use katachi_auth::signature::{KeyId, KnownKey, Profile, Signer, SigningKey, Verifier, derive_key};
use katachi_crypto::Secret;
use tokio::net::TcpListener;
use tower::{Layer as _, ServiceExt as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Both ends hold one secret, under one name; every use has a key of its own.
    let secret = Secret::random()?;
    let key = |profile| derive_key(&secret, "agent-1", &profile);
    let id = KeyId::parse("k1")?;

    // The server: three lines before an ordinary router.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let authority = listener.local_addr()?.to_string();
    let answers = Arc::new(SigningKey::from(key(Profile::RELAY_RESPONSE)));
    let known = KnownKey::new(id.clone(), "agent-1", key(Profile::AGENT_REQUEST));

    let verifier = Verifier::new(Profile::AGENT_REQUEST, [authority.clone()]);
    let gate = Gate::new(
        verifier,
        Arc::new(known),
        MemoryReplay::new(Limits::default())?,
    )
    .sign_answers(Profile::RELAY_RESPONSE, move |_: &KnownKey| {
        Some(answers.clone())
    })
    .on_refusal(|refusal| eprintln!("server: {refusal}"));
    let app = Router::new()
        .route("/v1/run", post(run))
        .layer(VerifyLayer::new(gate));
    tokio::spawn(async move { axum::serve(listener, app).await });

    // The client: three lines around an ordinary one.
    let signer = Signer::new(Profile::AGENT_REQUEST, id, key(Profile::AGENT_REQUEST));
    let calls = CallSigner::new(
        signer,
        Profile::RELAY_RESPONSE,
        key(Profile::RELAY_RESPONSE),
    )?;
    let sign = SignLayer::new(calls);

    let hyper = sign.layer(Client::builder(TokioExecutor::new()).build_http());
    let request = || Request::post(format!("http://{authority}/v1/run"));
    // The first call learns the server's epoch, and is made again by itself.
    let answer = hyper
        .oneshot(request().body("by hyper".to_owned())?)
        .await?;
    println!("{}", text(answer).await?);

    // reqwest is built with the workspace's choice of cryptography.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let reqwest = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(10))
        .build()?;
    let reqwest = sign.layer(tower::service_fn(move |request: Request<Full<Bytes>>| {
        let client = reqwest.clone();
        async move {
            let request = request.map(reqwest::Body::wrap).try_into()?;
            client.execute(request).await.map(Response::from)
        }
    }));
    let answer = reqwest
        .oneshot(request().body("by reqwest".to_owned())?)
        .await?;
    println!("{}", text(answer).await?);

    // Whoever does not sign is refused.
    let stranger = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let answer = stranger
        .request(request().body(Full::<Bytes>::default())?)
        .await?;
    println!("unsigned: {}", answer.status());
    Ok(())
}

async fn run(Extension(caller): Extension<Caller>, body: String) -> String {
    format!("{} called {body}", caller.owner())
}

async fn text(answer: Response<Full<Bytes>>) -> Result<String, Box<dyn Error>> {
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}
