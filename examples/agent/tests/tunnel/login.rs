//! How often a login asks a relay that wants it slower, names no interval, or cannot
//! serve for a while, and how it ends. The relay is one that answers by a list; the
//! agent's clock runs ten times as fast, by libfaketime, so that nobody waits long for
//! it. What is compared is how long it waits at least, which no busy machine makes less.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_protocol::routes;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::impostor::Impostor;
use crate::support::browser::EMAIL;
use crate::support::place::{Place, Said};
use crate::support::up::block_on;
use crate::support::{self, needing};

pub(crate) fn trials() -> Vec<Trial> {
    let present = support::faketime().is_some();
    let case = |name: &str, test: fn()| needing("libfaketime", present, name, test);
    vec![
        case(
            "d02_d03_a_login_asks_no_sooner_than_it_was_told",
            asks_no_sooner_than_it_was_told,
        ),
        case(
            "d04_a_login_goes_on_when_the_relay_is_back",
            goes_on_when_the_relay_is_back,
        ),
        case(
            "d05_a_login_on_a_machine_whose_clock_runs_a_third_fast_succeeds",
            a_clock_that_runs_a_third_fast,
        ),
        case(
            "a_login_that_is_denied_or_too_late_says_so_and_keeps_nothing",
            says_how_it_ended,
        ),
    ]
}

/// By how much the agent's clock is too fast.
const FAST: f64 = 10.0;

/// An answer to a poll.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answer {
    Pending,
    SlowDown,
    /// It cannot serve, says the proxy in front of it.
    Unable,
    HangsUp,
    Error(&'static str),
    Approved,
}
use Answer::{Approved, Error, HangsUp, Pending, SlowDown, Unable};

impl Answer {
    fn written(self) -> Option<Vec<u8>> {
        let error = |error: &str| http("400 Bad Request", &json!({ "error": error }).to_string());
        Some(match self {
            HangsUp => return None,
            Pending => error("authorization_pending"),
            SlowDown => error("slow_down"),
            Error(code) => error(code),
            Unable => http("502 Bad Gateway", "<html>Bad Gateway</html>"),
            Approved => {
                let [secret, epoch] = [[7; 32].as_slice(), &[7; 16]];
                let token = json!({
                    "access_token": "token",
                    "token_type": "DPoP",
                    "expires_in": 600,
                    "agent_id": "agent-1",
                    "key_id": "key-1",
                    "hmac_secret": URL_SAFE_NO_PAD.encode(secret),
                    "epoch": URL_SAFE_NO_PAD.encode(epoch),
                    "approved_by": EMAIL,
                });
                http("200 OK", &token.to_string())
            }
        })
    }
}

fn http(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// A login that ended.
#[derive(Debug)]
struct Login {
    said: Said,
    /// Time before each poll in seconds of the relay's clock.
    waits: Vec<f64>,
    /// Answers that nobody asked for.
    left: usize,
    place: Place,
}

impl Login {
    /// Logs in at a relay that wants `interval` and answers polls by `answer`, which is
    /// told how long the agent waited; the clock of the agent is `fast`.
    async fn by(
        interval: Option<u64>,
        fast: f64,
        answer: impl FnMut(f64) -> Answer + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("https://katachi.localhost:{port}");
        let mut codes = json!({
            "device_code": "a device code",
            "user_code": "BCDF-GHJK",
            "verification_uri": format!("{url}/device"),
            "expires_in": 600,
        });
        if let Some(interval) = interval {
            codes["interval"] = Value::from(interval);
        }
        let waits = Arc::new(Mutex::new(Vec::new()));
        let state = Mutex::new((Instant::now(), answer));
        let seen = Arc::clone(&waits);
        let answers = Arc::new(move |request: &[u8]| {
            let (asked, answer) = &mut *state.lock().unwrap();
            let wait = std::mem::replace(asked, Instant::now())
                .elapsed()
                .as_secs_f64();
            let line = String::from_utf8_lossy(request);
            let path = line.split(' ').nth(1).unwrap();
            if path == routes::DEVICE_AUTHORIZATION {
                return http("200 OK", &codes.to_string()).into();
            }
            assert_eq!(path, routes::TOKEN);
            assert!(
                line.contains("a+device+code") && line.contains("dpop: "),
                "{line}"
            );
            seen.lock().unwrap().push(wait);
            answer(wait).written()
        });
        let impostor = Impostor::alone(listener, answers);
        let place = Place::new();
        let mut command = place.command();
        command
            .args(["login", "--no-qr", "--expect-account", EMAIL])
            .args(["--relay-url", &url, "--relay-ca", &impostor.authority()])
            .env("LD_PRELOAD", support::faketime().unwrap())
            .env("FAKETIME", format!("+0 x{fast}"))
            .stdin(std::process::Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let said = Said::from(output.await.unwrap());
        let waits = waits.lock().unwrap().clone();
        Self {
            said,
            waits,
            left: 0,
            place,
        }
    }

    /// The same with answers from a list, on a machine whose clock is very fast; what it
    /// waits is in seconds of that.
    async fn with(interval: Option<u64>, answers: &[Answer]) -> Self {
        let answers: Arc<Mutex<VecDeque<_>>> =
            Arc::new(Mutex::new(answers.iter().copied().collect()));
        let list = Arc::clone(&answers);
        let next = move |_| {
            list.lock()
                .unwrap()
                .pop_front()
                .unwrap_or(Error("access_denied"))
        };
        let mut login = Self::by(interval, FAST, next).await;
        login.left = answers.lock().unwrap().len();
        login.waits.iter_mut().for_each(|wait| *wait *= FAST);
        login
    }

    /// It asked as often as there are `least` waits, each at least so long.
    fn waited(&self, least: &[f64]) {
        assert_eq!(self.left, 0, "{self:?}");
        assert_eq!(self.waits.len(), least.len(), "{self:?}");
        let long = self
            .waits
            .iter()
            .zip(least)
            .all(|(wait, least)| wait >= least);
        assert!(long, "not {least:?}: {self:?}");
    }

    fn is_registered(&self) {
        assert_eq!(self.said.code, Some(0), "{self:?}");
        assert!(
            self.said.stderr.contains("Registered with https://"),
            "{self:?}"
        );
        assert!(self.keeps_something(), "{self:?}");
    }

    fn keeps_something(&self) -> bool {
        let stored = self.place.stored();
        stored
            .iter()
            .any(|(path, _)| path.ends_with("relay.sealed"))
    }
}

fn asks_no_sooner_than_it_was_told() {
    block_on(async {
        let (slower, unnamed) = tokio::join!(
            // RFC 8628 section 3.5: for this and all later polls.
            Login::with(Some(1), &[SlowDown, Pending, Pending, Approved]),
            // And section 3.2.
            Login::with(None, &[Pending, Approved]),
        );
        slower.waited(&[1.0, 6.0, 6.0, 6.0]);
        slower.is_registered();
        assert!(!slower.said.stderr.contains("too fast"), "{slower:?}");
        unnamed.waited(&[5.0, 5.0]);
        unnamed.is_registered();
    });
}

fn goes_on_when_the_relay_is_back() {
    block_on(async {
        let answers = [Unable, HangsUp, Unable, Pending, Approved];
        let login = Login::with(Some(1), &answers).await;
        login.waited(&[1.0, 2.0, 4.0, 8.0, 1.0]);
        login.is_registered();
    });
}

/// The relay's clock is right, its interval one second, and its patience short.
fn a_clock_that_runs_a_third_fast() {
    block_on(async {
        let (mut interval, mut strikes) = (1.0, 0);
        let strict = move |wait: f64| {
            if wait >= interval {
                return Approved;
            }
            (interval, strikes) = (interval + 5.0, strikes + 1);
            match strikes {
                1..3 => SlowDown,
                _ => Error("access_denied"),
            }
        };
        let login = Login::by(Some(1), 1.34, strict).await;
        login.is_registered();
        assert!(login.waits.len() <= 2, "{login:?}");
    });
}

fn says_how_it_ended() {
    block_on(async {
        let ends = |answers: &'static [Answer]| Login::with(Some(1), answers);
        let (denied, expired, refused) = tokio::join!(
            ends(&[Pending, Error("access_denied")]),
            ends(&[SlowDown, SlowDown, Error("expired_token")]),
            ends(&[Error("invalid_grant")]),
        );
        denied.waited(&[1.0, 1.0]);
        expired.waited(&[1.0, 6.0, 11.0]);
        let fast = "this machine's clock probably runs fast";
        assert!(expired.said.stderr.contains(fast), "{expired:?}");
        for (login, why) in [
            (denied, "the request was denied"),
            (expired, "nobody approved in time: start again"),
            (refused, "the server refused: invalid_grant"),
        ] {
            let sentence = format!("error: this machine was not registered: {why}");
            assert!(login.said.stderr.contains(&sentence), "{login:?}");
            assert_eq!(login.said.code, Some(1), "{login:?}");
            assert!(!login.said.stderr.contains("Registered with"), "{login:?}");
            assert!(!login.keeps_something(), "{login:?}");
        }
    });
}
