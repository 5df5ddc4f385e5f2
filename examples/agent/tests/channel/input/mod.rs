//! Every route of the agent asked badly, by a paired device inside of channels and by a
//! hostile relay outside of them: each answer has its status and says why, the audit log
//! has one line that names the route and holds nothing of what was told, and nothing is
//! changed.

#[path = "../../../../relay/tests/service/input/bodies.rs"]
#[allow(dead_code, reason = "the relay takes forms too")]
mod bodies;
mod routes;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures_util::{FutureExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use katachi_protocol::mcp::PutMcp;
use libtest_mimic::Trial;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::impostor::{Agent, Impostor};
use crate::support::far::Far;
use crate::support::meeting::get;
use crate::support::pair::Pair;
use crate::support::up::{PATIENCE, Up, block_on};
use crate::support::{self, Place, needing};
use routes::{Bad, Outside, by_device, by_relay, every_route_has_a_row, id_of, table};

/// Stands in everything that is told, and must not stand in the log.
const CANARY: &str = "canary-7f3d";
/// So many at once.
const ABREAST: usize = 8;
/// Where the hostile relay is.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        needing("", true, "every_route_has_a_row", every_route_has_a_row),
        needing(
            "user namespaces",
            support::can_confine(),
            "whatever_a_route_of_the_agent_is_asked_it_says_so_once_and_changes_nothing",
            whatever_a_route_is_asked,
        ),
    ]
}

/// The calls that the log holds, without those that the relay was asked.
fn log(place: &Place) -> Vec<Value> {
    let said = place.agent(&["audit", "--json", "--limit", "100000"]).ok();
    let lines = said.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|line: &Value| line["direction"] == "in")
        .collect()
}

/// How often the log has each call with each outcome.
fn counted(lines: &[Value]) -> BTreeMap<(String, String), usize> {
    let mut counted = BTreeMap::new();
    for line in lines {
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        *counted.entry((text("call"), text("outcome"))).or_default() += 1;
    }
    counted
}

/// What must not change, by what the agent says and by what lies on the disk.
type Kept = (Vec<Value>, Vec<(PathBuf, Vec<u8>)>);

async fn kept(pair: &Pair) -> Kept {
    let mut said = Vec::new();
    for path in [
        "/v1/devices",
        "/v1/sessions",
        "/v1/history?q=hello",
        "/v1/mcp",
        "/v1/approvals",
    ] {
        said.push(pair.meeting.read(&pair.device, path).await);
    }
    let files = std::fs::read_dir(pair.place.workspace()).unwrap();
    let mut files: Vec<_> = files
        .map(|file| (file.unwrap().path(), Vec::new()))
        .collect();
    let sealed = pair.place.stored().into_iter();
    files.extend(sealed.filter(|(path, _)| path.ends_with("devices.sealed")));
    (said, files)
}

fn whatever_a_route_is_asked() {
    block_on(async {
        let mut pair = Pair::meet(Far::start(), "", &["--ai-command", "cat"]).await;
        pair.meeting.message(&pair.device, None, "hello").await;
        let config = PutMcp {
            command: vec!["true".to_owned()],
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            released_to: vec![pair.meeting.agent.clone()],
            signatures: BTreeMap::new(),
        };
        pair.meeting.browser.put_mcp("kept", &config).await;
        let before = kept(&pair).await;
        asked_by_a_device(&pair).await;
        let after = kept(&pair).await;
        assert_eq!(after, before, "something was changed");
        // It still serves, and what is compared would have shown it.
        pair.meeting.run(&pair.device, &["touch", "plum"]).await;
        assert_ne!(kept(&pair).await, before);
        let before = kept(&pair).await;

        asked_by_a_relay(&mut pair).await;
        assert_eq!(kept(&pair).await, before, "something was changed");
        pair.up.stop();
    });
}

async fn asked_by_a_device(pair: &Pair) {
    let rows = table();
    let id = id_of(&pair.device);
    let all: Vec<Bad> = rows
        .iter()
        .flat_map(|row| by_device(row, &rows, &id))
        .collect();
    assert!(all.len() > 300, "{}", all.len());
    let had = log(&pair.place).len();
    let mut expected: BTreeMap<(String, String), usize> = BTreeMap::new();
    for bad in &all {
        let channel = ("POST /v1/channel".to_owned(), "received".to_owned());
        *expected.entry(channel).or_default() += 1;
        let line = (bad.call.clone(), bad.outcome.to_owned());
        *expected.entry(line).or_default() += 1;
    }
    let asking = all.iter().map(|bad| async move {
        let (meeting, device) = (&pair.meeting, &pair.device);
        let query = device.query().unwrap();
        let origin = meeting.browser.origin();
        let socket = meeting
            .browser
            .channel(&meeting.agent, &query, origin)
            .await;
        let socket = socket.map_err(|status| anyhow::anyhow!("the relay says {status}"))?;
        let answer = device
            .ask_bytes(socket, &query, meeting.place(), &bad.bytes)
            .await?;
        let status = answer.status;
        let text = String::from_utf8(answer.whole().await?)?;
        anyhow::Ok((status, text))
    });
    let answers: Vec<_> = futures_util::stream::iter(asking)
        .buffered(ABREAST)
        .collect()
        .await;
    let mut faults = Vec::new();
    for (bad, answer) in all.iter().zip(answers) {
        let says_why = |text: &str| {
            let said = serde_json::from_str::<Value>(text);
            said.is_ok_and(|said| said["error"].is_string() && said["message"].is_string())
        };
        match answer {
            Ok((status, text)) if status == bad.status && says_why(&text) => {}
            other => faults.push(format!("{}: not {}: {other:?}", bad.what, bad.status)),
        }
    }
    assert!(
        faults.is_empty(),
        "{} of {}:\n{}",
        faults.len(),
        all.len(),
        faults.join("\n")
    );
    are_written(&log(&pair.place)[had..], &expected);
}

/// The log has these lines and nothing of what was told.
fn are_written(lines: &[Value], expected: &BTreeMap<(String, String), usize>) {
    assert_eq!(&counted(lines), expected, "one line for each");
    let told = lines.iter().find(|line| line.to_string().contains(CANARY));
    assert_eq!(told, None, "who asks chooses what the log says");
    let longest = lines.iter().map(|line| line.to_string().len()).max();
    assert!(longest < Some(400), "{longest:?}");
}

/// The agent starts anew and meets a relay that asks by itself; then the right one again.
async fn asked_by_a_relay(pair: &mut Pair) {
    let rows = table();
    let all: Vec<_> = rows.iter().flat_map(|row| by_relay(row, &rows)).collect();
    assert!(all.len() > 200, "{}", all.len());
    let mut expected: BTreeMap<(String, String), usize> = BTreeMap::new();
    for bad in &all {
        let line = (bad.call.clone(), "refused".to_owned());
        *expected.entry(line).or_default() += 1;
    }
    let port = pair.far.url.rsplit(':').next().unwrap().parse().unwrap();
    let listener = TcpListener::bind((ELSEWHERE, port)).await.unwrap();
    let ca = std::fs::read_to_string(&pair.far.own_authority).unwrap();
    let impostor = Impostor::before(listener, &ca);
    let authority = impostor.authority();
    let had = log(&pair.place).len();
    let count = all.len();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    // Of tunnels that break and come again one is enough.
    let asks = Arc::new(Mutex::new(Some(all)));
    impostor.receives(Arc::new(move |agent| {
        let (asks, tell) = (asks.lock().unwrap().take(), tell.clone());
        async move {
            if let Some(all) = asks {
                let _ = tell.send(ask(agent, all).await);
            }
        }
        .boxed()
    }));
    pair.far.leads_to(ELSEWHERE);
    restart(pair, &authority).await;
    let faults = tokio::time::timeout(4 * PATIENCE, told.recv()).await;
    let faults = faults.expect("an answer to each").unwrap();
    assert!(
        faults.is_empty(),
        "{} of {}:\n{}",
        faults.len(),
        count,
        faults.join("\n")
    );

    pair.far.leads_to(support::far::ADDRESS);
    let authority = pair.far.authority.clone();
    // A line is there before its answer, but for those of channels.
    let deadline = std::time::Instant::now() + PATIENCE;
    while counted(&log(&pair.place)[had..]) != expected && std::time::Instant::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    are_written(&log(&pair.place)[had..], &expected);
    restart(pair, &authority).await;
    pair.meeting.is_online().await;
    let answer = pair.meeting.ask(&pair.device, get("/v1/status")).await;
    assert_eq!(answer.unwrap().status, 200);
}

/// Ends the agent and starts it again, with what it is to trust.
async fn restart(pair: &mut Pair, authority: &str) {
    support::up::signal("-TERM", &pair.up.child);
    assert!(pair.up.child.wait().unwrap().success());
    let mut command = pair.place.command();
    command.env("KATACHI_CONFIG", pair.place.home().join("../config.toml"));
    let relay = ["--relay-url", &pair.far.url, "--relay-ca", authority];
    pair.up = Up::start_by(command, &[&relay[..], &["--ai-command", "cat"]].concat());
    pair.up.wait_for("Connected.");
}

const SWITCHES: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: katachi-tunnel/1\r\n\r\n";

/// Asks all of it in a tunnel of `agent`; what was answered otherwise than it should be.
async fn ask(mut agent: Agent, all: Vec<Outside>) -> Vec<String> {
    agent.write_all(SWITCHES).await.unwrap();
    let tunnel = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(agent));
    let (asks, connection) = tunnel.await.unwrap();
    let asks: hyper::client::conn::http2::SendRequest<Full<bytes::Bytes>> = asks;
    let _driven = tokio::spawn(connection);
    let asking = all.into_iter().map(|bad| {
        let mut asks = asks.clone();
        async move {
            let mut request = http::Request::builder()
                .method(bad.method.as_str())
                .uri(format!("https://agent{}", bad.path));
            if let Some(kind) = bad.kind {
                request = request.header("content-type", kind);
            }
            let request = request.body(Full::from(bad.body.clone())).unwrap();
            let answer = async {
                let answer = asks.send_request(request).await?;
                let status = answer.status().as_u16();
                let body = answer.into_body().collect().await?.to_bytes();
                anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
            };
            let answer = tokio::time::timeout(PATIENCE, answer).await;
            let fine = match &answer {
                Ok(Ok((200, _))) => bad.status == 200,
                // The answer to `HEAD` has no body.
                Ok(Ok((status, text))) => {
                    *status == bad.status && (bad.method == "HEAD" || text.contains("\"message\":"))
                }
                _ => false,
            };
            let path = &bad.path[..bad.path.len().min(80)];
            (!fine).then(|| format!("{} {path}: not {}: {answer:?}", bad.method, bad.status))
        }
    });
    let faults = futures_util::stream::iter(asking).buffered(ABREAST);
    faults.filter_map(async |fault| fault).collect().await
}
