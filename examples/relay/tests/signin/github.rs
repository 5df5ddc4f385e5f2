//! Coming in by GitHub, played by a stand-in.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::Outcome;
use crate::octo::GitHub;
use crate::peer::{Place, agree, me, parameter, provider, refused, start};
use crate::relay::{Browser, TestRelay};

async fn relay(github: &GitHub, place: &Place) -> TestRelay {
    let spec = format!(
        "github,issuer={},client-id=Iv1.8a61f9b3a7aba766",
        github.host
    );
    place
        .relay_with(|config| config.providers.push(provider(&spec)))
        .await
}

async fn leave(browser: &Browser) -> String {
    let started = start(browser, "github", json!({})).await;
    let started: Value = started.json().await.unwrap();
    agree(started["url"].as_str().unwrap()).await
}

pub(crate) async fn a_person_of_github_is_known_by_number(place: Place) -> Outcome {
    let github = GitHub::start().await;
    let relay = relay(&github, &place).await;
    let browser = relay.browser();
    let label = browser.json("/api/signin").await["providers"][2]["label"].clone();
    assert_eq!(label, "GitHub");
    let answer = browser.get(&leave(&browser).await).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let octo = me(&browser).await;
    assert_eq!(
        octo["email"], "octo@example.com",
        "the verified one, not the profile's"
    );
    let linked = browser.json("/api/identities").await;
    assert_eq!(linked["identities"][0]["provider"], "GitHub");
    // Another login, another address: the same person.
    *github.user.lock().unwrap() = json!({"id": 583_231, "login": "renamed", "name": null});
    *github.emails.lock().unwrap() = json!([]);
    let again = relay.browser();
    again.get(&leave(&again).await).await;
    assert_eq!(me(&again).await["id"], octo["id"]);
    // The same login, another number: somebody else.
    *github.user.lock().unwrap() = json!({"id": 7, "login": "octocat", "name": "Octo Cat"});
    let other = relay.browser();
    let answer = other.get(&leave(&other).await).await;
    refused(&other, answer, 403, "GitHub does not vouch").await;
    Ok(())
}

pub(crate) async fn l06_an_unverified_address_at_github_opens_nothing(place: Place) -> Outcome {
    let github = GitHub::start().await;
    let relay = relay(&github, &place).await;
    relay.browser_of("victim@example.com").await;
    for (verified, status) in [(false, 403), (true, 409)] {
        *github.emails.lock().unwrap() = json!([
            {"email": "victim@example.com", "primary": true, "verified": verified, "visibility": null},
            {"email": "mine@example.com", "primary": false, "verified": true, "visibility": null},
        ]);
        let browser = relay.browser();
        let answer = browser.get(&leave(&browser).await).await;
        refused(&browser, answer, status, "GitHub").await;
    }
    Ok(())
}

pub(crate) async fn l02_a_code_of_github_is_bound_to_its_sign_in(place: Place) -> Outcome {
    let github = GitHub::start().await;
    let relay = relay(&github, &place).await;
    let (victim, thief) = (relay.browser(), relay.browser());
    let stolen = leave(&victim).await;
    let own = leave(&thief).await;
    let injected = own.replace(
        &format!("code={}", parameter(&own, "code")),
        &format!("code={}", parameter(&stolen, "code")),
    );
    let answer = thief.get(&injected).await;
    refused(&thief, answer, 400, "could not be verified").await;
    // And an issuer that is not GitHub's is refused before anything is sent.
    let own = leave(&thief).await;
    let answer = thief.get(&format!("{own}&iss=https://evil.example")).await;
    refused(&thief, answer, 400, "not from GitHub").await;
    Ok(())
}
