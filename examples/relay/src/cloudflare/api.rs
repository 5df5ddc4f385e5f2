//! The calls to Cloudflare's API, version 4: tunnels (`cfd_tunnel`) and DNS records.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::{HeaderValue, Method, StatusCode};
use katachi_protocol::Sensitive;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Time for one call.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;
/// The wait after "too many requests" that names none.
const PAUSE: Duration = Duration::from_secs(60);
/// The longest wait that is believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Cloudflare did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("Cloudflare's API cannot be reached: {0}")]
    Unreachable(String),
    #[error("Cloudflare's API refuses ({status}): {why}")]
    Refused { status: StatusCode, why: String },
    #[error("Cloudflare's API asks to wait {} s", .0.as_secs())]
    Limited(Duration),
    #[error("Cloudflare's API answered what it does not document: {0}")]
    Strange(String),
}

/// One account and one zone.
#[derive(Debug)]
pub(super) struct Api {
    http: reqwest::Client,
    base: String,
    account: String,
    zone: String,
    authorization: HeaderValue,
    /// No call before this.
    resting: Mutex<Option<Instant>>,
}

#[derive(Deserialize)]
struct Answer {
    success: bool,
    #[serde(default)]
    errors: Vec<Complaint>,
    #[serde(default)]
    result: Value,
}

#[derive(Deserialize)]
struct Complaint {
    code: i64,
    message: String,
}

#[derive(Deserialize)]
struct Tunnel {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Record {
    id: String,
    name: String,
    content: String,
    #[serde(default)]
    proxied: bool,
}

impl Api {
    pub(super) fn new(
        base: String,
        account: String,
        zone: String,
        token: Sensitive,
    ) -> Result<Self, String> {
        let local = ["http://127.0.0.1:", "http://[::1]:"];
        let is_https = base.starts_with("https://");
        if !is_https && !local.iter().any(|prefix| base.starts_with(prefix)) {
            return Err("--cloudflare-api: the token is sent over https:// alone".to_owned());
        }
        let bearer = format!("Bearer {}", token.expose_secret());
        let mut authorization = HeaderValue::from_str(&bearer)
            .map_err(|_| "the token for Cloudflare's API is not one line of text".to_owned())?;
        authorization.set_sensitive(true);
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(super::dial::web()?)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .https_only(is_https)
            .timeout(PATIENCE)
            .user_agent(concat!("katachi-relay/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            http,
            base,
            account,
            zone,
            authorization,
            resting: Mutex::default(),
        })
    }

    /// Identifiers of the tunnels with this name; there is one at most.
    pub(super) async fn tunnels(&self, name: &str) -> Result<Vec<String>, ApiError> {
        let query = format!("?name={name}&is_deleted=false");
        let found: Vec<Tunnel> = self
            .call(
                Method::GET,
                &format!("{}{query}", self.tunnels_path()),
                None,
            )
            .await?;
        let ours = found.into_iter().filter(|tunnel| tunnel.name == name);
        ours.map(|tunnel| identifier(tunnel.id)).collect()
    }

    pub(super) async fn create_tunnel(&self, name: &str) -> Result<String, ApiError> {
        let body = json!({ "name": name, "config_src": "local" });
        let made: Tunnel = self
            .call(Method::POST, &self.tunnels_path(), Some(&body))
            .await?;
        identifier(made.id)
    }

    /// The token that `cloudflared` takes.
    pub(super) async fn token(&self, id: &str) -> Result<Sensitive, ApiError> {
        let path = format!("{}/{id}/token", self.tunnels_path());
        self.call(Method::GET, &path, None).await
    }

    /// Ends the tunnel's connections.
    pub(super) async fn disconnect(&self, id: &str) -> Result<(), ApiError> {
        self.delete(&format!("{}/{id}/connections", self.tunnels_path()))
            .await
    }

    pub(super) async fn delete_tunnel(&self, id: &str) -> Result<(), ApiError> {
        self.delete(&format!("{}/{id}", self.tunnels_path())).await
    }

    /// Has `hostname` lead to the tunnel `id`.
    pub(super) async fn point(&self, hostname: &str, id: &str) -> Result<(), ApiError> {
        let content = format!("{id}{TUNNELS}");
        let body = json!({
            "type": "CNAME", "name": hostname, "content": content, "proxied": true, "ttl": 1,
        });
        let (method, path) = match self.records(hostname).await?.into_iter().next() {
            Some(record) if record.content == content && record.proxied => return Ok(()),
            Some(record) => {
                let id = identifier(record.id)?;
                (Method::PATCH, format!("{}/{id}", self.records_path()))
            }
            None => (Method::POST, self.records_path()),
        };
        let _: Record = self.call(method, &path, Some(&body)).await?;
        Ok(())
    }

    /// Removes the record of `hostname`, if it leads to a tunnel.
    pub(super) async fn unpoint(&self, hostname: &str) -> Result<(), ApiError> {
        for record in self.records(hostname).await? {
            if record.content.ends_with(TUNNELS) {
                let id = identifier(record.id)?;
                self.delete(&format!("{}/{id}", self.records_path()))
                    .await?;
            }
        }
        Ok(())
    }

    async fn records(&self, hostname: &str) -> Result<Vec<Record>, ApiError> {
        let query = format!("?type=CNAME&name={hostname}");
        let found: Vec<Record> = self
            .call(
                Method::GET,
                &format!("{}{query}", self.records_path()),
                None,
            )
            .await?;
        Ok(found
            .into_iter()
            .filter(|record| record.name == hostname)
            .collect())
    }

    fn tunnels_path(&self) -> String {
        format!("/accounts/{}/cfd_tunnel", self.account)
    }

    fn records_path(&self) -> String {
        format!("/zones/{}/dns_records", self.zone)
    }

    /// Deletes what may be gone already.
    async fn delete(&self, path: &str) -> Result<(), ApiError> {
        match self.call::<Value>(Method::DELETE, path, None).await {
            Ok(_) => Ok(()),
            Err(ApiError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, ApiError> {
        self.rested()?;
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .header(AUTHORIZATION, self.authorization.clone());
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |error: reqwest::Error| ApiError::Unreachable(plain(error));
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            let after = answer.headers().get(RETRY_AFTER);
            let after = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
            return Err(self.rest(after.map_or(PAUSE, Duration::from_secs)));
        }
        let mut whole = Vec::new();
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(unreachable)?;
            if whole.len() + piece.len() > MAX_ANSWER {
                return Err(ApiError::Strange("a very long answer".to_owned()));
            }
            whole.extend_from_slice(&piece);
        }
        let answer: Answer = serde_json::from_slice(&whole).map_err(|_| match status {
            status if status.is_success() => ApiError::Strange("no JSON".to_owned()),
            status => ApiError::Refused {
                status,
                why: "without a reason".to_owned(),
            },
        })?;
        if !answer.success || !status.is_success() {
            let why = answer.errors.iter().take(3);
            let why = why.map(|one| format!("{} ({})", one.message, one.code));
            return Err(ApiError::Refused {
                status,
                why: why.collect::<Vec<_>>().join("; "),
            });
        }
        // Not the answer itself, which may hold a token.
        serde_json::from_value(answer.result)
            .map_err(|_| ApiError::Strange("a result of another shape".to_owned()))
    }

    fn rested(&self) -> Result<(), ApiError> {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let left = resting.map(|until| until.saturating_duration_since(Instant::now()));
        match left {
            Some(left) if !left.is_zero() => Err(ApiError::Limited(left)),
            _ => {
                *resting = None;
                Ok(())
            }
        }
    }

    fn rest(&self, pause: Duration) -> ApiError {
        let pause = pause.min(LONGEST_PAUSE);
        *self.resting.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
        ApiError::Limited(pause)
    }
}

/// Where names of tunnels end.
const TUNNELS: &str = ".cfargotunnel.com";

/// An identifier that becomes part of a path.
fn identifier(text: String) -> Result<String, ApiError> {
    let fits = (1..=64).contains(&text.len());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match fits && text.bytes().all(plain) {
        true => Ok(text),
        false => Err(ApiError::Strange("an identifier that is none".to_owned())),
    }
}

/// An error and its causes, without the address, which names the account.
fn plain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(link) = cause {
        text.push_str(": ");
        text.push_str(&link.to_string());
        cause = link.source();
    }
    text
}
