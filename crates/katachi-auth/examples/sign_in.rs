//! Signs a person in at an OpenID provider, in the browser of this machine:
//! `cargo run --example sign_in --features loopback,reqwest -- https://id.example my-client-id`
//!
//! The client is a public one, registered with `http://127.0.0.1/callback`.

use std::time::Duration;

use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::oauth::loopback::Listener;
use katachi_auth::oauth::{Client, MemoryLogins, Provider, Reqwest, ReturnTo};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(issuer), Some(id)) = (arguments.next(), arguments.next()) else {
        return Err("usage: sign_in ISSUER CLIENT_ID".into());
    };
    let http = Reqwest::new()?;
    let listener = Listener::bind("/callback").await?;
    let client = Client::public(id, listener.redirect_uri());
    let provider = Provider::discover(&http, &issuer, client).await?;

    let logins = MemoryLogins::new(1);
    let begun = provider.begin(&logins, ReturnTo::root(), SystemClock.now())?;
    println!("open this in your browser:\n{}", begun.url);
    let callback = listener.receive(&begun, Duration::from_secs(300)).await?;

    let (cookie, now) = (begun.cookie.expose_secret(), SystemClock.now());
    let signed_in = provider
        .finish(&http, &logins, &callback, cookie, now)
        .await?;
    println!("{:#?}", signed_in.identity);
    Ok(())
}
