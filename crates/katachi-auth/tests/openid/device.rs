//! Our device flow client at their server.

use std::time::Duration;

use katachi_auth::device::dpop::ProofKey;
use katachi_auth::device::{AuthorizationResponse, PollAnswer, Polling};
use katachi_auth::oauth::{DeviceClient, Polled, Tokens};
use katachi_crypto::Secret;

use crate::Outcome;
use crate::provider::{Browser, Peer, http, now};

fn client(peer: &Peer, id: &str) -> DeviceClient {
    let issuer = peer.issuer();
    DeviceClient::new(
        id,
        format!("{issuer}/device/auth"),
        format!("{issuer}/token"),
    )
    .unwrap()
}

/// What the person does in a browser.
async fn decide(started: &AuthorizationResponse, decision: (&str, &str)) {
    let browser = Browser::new();
    let link = started.verification_uri_complete.as_ref().unwrap();
    // The page's script posts this form by itself.
    let mut page = browser.page(browser.client().get(link)).await;
    for decision in [None, Some(decision)] {
        let xsrf = page.split("name=\"xsrf\" value=\"").nth(1).unwrap();
        let xsrf = xsrf.split('"').next().unwrap().to_owned();
        let mut form = vec![("xsrf", xsrf.as_str()), ("user_code", &started.user_code)];
        form.extend(decision);
        let post = browser.client().post(&started.verification_uri).form(&form);
        page = browser.page(post).await;
    }
}

async fn poll(client: &DeviceClient, started: &AuthorizationResponse) -> Polled {
    client
        .poll(&http(), &started.device_code, now())
        .await
        .unwrap()
}

fn pending(polled: &Polled) -> bool {
    matches!(polled, Polled::Answer(PollAnswer::Pending))
}

async fn authorize(client: &DeviceClient) -> Tokens {
    let started = client.start(&http(), "openid", now()).await.unwrap();
    // This server names no interval (RFC 8628 section 3.2: then it is five seconds).
    let polling = Polling::new(started.interval, started.expires_in);
    assert_eq!(polling.wait(), Duration::from_secs(6));
    assert!(pending(&poll(client, &started).await));
    decide(&started, ("confirm", "yes")).await;
    let tokens = match poll(client, &started).await {
        Polled::Granted(tokens) => tokens,
        Polled::Answer(answer) => panic!("approved, but {answer:?}"),
    };
    let again = poll(client, &started).await;
    assert!(matches!(again, Polled::Answer(PollAnswer::Other(code)) if code == "invalid_grant"));
    tokens
}

pub(crate) async fn our_client_gets_tokens_from_their_server(peer: &Peer) -> Outcome {
    let tokens = authorize(&client(peer, "terminal")).await;
    assert!(!tokens.access.expose_secret().is_empty());
    Ok(())
}

pub(crate) async fn our_client_proves_its_key_to_their_server(peer: &Peer) -> Outcome {
    let key = || ProofKey::from_seed(&Secret::new([7; 32]));
    let tokens = authorize(&client(peer, "terminal-dpop").with_key(key())).await;
    assert!(!tokens.access.expose_secret().is_empty());
    // Their server refuses whoever has no key.
    let bare = client(peer, "terminal-dpop");
    let started = bare.start(&http(), "openid", now()).await?;
    decide(&started, ("confirm", "yes")).await;
    assert!(matches!(
        poll(&bare, &started).await,
        Polled::Answer(PollAnswer::Other(_))
    ));
    Ok(())
}

pub(crate) async fn our_client_stops_when_the_person_says_no(peer: &Peer) -> Outcome {
    let client = client(peer, "terminal");
    let started = client.start(&http(), "openid", now()).await?;
    decide(&started, ("abort", "yes")).await;
    let polled = poll(&client, &started).await;
    assert!(matches!(polled, Polled::Answer(PollAnswer::Denied)));
    Ok(())
}
