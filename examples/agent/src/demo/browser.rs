//! The browser's part in the story: the same requests, cookies and headers
//! that a page of the relay sends, over the same TLS.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use katachi_protocol::account::{LogIn, Me, SignInStarted, SignUp, StartSignIn};
use katachi_protocol::agent::Agents;
use katachi_protocol::channel::ChannelQuery;
use katachi_protocol::device::{DeviceInfo, UserCodeBody};
use katachi_protocol::mcp::{McpConfigs, PutMcp, SealedMcp};
use katachi_protocol::{Sensitive, routes};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::relay_client::Endpoint;

/// Longest time for one answer of the relay.
const PATIENCE: Duration = Duration::from_secs(20);

/// A browser with one cookie jar.
#[derive(Debug)]
pub(super) struct Browser {
    http: Client,
    endpoint: Endpoint,
    origin: String,
    /// The session's cookie, for the one request that the client cannot send.
    cookie: Mutex<String>,
}

impl Browser {
    /// Opens a browser without cookies.
    pub(super) fn new(endpoint: &Endpoint) -> anyhow::Result<Self> {
        Ok(Self {
            http: endpoint.http()?.cookie_store(true).build()?,
            endpoint: endpoint.clone(),
            origin: endpoint.url.clone(),
            cookie: Mutex::default(),
        })
    }

    /// Loads a page as a typed address does.
    pub(super) async fn page(&self, path: &str) -> anyhow::Result<Response> {
        let response = self
            .http
            .get(format!("{}{path}", self.origin))
            .header("sec-fetch-site", "none")
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-dest", "document")
            .timeout(PATIENCE)
            .send()
            .await?;
        Ok(response)
    }

    /// Asks for an account and says what the relay answered.
    pub(super) async fn sign_up(&self, email: &str, password: &str) -> anyhow::Result<StatusCode> {
        let body = SignUp {
            email: email.to_owned(),
            password: Sensitive::new(password),
        };
        let response = self.post(routes::SIGN_UP).json(&body).send().await?;
        Ok(response.status())
    }

    /// Tries to sign in, with the `token` of a mail if given: what the relay answered,
    /// and the cookie as it was set.
    pub(super) async fn log_in(
        &self,
        email: &str,
        password: &str,
        token: Option<&str>,
    ) -> anyhow::Result<(StatusCode, String)> {
        let body = LogIn {
            email: email.to_owned(),
            password: Sensitive::new(password),
            token: token.map(Sensitive::new),
        };
        let response = self.post(routes::LOG_IN).json(&body).send().await?;
        Ok((response.status(), self.keep_cookie(&response)))
    }

    /// Begins a sign-in at a provider: the page to go to.
    pub(super) async fn start_sign_in(&self, provider: &str) -> anyhow::Result<String> {
        let body = StartSignIn {
            return_to: None,
            link: false,
        };
        let path = routes::SIGN_IN_START.replace("{provider}", provider);
        let response = success(self.post(&path).json(&body).send().await?).await?;
        let started: SignInStarted = response.json().await?;
        Ok(started.url)
    }

    /// Goes to a page of a provider, where nobody has to be asked: where it leads back
    /// to.
    pub(super) async fn agree(&self, page: &str) -> anyhow::Result<String> {
        let page: http::Uri = page.parse()?;
        let host = page
            .authority()
            .context("the provider's page has no host")?;
        let path = page.path_and_query().context("it has no path")?;
        // On loopback, where the client for the relay goes nowhere without TLS.
        let stream = TokioIo::new(TcpStream::connect(host.as_str()).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        tokio::spawn(connection);
        let request = http::Request::get(path.as_str())
            .header(http::header::HOST, host.as_str())
            .body(Empty::<Bytes>::new())?;
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await??;
        let to = response.headers().get(reqwest::header::LOCATION);
        let to = to.with_context(|| format!("the provider answered {}", response.status()))?;
        Ok(to.to_str()?.to_owned())
    }

    /// Comes back from a provider, as it sends a browser, and says what the relay
    /// answered.
    pub(super) async fn come_back(&self, url: &str) -> anyhow::Result<StatusCode> {
        let response = self
            .http
            .get(url)
            .header("sec-fetch-site", "cross-site")
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-dest", "document")
            .timeout(PATIENCE)
            .send()
            .await?;
        Ok(response.status())
    }

    fn session_cookie(&self) -> String {
        self.cookie
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Keeps the cookie that an answer sets, and returns it as it was set.
    fn keep_cookie(&self, response: &Response) -> String {
        let set = response.headers().get(reqwest::header::SET_COOKIE);
        let set = set.and_then(|set| set.to_str().ok()).unwrap_or_default();
        if let Some((pair, _)) = set.split_once(';') {
            pair.clone_into(&mut self.cookie.lock().unwrap_or_else(PoisonError::into_inner));
        }
        set.to_owned()
    }

    pub(super) async fn me(&self) -> anyhow::Result<Me> {
        self.get(routes::ME).await
    }

    /// What the page shows to compare before approving.
    pub(super) async fn device(&self, user_code: &str) -> anyhow::Result<DeviceInfo> {
        self.get(&format!("{}?user_code={user_code}", routes::DEVICE))
            .await
    }

    pub(super) async fn approve(&self, user_code: &str) -> anyhow::Result<()> {
        let body = UserCodeBody {
            user_code: user_code.to_owned(),
        };
        success(self.post(routes::DEVICE_APPROVE).json(&body).send().await?).await?;
        Ok(())
    }

    /// Approves as a page of another site would try to.
    pub(super) async fn approve_from_elsewhere(
        &self,
        user_code: &str,
    ) -> anyhow::Result<StatusCode> {
        let body = UserCodeBody {
            user_code: user_code.to_owned(),
        };
        let response = self
            .http
            .post(format!("{}{}", self.origin, routes::DEVICE_APPROVE))
            .header("sec-fetch-site", "cross-site")
            .header("origin", "https://elsewhere.example")
            .timeout(PATIENCE)
            .json(&body)
            .send()
            .await?;
        Ok(response.status())
    }

    pub(super) async fn agents(&self) -> anyhow::Result<Agents> {
        self.get(routes::AGENTS).await
    }

    pub(super) async fn put_mcp(&self, name: &str, config: &PutMcp) -> anyhow::Result<()> {
        let request = self.request(Method::PUT, &routes::mcp_one(name));
        success(request.json(config).send().await?).await?;
        Ok(())
    }

    pub(super) async fn mcp(&self) -> anyhow::Result<(McpConfigs, String)> {
        let text = success(self.request(Method::GET, routes::MCP).send().await?)
            .await?
            .text()
            .await?;
        Ok((serde_json::from_str(&text)?, text))
    }

    /// The ciphertext as the relay's database holds it.
    pub(super) async fn sealed_mcp(&self, name: &str) -> anyhow::Result<SealedMcp> {
        self.get(&routes::mcp_sealed(name)).await
    }

    /// Opens the carrier of an end-to-end channel.
    pub(super) async fn channel(
        &self,
        agent: &str,
        query: &ChannelQuery,
    ) -> anyhow::Result<WebSocketStream<TlsStream<TcpStream>>> {
        let mut tls = self.endpoint.tls()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let addresses = self.endpoint.addresses().await?;
        let tcp = TcpStream::connect(&*addresses).await?;
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(self.endpoint.server_name()?, tcp)
            .await?;
        let path = routes::AGENT_CHANNEL.replace("{id}", agent);
        let target = format!(
            "wss://{}{path}?{}",
            self.endpoint.authority(),
            query.to_query()
        );
        let mut request = target.into_client_request()?;
        let headers = request.headers_mut();
        headers.insert("origin", self.origin.parse()?);
        headers.insert("cookie", self.session_cookie().parse()?);
        let opened = tokio_tungstenite::client_async(request, stream);
        let (socket, _) = tokio::time::timeout(PATIENCE, opened).await??;
        Ok(socket)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let response = self.request(Method::GET, path).send().await?;
        Ok(success(response).await?.json().await?)
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    /// A request as `fetch` sends it from a page of the relay.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let is_read = method == Method::GET;
        let request = self
            .http
            .request(method, format!("{}{path}", self.origin))
            .header("sec-fetch-site", "same-origin")
            .header("sec-fetch-mode", "cors")
            .header("sec-fetch-dest", "empty")
            .timeout(PATIENCE);
        match is_read {
            true => request,
            false => request.header("origin", &self.origin),
        }
    }
}

async fn success(response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let path = response.url().path().to_owned();
    let body = response.text().await.unwrap_or_default();
    bail!("the relay answered {status} to {path}: {}", body.trim());
}
