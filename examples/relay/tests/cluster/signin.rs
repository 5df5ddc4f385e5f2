//! A sign-in at a provider, and a link in mail, that begin at one node and end at
//! another; the options come from the environment.

use std::path::Path;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::nodes::Cluster;
use crate::octo::{GitHub, SECRET};
use crate::person::agree;
use crate::relay::{PASSWORD, headers};

/// Two nodes that know the stand-in and write mail into `folder`.
fn start(github: &GitHub, folder: &Path) -> Cluster {
    let mut cluster = Cluster::start(2);
    let provider = format!(
        "github,client-id=Iv1.8a61f9b3a7aba766,issuer={}",
        github.host
    );
    for at in 0..2 {
        cluster.signal(at, "-TERM");
        assert!(cluster.wait(at));
        let variables = [
            ("KATACHI_RELAY_PROVIDERS", provider.as_str()),
            ("KATACHI_RELAY_PROVIDER_GITHUB_SECRET", SECRET),
            ("KATACHI_RELAY_MAIL_FROM", "relay@example.com"),
            ("KATACHI_RELAY_MAIL_DIR", folder.to_str().unwrap()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        cluster.environment(at, &variables);
        cluster.run(at);
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_from_one_node_may_come_back_to_another() {
    let github = GitHub::start().await;
    let folder = tempfile::tempdir().unwrap();
    let cluster = start(&github, folder.path());
    let left = cluster.node(0).browser();
    let started = left.post("/api/signin/github", json!({})).await;
    let cookie = started.headers()["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let url = started.json::<Value>().await.unwrap();
    let back = agree(url["url"].as_str().unwrap()).await;
    let came = cluster.node(1).browser();
    let answer = async |cookie: &str| {
        let with = headers(&[("cookie", cookie)]);
        came.raw(Method::GET, &back, with, "").await
    };
    assert_eq!(answer("a=b").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(answer(&cookie).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(came.json("/api/me").await["email"], "octo@example.com");
    // Once, wherever it is tried again.
    let again = headers(&[("cookie", &cookie)]);
    let again = left.raw(Method::GET, &back, again, "").await;
    assert_eq!(again.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_mail_of_one_node_is_good_once_at_any() {
    let github = GitHub::start().await;
    let folder = tempfile::tempdir().unwrap();
    let cluster = start(&github, folder.path());
    let new = json!({"email": "ana@example.com", "password": PASSWORD});
    let new = cluster.node(1).browser().post("/api/signup", new).await;
    assert_eq!(new.status(), StatusCode::ACCEPTED);
    let link = token(folder.path(), "verify").await;
    let ana = cluster.node(0).confirmed("ana@example.com", &link).await;
    let forgot = async |at: usize| {
        let browser = cluster.node(at).browser();
        let asked = json!({"email": "ana@example.com"});
        browser.post("/api/password/forgot", asked).await.status()
    };
    assert_eq!(forgot(0).await, StatusCode::ACCEPTED);
    let token = token(folder.path(), "reset").await;
    let body = json!({"token": token, "password": "a new battery staple"});
    let (there, here) = (cluster.node(1).browser(), cluster.node(0).browser());
    let (one, two) = tokio::join!(
        there.post("/api/password/reset", body.clone()),
        here.post("/api/password/reset", body),
    );
    let mut statuses = [one.status().as_u16(), two.status().as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 400]);
    assert_eq!(ana.get("/api/me").await.status(), StatusCode::UNAUTHORIZED);
    let old = json!({"email": "ana@example.com", "password": PASSWORD});
    let old = cluster.node(1).browser().post("/api/login", old).await;
    assert_eq!(old.status(), StatusCode::UNAUTHORIZED);
    // What is asked is counted over both.
    let mut refusals = 0;
    for at in 0..8 {
        refusals += usize::from(forgot(at % 2).await == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refusals >= 4, "{refusals}");
}

/// The token of the one link of this kind.
async fn token(folder: &Path, kind: &str) -> String {
    for _ in 0..200 {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|kind| kind != "eml") {
                continue;
            }
            let mail = std::fs::read_to_string(path).unwrap().replace("=\r\n", "");
            if let Some((_, token)) = mail.split_once(&format!("/#{kind}/")) {
                return token.chars().take(43).collect();
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("no mail came");
}
