//! An agent whose relay is run by somebody who means ill: it believes no certificate but
//! the right one and no answer but a signed one, does nothing that is asked outside of a
//! channel, holds only so much of what it is sent, and tries again ever more slowly.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::floods::FLOODS;
use crate::impostor::{self, Agent, Impostor, Receive, Shows};
use crate::support::browser::{Browser, EMAIL};
use crate::support::far::Far;
use crate::support::up::{PATIENCE, Up, block_on};
use crate::support::{Place, far, needing};

pub(crate) fn trials() -> Vec<Trial> {
    let case = |name: &str, test: fn()| needing("unix signals", cfg!(unix), name, test);
    vec![
        case(
            "r14_no_certificate_but_the_right_one_is_believed",
            no_certificate_but_the_right_one_is_believed,
        ),
        case(
            "no_answer_but_a_signed_one_is_believed",
            no_answer_but_a_signed_one_is_believed,
        ),
        case(
            "a_tunnel_that_is_answered_badly_is_not_one",
            a_tunnel_that_is_answered_badly_is_not_one,
        ),
        case(
            "a_relay_that_asks_outside_of_a_channel_gets_nothing",
            a_relay_that_asks_outside_of_a_channel_gets_nothing,
        ),
        case(
            "a_relay_that_floods_its_tunnel_is_held_within_bounds",
            a_relay_that_floods_its_tunnel_is_held_within_bounds,
        ),
        case(
            "a_relay_that_hangs_up_is_asked_ever_more_slowly_and_told_of_once",
            a_relay_that_hangs_up_is_asked_ever_more_slowly,
        ),
    ]
}

/// An agent that belongs to a relay, and an impostor between them.
struct Victim {
    place: Place,
    up: Up,
    impostor: Impostor,
    _far: Far,
}

impl Victim {
    async fn of(longest_wait: f64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = Far::at(listener.local_addr().unwrap().port());
        let ca = std::fs::read_to_string(&far.own_authority).unwrap();
        let impostor = Impostor::before(listener, &ca);
        let place = Place::new();
        let config = format!("[tunnel]\nlongest_wait = {longest_wait}\n");
        let config = place.file("config.toml", &config);
        let mut command = place.command();
        command.env("KATACHI_CONFIG", config);
        let authority = impostor.authority();
        let mut up = Up::start_by(
            command,
            &["--relay-url", &far.url, "--relay-ca", &authority],
        );
        up.wait_for("https://");
        let code = up.wait_for("code ");
        let browser = Browser::at(far::ADDRESS, &far.url, &ca);
        browser.sign_up(EMAIL).await;
        browser.approve(&code).await;
        up.wait_for("Approved by");
        Self {
            place,
            up,
            impostor,
            _far: far,
        }
    }

    /// A relay that does nothing wrong is as welcome as ever.
    fn recovers(&mut self, after: &str) {
        self.impostor.receives(idle());
        self.up.wait_for("Connected.");
        assert!(self.up.child.try_wait().unwrap().is_none(), "{after}");
    }

    /// Nothing was done for anybody.
    fn did_nothing(&self) {
        let files = std::fs::read_dir(self.place.workspace()).unwrap();
        assert_eq!(files.count(), 0);
    }
}

fn receive<F>(how: impl Fn(Agent) -> F + Send + Sync + 'static) -> Receive
where
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |agent| how(agent).boxed())
}

const SWITCHES: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: katachi-tunnel/1\r\n\r\n";

/// Accepts the tunnel and asks nothing in it.
fn idle() -> Receive {
    receive(async |agent| {
        let (_asks, connection) = tunnel(agent).await;
        let _ = connection.await;
    })
}

type Asks = hyper::client::conn::http2::SendRequest<Full<bytes::Bytes>>;

/// The relay's end of a tunnel as it is meant.
async fn tunnel(mut agent: Agent) -> (Asks, impl Future<Output = hyper::Result<()>>) {
    agent.write_all(SWITCHES).await.unwrap();
    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(agent))
        .await
        .unwrap()
}

fn no_certificate_but_the_right_one_is_believed() {
    block_on(async {
        let mut victim = Victim::of(0.2).await;
        victim.recovers("it is registered");
        for (shows, why) in [
            (Shows::OldTls, "ProtocolVersion"),
            (Shows::Foreign, "BadSignature"),
            (Shows::Expired, "certificate expired"),
            (Shows::OtherName, "not valid for name"),
        ] {
            let met = victim.impostor.met();
            victim.impostor.shows(shows);
            // First the tunnel that broke, then what is wrong.
            let said = std::iter::repeat_with(|| victim.up.wait_for("Not connected:"));
            let said = said.take(2).find(|said| said.contains("no trusted TLS"));
            let said = said.expect("the agent says what is wrong");
            assert!(said.contains(why), "{shows:?}: {said}");
            assert!(victim.impostor.met() > met);
            victim.impostor.shows(Shows::Good);
            victim.up.wait_for("Connected.");
        }
        victim.up.stop();
    });
}

/// An answer with its body changed in one letter.
fn another_body(mut answer: Vec<u8>) -> Vec<u8> {
    let last = answer.iter().rposition(|byte| byte.is_ascii_digit());
    let last = last.expect("a heartbeat's answer has a number");
    answer[last] = if answer[last] == b'9' { b'8' } else { b'9' };
    answer
}

fn without_signature(answer: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8(answer).unwrap();
    let lines = text.split_inclusive("\r\n");
    let kept = lines.filter(|line| !line.to_lowercase().starts_with("signature"));
    kept.collect::<String>().into_bytes()
}

fn another_status(answer: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8(answer).unwrap();
    text.replacen("200 OK", "201 Created", 1).into_bytes()
}

fn no_answer_but_a_signed_one_is_believed() {
    block_on(async {
        let mut victim = Victim::of(0.2).await;
        victim.recovers("it is registered");
        // One answer to each path, to be given again.
        let kept: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let keep = Arc::clone(&kept);
        victim.impostor.alters(Some(Arc::new(move |answer| {
            keep.lock().unwrap().push(answer.clone());
            answer
        })));
        victim.impostor.receives(idle());
        victim.up.wait_for("Connected.");
        let deadline = std::time::Instant::now() + PATIENCE;
        while kept.lock().unwrap().len() < 2 {
            assert!(std::time::Instant::now() < deadline, "nothing is called");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let earlier = kept.lock().unwrap()[0].clone();
        let alters: [(&str, impostor::Alter); 5] = [
            ("another body", Arc::new(another_body)),
            ("no signature", Arc::new(without_signature)),
            ("another status", Arc::new(another_status)),
            ("an answer of before", Arc::new(move |_| earlier.clone())),
            (
                "a redirect",
                Arc::new(|_| {
                    b"HTTP/1.1 307 Temporary Redirect\r\nlocation: https://katachi.localhost:1/\r\n\
                      content-length: 0\r\n\r\n"
                        .to_vec()
                }),
            ),
        ];
        for (what, alter) in alters {
            victim.impostor.alters(Some(alter));
            victim.impostor.receives(idle());
            let said = std::iter::repeat_with(|| victim.up.wait_for("Not connected:"));
            let said = said.take(3).find(|said| {
                said.contains("is not signed by the relay") || said.contains("refuses this machine")
            });
            assert!(said.is_some(), "{what} was believed");
            victim.impostor.alters(None);
            victim.recovers(what);
        }
        victim.did_nothing();
        victim.up.stop();
    });
}

/// Sends `answer` to whoever asks for a tunnel, and hangs up.
fn answers(answer: Vec<u8>) -> Receive {
    receive(move |mut agent: Agent| {
        let answer = answer.clone();
        async move {
            let _ = agent.write_all(&answer).await;
            let _ = agent.shutdown().await;
        }
    })
}

/// Sends `first`, then `more` for as long as the agent takes it.
fn goes_on(first: &'static [u8], more: Vec<u8>) -> Receive {
    receive(move |mut agent: Agent| {
        let more = more.clone();
        async move {
            let _ = agent.write_all(first).await;
            while agent.write_all(&more).await.is_ok() {}
        }
    })
}

fn a_tunnel_that_is_answered_badly_is_not_one() {
    block_on(async {
        let mut victim = Victim::of(0.2).await;
        victim.recovers("it is registered");
        let unsigned = |body: &str| {
            let head = "HTTP/1.1 401 Unauthorized\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n";
            format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
        };
        let head = b"HTTP/1.1 200 OK\r\n";
        let cases: [(&str, &str, Receive); 8] = [
            ("garbage", "invalid HTTP", answers(vec![0x16; 4096])),
            ("nothing", "", answers(Vec::new())),
            (
                "endless headers",
                "",
                goes_on(head, b"x-more: plum\r\n".repeat(1000)),
            ),
            (
                "a header without end",
                "",
                goes_on(head, vec![b'x'; 65_536]),
            ),
            (
                "a refusal without end",
                "refusal cannot be read",
                goes_on(b"HTTP/1.1 403 Forbidden\r\n\r\n", vec![b'x'; 65_536]),
            ),
            (
                "a clock that nobody signed",
                "refuses this machine",
                answers(unsigned(
                    r#"{"error":"skew","message":"your clock is wrong"}"#,
                )),
            ),
            (
                "an epoch that nobody signed",
                "refuses this machine",
                answers(unsigned(
                    r#"{"error":"stale_epoch","message":"begin anew","epoch":"AAAAAAAAAAAAAAAAAAAAAA"}"#,
                )),
            ),
            (
                "silence",
                "does not answer the tunnel request",
                receive(async |mut agent| {
                    let _ = tokio::io::copy(&mut agent, &mut tokio::io::sink()).await;
                }),
            ),
        ];
        let before = victim.up.memory();
        for (what, why, receive) in cases {
            victim.impostor.receives(receive);
            let said = std::iter::repeat_with(|| victim.up.wait_for("Not connected:"));
            let said = said
                .take(2)
                .find(|said| !said.contains("the tunnel broke") && said.contains(why));
            assert!(said.is_some(), "{what}");
            victim.recovers(what);
        }
        let grown = victim.up.memory().saturating_sub(before);
        assert!(grown < 16 << 20, "{grown}");
        victim.did_nothing();
        victim.up.stop();
    });
}

fn a_relay_that_asks_outside_of_a_channel_gets_nothing() {
    block_on(async {
        let victim = Victim::of(0.2).await;
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        victim.impostor.receives(receive(move |agent| {
            let sender = sender.clone();
            async move {
                let (mut asks, connection) = tunnel(agent).await;
                let driven = tokio::spawn(connection);
                for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
                    for path in [
                        "/v1/run",
                        "/v1/message",
                        "/v1/status",
                        "/v1/history?q=a",
                        "/v1/sessions",
                        "/v1/approvals",
                        "/v1/devices",
                        "/v1/denials",
                        "/v1/mcp",
                        "/v1/nothing",
                        "/",
                        "//",
                        "/v1/channel/../run",
                        "/v1/%72un",
                        "/etc/passwd",
                    ] {
                        let body = r#"{"argv":["touch","made-outside"],"text":"hello"}"#;
                        let request = http::Request::builder()
                            .method(method)
                            .uri(format!("https://agent{path}"))
                            .header("content-type", "application/json")
                            .header("cookie", "session=1")
                            .body(Full::from(body))
                            .unwrap();
                        let answer = asks.send_request(request).await.unwrap();
                        let status = answer.status().as_u16();
                        let body = answer.into_body().collect().await.unwrap().to_bytes();
                        let text = String::from_utf8_lossy(&body).into_owned();
                        sender
                            .send((format!("{method} {path}"), status, text))
                            .unwrap();
                    }
                }
                let _ = driven.await;
            }
        }));
        let mut count = 0;
        while count < 90 {
            let next = tokio::time::timeout(PATIENCE, seen.recv()).await;
            let (call, status, text) = next.expect("an answer to each").unwrap();
            assert_eq!(status, 403, "{call}: {text}");
            assert!(text.contains("paired devices only"), "{call}: {text}");
            count += 1;
        }
        victim.did_nothing();
        let log = victim
            .place
            .agent(&["audit", "--json", "--limit", "1000"])
            .ok();
        assert!(log.matches("outside a channel").count() >= count, "{log}");
        victim.up.stop();
    });
}

fn a_relay_that_floods_its_tunnel_is_held_within_bounds() {
    block_on(async {
        let mut victim = Victim::of(0.2).await;
        victim.recovers("it is registered");
        let before = victim.up.memory();
        for (what, make) in FLOODS {
            let sent = Arc::new(Mutex::new(0_usize));
            let counted = Arc::clone(&sent);
            victim.impostor.receives(receive(move |agent: Agent| {
                let counted = Arc::clone(&counted);
                async move {
                    let (mut from, mut to) = tokio::io::split(agent);
                    let _ = to.write_all(SWITCHES).await;
                    // What the agent answers is read, so that it is not that which
                    // holds it up.
                    let read =
                        async { while from.read(&mut [0; 8192]).await.is_ok_and(|n| n > 0) {} };
                    let write = async {
                        let mut flood = make();
                        while to.write_all(&flood.next().unwrap()).await.is_ok() {
                            *counted.lock().unwrap() += 1;
                        }
                    };
                    let _ = tokio::time::timeout(Duration::from_secs(3), async {
                        tokio::join!(read, write)
                    })
                    .await;
                }
            }));
            let begins = std::time::Instant::now();
            let mut most = 0;
            while begins.elapsed() < Duration::from_secs(4) {
                most = most.max(victim.up.memory());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(*sent.lock().unwrap() > 0, "{what}: nothing was sent");
            let grown = most.saturating_sub(before);
            assert!(grown < 48 << 20, "{what}: {grown} bytes more");
            victim.recovers(what);
        }
        victim.did_nothing();
        victim.up.stop();
    });
}

fn a_relay_that_hangs_up_is_asked_ever_more_slowly() {
    block_on(async {
        let victim = Victim::of(60.0).await;
        victim.impostor.receives(answers(Vec::new()));
        tokio::time::sleep(Duration::from_secs(12)).await;
        let met = victim.impostor.met();
        // At once it would be thousands; with waits that double there are few.
        assert!((2..40).contains(&met), "{met}");
        let said = victim.up.stop_and_show();
        let lines = said.matches("Not connected:").count();
        assert!((1..=3).contains(&lines), "{said}");
    });
}
