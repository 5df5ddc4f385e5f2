//! All of it once, by a person in Chromium.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use katachi_relay::{MailConfig, MailRoute};

use crate::Outcome;
use crate::chromium;
use crate::peer::{Place, provider};

pub(crate) async fn a_person_comes_in_every_way_there_is(place: Place) -> Outcome {
    let state = Arc::new(tempfile::tempdir()?);
    let mail = state.path().join("mail");
    let folder = mail.clone();
    let issuer = &place.peer.issuers[0];
    let relay = place
        .relay_in(state, |config| {
            let spec = format!("work,issuer={issuer},client-id=web,label=Work account");
            config.providers = vec![provider(&spec)];
            let route = MailRoute::Folder(folder);
            config.mail = Some(MailConfig::new("relay@example.com", route).unwrap());
        })
        .await;
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap()
        .join("signin");
    std::fs::create_dir_all(&shots)?;
    let output = tokio::process::Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/signin/signin.cjs"))
        .env("NODE_PATH", chromium::node_path().unwrap())
        .env("CHROMIUM", chromium::chromium().unwrap())
        .env("RELAY", &relay.url)
        .env("ISSUER", issuer)
        .env("MAIL", &mail)
        .env("SHOTS", &shots)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr)).into())
}
