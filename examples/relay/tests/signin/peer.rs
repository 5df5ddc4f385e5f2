//! The providers, a relay that knows them, and people who come and go.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use katachi_protocol::Sensitive;
use katachi_relay::{Config, MailConfig, MailRoute, ProviderConfig};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

pub(crate) use crate::person::{agree, parameter};
use crate::relay::{Browser, TestRelay};

/// Two OpenID providers in a process of their own.
pub(crate) struct Peer {
    pub(crate) issuers: Vec<String>,
    child: Mutex<Child>,
}

impl Peer {
    /// Starts them, or nothing if they are not installed.
    pub(crate) fn start() -> Option<Self> {
        let modules = node_modules("oidc-provider")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/signin/provider.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .env("NODE_PATH", modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let issuers = serde_json::from_str(&line).expect("the provider starts");
        let child = Mutex::new(child);
        Some(Self { issuers, child })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The folder of node packages that holds `package`.
pub(crate) fn node_modules(package: &str) -> Option<PathBuf> {
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/node/node_modules");
    let given = std::env::var_os("NODE_PATH").map(PathBuf::from);
    let found = [given, Some(local)]
        .into_iter()
        .flatten()
        .find(|folder| folder.join(package).is_dir())?;
    found.canonicalize().ok()
}

/// `--provider SPEC`, with the secret that the provider knows.
pub(crate) fn provider(spec: &str) -> ProviderConfig {
    let secret = "a secret of the web client, long enough";
    ProviderConfig::parse(spec, |_| Some(Sensitive::new(secret))).unwrap()
}

/// What a case runs on.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) peer: Arc<Peer>,
    pub(crate) postgres: bool,
}

impl Place {
    /// A relay that knows both providers, as `work` and `other`.
    pub(crate) async fn relay(&self) -> TestRelay {
        self.relay_with(|_| ()).await
    }

    pub(crate) async fn relay_with(&self, adapt: impl FnOnce(&mut Config)) -> TestRelay {
        let state = Arc::new(tempfile::tempdir().unwrap());
        self.relay_in(state, adapt).await
    }

    pub(crate) async fn relay_in(
        &self,
        state: Arc<tempfile::TempDir>,
        adapt: impl FnOnce(&mut Config),
    ) -> TestRelay {
        TestRelay::start_with(Arc::clone(&state), |config| {
            config.database = crate::database_of(self, state.path());
            config.providers = ["work", "other"]
                .iter()
                .zip(&self.peer.issuers)
                .map(|(name, issuer)| provider(&format!("{name},issuer={issuer},client-id=web")))
                .collect();
            adapt(config);
        })
        .await
    }

    /// The same, which writes mail into its state directory.
    pub(crate) async fn relay_with_mail(&self) -> TestRelay {
        let state = Arc::new(tempfile::tempdir().unwrap());
        self.relay_with_mail_in(state).await
    }

    pub(crate) async fn relay_with_mail_in(&self, state: Arc<tempfile::TempDir>) -> TestRelay {
        let folder = state.path().join("mail");
        self.relay_in(state, |config| {
            let route = MailRoute::Folder(folder);
            config.mail = Some(MailConfig::new("relay@example.com", route).unwrap());
        })
        .await
    }
}

/// Begins a sign-in at `name`; the answer.
pub(crate) async fn start(browser: &Browser, name: &str, body: Value) -> Response {
    browser.post(&format!("/api/signin/{name}"), body).await
}

/// Begins a sign-in, and says yes at the provider as `hint`: the path that the provider
/// sends the browser back to.
pub(crate) async fn leave(browser: &Browser, name: &str, hint: &str, body: Value) -> String {
    let started = start(browser, name, body).await;
    assert_eq!(started.status(), StatusCode::OK);
    let started: Value = started.json().await.unwrap();
    let url = started["url"].as_str().unwrap();
    let url = format!("{url}&login_hint={hint}");
    agree(&url).await
}

/// Signs in at `work` as `hint`.
pub(crate) async fn sign_in(browser: &Browser, hint: &str) -> Response {
    let back = leave(browser, "work", hint, json!({})).await;
    browser.get(&back).await
}

/// Links `hint` at `work` to the account that the browser is signed in to.
pub(crate) async fn link(browser: &Browser, hint: &str) -> Response {
    let back = leave(browser, "work", hint, json!({"link": true})).await;
    browser.get(&back).await
}

/// Who the browser is signed in as.
pub(crate) async fn me(browser: &Browser) -> Value {
    browser.json("/api/session").await["me"].clone()
}

/// That nobody came in, and the page says why.
pub(crate) async fn refused(browser: &Browser, answer: Response, status: u16, said: &str) {
    assert_eq!(answer.status().as_u16(), status);
    let page = answer.text().await.unwrap();
    assert!(page.contains(said), "{page}");
    assert_eq!(me(browser).await, Value::Null);
}
