//! Which identity opens which account, and who decides.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::Outcome;
use crate::peer::{Place, leave, link, me, refused, sign_in, start};
use crate::relay::{Browser, PASSWORD};

pub(crate) async fn l06_an_equal_address_links_nothing(place: Place) -> Outcome {
    let relay = place.relay().await;
    let ben = relay.browser_of("ben@example.com").await;
    let browser = relay.browser();
    let answer = sign_in(&browser, "ben").await;
    refused(&browser, answer, 409, "Sign in to it").await;
    for hint in ["ben~unverified", "ben~none"] {
        let browser = relay.browser();
        let answer = sign_in(&browser, hint).await;
        refused(&browser, answer, 403, "does not vouch").await;
    }
    assert_eq!(ben.json("/api/identities").await["identities"], json!([]));
    // From inside, even one without an address.
    assert_eq!(link(&ben, "ben~none").await.status(), StatusCode::SEE_OTHER);
    let linked = ben.json("/api/identities").await;
    assert_eq!(linked["password"], true);
    assert_eq!(linked["identities"][0]["label"], "BEN");
    let browser = relay.browser();
    assert_eq!(
        sign_in(&browser, "ben~none").await.status(),
        StatusCode::SEE_OTHER
    );
    assert_eq!(me(&browser).await["email"], "ben@example.com");
    Ok(())
}

pub(crate) async fn l06_only_who_is_signed_in_links(place: Place) -> Outcome {
    let relay = place.relay().await;
    let answer = start(&relay.browser(), "work", json!({"link": true})).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    // The session ends while the person is away.
    let ben = relay.browser_of("ben@example.com").await;
    let back = leave(&ben, "work", "eve", json!({"link": true})).await;
    ben.send(Method::POST, "/api/logout", None).await;
    refused(&ben, ben.get(&back).await, 403, "no longer signed in").await;
    // Or is another person's by then.
    let ben = relay.signed_in("ben@example.com").await;
    let back = leave(&ben, "work", "eve", json!({"link": true})).await;
    let ana = json!({"email": "ana@example.com", "password": PASSWORD});
    assert!(ben.post("/api/signup", ana).await.status().is_success());
    assert_eq!(ben.get(&back).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(ben.json("/api/identities").await["identities"], json!([]));
    // An identity opens one account.
    let ben = relay.signed_in("ben@example.com").await;
    assert_eq!(link(&ben, "eve").await.status(), StatusCode::SEE_OTHER);
    assert_eq!(
        link(&ben, "eve").await.status(),
        StatusCode::SEE_OTHER,
        "linked before"
    );
    let ana = relay.signed_in("ana@example.com").await;
    assert_eq!(link(&ana, "eve").await.status(), StatusCode::CONFLICT);
    assert_eq!(ana.json("/api/identities").await["identities"], json!([]));
    Ok(())
}

pub(crate) async fn the_last_way_in_cannot_be_unlinked(place: Place) -> Outcome {
    let relay = place.relay().await;
    let ana = relay.browser();
    sign_in(&ana, "ana").await;
    let ids = async || -> Vec<String> {
        let linked = ana.json("/api/identities").await;
        assert_eq!(linked["password"], false);
        let linked = linked["identities"].as_array().unwrap().clone();
        let ids = linked
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned());
        ids.collect()
    };
    let unlink = async |browser: &Browser, id: &str| {
        let path = format!("/api/identities/{id}");
        let answer = browser.send(Method::DELETE, &path, None).await;
        answer.status().as_u16()
    };
    let first = ids().await.remove(0);
    assert_eq!(unlink(&ana, &first).await, 409);
    assert_eq!(
        link(&ana, "ana~second").await.status(),
        StatusCode::SEE_OTHER
    );
    // Somebody else's link is not there for them.
    let ben = relay.browser_of("ben@example.com").await;
    assert_eq!(unlink(&ben, &first).await, 404);
    assert_eq!(unlink(&ana, &first).await, 204);
    assert_eq!(unlink(&ana, &ids().await[0]).await, 409);
    // What was unlinked opens nothing; its address is still the account's.
    let browser = relay.browser();
    let answer = sign_in(&browser, "ana").await;
    refused(&browser, answer, 409, "Sign in to it").await;
    let answer = sign_in(&relay.browser(), "ana~second").await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    // A provider that the relay knows no longer opens nothing either.
    let other = relay.browser();
    sign_in(&other, "ana~second").await;
    let back = leave(&other, "other", "ana", json!({"link": true})).await;
    assert_eq!(other.get(&back).await.status(), StatusCode::SEE_OTHER);
    let (state, kept) = (relay.stop().await, |config: &mut katachi_relay::Config| {
        config.providers.truncate(1);
    });
    let relay = place.relay_in(state, kept).await;
    let ana = relay.browser();
    sign_in(&ana, "ana~second").await;
    let linked = ana.json("/api/identities").await["identities"].clone();
    assert_eq!(linked.as_array().unwrap().len(), 2);
    let way_in = linked
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["provider"] == "work");
    let id = way_in.unwrap()["id"].as_str().unwrap();
    assert_eq!(unlink(&ana, id).await, 409);
    Ok(())
}
