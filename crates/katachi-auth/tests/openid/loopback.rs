//! The redirect to 127.0.0.1.

use std::time::Duration;

use katachi_auth::oauth::loopback::{Listener, ReceiveError};
use katachi_auth::oauth::{Begun, Client, MemoryLogins, Provider, ReturnTo};

use crate::Outcome;
use crate::provider::{Browser, Peer, http, now};

async fn begin(peer: &Peer, logins: &MemoryLogins) -> (Listener, Provider, Begun) {
    let listener = Listener::bind("/callback").await.unwrap();
    let client = Client::public("native", listener.redirect_uri());
    let provider = Provider::discover(&http(), peer.issuer(), client)
        .await
        .unwrap();
    let begun = provider.begin(logins, ReturnTo::root(), now()).unwrap();
    (listener, provider, begun)
}

pub(crate) async fn a_program_signs_a_person_in_through_127_0_0_1(peer: &Peer) -> Outcome {
    let logins = MemoryLogins::new(1);
    let (listener, provider, begun) = begin(peer, &logins).await;
    let uri = listener.redirect_uri();
    let browser = Browser::new();
    let person = async {
        let back = browser.leave(&begun.url).await;
        assert!(back.starts_with(&uri));
        let answer = browser.client().get(&back).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["referrer-policy"], "no-referrer");
        assert!(answer.text().await.unwrap().contains("close this window"));
        back
    };
    let receive = listener.receive(&begun, Duration::from_secs(20));
    let (back, callback) = tokio::join!(person, receive);
    let cookie = begun.cookie.expose_secret();
    let signed_in = provider
        .finish(&http(), &logins, &callback?, cookie, now())
        .await?;
    assert_eq!(signed_in.identity.subject, "ana");
    // One request, and nobody listens any more.
    assert!(browser.client().get(&back).send().await.is_err());
    Ok(())
}

pub(crate) async fn l11_strangers_and_foreign_host_names_cannot_end_the_wait(
    peer: &Peer,
) -> Outcome {
    let logins = MemoryLogins::new(1);
    let (listener, _, begun) = begin(peer, &logins).await;
    let uri = listener.redirect_uri();
    let browser = Browser::new();
    let client = browser.client();
    let strangers = async {
        let status = |request: reqwest::RequestBuilder| async {
            request.send().await.unwrap().status().as_u16()
        };
        let state = "x".repeat(43);
        assert_eq!(status(client.get(&uri)).await, 400);
        assert_eq!(
            status(client.get(format!("{uri}?code=a&state={state}"))).await,
            400
        );
        assert_eq!(status(client.post(&uri)).await, 405);
        assert_eq!(
            status(client.get(uri.replace("callback", "favicon.ico"))).await,
            404
        );
        let rebound = client.get(&uri).header("host", "evil.example");
        assert_eq!(status(rebound).await, 421);
        // Headers without end, and connections that say nothing.
        let long = client.get(&uri).header("x-long", "a".repeat(64 * 1024));
        assert!(
            long.send()
                .await
                .map_or(true, |answer| answer.status().is_client_error())
        );
        let address = uri
            .trim_start_matches("http://")
            .trim_end_matches("/callback");
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        let back = browser.leave(&begun.url).await;
        assert_eq!(status(client.get(&back)).await, 200);
    };
    let receive = listener.receive(&begun, Duration::from_secs(20));
    let (callback, ()) = tokio::join!(receive, strangers);
    assert!(begun.owns(&callback?));
    Ok(())
}

pub(crate) async fn the_wait_ends_by_itself(peer: &Peer) -> Outcome {
    let logins = MemoryLogins::new(1);
    let (listener, _, begun) = begin(peer, &logins).await;
    let outcome = listener.receive(&begun, Duration::from_millis(50)).await;
    assert!(matches!(outcome, Err(ReceiveError::Late)));
    Ok(())
}
