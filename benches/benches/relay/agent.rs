//! An agent that registered by the device flow and signs its calls.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONNECTION, HOST, RETRY_AFTER, UPGRADE};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::device::dpop::ProofKey;
use katachi_auth::replay::{Epoch, NonceSequence};
use katachi_auth::signature::{Freshness, KeyId, Profile, RequestView, Signer, derive_key};
use katachi_crypto::Secret;
use katachi_protocol::account::SignUp;
use katachi_protocol::device::{
    CLIENT_ID, DeviceAuthorizationRequest, DeviceAuthorizationResponse, GRANT_TYPE, TokenRequest,
    TokenResponse, UserCodeBody,
};
use katachi_protocol::{Sensitive, routes};
use reqwest::cookie::{CookieStore as _, Jar};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::server::Failure;

/// A client at the address `from` for certificates that were made a moment ago.
pub(super) fn client(from: Ipv4Addr) -> Result<ClientBuilder, Failure> {
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    Ok(Client::builder()
        // Browsers know this name, resolvers need not.
        .resolve("katachi.localhost", loopback)
        .local_address(IpAddr::from(from))
        .tls_danger_accept_invalid_certs(true)
        .http1_only())
}

/// Somebody who has an account, in a browser.
pub(super) struct Account {
    pub(super) url: String,
    pub(super) email: String,
    http: Client,
    cookies: Arc<Jar>,
}

impl Account {
    /// Opens an account at the relay `url` for somebody called `name`.
    pub(super) async fn open(url: &str, name: &str, from: Ipv4Addr) -> Result<Self, Failure> {
        let cookies = Arc::new(Jar::default());
        let new = Self {
            http: client(from)?
                .cookie_provider(Arc::clone(&cookies))
                .build()?,
            url: url.to_owned(),
            email: format!("{name}@katachi.example"),
            cookies,
        };
        let account = SignUp {
            email: new.email.clone(),
            password: Sensitive::new("a long enough password"),
        };
        let signed_up = new.page(routes::SIGN_UP).json(&account).send().await?;
        signed_up.error_for_status()?;
        Ok(new)
    }

    /// The same person at another address.
    pub(super) fn moved(&self, from: Ipv4Addr) -> Result<Self, Failure> {
        let cookies = Arc::clone(&self.cookies);
        Ok(Self {
            http: client(from)?
                .cookie_provider(Arc::clone(&cookies))
                .build()?,
            url: self.url.clone(),
            email: self.email.clone(),
            cookies,
        })
    }

    /// The session, as a request names it.
    pub(super) fn cookie(&self) -> Result<HeaderValue, Failure> {
        let cookies = self.cookies.cookies(&self.url.parse()?);
        Ok(cookies.ok_or("nobody is signed in")?)
    }

    /// Connects an agent, and approves it.
    pub(super) async fn connect(&self) -> Result<Agent, Failure> {
        let (http, url) = (&self.http, self.url.as_str());
        let device = Device::new(http, url)?;
        let begun = device
            .post(
                routes::DEVICE_AUTHORIZATION,
                &DeviceAuthorizationRequest {
                    client_id: CLIENT_ID.to_owned(),
                    ..Default::default()
                },
            )
            .await?;
        let codes: DeviceAuthorizationResponse = begun.error_for_status()?.json().await?;
        let approval = UserCodeBody {
            user_code: codes.user_code,
        };
        let approved = self.page(routes::DEVICE_APPROVE).json(&approval);
        approved.send().await?.error_for_status()?;
        let redeemed = device
            .post(
                routes::TOKEN,
                &TokenRequest {
                    grant_type: GRANT_TYPE.to_owned(),
                    device_code: codes.device_code,
                    client_id: CLIENT_ID.to_owned(),
                },
            )
            .await?;
        let token: TokenResponse = redeemed.error_for_status()?.json().await?;

        let secret = URL_SAFE_NO_PAD.decode(token.hmac_secret.expose_secret())?;
        let secret: Secret<32> = Secret::from_slice(&secret)?;
        let key = derive_key(&secret, &token.agent_id, &Profile::AGENT_REQUEST);
        let key_id = KeyId::parse(&token.key_id)?;
        Ok(Agent {
            signer: Signer::new(Profile::AGENT_REQUEST, key_id.clone(), key),
            dialler: Signer::new(
                Profile::TUNNEL_REQUEST,
                key_id,
                derive_key(&secret, &token.agent_id, &Profile::TUNNEL_REQUEST),
            ),
            id: token.agent_id,
            nonces: NonceSequence::start()?,
            epoch: Epoch::parse(&token.epoch)?,
            url: url.to_owned(),
            http: http.clone(),
        })
    }

    fn page(&self, path: &str) -> RequestBuilder {
        self.http
            .post(format!("{}{path}", self.url))
            .header("sec-fetch-site", "same-origin")
            .header("origin", &self.url)
    }
}

pub(super) struct Agent {
    pub(super) id: String,
    http: Client,
    url: String,
    signer: Signer,
    dialler: Signer,
    nonces: NonceSequence,
    epoch: Epoch,
}

impl Agent {
    /// Learns that the relay was started again, at `url`.
    pub(super) fn follow(&mut self, url: &str, epoch: Epoch) {
        self.url = url.to_owned();
        self.epoch = epoch;
    }

    /// Opens the tunnel from the address `from` and serves `router` on it until
    /// the relay ends it.
    pub(super) async fn dial(
        &self,
        tls: &TlsConnector,
        from: Ipv4Addr,
        router: Router,
    ) -> Result<JoinHandle<()>, Failure> {
        let stream = connect(tls, &self.url, from).await?;
        let exporter: [u8; routes::TLS_EXPORTER_LEN] = stream.get_ref().1.export_keying_material(
            [0; 32],
            routes::TLS_EXPORTER_LABEL,
            Some(&[]),
        )?;
        let mut request = http::Request::get(routes::TUNNEL)
            .header(HOST, self.url.trim_start_matches("https://"))
            .body(Bytes::new())?;
        let mut freshness = Freshness::new(SystemClock.now(), self.nonces.draw(), self.epoch);
        freshness.channel = Some(&exporter);
        let signed = self.dialler.sign(&request, &freshness)?;
        signed.apply(request.headers_mut());
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(routes::TUNNEL_PROTOCOL));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let answer = sender.send_request(request.map(Full::new)).await?;
        if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(format!("no tunnel: {}", answer.status()).into());
        }
        let upgraded = hyper::upgrade::on(answer).await?;
        Ok(tokio::spawn(async move {
            // As the agent has them.
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(256 << 10)
                .initial_connection_window_size(4 << 20)
                .serve_connection(upgraded, TowerToHyperService::new(router))
                .await;
        }))
    }

    /// One signed call.
    pub(super) async fn call(&self) -> Result<(), Failure> {
        let plain = RequestView {
            method: "GET",
            authority: self.url.trim_start_matches("https://"),
            path: routes::AGENT_MCP,
            query: None,
            headers: &[],
            body: b"",
        };
        let freshness = Freshness::new(SystemClock.now(), self.nonces.draw(), self.epoch);
        let signed = self.signer.sign(&plain, &freshness)?;
        let mut request = self.http.get(format!("{}{}", self.url, routes::AGENT_MCP));
        for (name, value) in signed.headers() {
            request = request.header(name, value);
        }
        request.send().await?.error_for_status()?.bytes().await?;
        Ok(())
    }
}

/// TLS that trusts the authority of the relay with its state in `state`.
pub(super) fn tls(state: &Path) -> Result<TlsConnector, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(state.join("tls/ca.pem"))?)?;
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A connection from the address `from` to the relay `url`.
pub(super) async fn connect(
    tls: &TlsConnector,
    url: &str,
    from: Ipv4Addr,
) -> Result<TlsStream<TcpStream>, Failure> {
    let (_, port) = url.rsplit_once(':').ok_or("a local relay has a port")?;
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let tcp = socket.connect((Ipv4Addr::LOCALHOST, port.parse()?).into());
    let tcp = tcp.await?;
    tcp.set_nodelay(true)?;
    Ok(tls.connect("katachi.localhost".try_into()?, tcp).await?)
}

/// The requests of one device flow, each with a proof of its key.
struct Device<'a> {
    http: &'a Client,
    url: &'a str,
    key: ProofKey,
    nonces: NonceSequence,
}

impl<'a> Device<'a> {
    fn new(http: &'a Client, url: &'a str) -> Result<Self, Failure> {
        Ok(Self {
            http,
            url,
            key: ProofKey::from_seed(&Secret::random()?),
            nonces: NonceSequence::start()?,
        })
    }

    /// Sends a form until the relay, which bounds what strangers begin, has time for it.
    async fn post(&self, path: &str, form: &impl Serialize) -> Result<Response, Failure> {
        loop {
            let answer = self.post_once(path, form).await?;
            if answer.status() != http::StatusCode::TOO_MANY_REQUESTS {
                return Ok(answer);
            }
            let after = answer.headers().get(RETRY_AFTER);
            let after = after.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
            tokio::time::sleep(Duration::from_secs(after.unwrap_or(1))).await;
        }
    }

    /// Sends a form, and again with the nonce that the relay asks for.
    async fn post_once(&self, path: &str, form: &impl Serialize) -> Result<Response, Failure> {
        let first = self.post_with(path, form, None).await?;
        let asked = first
            .headers()
            .get("dpop-nonce")
            .and_then(|nonce| nonce.to_str().ok())
            .and_then(|nonce| Epoch::parse(nonce).ok());
        match asked {
            Some(epoch) if !first.status().is_success() => {
                self.post_with(path, form, Some(&epoch)).await
            }
            _ => Ok(first),
        }
    }

    async fn post_with(
        &self,
        path: &str,
        form: &impl Serialize,
        epoch: Option<&Epoch>,
    ) -> Result<Response, Failure> {
        let url = format!("{}{path}", self.url);
        let now = SystemClock.now();
        let proof = self
            .key
            .prove("POST", &url, now, &self.nonces.draw(), epoch);
        Ok(self
            .http
            .post(&url)
            .header("dpop", proof)
            .form(form)
            .send()
            .await?)
    }
}
