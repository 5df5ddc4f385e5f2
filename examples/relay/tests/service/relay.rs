//! A relay on a free port with a state directory of its own, and browsers.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use katachi_relay::{Config, KeychainUse, Relay};
use reqwest::header::{HeaderMap, ORIGIN};
use reqwest::{Method, Response, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, tungstenite};

pub(crate) const PASSWORD: &str = "correct horse battery";

/// A relay that serves until it is stopped or dropped.
pub(crate) struct TestRelay {
    pub(crate) address: SocketAddr,
    /// Where agents connect, if not there.
    pub(crate) entrance: Option<SocketAddr>,
    /// Where clients come from, if it matters.
    pub(crate) source: Option<IpAddr>,
    pub(crate) metrics: Option<SocketAddr>,
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
        config.database = crate::database(state.path());
        adapt(&mut config);
        let relay = Relay::bind(config).await.unwrap();
        let (address, url) = (relay.address(), relay.public_url().to_string());
        let authority = relay.authority().unwrap().to_owned();
        let metrics = relay.metrics_address();
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
            entrance: None,
            source: None,
            metrics,
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
            entrance: None,
            source: None,
            metrics: None,
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
            .local_address(self.source)
            .build()
            .unwrap()
    }

    /// A browser without a session.
    pub(crate) fn browser(&self) -> Browser {
        Browser {
            client: self.client(),
            url: self.url.clone(),
            address: self.address,
            tls: Arc::new(self.tls(&[b"http/1.1"])),
            cookie: String::new(),
        }
    }

    /// A browser signed in to a new account.
    pub(crate) async fn browser_of(&self, email: &str) -> Browser {
        let body = json!({"email": email, "password": PASSWORD});
        self.entered("/api/signup", body).await
    }

    /// Another browser, signed in to an account that exists.
    pub(crate) async fn signed_in(&self, email: &str) -> Browser {
        let body = json!({"email": email, "password": PASSWORD});
        self.entered("/api/login", body).await
    }

    /// Another browser, signed in to an account that is new by the token of its mail.
    pub(crate) async fn confirmed(&self, email: &str, token: &str) -> Browser {
        let body = json!({"email": email, "password": PASSWORD, "token": token});
        self.entered("/api/login", body).await
    }

    async fn entered(&self, path: &str, body: Value) -> Browser {
        let mut browser = self.browser();
        let answer = browser.post(path, body).await;
        let status = answer.status();
        assert!(status.is_success(), "the relay answers {status} to {path}");
        let cookie = answer.headers()["set-cookie"].to_str().unwrap();
        browser.cookie = cookie.split(';').next().unwrap().to_owned();
        browser
    }
}

/// Sends what our own pages send.
pub(crate) struct Browser {
    pub(crate) client: reqwest::Client,
    url: String,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    /// For the requests that the client cannot send.
    cookie: String,
}

/// The browser's end of a channel, as bytes; the relay knows no more of them.
pub(crate) struct Carried(WebSocketStream<TlsStream<TcpStream>>);

/// Why a WebSocket was not opened.
#[derive(Debug)]
pub(crate) enum NotOpened {
    Refused(StatusCode, Value),
    /// Nobody answered.
    Broken(String),
}

impl Carried {
    /// The next bytes of the agent; `None` once the channel has ended.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.0.next().await? {
                Ok(Message::Binary(bytes)) => return Some(bytes),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &str) {
        let message = Message::Binary(bytes.to_owned().into());
        self.0.send(message).await.unwrap();
    }

    /// Whether the other end still takes what is said.
    pub(crate) async fn try_send(&mut self, bytes: &str) -> bool {
        let message = Message::Binary(bytes.to_owned().into());
        self.0.send(message).await.is_ok()
    }

    /// All that is still to come.
    pub(crate) async fn whole(mut self) -> String {
        let mut whole = String::new();
        while let Some(bytes) = self.next().await {
            whole += std::str::from_utf8(&bytes).unwrap();
        }
        whole
    }
}

impl Browser {
    /// The same browser where the relay was started again.
    pub(crate) fn moved_to(mut self, relay: &TestRelay) -> Self {
        self.url.clone_from(&relay.url);
        self.address = relay.address;
        self
    }

    /// What the browser sends to be known by.
    pub(crate) fn cookie(&self) -> &str {
        &self.cookie
    }

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

    /// Opens a channel with an agent and says `first` in it; the status and the
    /// body where the relay refuses.
    pub(crate) async fn carry(
        &self,
        agent: &str,
        first: &str,
    ) -> Result<Carried, (StatusCode, Value)> {
        let mut carried = self.open(&channel_with(agent)).await?;
        carried.send(first).await;
        Ok(carried)
    }

    /// Opens a WebSocket.
    pub(crate) async fn open(&self, path: &str) -> Result<Carried, (StatusCode, Value)> {
        self.try_open(path).await.map_err(|refused| match refused {
            NotOpened::Refused(status, body) => (status, body),
            NotOpened::Broken(error) => panic!("{error}"),
        })
    }

    /// As [`open`](Self::open), at a relay that may be gone.
    pub(crate) async fn try_open(&self, path: &str) -> Result<Carried, NotOpened> {
        let broken = |error: &dyn std::fmt::Display| NotOpened::Broken(error.to_string());
        let tcp = TcpStream::connect(self.address)
            .await
            .map_err(|error| broken(&error))?;
        let name = ServerName::try_from("katachi.localhost").unwrap();
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, tcp)
            .await
            .map_err(|error| broken(&error))?;
        let target = format!("{}{path}", self.url.replace("https:", "wss:"));
        let mut request = target.into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert(ORIGIN, self.url.parse().unwrap());
        headers.insert("cookie", self.cookie.parse().unwrap());
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(Carried(socket)),
            Err(tungstenite::Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                let body = serde_json::from_slice(body).unwrap_or(Value::Null);
                Err(NotOpened::Refused(answer.status(), body))
            }
            Err(error) => Err(broken(&error)),
        }
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

/// Where a channel with `agent` is opened.
pub(crate) fn channel_with(agent: &str) -> String {
    let (device, stream) = ("A".repeat(43), "B".repeat(22));
    format!("/api/agents/{agent}/channel?mode=resume&device={device}&stream={stream}")
}

/// Header names and values.
pub(crate) fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect()
}
