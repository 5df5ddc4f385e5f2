//! A server that is killed and started again, with its requests recorded on the wire.
//!
//! The server is this very program, started a second time, so that it can be killed.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::replay::{Epoch, Limits, MemoryReplay, Nonce};
use katachi_auth::signature::layer::{Gate, VerifyLayer};
use katachi_auth::signature::{
    Freshness, KeyId, KnownKey, Profile, RequestView, Signer, Verifier, derive_key,
};
use katachi_crypto::Secret;
use katachi_crypto::mac::HmacKey;
use libtest_mimic::{Arguments, Failed, Trial};

/// Names the file in which the server writes down its effects.
const EFFECTS: &str = "KATACHI_TEST_EFFECTS";

fn main() -> ExitCode {
    if let Some(effects) = std::env::var_os(EFFECTS) {
        serve(effects.into());
    }
    let name = "s14_a_request_accepted_before_kill_9_is_not_accepted_after_the_restart";
    let trials = vec![Trial::test(name, killed)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn key() -> HmacKey {
    derive_key(&Secret::new([3; 32]), "agent-1", &Profile::AGENT_REQUEST)
}

fn serve(effects: PathBuf) -> ! {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async move {
        let known = KnownKey::new(KeyId::parse("k1").unwrap(), "agent-1", key());
        // Unsigned answers do here: the test only reads them.
        let gate = Gate::new(
            Verifier::new(Profile::AGENT_REQUEST, ["relay.example"]),
            Arc::new(known),
            MemoryReplay::new(Limits::default()).unwrap(),
        );
        let run = move |body: String| async move {
            let mut file = std::fs::File::options()
                .append(true)
                .create(true)
                .open(effects)
                .unwrap();
            writeln!(file, "{body}").unwrap();
        };
        let app = Router::new()
            .route("/v1/run", post(run))
            .layer(VerifyLayer::new(gate));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        axum::serve(listener, app).await.unwrap();
    });
    unreachable!("a server serves until it is killed")
}

/// A server process, killed at the end whatever happens.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(effects: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(EFFECTS, effects)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap();
        Self { child, address }
    }

    /// Sends the bytes, and gives the status and the body of the answer.
    fn send(&self, request: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(std::time::Duration::from_secs(20)))
            .unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        (status, body.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL on Unix: nothing is saved on the way out.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bytes of a request, signed for `epoch`.
fn signed(body: &str, epoch: Epoch) -> Vec<u8> {
    let view = RequestView {
        method: "POST",
        authority: "relay.example",
        path: "/v1/run",
        query: None,
        headers: &[],
        body: body.as_bytes(),
    };
    let signer = Signer::new(Profile::AGENT_REQUEST, KeyId::parse("k1").unwrap(), key());
    let freshness = Freshness::new(SystemClock.now(), Nonce::random().unwrap(), epoch);
    let signed = signer.sign(&view, &freshness).unwrap();
    let headers: String = signed
        .headers()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    format!(
        "POST /v1/run HTTP/1.1\r\nHost: relay.example\r\nConnection: close\r\n\
         Content-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The epoch that a server names when it refuses another.
fn epoch_of(server: &Server) -> Epoch {
    let (status, body) = server.send(&signed("", Epoch::from_bytes([0; 16])));
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["error"]), (401, &"stale_epoch".into()));
    Epoch::parse(body["epoch"].as_str().unwrap()).unwrap()
}

fn killed() -> Result<(), Failed> {
    let folder = std::env::temp_dir().join(format!("katachi-restart-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let effects = folder.join("effects");

    let server = Server::start(&effects);
    let recorded = signed("first", epoch_of(&server));
    assert_eq!(server.send(&recorded).0, 200);
    let copy = server.send(&recorded);
    assert_eq!(copy.0, 401);
    assert!(copy.1.contains("\"replayed\""), "{}", copy.1);
    drop(server);

    let server = Server::start(&effects);
    let copy = server.send(&recorded);
    assert_eq!(copy.0, 401);
    assert!(copy.1.contains("\"stale_epoch\""), "{}", copy.1);
    assert_eq!(server.send(&signed("second", epoch_of(&server))).0, 200);
    drop(server);

    let done = std::fs::read_to_string(&effects)?;
    std::fs::remove_dir_all(&folder)?;
    assert_eq!(done, "first\nsecond\n", "each effect once");
    Ok(())
}
