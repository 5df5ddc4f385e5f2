//! Messages of an ACP program: JSON-RPC 2.0, one object a line.
//!
//! The types inside of the messages are those of the protocol's own crate. Its
//! connection is not used, since that queues without a bound what a program says:
//! here the program waits as long as we do.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_client_protocol_schema::v1::{Error, RequestId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::terminal::lock;
use crate::partner::Pipes;

/// Longest message of a program, in bytes.
const MAX_LINE: u64 = 4 * 1024 * 1024;
/// All messages of a program for one answer, in bytes.
const MAX_TOTAL: u64 = 128 * 1024 * 1024;
/// Messages that wait, in either direction.
const QUEUE: usize = 4;
/// Time for a program to read what it is told.
const READING: Duration = Duration::from_secs(10);
/// What is shown of a line that is no message, in characters.
const SHOWN: usize = 120;

/// What is wrong with a program that is spoken with.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Fault {
    #[error("it wrote a message of more than {MAX_LINE} bytes")]
    TooLong,
    #[error("it wrote more than {MAX_TOTAL} bytes for one answer")]
    TooMuch,
    #[error("it wrote something that is no JSON-RPC message: {0}")]
    NotAMessage(String),
    #[error("it does not read what it is told")]
    Deaf,
    #[error("it ended in the middle of a message")]
    CutOff,
    #[error("it ended")]
    Ended,
}

/// One message.
#[derive(Debug)]
pub(super) enum Message {
    Request {
        id: RequestId,
        method: String,
        params: Box<RawValue>,
    },
    Notification {
        method: String,
        params: Box<RawValue>,
    },
    Answer {
        id: RequestId,
        result: Result<Box<RawValue>, Error>,
    },
}

/// The wire form of every kind of message.
#[derive(Deserialize)]
struct Line {
    id: Option<RequestId>,
    method: Option<String>,
    params: Option<Box<RawValue>>,
    result: Option<Box<RawValue>>,
    error: Option<Error>,
}

impl Message {
    fn read(line: &[u8]) -> Result<Self, Fault> {
        let wrong = || {
            let text = String::from_utf8_lossy(line);
            Fault::NotAMessage(crate::output::one_line(&text).chars().take(SHOWN).collect())
        };
        let read: Line = serde_json::from_slice(line).map_err(|_| wrong())?;
        let params = read.params.unwrap_or_else(|| RawValue::NULL.to_owned());
        match (read.method, read.id, read.error) {
            (Some(method), Some(id), _) => Ok(Self::Request { id, method, params }),
            (Some(method), None, _) => Ok(Self::Notification { method, params }),
            (None, Some(id), Some(error)) => Ok(Self::Answer {
                id,
                result: Err(error),
            }),
            (None, Some(id), None) => Ok(Self::Answer {
                id,
                // `null` reads as absent, and is what some answers are.
                result: Ok(read.result.unwrap_or_else(|| RawValue::NULL.to_owned())),
            }),
            // It could not even say to which request that is the answer.
            (None, None, _) => Err(wrong()),
        }
    }
}

/// A program's side of the pipes.
#[derive(Debug)]
pub(super) struct Peer {
    lines: Receiver<Result<Message, Fault>>,
    pub(super) outbox: Outbox,
}

impl Peer {
    /// Reads and writes on threads of their own, which end with the program.
    pub(super) fn new(pipes: Pipes) -> Self {
        let (sender, lines) = sync_channel(QUEUE);
        let output = pipes.output;
        std::thread::spawn(move || receive(output, &sender));
        let (outbox, queue) = sync_channel::<String>(QUEUE);
        let mut input = pipes.input;
        std::thread::spawn(move || {
            while let Ok(line) = queue.recv() {
                if input.write_all(line.as_bytes()).is_err() {
                    return; // Its end is noticed where its output ends.
                }
            }
        });
        Self {
            lines,
            outbox: Outbox {
                lines: outbox,
                until: Arc::new(Mutex::new(Instant::now() + READING)),
            },
        }
    }

    /// The next message, if one comes within `time`.
    pub(super) fn next(&self, time: Duration) -> Result<Option<Message>, Fault> {
        match self.lines.recv_timeout(time) {
            Ok(message) => message.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Fault::Ended),
        }
    }
}

fn receive(output: impl std::io::Read, lines: &SyncSender<Result<Message, Fault>>) {
    let mut output = BufReader::new(output);
    let mut left = MAX_TOTAL;
    loop {
        let mut line = Vec::new();
        let read = output
            .by_ref()
            .take(MAX_LINE + 1)
            .read_until(b'\n', &mut line);
        let length = line.len() as u64;
        let message = match read {
            Ok(0) | Err(_) => Err(Fault::Ended),
            Ok(_) if length > MAX_LINE => Err(Fault::TooLong),
            Ok(_) if length > left => Err(Fault::TooMuch),
            // Its last words, cut off.
            Ok(_) if !line.ends_with(b"\n") => Err(Fault::CutOff),
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => Message::read(line.trim_ascii()),
        };
        left = left.saturating_sub(length);
        let is_over = message.is_err();
        if lines.send(message).is_err() || is_over {
            return;
        }
    }
}

/// Where messages to a program go.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    lines: SyncSender<String>,
    /// From when on nobody waits for the program to read.
    until: Arc<Mutex<Instant>>,
}

#[derive(Serialize)]
struct Call<'a, T> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<RequestId>,
    method: &'a str,
    params: &'a T,
}

#[derive(Serialize)]
struct Answer<T> {
    jsonrpc: &'static str,
    id: RequestId,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Error>,
}

impl Outbox {
    /// Has nobody wait longer than `until` for the program to read.
    pub(super) fn close_at(&self, until: Instant) {
        *lock(&self.until) = until;
    }

    /// Sends a request, or a notification where `id` is `None`.
    pub(super) fn call(
        &self,
        id: Option<RequestId>,
        method: &str,
        params: &impl Serialize,
    ) -> Result<(), Fault> {
        self.send(&Call {
            jsonrpc: "2.0",
            id,
            method,
            params,
        })
    }

    /// Answers the request `id`.
    pub(super) fn answer<T: Serialize>(
        &self,
        id: RequestId,
        result: Result<T, Error>,
    ) -> Result<(), Fault> {
        let (result, error) = match result {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        self.send(&Answer {
            jsonrpc: "2.0",
            id,
            result,
            error,
        })
    }

    fn send(&self, message: &impl Serialize) -> Result<(), Fault> {
        // The protocol's types have no failing serialisation.
        let mut line = serde_json::to_string(message).unwrap_or_default();
        line.push('\n');
        let deadline = Instant::now() + READING;
        loop {
            line = match self.lines.try_send(line) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(Fault::Ended),
                Err(TrySendError::Full(line)) => line,
            };
            if Instant::now() >= deadline.min(*lock(&self.until)) {
                return Err(Fault::Deaf);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: impl std::io::Read + Send + 'static) -> Receiver<Result<Message, Fault>> {
        let (sender, lines) = sync_channel(QUEUE);
        std::thread::spawn(move || receive(bytes, &sender));
        lines
    }

    #[test]
    fn requests_notifications_and_answers_are_told_apart() {
        let lines = concat!(
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":{\"x\":1}}\n",
            "\n",
            "{\"jsonrpc\":\"2.0\",\"method\":\"b\"}\r\n",
            "{\"jsonrpc\":\"2.0\",\"id\":\"7\",\"result\":null}\n",
            "{\"jsonrpc\":\"2.0\",\"id\":2,\"error\":{\"code\":-32603,\"message\":\"no\"}}\n",
        );
        let told = told(lines.as_bytes());
        let next = || told.recv().unwrap();
        assert!(
            matches!(next(), Ok(Message::Request { id: RequestId::Number(1), params, .. }) if params.get() == "{\"x\":1}")
        );
        assert!(matches!(next(), Ok(Message::Notification { method, .. }) if method == "b"));
        assert!(
            matches!(next(), Ok(Message::Answer { result: Ok(result), .. }) if result.get() == "null")
        );
        assert!(
            matches!(next(), Ok(Message::Answer { result: Err(error), .. }) if error.message == "no")
        );
        assert_eq!(next().unwrap_err(), Fault::Ended);
    }

    #[test]
    fn what_is_no_message_ends_the_talk_with_its_beginning_shown() {
        for line in [
            "hello\n",
            "[]\n",
            "{}\n",
            "{\"id\":null,\"result\":1}\n",
            "{\"id\":{}}\n",
        ] {
            let told = told(line.as_bytes());
            let Err(Fault::NotAMessage(shown)) = told.recv().unwrap() else {
                panic!("{line}");
            };
            assert_eq!(shown, line.trim());
            assert!(told.recv().is_err(), "{line}");
        }
        let long = format!("{}\n", "x".repeat(10_000));
        let told = told(std::io::Cursor::new(long));
        let Err(Fault::NotAMessage(shown)) = told.recv().unwrap() else {
            panic!("a long line");
        };
        assert_eq!(shown.len(), SHOWN);
    }

    #[test]
    fn a_line_without_an_end_and_lines_without_an_end_are_bounded() {
        let told_of = told(std::io::repeat(b'x'));
        assert_eq!(told_of.recv().unwrap().unwrap_err(), Fault::TooLong);
        let cut = told("{\"method\":\"a\"}".as_bytes());
        assert_eq!(cut.recv().unwrap().unwrap_err(), Fault::CutOff);
    }

    #[test]
    fn who_tells_a_program_that_does_not_read_waits_no_longer_than_is_left() {
        let (lines, _queue) = sync_channel(1);
        let until = Instant::now() + Duration::from_secs(3600);
        let outbox = Outbox {
            lines,
            until: Arc::new(Mutex::new(until)),
        };
        outbox.call(None, "a", &()).unwrap();
        let other = outbox.clone();
        let waiting = std::thread::spawn(move || {
            let began = Instant::now();
            (other.call(None, "b", &()), began.elapsed())
        });
        outbox.close_at(Instant::now());
        let (told, waited) = waiting.join().unwrap();
        assert_eq!(told, Err(Fault::Deaf));
        assert!(waited < READING, "{waited:?}");
    }

    #[test]
    fn a_program_that_says_more_than_is_heard_waits() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU64, Ordering};

        struct Flood(Arc<AtomicU64>);
        impl std::io::Read for Flood {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                let line = b"{\"method\":\"a\"}\n";
                let length = line.len().min(into.len());
                into[..length].copy_from_slice(&line[..length]);
                self.0.fetch_add(1, Ordering::Relaxed);
                Ok(length)
            }
        }

        let count = Arc::new(AtomicU64::new(0));
        let told = told(Flood(Arc::clone(&count)));
        std::thread::sleep(Duration::from_millis(200));
        assert!(count.load(Ordering::Relaxed) <= QUEUE as u64 + 2);
        assert!(told.recv().unwrap().is_ok());
    }
}
