//! A browser's side of the relay, for tests.

use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};

use katachi_protocol::account::SignUp;
use katachi_protocol::agent::Agents;
use katachi_protocol::channel::ChannelQuery;
use katachi_protocol::device::UserCodeBody;
use katachi_protocol::mcp::PutMcp;
use katachi_protocol::{Sensitive, routes};
use reqwest::{Client, Method, Response};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, tungstenite};

pub(crate) const EMAIL: &str = "mia@orchard.example";
pub(crate) const PASSWORD: &str = "a long enough password";

pub(crate) struct Browser {
    http: Client,
    origin: String,
    /// Where the relay is.
    address: Ipv4Addr,
    ca_pem: String,
    /// For the one request that the client cannot send.
    cookie: OnceLock<String>,
}

impl Browser {
    /// Opens a browser that trusts the authority in `ca_pem`.
    pub(crate) fn new(origin: &str, ca_pem: &str) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, origin, ca_pem)
    }

    /// The same where the relay is at this address.
    pub(crate) fn at(address: Ipv4Addr, origin: &str, ca_pem: &str) -> Self {
        // A second test in this process finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let host = origin
            .strip_prefix("https://")
            .unwrap()
            .split(':')
            .next()
            .unwrap();
        let authority = reqwest::Certificate::from_pem(ca_pem.as_bytes()).unwrap();
        let http = Client::builder()
            .tls_certs_only([authority])
            .resolve(host, (address, 0).into())
            .no_proxy()
            .cookie_store(true)
            .build()
            .unwrap();
        Self {
            http,
            origin: origin.to_owned(),
            address,
            ca_pem: ca_pem.to_owned(),
            cookie: OnceLock::new(),
        }
    }

    pub(crate) async fn sign_up(&self, email: &str) {
        let body = SignUp {
            email: email.to_owned(),
            password: Sensitive::new(PASSWORD),
        };
        let answer = self.send(Method::POST, routes::SIGN_UP, Some(&body)).await;
        let cookie = answer.headers().get("set-cookie").cloned();
        assert!(answer.status().is_success(), "{:?}", answer.text().await);
        let cookie = cookie.unwrap().to_str().unwrap().to_owned();
        let _ = self
            .cookie
            .set(cookie.split(';').next().unwrap().to_owned());
    }

    pub(crate) async fn approve(&self, user_code: &str) {
        let body = UserCodeBody {
            user_code: user_code.to_owned(),
        };
        let answer = self
            .send(Method::POST, routes::DEVICE_APPROVE, Some(&body))
            .await;
        assert!(answer.status().is_success(), "{:?}", answer.text().await);
    }

    pub(crate) async fn put_mcp(&self, name: &str, config: &PutMcp) {
        let stored = self
            .send(Method::PUT, &routes::mcp_one(name), Some(config))
            .await;
        assert!(stored.status().is_success(), "{}", stored.status());
    }

    pub(crate) async fn agents(&self) -> Agents {
        self.get(routes::AGENTS).await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let answer = self.send(Method::GET, path, None::<&()>).await;
        assert!(
            answer.status().is_success(),
            "{path}: {:?}",
            answer.text().await
        );
        answer.json().await.unwrap()
    }

    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// Opens a WebSocket for a channel, as a page of `origin`; the status where
    /// that is refused.
    pub(crate) async fn channel(
        &self,
        agent: &str,
        query: &ChannelQuery,
        origin: &str,
    ) -> Result<WebSocketStream<TlsStream<TcpStream>>, u16> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let authority = self.origin.strip_prefix("https://").unwrap();
        let (host, port) = authority.split_once(':').unwrap();
        let tcp = TcpStream::connect((self.address, port.parse().unwrap()))
            .await
            .unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(name, tcp)
            .await
            .unwrap();
        let path = routes::AGENT_CHANNEL.replace("{id}", agent);
        let target = format!("wss://{authority}{path}?{}", query.to_query());
        let mut request = target.into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("origin", origin.parse().unwrap());
        headers.insert("cookie", self.cookie.get().unwrap().parse().unwrap());
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    async fn send(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Response {
        let mut request = self
            .http
            .request(method.clone(), format!("{}{path}", self.origin))
            .header("sec-fetch-site", "same-origin");
        if method != Method::GET {
            request = request.header("origin", &self.origin);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.unwrap()
    }
}
