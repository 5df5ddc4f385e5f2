//! The agent's API as an OpenAPI 3.1 document, made of the types themselves: what is
//! published in `agent-api.json` is compared with it here.
//!
//! After a change: `KATACHI_WRITE=1 cargo test -p katachi-protocol schema`.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::agent::{AgentStatus, Reconnect};
use crate::approval::{ApprovalAnswer, Approvals};
use crate::channel::{ChannelHead, ChannelQuery, ChannelRequest, Devices};
use crate::mcp::{McpCall, McpServers};
use crate::problem::Problem;
use crate::record::{Conversation, Denials, History, Sessions};
use crate::routes::tunnel as routes;
use crate::run::{MessageRequest, RunEvent, RunRequest};
use crate::{NDJSON, SCHEMA_VERSION};

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

const ABOUT: &str = "What a paired device asks of a Katachi agent. Each request is one \
end-to-end channel through the relay: a `ChannelRequest` goes in, a `ChannelHead` and \
the body come out. The operations tagged `relay` are the only ones that the relay \
itself reaches. Requests refuse fields that they do not know; answers may have more \
than is written here.";

/// The document as far as it has grown.
struct Document {
    types: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Document {
    fn schema<T: JsonSchema>(&mut self) -> Schema {
        self.types.subschema_for::<T>()
    }

    /// An operation inside of channels, of which only the answer is known yet.
    fn add(&mut self, method: &str, path: &str, about: &str, answer: Value) -> &mut Value {
        let problem = json!({ JSON: { "schema": self.schema::<Problem>() } });
        let named = path
            .split('{')
            .skip(1)
            .filter_map(|rest| rest.split('}').next());
        let text = json!({ "type": "string" });
        let parameters: Vec<_> = named
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": text }))
            .collect();
        let operation = json!({
            "summary": about,
            "tags": ["device"],
            "parameters": parameters,
            "responses": {
                (if answer.is_null() { "204" } else { "200" }): match answer {
                    Value::Null => json!({ "description": "It is done." }),
                    content => json!({ "description": "The answer.", "content": content }),
                },
                "default": { "description": "It was refused.", "content": problem },
            },
        });
        let path = self.paths.entry(path).or_insert_with(|| json!({}));
        path[method] = operation;
        &mut path[method]
    }

    fn get<T: JsonSchema>(&mut self, path: &str, about: &str) -> &mut Value {
        let answer = json!({ JSON: { "schema": self.schema::<T>() } });
        self.add("get", path, about, answer)
    }

    fn body<T: JsonSchema>(&mut self) -> Value {
        json!({ "required": true, "content": { JSON: { "schema": self.schema::<T>() } } })
    }

    /// Answered by one [`RunEvent`] for each line.
    fn stream<T: JsonSchema>(&mut self, path: &str, about: &str) {
        let body = self.body::<T>();
        let answer = json!({ NDJSON: { "schema": self.schema::<RunEvent>() } });
        self.add("post", path, about, answer)["requestBody"] = body;
    }

    /// Answered by nothing.
    fn tell<T: JsonSchema>(&mut self, path: &str, about: &str) -> &mut Value {
        let body = self.body::<T>();
        let operation = self.add("post", path, about, Value::Null);
        operation["requestBody"] = body;
        operation
    }
}

fn agent_api() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut api = Document {
        types: settings.into_generator(),
        paths: Map::new(),
    };
    api.stream::<RunRequest>(routes::RUN, "Runs one program in the sandbox.");
    api.stream::<MessageRequest>(routes::MESSAGE, "Sends a message to the AI.");
    api.get::<AgentStatus>(routes::STATUS, "What this agent is.");
    let text = json!({ "type": "string" });
    api.get::<History>(routes::HISTORY, "Messages that have all of these words.")["parameters"] =
        json!([{ "name": "q", "in": "query", "schema": text }]);
    api.get::<Sessions>(routes::SESSIONS, "Conversations about this workspace.");
    api.get::<Conversation>(routes::SESSION, "What was said in one.");
    api.add("delete", routes::SESSION, "Forgets one.", Value::Null);
    api.get::<Denials>(routes::DENIALS, "Actions that the sandbox refused.");
    api.get::<Approvals>(routes::APPROVALS, "Starts that wait for a person.");
    api.tell::<ApprovalAnswer>(routes::APPROVALS, "What a person decided, signed.");
    api.get::<McpServers>(routes::MCP, "MCP servers, and why one is not started.");
    api.stream::<McpCall>(routes::MCP, "Calls a tool, or lists the tools of a server.");
    api.get::<Devices>(routes::DEVICES, "The paired devices.");
    api.add("delete", routes::DEVICE, "Forgets a device.", Value::Null);
    api.get::<Map<String, Value>>(routes::SCHEMA, "This document.");

    api.tell::<Reconnect>(routes::RECONNECT, "The relay stops: when to dial again.")["tags"] =
        json!(["relay"]);
    let query = api.schema::<ChannelQuery>();
    for one in [
        SchemaGenerator::subschema_for::<ChannelRequest>,
        SchemaGenerator::subschema_for::<ChannelHead>,
    ] {
        one(&mut api.types);
    }
    let frames = json!({ BYTES: { "schema": {} } });
    let about = "The bytes of a channel, both ways at once.";
    let channel = api.add("post", routes::CHANNEL, about, frames.clone());
    channel["tags"] = json!(["relay"]);
    channel["requestBody"] = json!({ "required": true, "content": frames });
    channel["parameters"] = json!([
        { "name": "query", "in": "query", "required": true, "style": "form", "explode": true, "schema": query },
    ]);
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Katachi agent", "version": SCHEMA_VERSION.to_string(), "description": ABOUT },
        "paths": api.paths,
        "components": { "schemas": api.types.take_definitions(true) },
    })
}

/// With the keys of every object in order, whatever order `serde_json` was built to keep.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let keys: std::collections::BTreeMap<_, _> = map.into_iter().collect();
            let entries = keys.into_iter().map(|(key, value)| (key, sorted(value)));
            Value::Object(entries.collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[test]
fn the_published_description_is_that_of_the_types() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/agent-api.json");
    let made = serde_json::to_string_pretty(&sorted(agent_api())).unwrap() + "\n";
    if std::env::var_os("KATACHI_WRITE").is_some_and(|value| value == "1") {
        std::fs::write(file, &made).unwrap();
    }
    let published = std::fs::read_to_string(file).unwrap();
    assert!(
        published == made,
        "agent-api.json is of other types; see the head of src/schema.rs"
    );
}

#[test]
fn every_reference_leads_somewhere() {
    let published: Value = serde_json::from_str(crate::AGENT_API).unwrap();
    let references = crate::AGENT_API.split("\"$ref\": \"#").skip(1);
    let mut count = 0;
    for reference in references.filter_map(|rest| rest.split('"').next()) {
        assert!(published.pointer(reference).is_some(), "{reference}");
        count += 1;
    }
    assert!(count > 20, "{count} references");
}
