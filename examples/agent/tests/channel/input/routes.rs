//! The routes of the agent, and what is wrong to ask of each.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::CANARY;
use super::bodies::bad_json;
use crate::support::device::Device;

/// A route: what it takes in its body, and bodies that it cannot serve though they have
/// the right form.
pub(super) struct Row {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) takes: Option<Value>,
    pub(super) also: Vec<Value>,
    /// Whether it is the relay that asks.
    pub(super) outside: bool,
}

fn row(method: &'static str, path: &'static str) -> Row {
    Row {
        method,
        path,
        takes: None,
        also: Vec::new(),
        outside: false,
    }
}

impl Row {
    fn takes(self, good: Value, also: impl Into<Vec<Value>>) -> Self {
        Self {
            takes: Some(good),
            also: also.into(),
            ..self
        }
    }

    fn outside(self) -> Self {
        Self {
            outside: true,
            ..self
        }
    }

    /// As the log has it.
    pub(super) fn call(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

pub(super) fn table() -> Vec<Row> {
    let word = || format!("{CANARY}-word");
    let long = |bytes: usize| format!("{CANARY}{}", "x".repeat(bytes));
    let touch = json!({ "argv": ["touch", CANARY], "cwd": "." });
    let runs = [
        json!({ "argv": [] }),
        json!({ "argv": [""] }),
        json!({ "argv": ["touch", "a\0b"] }),
        json!({ "argv": ["touch", CANARY], "cwd": ".." }),
        json!({ "argv": ["touch", CANARY], "cwd": "/" }),
        json!({ "argv": ["touch", long(40_000)] }),
        json!({ "argv": vec!["touch"; 300] }),
    ];
    let message = json!({ "session": "1", "text": word() });
    let messages = [json!({ "text": long(130 * 1024) })];
    let call = json!({ "server": word(), "tool": word(), "arguments": {} });
    let calls = [
        json!({ "server": long(100) }),
        json!({ "server": "a", "tool": long(200) }),
    ];
    let answer = json!({
        "request": {
            "nonce": word(), "argv": ["touch", CANARY], "directory": "/", "plan_hash": word(),
            "rule": word(), "expires_at": 1,
        },
        "decision": "approve", "signature": word(),
    });
    vec![
        row("POST", "/v1/run").takes(touch, runs),
        row("POST", "/v1/message").takes(message, messages),
        row("GET", "/v1/status"),
        row("GET", "/v1/history"),
        row("GET", "/v1/sessions"),
        row("GET", "/v1/sessions/{id}"),
        row("DELETE", "/v1/sessions/{id}"),
        row("GET", "/v1/denials"),
        row("GET", "/v1/schema"),
        row("POST", "/v1/channel").outside(),
        row("POST", "/v1/reconnect")
            .takes(json!({ "after_ms": 1, "spread_ms": 1 }), [])
            .outside(),
        row("GET", "/v1/approvals"),
        row("POST", "/v1/approvals").takes(answer, []),
        row("GET", "/v1/mcp"),
        row("POST", "/v1/mcp").takes(call, calls),
        row("GET", "/v1/devices"),
        row("DELETE", "/v1/devices/{id}"),
    ]
}

/// The routes as the agent's source lists them.
fn routed() -> BTreeSet<String> {
    let named: Vec<(&str, &str)> = include_str!("../../../../protocol/src/routes.rs")
        .split_once("pub mod tunnel")
        .unwrap()
        .1
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub const ")?.strip_suffix("\";"))
        .filter_map(|line| line.split_once(": &str = \""))
        .collect();
    let source = include_str!("../../../src/tunnel/service.rs");
    let (_, list) = source.split_once("pub(crate) const ROUTES").unwrap();
    let (list, _) = list.split_once("];").unwrap();
    let routes = list.lines().filter_map(|line| {
        let (method, name) = line
            .trim()
            .strip_prefix("(\"")?
            .split_once("\", routes::")?;
        let name = name.strip_suffix("),")?;
        let (_, path) = named.iter().find(|(known, _)| *known == name)?;
        Some(format!("{method} {path}"))
    });
    let routes: BTreeSet<_> = routes.collect();
    assert!(source.contains(&format!("[(&str, &str); {}]", routes.len())));
    routes
}

pub(super) fn every_route_has_a_row() {
    let table = table();
    let rows: BTreeSet<_> = table.iter().map(Row::call).collect();
    assert_eq!(rows.len(), table.len(), "a row stands there twice");
    assert_eq!(rows, routed());
}

/// Something that is asked badly, and what becomes of it.
pub(super) struct Bad {
    pub(super) what: String,
    /// In place of a request.
    pub(super) bytes: Vec<u8>,
    pub(super) status: u16,
    /// What the log calls it.
    pub(super) call: String,
    /// How it ends there.
    pub(super) outcome: &'static str,
}

const ANOTHER: &str = "another call";

/// What a paired device may ask wrongly of `row`.
pub(super) fn by_device(row: &Row, rows: &[Row], device: &str) -> Vec<Bad> {
    let mut all = Vec::new();
    let mut ask = |what: String, bytes: Vec<u8>, status: u16, call: &str| {
        all.push(Bad {
            what: format!("{}, {what}", row.call()),
            bytes,
            status,
            call: call.to_owned(),
            outcome: "refused",
        });
    };
    let request = |method: &str, path: &str, body: Option<&Value>| {
        let mut request = json!({ "method": method, "path": path });
        if let Some(body) = body {
            request["body"] = body.clone();
        }
        request.to_string().into_bytes()
    };
    let filled = row.path.replace("{id}", device);
    if row.outside {
        // Inside of a channel there is none such.
        let asked = request(row.method, &filled, row.takes.as_ref());
        ask("inside".to_owned(), asked, 404, &row.call());
        return all;
    }
    for method in [
        "GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "get", "FROB",
    ] {
        let is = |one: &Row| (one.method, one.path) == (method, row.path);
        if !rows.iter().any(is) {
            let asked = request(method, &filled, row.takes.as_ref());
            ask(format!("as {method}"), asked, 405, ANOTHER);
        }
    }
    for (what, path) in [
        ("a path below it", format!("{filled}/{CANARY}")),
        ("a slash behind it", format!("{filled}/")),
        ("two slashes", format!("/{filled}")),
        ("capitals", filled.to_uppercase()),
        ("a way around", format!("/v1/../{}", &filled[1..])),
        (
            "a long path",
            format!("{filled}/{CANARY}{}", "a".repeat(6000)),
        ),
    ] {
        // Below the lists there are identifiers.
        let is_one = |one: &Row| {
            let (list, _) = one.path.split_once("/{id}").unwrap_or((one.path, ""));
            one.path.ends_with("{id}") && list == row.path
        };
        if path.starts_with(&format!("{filled}/{CANARY}")) && rows.iter().any(is_one) {
            continue;
        }
        let asked = request(row.method, &path, row.takes.as_ref());
        ask(what.to_owned(), asked, 404, ANOTHER);
    }
    for (what, path) in [
        ("without its slash", &filled[1..]),
        ("a space in the path", &format!("{filled} {CANARY}")),
        ("a zero byte in the path", &format!("{filled}\0")),
        ("a line feed in the path", &format!("{filled}\n{CANARY}")),
    ] {
        let asked = request(row.method, path, row.takes.as_ref());
        ask(what.to_owned(), asked, 400, ANOTHER);
    }
    if row.path == "/v1/history" {
        let asked = request(row.method, "/v1/history?q=a&q=b", None);
        ask("a query twice".to_owned(), asked, 400, &row.call());
    }
    let bad_body = row.takes.iter().flat_map(bad_json).collect::<Vec<_>>();
    for (what, body) in bad_body {
        let asked = match serde_json::from_slice::<Value>(&body) {
            // A member twice is one here, and some may be any text.
            Ok(body) if serves(row, &body) => continue,
            Ok(body) => request(row.method, &filled, Some(&body)),
            Err(_) if body.is_empty() => request(row.method, &filled, None),
            // What is no JSON makes no request of what it stands in.
            Err(_) => {
                let head = json!({ "method": row.method, "path": filled }).to_string();
                let head = head.strip_suffix('}').unwrap();
                let asked = [head.as_bytes(), b",\"body\":", &body, b"}"].concat();
                let status = if asked.len() > 256 * 1024 { 413 } else { 400 };
                ask(what, asked, status, ANOTHER);
                continue;
            }
        };
        ask(what, asked, 400, &row.call());
    }
    for (at, body) in row.also.iter().enumerate() {
        let asked = request(row.method, &filled, Some(body));
        ask(format!("no. {at} of its own"), asked, 400, &row.call());
    }
    if row.takes.is_some() {
        // Few bytes here, and many where the body is a request of its own.
        let numbers = vec!["1e15"; 40_000].join(",");
        let head = json!({ "method": row.method, "path": filled }).to_string();
        let head = head.strip_suffix('}').unwrap();
        let asked = format!("{head},\"body\":[{numbers}]}}");
        ask(
            "a large body".to_owned(),
            asked.into_bytes(),
            413,
            &row.call(),
        );
        let large = json!({ "text": "x".repeat(256 * 1024) });
        let asked = request(row.method, &filled, Some(&large));
        ask("a large request".to_owned(), asked, 413, ANOTHER);
    }
    let whole = request(row.method, &filled, row.takes.as_ref());
    let half = whole[..whole.len() / 2].to_vec();
    ask("half of it".to_owned(), half, 400, ANOTHER);
    let mut more: Value = serde_json::from_slice(&whole).unwrap();
    more["admin"] = json!(CANARY);
    let more = more.to_string().into_bytes();
    ask("another member".to_owned(), more, 400, ANOTHER);
    if row.path.ends_with("{id}") {
        for (what, id, status) in odd_ids() {
            let path = row.path.replace("{id}", &id);
            all.push(Bad {
                what: format!("{}, {what}", row.call()),
                bytes: request(row.method, &path, None),
                status,
                call: row.call(),
                outcome: match (row.path, row.method) {
                    _ if status == 400 || row.path.contains("devices") => "refused",
                    _ => "answered",
                },
            });
        }
    }
    all
}

/// Identifiers of nothing, and whether they can be read at all.
fn odd_ids() -> Vec<(&'static str, String, u16)> {
    let long = format!("{CANARY}{}", "a".repeat(6000));
    [
        ("a letter", "a", 404),
        ("a number below zero", "-1", 404),
        ("a large number", "18446744073709551616", 404),
        ("a zero byte", "%00", 404),
        ("a line feed", "1%0a1", 404),
        ("dots", "%2e%2e", 404),
        ("dots and a slash", "..%2f..%2fetc%2fpasswd", 404),
        ("SQL", "'%20OR%201=1%20--", 404),
        ("a right-to-left override", "%e2%80%ae1", 404),
        ("no escape", "%zz", 404),
        ("no UTF-8", "%ff%fe", 400),
        ("a long one", &long, 404),
    ]
    .map(|(what, id, status)| (what, id.to_owned(), status))
    .to_vec()
}

/// Whether a body that was made to be wrong is right after all.
fn serves(row: &Row, body: &Value) -> bool {
    let good = row.takes.as_ref().unwrap();
    let Some(members) = body.as_object() else {
        return false;
    };
    let known = good.as_object().unwrap();
    let of_kind = |name: &String, value: &Value| match name.as_str() {
        // These may be any text, or be absent.
        "cwd" => value.as_str().is_some_and(|text| !text.contains('\0')),
        "session" | "text" => value.is_string(),
        "server" | "tool" => value.as_str().is_some_and(|text| text.len() < 100),
        "arguments" => value.is_object(),
        "signature" => value.is_string(),
        "after_ms" | "spread_ms" => value.as_u64().is_some(),
        _ => known.get(name) == Some(value),
    };
    members
        .iter()
        .all(|(name, value)| known.contains_key(name) && of_kind(name, value))
}

/// One request of the relay, that no device made.
pub(super) struct Outside {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) kind: Option<&'static str>,
    pub(super) body: Vec<u8>,
    pub(super) status: u16,
    pub(super) call: String,
}

/// What a relay may ask wrongly of `row`.
pub(super) fn by_relay(row: &Row, rows: &[Row]) -> Vec<Outside> {
    let json = Some("application/json");
    let good = row.takes.as_ref().map(Value::to_string).unwrap_or_default();
    let mut all = Vec::new();
    let mut ask = |method: &str, path: &str, kind, body: &[u8], status, call: &str| {
        all.push(Outside {
            method: method.to_owned(),
            path: path.to_owned(),
            kind,
            body: body.to_vec(),
            status,
            call: call.to_owned(),
        });
    };
    let filled = row.path.replace("{id}", "7");
    for method in [
        "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "FROB",
    ] {
        let known = rows
            .iter()
            .find(|one| (one.method, one.path) == (method, row.path));
        if !known.is_some_and(|one| one.outside) {
            let call = known.map_or_else(|| ANOTHER.to_owned(), Row::call);
            ask(method, &filled, json, good.as_bytes(), 403, &call);
        }
    }
    let below = format!("{filled}/{CANARY}{}", "a".repeat(3000));
    if row.path != "/v1/sessions" && row.path != "/v1/devices" {
        ask(row.method, &below, json, good.as_bytes(), 403, ANOTHER);
    }
    if !row.outside {
        for (kind, body) in [
            (None, &b""[..]),
            (Some("text/plain"), b"{"),
            (json, &good.as_bytes()[..good.len() / 2]),
            (json, &[b'x'; 300 * 1024]),
        ] {
            ask(row.method, &filled, kind, body, 403, &row.call());
        }
        return all;
    }
    let call = row.call();
    if let Some(takes) = &row.takes {
        for (_, body) in bad_json(takes) {
            let read = serde_json::from_slice::<Value>(&body);
            // A member that stands there twice is lost in what is read.
            if read.is_ok_and(|read| serves(row, &read)) && body.len() <= good.len() {
                continue;
            }
            let status = if body.len() > 1024 { 413 } else { 400 };
            ask(row.method, &filled, json, &body, status, &call);
        }
        for kind in [
            None,
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
        ] {
            ask(row.method, &filled, kind, good.as_bytes(), 415, &call);
        }
        return all;
    }
    let (device, stream) = ("A".repeat(43), "A".repeat(22));
    let query = |mode: &str, device: &str, stream: &str| {
        format!("{filled}?mode={mode}&device={device}&stream={stream}")
    };
    for path in [
        filled.clone(),
        format!("{filled}?{CANARY}"),
        query("admin", &device, &stream),
        query("resume", &device[1..], &stream),
        query("resume", &format!("{device}A"), &stream),
        query("resume", &device, &stream[1..]),
        query("resume", &"%00".repeat(43), &stream),
        query("resume", &"%e2%80%ae".repeat(14), &stream),
        query("resume", CANARY, CANARY),
        query("resume", &"A".repeat(6000), &stream),
        format!("{}&mode=pair", query("resume", &device, &stream)),
        format!("{}&admin={CANARY}", query("resume", &device, &stream)),
    ] {
        ask(row.method, &path, None, CANARY.as_bytes(), 400, &call);
    }
    // Here it is the bytes that are wrong: they are taken, and nothing comes of them.
    for mode in ["pair", "resume", "code"] {
        for body in [
            &b""[..],
            b"\0",
            b"\xff\xff",
            CANARY.as_bytes(),
            &[0; 70_000],
            &[0xff; 70_000],
        ] {
            ask(
                row.method,
                &query(mode, &device, &stream),
                None,
                body,
                200,
                &call,
            );
        }
    }
    all
}

/// The identifier of a device.
pub(super) fn id_of(device: &Device) -> String {
    device.query().unwrap().device
}
