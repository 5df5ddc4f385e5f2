//! The peer, a browser, and what a server keeps.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use http::{Request, Response};
use katachi_auth::clock::{Clock as _, SystemClock, Timestamp};
use katachi_auth::oauth::{
    Begun, Callback, Client, Fetch, FetchError, LoginError, MemoryLogins, Provider, Reqwest,
    ReturnTo, SignedIn,
};
use katachi_crypto::SecretString;
use serde_json::Value;

/// The two providers. Closing its standard input ends the process.
pub(crate) struct Peer {
    pub(crate) issuers: Vec<String>,
    child: Mutex<Child>,
}

impl Peer {
    /// Starts them, or nothing if they are not installed.
    pub(crate) fn start() -> Option<Self> {
        let modules = node_modules("oidc-provider")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openid/provider.mjs");
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

    pub(crate) fn issuer(&self) -> &str {
        &self.issuers[0]
    }

    pub(crate) async fn provider(&self, client: &str) -> Provider {
        Provider::discover(&http(), self.issuer(), web(client))
            .await
            .unwrap()
    }

    /// A token signed with the provider's own key.
    pub(crate) async fn sign(&self, alg: &str, header: &Value, claims: &Value) -> String {
        let job = serde_json::json!({ "alg": alg, "header": header, "claims": claims });
        let request = Request::post(format!("{}/sign", self.issuer()))
            .body(job.to_string().into_bytes())
            .unwrap();
        let answer = http().fetch(request, 1 << 16).await.unwrap();
        String::from_utf8(answer.into_body()).unwrap()
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
fn node_modules(package: &str) -> Option<PathBuf> {
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/node/node_modules");
    let given = std::env::var_os("NODE_PATH").map(PathBuf::from);
    let found = [given, Some(local)]
        .into_iter()
        .flatten()
        .find(|folder| folder.join(package).is_dir())?;
    found.canonicalize().ok()
}

pub(crate) fn http() -> Reqwest {
    Reqwest::new().unwrap()
}

pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

pub(crate) fn web(id: &str) -> Client {
    let secret = SecretString::new("a secret of the web client, long enough".into());
    Client::confidential(id, secret, "https://relay.example/login/callback")
}

/// A browser of its own: it keeps cookies, and stops where a redirect leaves the provider.
pub(crate) struct Browser(reqwest::Client);

impl Browser {
    pub(crate) fn new() -> Self {
        // Any TLS configuration will do: everything is on loopback, without TLS.
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .cookie_store(true)
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Self(client.unwrap())
    }

    /// Opens `url`, follows redirects while they stay at its host, and returns the first
    /// that leaves it.
    pub(crate) async fn leave(&self, url: &str) -> String {
        let mut at: reqwest::Url = url.parse().unwrap();
        let host = at.authority().to_owned();
        for _ in 0..10 {
            let answer = self.0.get(at.clone()).send().await.unwrap();
            let status = answer.status();
            let Some(to) = answer.headers().get("location") else {
                panic!("{status} at {at}: {}", answer.text().await.unwrap());
            };
            at = at.join(to.to_str().unwrap()).unwrap();
            if at.authority() != host {
                return at.into();
            }
        }
        panic!("redirected for ever");
    }

    pub(crate) async fn page(&self, request: reqwest::RequestBuilder) -> String {
        let mut answer = request.send().await.unwrap();
        for _ in 0..10 {
            let Some(to) = answer.headers().get("location") else {
                break;
            };
            let to = answer.url().join(to.to_str().unwrap()).unwrap();
            answer = self.0.get(to).send().await.unwrap();
        }
        answer.text().await.unwrap()
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.0
    }
}

pub(crate) fn query(url: &str) -> &str {
    url.split_once('?').expect("a redirect has a query").1
}

/// One sign-in, up to the redirect back.
pub(crate) struct Returned {
    pub(crate) logins: MemoryLogins,
    pub(crate) begun: Begun,
    pub(crate) query: String,
}

impl Returned {
    pub(crate) async fn from(provider: &Provider) -> Self {
        let logins = MemoryLogins::new(8);
        let begun = provider
            .begin(&logins, ReturnTo::parse("/agents").unwrap(), now())
            .unwrap();
        let back = Browser::new().leave(&begun.url).await;
        let query = query(&back).to_owned();
        Self {
            logins,
            begun,
            query,
        }
    }

    pub(crate) fn callback(&self) -> Callback {
        Callback::parse(&self.query).unwrap()
    }

    pub(crate) async fn finish(
        &self,
        provider: &Provider,
        http: &impl Fetch,
    ) -> Result<SignedIn, LoginError> {
        let cookie = self.begun.cookie.expose_secret();
        provider
            .finish(http, &self.logins, &self.callback(), cookie, now())
            .await
    }
}

/// HTTP with a man in the middle who may change requests and answers.
pub(crate) struct Middle<C> {
    inner: Reqwest,
    change: C,
}

pub(crate) fn middle<C>(change: C) -> Middle<C>
where
    C: Fn(&str, Step<'_>) + Send + Sync,
{
    Middle {
        inner: http(),
        change,
    }
}

pub(crate) enum Step<'a> {
    Before(&'a mut Vec<u8>),
    After(&'a mut Response<Vec<u8>>),
}

impl<C: Fn(&str, Step<'_>) + Send + Sync> Fetch for Middle<C> {
    async fn fetch(
        &self,
        mut request: Request<Vec<u8>>,
        limit: usize,
    ) -> Result<Response<Vec<u8>>, FetchError> {
        let path = request.uri().path().to_owned();
        (self.change)(&path, Step::Before(request.body_mut()));
        let mut answer = self.inner.fetch(request, limit).await?;
        (self.change)(&path, Step::After(&mut answer));
        Ok(answer)
    }
}
