//! Where a program in the sandbox is heard that wants to use an MCP server: the
//! agent's end of its connections, which speaks JSON-RPC 2.0, one object a line.
//!
//! Four methods are served: `initialize`, `ping`, `tools/list` and `tools/call`.
//! Everything else is refused with the protocol's own error, and reaches nobody.
//! A call goes to whoever [answers](Call); the server itself is never on this
//! line, and neither are its secrets.
//!
//! The connection of the `rmcp` crate is not used here, since it passes over lines
//! that are no messages and keeps answers without a bound for who does not read
//! them: this one ends with the first such line, and hears nothing more until what
//! it said was read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use katachi_protocol::run::RunEvent;
use rmcp::model::{JsonObject, Tool};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{AbortHandle, JoinSet};

/// Longest message of a program, in bytes.
const MAX_LINE: usize = 1024 * 1024;
/// Descriptions of all tools of one server, in bytes.
const MAX_TOOLS: usize = 1024 * 1024;
/// Connections to one server at once.
const MAX_CONNECTIONS: usize = 8;
/// Calls at once, to whichever server.
pub(crate) const MAX_CALLS: usize = 4;
/// Time for a program to read one answer.
const READING: Duration = Duration::from_secs(10);
/// Time until it is tried again where a connection could not be taken.
const AGAIN: Duration = Duration::from_millis(100);

/// Revisions of the protocol in which these four methods are the same.
const REVISIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("it sent a message of more than {MAX_LINE} bytes")]
    TooLong,
    #[error("it sent something that is no request and no notification")]
    NotAMessage,
    #[error("it does not read what it is told")]
    Deaf,
    #[error("it closed the connection")]
    Ended,
}

/// One call of a tool, for whoever makes it. Nobody waits for it any more once
/// `events` is closed.
#[derive(Debug)]
pub(crate) struct Call {
    /// Which server.
    pub(crate) server: usize,
    pub(crate) tool: String,
    pub(crate) arguments: Option<JsonObject>,
    /// Where refusals and questions of this call go.
    pub(crate) events: Sender<RunEvent>,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// What came of a call, in words.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) is_error: bool,
}

/// One server as programs in the sandbox see it.
#[derive(Debug)]
pub(crate) struct Desk {
    server: usize,
    name: String,
    /// As `tools/list` shows them.
    tools: Vec<Value>,
    calls: Sender<Call>,
    /// One for each call at once.
    flights: Arc<Semaphore>,
    /// Where the person hears of refusals and questions.
    events: Sender<RunEvent>,
}

/// What all servers of one program share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// Holds at least [`MAX_CALLS`].
    pub(crate) calls: Sender<Call>,
    pub(crate) flights: Arc<Semaphore>,
    pub(crate) events: Sender<RunEvent>,
}

impl Desk {
    /// The server with this number and name, which has `tools`.
    pub(crate) fn new((server, name): (usize, &str), tools: &[Tool], shared: Shared) -> Self {
        let mut room = MAX_TOOLS;
        let fitting = tools.iter().map(shown).take_while(|tool| {
            let length = tool.to_string().len();
            let fits = length <= room;
            room = room.saturating_sub(length);
            fits
        });
        Self {
            server,
            name: name.to_owned(),
            tools: fitting.collect(),
            calls: shared.calls,
            flights: shared.flights,
            events: shared.events,
        }
    }

    /// How many tools it shows.
    pub(crate) fn tools(&self) -> usize {
        self.tools.len()
    }

    /// Serves whoever connects, until this is dropped.
    pub(crate) async fn open(self, listener: UnixListener) {
        let desk = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                taken = listener.accept() => match taken {
                    Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                        connections.spawn(attend(Arc::clone(&desk), stream));
                    }
                    Ok(_) => tracing::warn!(
                        "more than {MAX_CONNECTIONS} connections to the MCP server {}", desk.name
                    ),
                    Err(error) => {
                        tracing::warn!("a connection to the MCP server {}: {error}", desk.name);
                        tokio::time::sleep(AGAIN).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// What is said to a request at once, or the call that it is.
    fn serve(&self, method: &str, params: Option<&RawValue>) -> Result<Served, Wrong> {
        match method {
            "initialize" => {
                let asked: Hello = read(params)?;
                let known = REVISIONS.contains(&asked.protocol_version.as_str());
                let revision = match known {
                    true => &asked.protocol_version,
                    false => REVISIONS[0],
                };
                Ok(Served::Now(json!({
                    "protocolVersion": revision,
                    "capabilities": { "tools": {} },
                    "serverInfo": { "name": self.name, "version": env!("CARGO_PKG_VERSION") },
                })))
            }
            "ping" => Ok(Served::Now(json!({}))),
            "tools/list" => {
                let page = params.map_or(Ok(Page::default()), |params| read(Some(params)))?;
                match page.cursor {
                    None => Ok(Served::Now(json!({ "tools": self.tools }))),
                    Some(_) => Err(Wrong::params("there is one page of tools")),
                }
            }
            "tools/call" => {
                let call: Wanted = read(params)?;
                match self.tools.iter().any(|tool| tool["name"] == call.name) {
                    true => Ok(Served::Call(call)),
                    false => Err(Wrong::params("the server has no such tool")),
                }
            }
            _ => Err(Wrong {
                code: -32601,
                message: "only initialize, ping, tools/list and tools/call are served here".into(),
            }),
        }
    }

    /// Has one call made, and passes on what the person has to hear of it.
    async fn call(&self, wanted: Wanted) -> Result<Value, Wrong> {
        let busy = || Wrong {
            code: -32000,
            message: format!("{MAX_CALLS} calls wait for an answer; wait for one"),
        };
        let _flight = self.flights.try_acquire().map_err(|_| busy())?;
        let (events, mut seen) = channel(8);
        let (answer, mut answered) = oneshot::channel();
        let call = Call {
            server: self.server,
            tool: wanted.name,
            arguments: wanted.arguments,
            events,
            answer,
        };
        self.calls.try_send(call).map_err(|_| busy())?;
        loop {
            tokio::select! {
                // What was told before the answer is passed on before it.
                biased;
                Some(event) = seen.recv() => {
                    if matches!(event, RunEvent::Denied { .. } | RunEvent::Approval(_)) {
                        // Whoever listened may be gone, which is seen below.
                        let _ = self.events.send(event).await;
                    }
                }
                answer = &mut answered => {
                    let gone = |_| Wrong { code: -32603, message: "the call was given up".into() };
                    return answer.map(Answer::into_value).map_err(gone);
                }
                () = self.events.closed() => {
                    return Err(Wrong { code: -32603, message: "whoever asked went away".into() });
                }
            }
        }
    }
}

impl Answer {
    fn into_value(self) -> Value {
        json!({
            "content": [{ "type": "text", "text": self.text }],
            "isError": self.is_error,
        })
    }
}

/// What a model needs to know of a tool. Whatever else its server promises of it
/// is not kept here: answers come as text.
fn shown(tool: &Tool) -> Value {
    let mut shown = json!({
        "name": tool.name,
        "inputSchema": tool.input_schema.as_ref(),
    });
    if let Some(about) = &tool.description {
        shown["description"] = json!(about);
    }
    shown
}

enum Served {
    Now(Value),
    Call(Wanted),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hello {
    protocol_version: String,
}

#[derive(Default, Deserialize)]
struct Page {
    cursor: Option<String>,
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    arguments: Option<JsonObject>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cancelled {
    request_id: Value,
}

/// An error of JSON-RPC.
#[derive(Debug)]
struct Wrong {
    code: i32,
    message: String,
}

impl Wrong {
    fn params(why: impl Into<String>) -> Self {
        Self {
            code: -32602,
            message: why.into(),
        }
    }
}

fn read<'a, T: Deserialize<'a>>(params: Option<&'a RawValue>) -> Result<T, Wrong> {
    let params = params.map_or("null", RawValue::get);
    serde_json::from_str(params).map_err(|error| Wrong::params(error.to_string()))
}

/// The wire form of what a program says.
#[derive(Deserialize)]
struct Line {
    jsonrpc: String,
    id: Option<Value>,
    method: String,
    params: Option<Box<RawValue>>,
}

impl Line {
    fn read(line: &[u8]) -> Result<Self, Fault> {
        let read: Self = serde_json::from_slice(line).map_err(|_| Fault::NotAMessage)?;
        // Nothing was asked of it, so that a line without a method is no answer.
        let named = read
            .id
            .as_ref()
            .is_none_or(|id| id.is_string() || id.is_i64() || id.is_u64());
        match named && read.jsonrpc == "2.0" {
            true => Ok(read),
            false => Err(Fault::NotAMessage),
        }
    }
}

async fn attend(desk: Arc<Desk>, stream: UnixStream) {
    let (reader, writer) = stream.into_split();
    let lines = Lines {
        reader: BufReader::new(reader),
        partial: Vec::new(),
    };
    match converse(&desk, lines, writer).await {
        Fault::Ended => {}
        fault => tracing::warn!("a connection to the MCP server {}: {fault}", desk.name),
    }
}

/// Serves one connection to its end; calls that are not answered by then are
/// given up.
async fn converse(desk: &Arc<Desk>, mut lines: Lines, mut writer: OwnedWriteHalf) -> Fault {
    let mut calls = JoinSet::new();
    let mut flying = HashMap::<String, AbortHandle>::new();
    loop {
        let line = tokio::select! {
            line = lines.next() => line.and_then(|line| Line::read(&line)),
            Some(done) = calls.join_next() => {
                // One that was cancelled has no answer.
                if let Ok((id, answer)) = done {
                    let id: Value = id;
                    flying.remove(&id.to_string());
                    if let Err(fault) = tell(&mut writer, &id, answer).await {
                        return fault;
                    }
                }
                continue;
            }
        };
        let line = match line {
            Ok(line) => line,
            Err(fault) => return fault,
        };
        let params = line.params.as_deref();
        let Some(id) = line.id else {
            if line.method == "notifications/cancelled"
                && let Ok(cancelled) = read::<Cancelled>(params)
                && let Some(call) = flying.remove(&cancelled.request_id.to_string())
            {
                call.abort();
            }
            continue; // Others want nothing of us, and nobody answers them.
        };
        let answer = match desk.serve(&line.method, params) {
            Ok(Served::Call(_)) if flying.contains_key(&id.to_string()) => Err(Wrong {
                code: -32600,
                message: "a call with this id waits for its answer".into(),
            }),
            Ok(Served::Call(wanted)) => {
                let (desk, key) = (Arc::clone(desk), id.to_string());
                let call = calls.spawn(async move { (id, desk.call(wanted).await) });
                flying.insert(key, call);
                continue;
            }
            Ok(Served::Now(value)) => Ok(value),
            Err(wrong) => Err(wrong),
        };
        if let Err(fault) = tell(&mut writer, &id, answer).await {
            return fault;
        }
    }
}

async fn tell(
    writer: &mut OwnedWriteHalf,
    id: &Value,
    answer: Result<Value, Wrong>,
) -> Result<(), Fault> {
    let said = match answer {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(wrong) => json!({
            "jsonrpc": "2.0",
            "id": id,
            "error": { "code": wrong.code, "message": wrong.message },
        }),
    };
    let line = format!("{said}\n");
    match tokio::time::timeout(READING, writer.write_all(line.as_bytes())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Fault::Ended),
        Err(_) => Err(Fault::Deaf),
    }
}

/// What a program says, line by line.
struct Lines {
    reader: BufReader<OwnedReadHalf>,
    /// The beginning of the next line. It stays here if the wait for the rest is
    /// broken off.
    partial: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Vec<u8>, Fault> {
        loop {
            let room = (MAX_LINE + 1).saturating_sub(self.partial.len()) as u64;
            let mut reader = (&mut self.reader).take(room);
            let read = reader.read_until(b'\n', &mut self.partial).await;
            if read.is_err() {
                return Err(Fault::Ended);
            }
            if self.partial.last() != Some(&b'\n') {
                return Err(match self.partial.len() > MAX_LINE {
                    true => Fault::TooLong,
                    // Its last words, cut off.
                    false => Fault::Ended,
                });
            }
            let line = std::mem::take(&mut self.partial);
            if line.len() > MAX_LINE {
                return Err(Fault::TooLong);
            }
            if !line.trim_ascii().is_empty() {
                return Ok(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::Receiver;

    use super::*;

    /// A program, what it calls, and what the person hears.
    struct Scene {
        program: BufReader<UnixStream>,
        calls: Receiver<Call>,
        events: Receiver<RunEvent>,
    }

    impl Scene {
        fn new() -> Self {
            let (calls, called) = channel(MAX_CALLS);
            let (events, heard) = channel(8);
            let tool = json!({ "name": "count", "inputSchema": { "type": "object" } });
            let shared = Shared {
                calls,
                flights: Arc::new(Semaphore::new(MAX_CALLS)),
                events,
            };
            let tools = [serde_json::from_value(tool).unwrap()];
            let desk = Desk::new((7, "plums"), &tools, shared);
            let (ours, theirs) = UnixStream::pair().unwrap();
            tokio::spawn(attend(Arc::new(desk), ours));
            Self {
                program: BufReader::new(theirs),
                calls: called,
                events: heard,
            }
        }

        async fn say(&mut self, message: Value) {
            let line = format!("{message}\n");
            self.program.write_all(line.as_bytes()).await.unwrap();
        }

        /// The next answer, or nothing once the connection ended.
        async fn hear(&mut self) -> Option<Value> {
            let mut line = String::new();
            self.program.read_line(&mut line).await.unwrap();
            (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
        }
    }

    fn call(id: u32) -> Value {
        let params = json!({ "name": "count", "arguments": { "of": "plums" } });
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
    }

    fn block_on(scene: impl AsyncFnOnce(Scene)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let played = runtime.block_on(async {
            let patience = Duration::from_secs(60);
            tokio::time::timeout(patience, scene(Scene::new())).await
        });
        played.expect("what has to come did not");
    }

    #[test]
    fn a_call_that_is_cancelled_is_given_up_and_has_no_answer() {
        block_on(async |mut scene: Scene| {
            scene.say(call(1)).await;
            let made = scene.calls.recv().await.unwrap();
            assert_eq!((made.server, made.tool.as_str()), (7, "count"));
            let cancel = json!({ "requestId": 1 });
            let method = "notifications/cancelled";
            scene
                .say(json!({ "jsonrpc": "2.0", "method": method, "params": cancel }))
                .await;
            made.events.closed().await;
            scene
                .say(json!({ "jsonrpc": "2.0", "id": 2, "method": "ping" }))
                .await;
            assert_eq!(scene.hear().await.unwrap()["id"], 2);
        });
    }

    #[test]
    fn a_program_that_leaves_gives_up_its_calls() {
        block_on(async |mut scene: Scene| {
            scene.say(call(1)).await;
            let made = scene.calls.recv().await.unwrap();
            drop(scene.program);
            made.events.closed().await;
        });
    }

    #[test]
    fn the_person_hears_refusals_before_the_program_hears_the_answer() {
        block_on(async |mut scene: Scene| {
            scene.say(call(1)).await;
            let made = scene.calls.recv().await.unwrap();
            let output = RunEvent::Error {
                message: "not for the person".to_owned(),
            };
            let denied = RunEvent::Denied {
                control: "mcp".to_owned(),
                operation: "mcp".to_owned(),
                target: "plums".to_owned(),
                reason: "no".to_owned(),
                allow_with: None,
            };
            made.events.send(output).await.unwrap();
            made.events.send(denied).await.unwrap();
            let answer = Answer {
                text: "no".to_owned(),
                is_error: true,
            };
            made.answer.send(answer).unwrap();
            let heard = scene.hear().await.unwrap();
            assert_eq!(heard["result"]["isError"], true);
            let told = scene.events.try_recv().unwrap();
            assert!(matches!(told, RunEvent::Denied { .. }), "{told:?}");
            assert!(scene.events.try_recv().is_err());
        });
    }

    #[test]
    fn one_id_is_one_call() {
        block_on(async |mut scene: Scene| {
            scene.say(call(1)).await;
            let _made = scene.calls.recv().await.unwrap();
            scene.say(call(1)).await;
            let refused = scene.hear().await.unwrap();
            assert_eq!(refused["error"]["code"], -32600, "{refused}");
            assert!(scene.calls.try_recv().is_err());
        });
    }

    #[test]
    fn a_message_has_a_longest_length() {
        let ping = |length: usize| {
            let line = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
            let mut line = line.to_owned() + &" ".repeat(length - line.len() - 1);
            line.push('\n');
            line
        };
        for (length, is_served) in [(MAX_LINE, true), (MAX_LINE + 1, false)] {
            block_on(async |mut scene: Scene| {
                let (reader, mut writer) = tokio::io::split(scene.program.into_inner());
                let line = ping(length);
                let said = tokio::spawn(async move {
                    // A connection that ended takes no more.
                    let _ = writer.write_all(line.as_bytes()).await;
                    writer
                });
                let mut answer = String::new();
                // One that ended with bytes unread was reset.
                let _ = BufReader::new(reader).read_line(&mut answer).await;
                let _writer = said.await.unwrap();
                assert_eq!(!answer.is_empty(), is_served, "{length}");
                scene.events.close();
            });
        }
    }
}
