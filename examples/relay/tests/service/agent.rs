//! A small agent: it is authorized, signs its calls, and serves HTTP/2 on the
//! connection it opened.

use std::sync::Arc;

use axum::Router;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use katachi_auth::clock::{Clock as _, SystemClock, Timestamp};
use katachi_auth::device::dpop::ProofKey;
use katachi_auth::replay::{Epoch, Nonce, NonceSequence};
use katachi_auth::signature::{
    Freshness, KeyId, Profile, RequestBinding, Signer, VerifyingKey, derive_key, verify_response,
};
use katachi_crypto::Secret;
use katachi_protocol::device::{CLIENT_ID, GRANT_TYPE};
use katachi_protocol::routes::{
    DEVICE_AUTHORIZATION, EPOCH, TLS_EXPORTER_LABEL, TOKEN, TUNNEL, TUNNEL_PROTOCOL,
};
use reqwest::Response;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::relay::{Browser, TestRelay};

/// An agent with a key.
pub(crate) struct TestAgent {
    pub(crate) id: String,
    pub(crate) key_id: KeyId,
    secret: Secret<32>,
    epoch: Epoch,
    nonces: NonceSequence,
}

/// An answer, and whether its signature holds.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
    pub(crate) signed: bool,
}

/// A device before it is an agent: its requests, each with a proof of its key.
pub(crate) struct Device<'a> {
    relay: &'a TestRelay,
    http: reqwest::Client,
    key: ProofKey,
}

impl<'a> Device<'a> {
    /// A device with the key of this seed.
    pub(crate) fn new(relay: &'a TestRelay, seed: u8) -> Self {
        Self {
            relay,
            http: relay.client(),
            key: ProofKey::from_seed(&Secret::new([seed; 32])),
        }
    }

    /// The same from elsewhere.
    pub(crate) fn with(relay: &'a TestRelay, seed: u8, http: reqwest::Client) -> Self {
        Self {
            http,
            ..Self::new(relay, seed)
        }
    }

    /// Names the device's key.
    pub(crate) fn thumbprint(&self) -> String {
        self.key.thumbprint()
    }

    /// The nonce that the relay wants to see in proofs.
    pub(crate) async fn nonce(&self) -> Epoch {
        let url = format!("{}{EPOCH}", self.relay.url);
        let answer = self.http.get(url).send().await.unwrap();
        let body: Value = answer.json().await.unwrap();
        Epoch::parse(body["epoch"].as_str().unwrap()).unwrap()
    }

    /// A proof for a request to `path`, as of now.
    pub(crate) fn prove(&self, path: &str, nonce: Option<&Epoch>) -> String {
        self.prove_as("POST", path, SystemClock.now(), nonce)
    }

    /// A proof as told.
    pub(crate) fn prove_as(
        &self,
        method: &str,
        path: &str,
        now: Timestamp,
        nonce: Option<&Epoch>,
    ) -> String {
        let uri = format!("{}{path}", self.relay.url);
        let id = Nonce::random().unwrap();
        self.key.prove(method, &uri, now, &id, nonce)
    }

    /// Sends a form with these proofs.
    pub(crate) async fn send<P: AsRef<str>>(
        &self,
        path: &str,
        form: &[(&str, &str)],
        proofs: impl IntoIterator<Item = P>,
    ) -> Response {
        let url = format!("{}{path}", self.relay.url);
        let mut request = self.http.post(url).form(form);
        for proof in proofs {
            request = request.header("dpop", proof.as_ref());
        }
        request.send().await.unwrap()
    }

    /// Sends a form with a proof as it should be.
    pub(crate) async fn post(&self, path: &str, form: &[(&str, &str)]) -> Response {
        let nonce = self.nonce().await;
        self.send(path, form, [self.prove(path, Some(&nonce))])
            .await
    }
}

/// The seed of the key that the devices of most tests prove.
const SEED: u8 = 7;

/// What a device says of itself.
pub(crate) const START: [(&str, &str); 4] = [
    ("client_id", CLIENT_ID),
    ("host_name", "testbox"),
    ("os", "Linux"),
    ("version", "0.1.0"),
];

/// What it asks then.
pub(crate) fn poll_form(device_code: &str) -> [(&str, &str); 3] {
    [
        ("grant_type", GRANT_TYPE),
        ("device_code", device_code),
        ("client_id", CLIENT_ID),
    ]
}

pub(crate) async fn start_device(relay: &TestRelay) -> Value {
    let device = Device::new(relay, SEED);
    let answer = device.post(DEVICE_AUTHORIZATION, &START).await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.unwrap()
}

pub(crate) async fn poll(relay: &TestRelay, device_code: &str) -> Response {
    let device = Device::new(relay, SEED);
    device.post(TOKEN, &poll_form(device_code)).await
}

impl TestAgent {
    /// Goes through the whole device flow.
    pub(crate) async fn approved(relay: &TestRelay, browser: &Browser) -> Self {
        let started = start_device(relay).await;
        let code = json!({"user_code": started["user_code"]});
        assert_eq!(
            browser.post("/api/device/approve", code).await.status(),
            StatusCode::NO_CONTENT
        );
        let answer = poll(relay, started["device_code"].as_str().unwrap()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        Self::from_token(&answer.json().await.unwrap())
    }

    pub(crate) fn from_token(token: &Value) -> Self {
        let text = |name: &str| token[name].as_str().unwrap().to_owned();
        let secret = URL_SAFE_NO_PAD.decode(text("hmac_secret")).unwrap();
        Self {
            id: text("agent_id"),
            key_id: KeyId::parse(&text("key_id")).unwrap(),
            secret: Secret::from_slice(&secret).unwrap(),
            epoch: Epoch::parse(&text("epoch")).unwrap(),
            nonces: NonceSequence::start().unwrap(),
        }
    }

    /// The MAC of a signature base, under the key of `profile`.
    pub(crate) fn mac(&self, profile: &Profile, base: &str) -> [u8; 32] {
        let key = derive_key(&self.secret, &self.id, profile);
        *key.sign(base.as_bytes()).as_bytes()
    }

    pub(crate) fn set_epoch(&mut self, text: &str) {
        self.epoch = Epoch::parse(text).unwrap();
    }

    /// A request to the relay, not signed yet.
    pub(crate) fn request(
        relay: &TestRelay,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Request<Bytes> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, authority(relay));
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request
            .body(body.map(|body| body.to_string().into()).unwrap_or_default())
            .unwrap()
    }

    /// Signs `request` as of now.
    pub(crate) fn sign(&self, request: &mut Request<Bytes>) -> RequestBinding {
        self.sign_as(request, Profile::AGENT_REQUEST, SystemClock.now(), None)
    }

    /// Signs `request` as told.
    pub(crate) fn sign_as(
        &self,
        request: &mut Request<Bytes>,
        profile: Profile,
        now: Timestamp,
        channel: Option<&[u8; 32]>,
    ) -> RequestBinding {
        let signer = Signer::new(
            profile,
            self.key_id.clone(),
            derive_key(&self.secret, &self.id, &profile),
        );
        let mut freshness = Freshness::new(now, self.nonces.draw(), self.epoch);
        freshness.channel = channel;
        let signed = signer.sign(request, &freshness).unwrap();
        signed.apply(request.headers_mut());
        signed.binding().clone()
    }

    /// Signs `request` as of now, with this nonce in place of the next of its own.
    pub(crate) fn sign_with(&self, request: &mut Request<Bytes>, nonce: Nonce) -> RequestBinding {
        let profile = Profile::AGENT_REQUEST;
        let key = derive_key(&self.secret, &self.id, &profile);
        let signer = Signer::new(profile, self.key_id.clone(), key);
        let freshness = Freshness::new(SystemClock.now(), nonce, self.epoch);
        let signed = signer.sign(request, &freshness).unwrap();
        signed.apply(request.headers_mut());
        signed.binding().clone()
    }

    /// Sends a request as it is, and checks the signature of its answer.
    pub(crate) async fn send(
        &self,
        relay: &TestRelay,
        request: Request<Bytes>,
        binding: &RequestBinding,
    ) -> Answer {
        let answer = self.try_send(relay, request, binding).await;
        answer.expect("the relay answers")
    }

    /// As [`send`](Self::send), to a relay that may be gone.
    pub(crate) async fn try_send(
        &self,
        relay: &TestRelay,
        request: Request<Bytes>,
        binding: &RequestBinding,
    ) -> Option<Answer> {
        let stream = TokioIo::new(try_connect(relay).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.ok()?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request.map(Full::new)).await.ok()?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        connection.abort();
        let answer = http::Response::from_parts(head, body);
        let key = derive_key(&self.secret, &self.id, &Profile::RELAY_RESPONSE);
        let signed = verify_response(
            &Profile::RELAY_RESPONSE,
            &self.key_id,
            &VerifyingKey::from(key),
            &answer,
            binding,
        )
        .is_ok();
        Some(Answer {
            status: answer.status(),
            body: serde_json::from_slice(answer.body()).unwrap_or(Value::Null),
            signed,
        })
    }

    /// Signs and sends.
    pub(crate) async fn call(
        &self,
        relay: &TestRelay,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Self::request(relay, method, path, body.as_ref());
        let binding = self.sign(&mut request);
        self.send(relay, request, &binding).await
    }

    /// Opens a tunnel and serves `router` on it. `exporter` may replace the
    /// value of the connection by another.
    pub(crate) async fn open_tunnel(
        &self,
        relay: &TestRelay,
        router: Router,
        exporter: Option<[u8; 32]>,
    ) -> Result<JoinHandle<()>, StatusCode> {
        let opened = self.try_open_tunnel(relay, router, exporter).await;
        opened.map_err(|refused| refused.expect("the relay answers").0)
    }

    /// As [`open_tunnel`](Self::open_tunnel), at a relay that may be gone; the status
    /// and the body of a refusal.
    pub(crate) async fn try_open_tunnel(
        &self,
        relay: &TestRelay,
        router: Router,
        exporter: Option<[u8; 32]>,
    ) -> Result<JoinHandle<()>, Option<(StatusCode, Value)>> {
        let stream = try_connect(relay).await.ok_or(None)?;
        let own = stream
            .get_ref()
            .1
            .export_keying_material([0; 32], TLS_EXPORTER_LABEL, None)
            .unwrap();
        let mut request = Self::request(relay, Method::GET, TUNNEL, None);
        self.sign_as(
            &mut request,
            Profile::TUNNEL_REQUEST,
            SystemClock.now(),
            Some(&exporter.unwrap_or(own)),
        );
        request
            .headers_mut()
            .insert(CONNECTION, "Upgrade".parse().unwrap());
        request
            .headers_mut()
            .insert(UPGRADE, TUNNEL_PROTOCOL.parse().unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| None)?;
        tokio::spawn(connection.with_upgrades());
        let answer = sender.send_request(request.map(Full::new)).await;
        let answer = answer.map_err(|_| None)?;
        let status = answer.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = answer.into_body().collect().await.map_err(|_| None)?;
            let body = serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null);
            return Err(Some((status, body)));
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(|_| None)?;
        Ok(tokio::spawn(async move {
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .serve_connection(upgraded, TowerToHyperService::new(router))
                .await;
        }))
    }
}

/// Waits until the account sees its agent as `online`.
pub(crate) async fn wait_until_online(browser: &Browser, id: &str, online: bool) {
    for _ in 0..200 {
        let list = browser.json("/api/agents").await;
        let agents = list["agents"].as_array().unwrap();
        if agents
            .iter()
            .any(|agent| agent["id"] == id && agent["online"] == online)
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the agent did not become online={online}");
}

fn authority(relay: &TestRelay) -> String {
    format!("katachi.localhost:{}", relay.address.port())
}

/// A TLS connection that speaks HTTP/1.1.
pub(crate) async fn connect(relay: &TestRelay) -> TlsStream<TcpStream> {
    try_connect(relay)
        .await
        .expect("the relay takes connections")
}

pub(crate) async fn try_connect(relay: &TestRelay) -> Option<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(relay.tls(&[b"http/1.1"])));
    let entrance = relay.entrance.unwrap_or(relay.address);
    let stream = TcpStream::connect(entrance).await.ok()?;
    let name = ServerName::try_from("katachi.localhost").unwrap();
    connector.connect(name, stream).await.ok()
}
