//! The agent's end: handshakes and a few messages, answered as they are asked.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use katachi_crypto::Secret;
use katachi_crypto::channel::{
    Binding, Channel, CodeResponder, Committed, Error, KEY_LIFETIME, Responder, StaticKey, Step,
    Uncompared, Unproved,
};
use serde_json::{Value, json};

const NOW: Duration = Duration::ZERO;

/// Lengths of the messages that the agent sends in an open channel. The last
/// comes under a new key.
const LENGTHS: [usize; 4] = [5, 40_000, 0, 700];

pub(crate) struct Agent {
    /// The agent's key, and one of somebody else.
    keys: [StaticKey; 2],
    secret: Secret<32>,
    sessions: Vec<Option<Session>>,
}

enum Session {
    Unproved(Unproved),
    Committed(Committed),
    Uncompared(Uncompared),
}

impl Agent {
    pub(crate) fn new() -> Self {
        Self {
            keys: [
                StaticKey::generate().unwrap(),
                StaticKey::generate().unwrap(),
            ],
            secret: Secret::random().unwrap(),
            sessions: Vec::new(),
        }
    }

    /// What the agent answers; `null` where it refuses.
    pub(crate) fn answer(&mut self, question: &str) -> Value {
        let question: Value = serde_json::from_str(question).unwrap();
        let answer = match question["ask"].as_str().unwrap() {
            "keys" => Ok(json!({
                "agent": BASE64.encode(self.keys[0].public().as_bytes()),
                "secret": BASE64.encode(self.secret.expose_secret()),
            })),
            "greet" => self.greets(&question),
            "go on" => self.goes_on(&question),
            other => panic!("{other}"),
        };
        answer.unwrap_or(Value::Null)
    }

    /// Its part of a handshake.
    fn greets(&mut self, question: &Value) -> Result<Value, Error> {
        let place = Binding {
            relay: "https://relay.example",
            account: "ada",
            agent: "laptop",
            device: question["device"].as_str().unwrap(),
            stream: question["stream"].as_str().unwrap(),
        };
        let key = &self.keys[usize::from(question["as"] == "somebody else")];
        let message = bytes(question);
        let (session, sent) = match question["mode"].as_str().unwrap() {
            "code" => {
                let waiting = CodeResponder::wait(key, &place)?;
                let (committed, sent) = waiting.answer(&message)?;
                (Session::Committed(committed), sent)
            }
            mode => {
                let waiting = match mode {
                    "pair" => Responder::pair(key, &self.secret, &place)?,
                    _ => Responder::resume(key, &place)?,
                };
                let (unproved, sent) = waiting.read(&message)?.answer(NOW)?;
                (Session::Unproved(unproved), sent)
            }
        };
        self.sessions.push(Some(session));
        Ok(json!({ "session": self.sessions.len() - 1, "bytes": BASE64.encode(sent) }))
    }

    /// The next step of a session.
    fn goes_on(&mut self, question: &Value) -> Result<Value, Error> {
        let number = question["session"].as_u64().unwrap() as usize;
        let message = bytes(question);
        match self.sessions[number].take().unwrap() {
            Session::Unproved(unproved) => match unproved.prove(&mut message.as_slice())? {
                Step::Done(proved) => Ok(says(proved.into_channel())),
                Step::Waiting(_) => panic!("the page sends whole records"),
            },
            Session::Committed(committed) => {
                let (uncompared, sent) = committed.finish(&message, NOW)?;
                let code = uncompared.code().to_string();
                self.sessions[number] = Some(Session::Uncompared(uncompared));
                Ok(json!({ "bytes": BASE64.encode(sent), "code": code }))
            }
            Session::Uncompared(uncompared) => Ok(says(uncompared.codes_are_equal())),
        }
    }
}

fn bytes(question: &Value) -> Vec<u8> {
    BASE64.decode(question["bytes"].as_str().unwrap()).unwrap()
}

/// All messages, and the end.
fn says(mut channel: Channel) -> Value {
    let mut sent = Vec::new();
    for (at, length) in LENGTHS.into_iter().enumerate() {
        let now = if at + 1 < LENGTHS.len() {
            NOW
        } else {
            KEY_LIFETIME
        };
        channel
            .send(now, &vec![at as u8; length], &mut sent)
            .unwrap();
    }
    channel.close(&mut sent).unwrap();
    json!({ "bytes": BASE64.encode(sent) })
}
