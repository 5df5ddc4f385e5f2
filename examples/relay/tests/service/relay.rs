//! A relay on a free port with a state directory of its own, and browsers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use katachi_relay::{Config, KeychainUse, Relay};
use reqwest::header::{HeaderMap, ORIGIN};
use reqwest::{Method, Response, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const PASSWORD: &str = "correct horse battery";

/// A relay that serves until it is stopped or dropped.
pub(crate) struct TestRelay {
    pub(crate) address: SocketAddr,
    pub(crate) url: String,
    pub(crate) authority: PathBuf,
    pub(crate) state: Arc<TempDir>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
}

impl TestRelay {
    pub(crate) async fn start() -> Self {
        Self::start_with(Arc::new(tempfile::tempdir().unwrap()), |_| {}).await
    }

    pub(crate) async fn start_with(state: Arc<TempDir>, adapt: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::local(state.path());
        config.keychain = KeychainUse::Never;
        adapt(&mut config);
        let relay = Relay::bind(config).await.unwrap();
        let (address, url) = (relay.address(), relay.public_url().to_string());
        let authority = relay.authority().unwrap().to_owned();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            relay
                .serve(async {
                    let _ = stopped.await;
                })
                .await
                .unwrap();
        });
        Self {
            address,
            url,
            authority,
            state,
            stop: Some(stop),
            served: Some(served),
        }
    }

    /// A relay that runs as a process of its own.
    pub(crate) fn of_process(ready: &Value, state: Arc<TempDir>) -> Self {
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self {
            address: text("listening").parse().unwrap(),
            url: text("public_url"),
            authority: text("ca").into(),
            state,
            stop: None,
            served: None,
        }
    }

    /// Stops it, and gives its state back.
    pub(crate) async fn stop(mut self) -> Arc<TempDir> {
        drop(self.stop.take());
        self.served.take().unwrap().await.unwrap();
        Arc::clone(&self.state)
    }

    /// TLS as a client that trusts this relay.
    pub(crate) fn tls(&self, alpn: &[&[u8]]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&self.authority).unwrap())
            .unwrap();
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config
    }

    /// A client that trusts this relay and knows where its name leads.
    pub(crate) fn client(&self) -> reqwest::Client {
        reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls(&[b"h2", b"http/1.1"]))
            .resolve("katachi.localhost", self.address)
            .resolve("attacker.example", self.address)
            .redirect(reqwest::redirect::Policy::none())
            .cookie_store(true)
            .build()
            .unwrap()
    }

    /// A browser without a session.
    pub(crate) fn browser(&self) -> Browser {
        Browser {
            client: self.client(),
            url: self.url.clone(),
        }
    }

    /// A browser signed in to a new account.
    pub(crate) async fn browser_of(&self, email: &str) -> Browser {
        let browser = self.browser();
        let answer = browser
            .post("/api/signup", json!({"email": email, "password": PASSWORD}))
            .await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        browser
    }
}

/// Sends what our own pages send.
pub(crate) struct Browser {
    pub(crate) client: reqwest::Client,
    url: String,
}

impl Browser {
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.json().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Response {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .header(ORIGIN, self.url.as_str());
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    /// A request as some other program makes it.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let request = self.client.request(method, format!("{}{path}", self.url));
        request.headers(headers).body(body).send().await.unwrap()
    }
}

/// Header names and values.
pub(crate) fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect()
}
