//! A stand-in for a provider: Anthropic's Messages API, streamed, with one answer
//! after the other from a list.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) key: Option<String>,
    pub(crate) body: Value,
}

impl Asked {
    /// What the model is told of the tool that it used last.
    pub(crate) fn told(&self) -> String {
        let last = self.body["messages"].as_array().unwrap().last().unwrap();
        let result = &last["content"][0];
        assert_eq!(result["type"], "tool_result", "{last}");
        result["content"].to_string().replace("\\\"", "\"")
    }
}

/// What the model says in one turn, as a stream of events.
pub(crate) type Turn = Vec<Value>;

/// It says `text` and is done.
pub(crate) fn says(text: &str) -> Turn {
    turn(
        vec![block(
            0,
            &json!({ "type": "text", "text": "" }),
            &text_delta(text),
        )],
        "end_turn",
    )
}

/// It says `text`, if any, and uses a tool.
pub(crate) fn uses(text: &str, name: &str, input: Value) -> Turn {
    let mut blocks = Vec::new();
    if !text.is_empty() {
        blocks.push(block(
            0,
            &json!({ "type": "text", "text": "" }),
            &text_delta(text),
        ));
    }
    let start = json!({ "type": "tool_use", "id": "toolu_01", "name": name, "input": {} });
    // The arguments come in two pieces, as they do in practice.
    let input = input.to_string();
    let (one, two) = input.split_at(input.len() / 2);
    let pieces = [one, two].map(|part| json!({ "type": "input_json_delta", "partial_json": part }));
    blocks.push(block(blocks.len(), &start, &pieces));
    turn(blocks, "tool_use")
}

fn text_delta(text: &str) -> [Value; 1] {
    [json!({ "type": "text_delta", "text": text })]
}

fn block(index: usize, start: &Value, deltas: &[Value]) -> Vec<Value> {
    let mut events =
        vec![json!({ "type": "content_block_start", "index": index, "content_block": start })];
    for delta in deltas {
        events.push(json!({ "type": "content_block_delta", "index": index, "delta": delta }));
    }
    events.push(json!({ "type": "content_block_stop", "index": index }));
    events
}

fn turn(blocks: Vec<Vec<Value>>, reason: &str) -> Turn {
    let usage = json!({ "input_tokens": 1, "output_tokens": 1 });
    let message = json!({ "id": "msg_01", "type": "message", "role": "assistant", "content": [], "model": "claude-sonnet-4-5", "stop_reason": null, "stop_sequence": null, "usage": usage });
    let mut events = vec![json!({ "type": "message_start", "message": message })];
    events.extend(blocks.into_iter().flatten());
    events.push(json!({ "type": "message_delta", "delta": { "stop_reason": reason, "stop_sequence": null }, "usage": usage }));
    events.push(json!({ "type": "message_stop" }));
    events
}

#[derive(Default)]
struct Script {
    turns: Mutex<std::collections::VecDeque<Turn>>,
    asked: Mutex<Vec<Asked>>,
    /// Whether a request without tools is about something beside the conversation, such
    /// as its title: it is answered, and is none of the turns.
    has_asides: bool,
}

/// The running stand-in; it ends with the test.
pub(crate) struct Provider {
    script: Arc<Script>,
    address: std::net::SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Provider {
    pub(crate) fn start(turns: Vec<Turn>) -> Self {
        Self::with(Script {
            turns: Mutex::new(turns.into()),
            ..Script::default()
        })
    }

    /// The same for a program that asks for more than its conversation.
    pub(crate) fn with_asides(turns: Vec<Turn>) -> Self {
        Self::with(Script {
            turns: Mutex::new(turns.into()),
            has_asides: true,
            ..Script::default()
        })
    }

    fn with(script: Script) -> Self {
        let script = Arc::new(script);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&script));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            script,
            address,
            _runtime: runtime,
        }
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().unwrap().clone()
    }
}

async fn answer(
    State(script): State<Arc<Script>>,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    if script.has_asides && body.is_empty() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let key = headers
        .get("x-api-key")
        .map(|key| key.to_str().unwrap().to_owned());
    assert!(headers.contains_key("anthropic-version"), "{headers:?}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let has_tools = body["tools"]
        .as_array()
        .is_some_and(|tools| !tools.is_empty());
    if script.has_asides && !has_tools {
        return stream(says("{}"));
    }
    script.asked.lock().unwrap().push(Asked {
        path: uri.path().to_owned(),
        key,
        body,
    });
    let Some(turn) = script.turns.lock().unwrap().pop_front() else {
        let overloaded = json!({ "type": "error", "error": { "type": "overloaded_error", "message": "Overloaded" } });
        let status = StatusCode::from_u16(529).unwrap();
        return (status, axum::Json(overloaded)).into_response();
    };
    stream(turn)
}

fn stream(turn: Turn) -> Response {
    let mut text = String::new();
    for event in turn {
        let kind = event["type"].as_str().unwrap();
        text.push_str(&format!("event: {kind}\ndata: {event}\n\n"));
    }
    ([(header::CONTENT_TYPE, "text/event-stream")], text).into_response()
}
