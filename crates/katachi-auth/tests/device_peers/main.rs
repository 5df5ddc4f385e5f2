//! Our device flow server with independent clients: the `oauth2` crate, PyPI `authlib`,
//! and npm `oauth4webapi` with DPoP. Those that are missing are listed as ignored, and
//! fail under `KATACHI_REQUIRE_ALL=1`.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::device::dpop::{self, ProofError};
use katachi_auth::device::form::Form;
use katachi_auth::device::{
    Config, GuessLimits, Guesser, Guesses, MemoryDeviceStore, Metadata, Server, Start,
};
use katachi_auth::oauth::{Fetch as _, Reqwest};
use katachi_auth::replay::{Limits, MemoryReplay};
use katachi_crypto::Secret;
use libtest_mimic::{Arguments, Failed, Trial};
use oauth2::basic::BasicClient;
use oauth2::{
    ClientId, DeviceAuthorizationUrl, StandardDeviceAuthorizationResponse, TokenResponse as _,
    TokenUrl,
};
use serde_json::{Value, json};

type Running = std::pin::Pin<Box<dyn Future<Output = Result<(), Failed>>>>;

struct Desk {
    base: String,
    server: Server,
    grants: MemoryDeviceStore,
    guesses: Guesses,
    proofs: MemoryReplay,
}

impl Desk {
    fn approve(&self, code: &str) {
        let who = Guesser {
            session: "s",
            account: "ana",
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        self.server
            .approve(&self.grants, &self.guesses, &who, code, SystemClock.now())
            .unwrap();
    }
}

fn answer(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    let headers = [
        ("content-type", "application/json"),
        ("cache-control", "no-store"),
    ];
    (status, headers, body.to_string()).into_response()
}

async fn start(State(desk): State<Arc<Desk>>, body: Bytes) -> Response {
    let form = Form::parse(&body).unwrap();
    let start = Start {
        client_id: form.get("client_id").unwrap(),
        thumbprint: form.get("dpop_jkt"),
        details: "a test",
    };
    let started = desk.server.start(&desk.grants, &start, SystemClock.now());
    answer(200, &serde_json::to_value(started.unwrap()).unwrap())
}

async fn token(State(desk): State<Arc<Desk>>, headers: HeaderMap, body: Bytes) -> Response {
    let now = SystemClock.now();
    let proof = headers.get("dpop").map(|proof| {
        let uri = format!("{}/token", desk.base);
        dpop::verify(proof.to_str().unwrap(), "POST", &uri, &desk.proofs, now)
    });
    let thumbprint = match proof.transpose() {
        Ok(thumbprint) => thumbprint,
        Err(error) => {
            let mut refusal = answer(400, &json!({ "error": error.code() }));
            if matches!(error, ProofError::UseNonce) {
                use katachi_auth::replay::ReplayStore as _;
                let nonce = desk.proofs.epoch().unwrap().to_string();
                refusal
                    .headers_mut()
                    .insert("dpop-nonce", nonce.parse().unwrap());
            }
            return refusal;
        }
    };
    let Ok(form) = Form::parse(&body) else {
        return answer(400, &json!({ "error": "invalid_request" }));
    };
    let polled = desk.server.poll(
        &desk.grants,
        form.get("client_id").unwrap_or_default(),
        form.get("device_code").unwrap_or_default(),
        thumbprint.as_deref(),
        now,
    );
    match polled {
        Ok(approval) => {
            let kind = if approval.thumbprint.is_some() {
                "DPoP"
            } else {
                "Bearer"
            };
            let body = json!({
                "access_token": format!("for-{}", approval.account),
                "token_type": kind, "expires_in": 600,
            });
            answer(200, &body)
        }
        Err(error) => answer(error.status(), &json!({ "error": error.code() })),
    }
}

async fn metadata(State(desk): State<Arc<Desk>>) -> Response {
    let metadata = Metadata::for_device_flow(&desk.base, "/device", "/token");
    answer(200, &serde_json::to_value(metadata).unwrap())
}

async fn serve() -> Arc<Desk> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let desk = Arc::new(Desk {
        server: Server::new(
            Config::new(format!("{base}/approve")),
            &Secret::random().unwrap(),
        ),
        base,
        grants: MemoryDeviceStore::new(16),
        guesses: Guesses::new(GuessLimits::default()),
        proofs: MemoryReplay::new(Limits::default()).unwrap(),
    });
    let router = Router::new()
        .route("/device", post(start))
        .route("/token", post(token))
        .route("/.well-known/oauth-authorization-server", get(metadata))
        .with_state(Arc::clone(&desk));
    tokio::spawn(async move { axum::serve(listener, router).await });
    desk
}

async fn the_oauth2_crate() -> Result<(), Failed> {
    let desk = serve().await;
    let client = BasicClient::new(ClientId::new("oauth2".into()))
        .set_auth_type(oauth2::AuthType::RequestBody)
        .set_token_uri(TokenUrl::new(format!("{}/token", desk.base))?)
        .set_device_authorization_url(DeviceAuthorizationUrl::new(format!(
            "{}/device",
            desk.base
        ))?);
    let http = Reqwest::new()?;
    let send = |request| http.fetch(request, 1 << 16);
    let started: StandardDeviceAuthorizationResponse =
        client.exchange_device_code().request_async(&send).await?;
    desk.approve(started.user_code().secret());
    let token = client
        .exchange_device_access_token(&started)
        .request_async(&send, tokio::time::sleep, None)
        .await?;
    assert_eq!(token.access_token().secret(), "for-ana");
    Ok(())
}

/// Runs a client that prints its user code, waits for the approval, and prints its token.
async fn run(mut command: Command) -> Result<(), Failed> {
    let desk = serve().await;
    command
        .arg(&desk.base)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let outcome = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let code = lines.next().expect("a user code").unwrap();
        desk.approve(&code);
        // The interval has grown by a `slow_down`; an approval is answered at once.
        child
            .stdin
            .take()
            .unwrap()
            .write_all(b"approved\n")
            .unwrap();
        let token = lines.next().expect("a token").unwrap();
        assert!(child.wait().unwrap().success());
        token
    });
    assert_eq!(outcome.await?, "for-ana");
    Ok(())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/device_peers")
        .join(name)
}

fn python() -> Command {
    Command::new(std::env::var_os("KATACHI_PYTHON").unwrap_or_else(|| "python3".into()))
}

fn node_modules() -> Option<PathBuf> {
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/node/node_modules");
    let given = std::env::var_os("NODE_PATH").map(PathBuf::from);
    let mut folders = [given, Some(local)].into_iter().flatten();
    let found = folders.find(|folder| folder.join("oauth4webapi").is_dir())?;
    found.canonicalize().ok()
}

async fn authlib() -> Result<(), Failed> {
    let mut command = python();
    command.arg(script("client.py"));
    run(command).await
}

async fn oauth4webapi() -> Result<(), Failed> {
    let mut command = Command::new("node");
    command
        .arg(script("client.mjs"))
        .env("NODE_PATH", node_modules().ok_or("needs npm oauth4webapi")?);
    run(command).await
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|all| all == "1");
    let has_authlib = python()
        .args(["-c", "import authlib, requests"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let block =
        |test: fn() -> Running| move || tokio::runtime::Runtime::new().unwrap().block_on(test());
    let trial = |name: &str, here: bool, run| {
        if here || required {
            Trial::test(name, run)
        } else {
            Trial::test(format!("{name} (not installed)"), run).with_ignored_flag(true)
        }
    };
    let trials = vec![
        trial(
            "the_oauth2_crate_gets_a_token_from_our_server",
            true,
            block(|| Box::pin(the_oauth2_crate())),
        ),
        trial(
            "authlib_gets_a_token_from_our_server",
            has_authlib,
            block(|| Box::pin(authlib())),
        ),
        trial(
            "oauth4webapi_gets_a_bound_token_from_our_server",
            node_modules().is_some(),
            block(|| Box::pin(oauth4webapi())),
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}
