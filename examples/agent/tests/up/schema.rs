//! The published description of the agent's API: printed by `schema`, served inside of
//! channels, and kept by everything that is really asked and answered.

use katachi_protocol::approval::Decision;
use katachi_protocol::channel::{ChannelHead, ChannelRequest};
use katachi_protocol::run::RunEvent;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::support::device::Device;
use crate::support::meeting::{Meeting, get, post, run};
use crate::support::up::{Up, block_on};
use crate::support::{self, Place, meeting, needing};

pub(crate) fn trials() -> Vec<Trial> {
    let confine = support::can_confine();
    vec![
        needing("", true, "schema_prints_it", schema_prints_it),
        needing(
            "user namespaces",
            confine,
            "what_is_said_is_as_described",
            what_is_said_is_as_described,
        ),
        needing(
            "",
            true,
            "what_is_not_as_described_is_seen",
            a_fault_is_seen,
        ),
    ]
}

fn published() -> Value {
    serde_json::from_str(katachi_protocol::AGENT_API).unwrap()
}

/// Holds `value` against the schema at `pointer` of the document.
fn check(pointer: &str, value: &Value) -> Result<(), String> {
    let mut document = published();
    document["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    let escaped = pointer.replace('{', "%7B").replace('}', "%7D");
    document["$ref"] = json!(format!("#{escaped}"));
    let schema = jsonschema::validator_for(&document).unwrap();
    match schema.validate(value) {
        Ok(()) => Ok(()),
        Err(error) => Err(format!("{pointer}: {error}: {value}")),
    }
}

/// Where the schema of a named type is.
fn named(name: &str) -> String {
    format!("/components/schemas/{name}")
}

/// The place of the schema of a body in an operation.
fn body(path: &str, method: &str, part: &str, media: &str) -> String {
    let escaped = |text: &str| text.replace('~', "~0").replace('/', "~1");
    let (path, media) = (escaped(path), escaped(media));
    let place = format!("/paths/{path}/{method}/{part}/content/{media}/schema");
    assert!(published().pointer(&place).is_some(), "{place}");
    place
}

fn schema_prints_it() {
    let place = Place::new();
    let said = place.agent(&["schema"]).ok();
    assert_eq!(said, katachi_protocol::AGENT_API);
}

fn a_fault_is_seen() {
    let path = body("/v1/run", "post", "requestBody", "application/json");
    check(&path, &json!({ "argv": ["ls"] })).unwrap();
    for wrong in [
        json!({ "argv": "ls" }),
        json!({ "argv": ["ls"], "shell": true }),
        json!({}),
    ] {
        check(&path, &wrong).unwrap_err();
    }
    check(&named("RunEvent"), &json!({ "event": "exit", "code": 0 })).unwrap_err();
    check(&named("RunEvent"), &json!({ "event": "vanished" })).unwrap_err();
}

/// Asks, and holds the question, the head and the answer against the description.
async fn ask(meeting: &Meeting, device: &Device, route: &str, request: ChannelRequest) -> Value {
    let (method, route) = (request.method.to_lowercase(), route.to_owned());
    check(&named("ChannelRequest"), &json!(request)).unwrap();
    if let Some(told) = &request.body {
        let place = body(&route, &method, "requestBody", "application/json");
        check(&place, told).unwrap();
    }
    let answer = meeting.ask(device, request).await.unwrap();
    let status = answer.status;
    check(&named("ChannelHead"), &json!(ChannelHead { status })).unwrap();
    let whole = answer.whole().await.unwrap();
    if status == 204 {
        assert!(whole.is_empty());
        return Value::Null;
    }
    let value = serde_json::from_slice(&whole).unwrap();
    let part = match status {
        200 => "responses/200",
        _ => "responses/default",
    };
    check(&body(&route, &method, part, "application/json"), &value).unwrap();
    value
}

fn keep(events: &[RunEvent]) {
    for event in events {
        check(&named("RunEvent"), &json!(event)).unwrap();
    }
}

fn what_is_said_is_as_described() {
    let place = Place::new();
    let policy = place.asking();
    let policy = policy.to_str().unwrap();
    let options = ["--ai-command", "sed s/^/heard:/", "--policy", policy];
    let mut up = Up::start(&place, &options);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let read = async |path: &str| ask(&meeting, &device, path, get(path)).await;

        // Starts: one that runs, one that is denied, one that asks.
        let told = body("/v1/run", "post", "requestBody", "application/json");
        check(&told, run(&["ls"]).body.as_ref().unwrap()).unwrap();
        let ran = meeting
            .run(&device, &["sh", "-c", "cat /etc/shadow; echo hello"])
            .await;
        assert!(
            ran.iter()
                .any(|event| matches!(event, RunEvent::Output { .. }))
        );
        keep(&ran);
        let refused = meeting.run(&device, &["no-such-program"]).await;
        keep(&refused);
        let asked = asks(&meeting, &device).await;
        keep(&asked);
        let kinds = [&ran[..], &refused, &asked].concat();
        for wanted in ["approval", "started", "output", "exit", "denied"] {
            let is = |event: &RunEvent| json!(event)["event"] == wanted;
            assert!(kinds.iter().any(is), "no {wanted}: {kinds:?}");
        }

        let answered = meeting.message(&device, None, "when do plums ripen?").await;
        keep(&answered);
        let session = meeting::session_of(&answered);
        let sessions = read("/v1/sessions").await;
        assert_eq!(sessions["sessions"][0]["session"], json!(session));
        let found = ask(&meeting, &device, "/v1/history", get("/v1/history?q=plums")).await;
        assert_eq!(found["hits"].as_array().unwrap().len(), 2);
        let one = format!("/v1/sessions/{session}");
        ask(&meeting, &device, "/v1/sessions/{id}", get(&one)).await;
        let gone = ask(
            &meeting,
            &device,
            "/v1/sessions/{id}",
            get("/v1/sessions/4711"),
        )
        .await;
        assert_eq!(gone["error"], "not_found");
        let mut forget = get(&one);
        forget.method = "DELETE".to_owned();
        ask(&meeting, &device, "/v1/sessions/{id}", forget).await;

        assert_eq!(
            read("/v1/status").await["schema"],
            katachi_protocol::SCHEMA_VERSION
        );
        assert_ne!(read("/v1/denials").await["denials"], json!([]));
        assert_eq!(read("/v1/approvals").await["approvals"], json!([]));
        assert_eq!(read("/v1/mcp").await["servers"], json!([]));
        assert_eq!(
            read("/v1/devices").await["devices"][0]["name"],
            "Ana's laptop"
        );
        assert_eq!(read("/v1/schema").await, published());
        let bad = post("/v1/run", json!({ "argv": [] }));
        assert_eq!(
            ask(&meeting, &device, "/v1/run", bad).await["error"],
            "bad_request"
        );
    });
    up.stop();
}

/// A start that a person is asked about, and approves.
async fn asks(meeting: &Meeting, device: &Device) -> Vec<RunEvent> {
    let mut answer = meeting
        .ask(device, run(&["touch", "approved"]))
        .await
        .unwrap();
    let (mut events, mut rest) = (Vec::new(), String::new());
    while let Some(piece) = answer.piece().await.unwrap() {
        rest.push_str(std::str::from_utf8(&piece).unwrap());
        while let Some((line, after)) = rest.split_once('\n') {
            let event = RunEvent::from_line(line).unwrap();
            if let RunEvent::Approval(request) = &event {
                let waits = ask(meeting, device, "/v1/approvals", get("/v1/approvals")).await;
                assert_eq!(waits["approvals"][0]["nonce"], json!(request.nonce));
                let said = meeting::signed(request.clone(), Decision::Approve, device);
                ask(meeting, device, "/v1/approvals", said).await;
            }
            events.push(event);
            rest = after.to_owned();
        }
    }
    events
}
