//! An agent signs a call, the server accepts it, and a recorded copy is refused.
//!
//! Run with `cargo run -p katachi-auth --features http --example replay_refused`.

use std::error::Error;
use std::sync::Arc;

use http::Request;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::replay::{Limits, MemoryReplay, NonceSequence, ReplayStore as _};
use katachi_auth::signature::{
    Context, Freshness, KeyId, KnownKey, Profile, Signer, Verifier, derive_key,
};
use katachi_crypto::Secret;

fn main() -> Result<(), Box<dyn Error>> {
    let secret = Secret::random()?;
    let key = || derive_key(&secret, "agent-1", &Profile::AGENT_REQUEST);
    let id = KeyId::parse("k1")?;

    // The agent: an ordinary request, then four more headers.
    let store = MemoryReplay::new(Limits::default())?;
    let mut request = Request::post("https://relay.example/v1/agent/heartbeat?from=desk")
        .header("content-type", "application/json")
        .body(br#"{"state":"idle"}"#.to_vec())?;
    let signer = Signer::new(Profile::AGENT_REQUEST, id.clone(), key());
    let nonces = NonceSequence::start()?;
    let freshness = Freshness::new(SystemClock.now(), nonces.draw(), store.epoch()?);
    let signed = signer.sign(&request, &freshness)?;
    signed.apply(request.headers_mut());
    println!("the agent sends\n\n{signed}");

    // The relay, which gets the request twice: from the agent, and from an eavesdropper.
    let verifier = Verifier::new(Profile::AGENT_REQUEST, ["relay.example"]);
    let keys = Arc::new(KnownKey::new(id, "agent-1", key()));
    for arrival in ["the agent's own", "a recorded copy"] {
        let now = SystemClock.now();
        let context = Context::new(now, store.epoch()?);
        let outcome = verifier
            .check(request.clone(), &keys, &context)
            .and_then(|authentic| authentic.spend(&store, now));
        match outcome {
            Ok(verified) => println!("{arrival}: accepted, made by {}", verified.owner()),
            Err(refusal) => {
                let answer = refusal.answer();
                println!("{arrival}: {} {}", answer.status(), answer.code());
                println!("  in the log: {refusal}");
            }
        }
    }

    // And one that was altered on the way.
    *request.body_mut() = br#"{"state":"busy"}"#.to_vec();
    let context = Context::new(SystemClock.now(), store.epoch()?);
    if let Err(refusal) = verifier.check(request, &keys, &context) {
        println!(
            "an altered body: {} {}",
            refusal.answer().status(),
            refusal.answer().code()
        );
        println!("  in the log: {refusal}");
    }
    Ok(())
}
