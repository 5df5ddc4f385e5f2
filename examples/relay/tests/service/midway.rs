//! What the tables hold while something is under way: of a device flow, a session, an
//! account that is being opened and a password that is being reset, in either database,
//! decrypted as far as the database itself is.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use katachi_relay::{MailConfig, MailRoute};
use serde_json::{Value, json};

use crate::agent::{TestAgent, poll, start_device};
use crate::relay::TestRelay;

/// All rows of all tables as one text.
fn dump(relay: &TestRelay) -> String {
    let tables = crate::tables(relay.state.path());
    assert!(tables.len() > 10);
    let rows = tables.iter().flat_map(|(_, rows)| rows.iter());
    rows.map(Value::to_string).collect()
}

/// Whether a dump holds a text: as it is, or its bytes as hexadecimal in either case.
fn holds(dump: &str, text: &str) -> bool {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    dump.contains(text) || dump.to_lowercase().contains(&hex)
}

/// The token of the only link of this kind in the mails of a relay.
async fn mailed(folder: &Path, kind: &str) -> String {
    let part = format!("/#{kind}/");
    let began = Instant::now();
    loop {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let mails = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
        let mut mails = mails.map(|mail| mail.replace("=\r\n", "").replace("=3D", "="));
        if let Some(mail) = mails.find(|mail| mail.contains(&part)) {
            return mail.split_once(&part).unwrap().1.chars().take(43).collect();
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "no mail about {kind}"
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d17_no_table_holds_what_would_open_something() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let folder = state.path().join("mail");
    let route = MailRoute::Folder(folder.clone());
    let relay = TestRelay::start_with(state, |config| {
        config.mail = Some(MailConfig::new("relay@example.org", route).unwrap());
    })
    .await;
    // An account that is not open yet.
    let account = json!({"email": "ana@example.org", "password": crate::relay::PASSWORD});
    let answer = relay.browser().post("/api/signup", account).await;
    assert!(answer.status().is_success());
    let verify = mailed(&folder, "verify").await;
    let before = dump(&relay);
    let browser = relay.confirmed("ana@example.org", &verify).await;
    let session = browser.cookie().split_once('=').unwrap().1.to_owned();

    // A device that waits, one that was approved, and one that became an agent.
    let waiting = start_device(&relay).await;
    let mut approved = Vec::new();
    for _ in 0..2 {
        let started = start_device(&relay).await;
        let code = json!({"user_code": started["user_code"]});
        let answer = browser.post("/api/device/approve", code).await;
        assert!(answer.status().is_success());
        approved.push(started);
    }
    let device_code = approved[1]["device_code"].as_str().unwrap();
    let token: Value = poll(&relay, device_code).await.json().await.unwrap();
    let agent = TestAgent::from_token(&token);
    // A password that is being reset.
    let forgot = json!({"email": "ana@example.org"});
    browser.post("/api/password/forgot", forgot).await;
    let reset = mailed(&folder, "reset").await;

    let after = dump(&relay);
    let mut secrets = vec![verify, reset, session, crate::relay::PASSWORD.to_owned()];
    for started in [&waiting, &approved[0], &approved[1]] {
        let code = started["user_code"].as_str().unwrap();
        secrets.push(started["device_code"].as_str().unwrap().to_owned());
        secrets.extend([code.to_owned(), code.replace('-', "")]);
    }
    for name in ["access_token", "hmac_secret"] {
        secrets.push(token[name].as_str().unwrap().to_owned());
    }
    for secret in &secrets {
        for dump in [&before, &after] {
            assert!(!holds(dump, secret), "{secret} stands in a table");
        }
    }
    // The dump has the rows, and the search finds what stands in them.
    assert!(holds(&after, &agent.id) && holds(&after, agent.key_id.as_str()));
    assert!(!holds(&before, &agent.id));
}
