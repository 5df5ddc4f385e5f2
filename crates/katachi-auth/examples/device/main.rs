//! The device flow on loopback, both ends: a program without a browser asks for codes,
//! a person looks at what it says of itself and approves, and the program, which proves
//! its key with every request, gets its token: once.
//!
//! `cargo run -p katachi-auth --features reqwest --example device`

mod server;

use std::time::Instant;

use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::device::dpop::ProofKey;
use katachi_auth::device::{MemoryDeviceStore, Next, PollAnswer, Polling};
use katachi_auth::oauth::{DeviceClient, Polled, Reqwest};
use katachi_auth::replay::Limits;
use katachi_crypto::Secret;
use server::Desk;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The server.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let desk = Desk::new(&base, MemoryDeviceStore::new(1000), Limits::default())?;
    let router = desk.router();
    tokio::spawn(async move { axum::serve(listener, router).await });

    // The program. Its key never leaves it.
    let http = Reqwest::new()?;
    let key = ProofKey::from_seed(&Secret::random()?);
    let client = DeviceClient::new(
        "terminal",
        format!("{base}/device"),
        format!("{base}/token"),
    )?
    .with_key(key);
    let started = client.start(&http, "", SystemClock.now()).await?;
    println!(
        "open {} and type {}",
        started.verification_uri, started.user_code
    );

    let begun = Instant::now();
    let mut polling = Polling::new(started.interval, started.expires_in);
    let mut person = Some(&desk);
    loop {
        let polled = client
            .poll(&http, &started.device_code, SystemClock.now())
            .await?;
        let answer = match polled {
            Polled::Granted(tokens) => {
                println!("granted: {}", tokens.access.expose_secret());
                break;
            }
            Polled::Answer(answer) => answer,
        };
        println!("not yet: {answer:?}");
        // The person at the browser, in the meantime.
        if let Some(desk) = person.take() {
            let waiting = desk.look_up(&started.user_code)?;
            println!(
                "the page shows: {} ({})",
                waiting.client_id, waiting.details
            );
            desk.approve(&started.user_code)?;
        }
        match polling.answered(answer, begun.elapsed()) {
            Next::Wait(wait) => tokio::time::sleep(wait).await,
            Next::Stop(failure) => return Err(failure.into()),
            Next::Done => unreachable!("a granted answer has been handled"),
        }
    }
    let again = client
        .poll(&http, &started.device_code, SystemClock.now())
        .await?;
    match again {
        Polled::Answer(PollAnswer::Other(error)) => println!("a second poll: {error}"),
        other => return Err(format!("the code worked twice: {other:?}").into()),
    }
    Ok(())
}
