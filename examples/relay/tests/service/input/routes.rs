//! The routes: who may ask them, and for what.

use std::collections::{BTreeMap, BTreeSet};

use katachi_protocol::device::{CLIENT_ID, GRANT_TYPE};
use katachi_protocol::routes;
use serde_json::{Value, json};

use super::CANARY;

/// Who may ask a route.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Asks {
    Anybody,
    /// A page of ours, in a session.
    Person,
    /// An agent, by its signature.
    Agent,
}
use Asks::{Agent, Anybody, Person};

/// What a route takes in its body.
pub(super) enum Takes {
    Nothing,
    /// A good one, from which bad ones are made.
    Json(Value),
    Form(Vec<(&'static str, String)>),
}
use Takes::{Form, Json, Nothing};

pub(super) struct Row {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) asks: Asks,
    pub(super) takes: Takes,
}

impl Row {
    /// The path, with something in place of what a caller fills in.
    pub(super) fn filled(&self) -> String {
        let path = self
            .path
            .replace("{id}", "nobody")
            .replace("{name}", "nothing");
        path.replace("{provider}", "nowhere")
    }

    /// The type of its body.
    pub(super) fn kind(&self) -> Option<&'static str> {
        match self.takes {
            Nothing => None,
            Json(_) => Some("application/json"),
            Form(_) => Some("application/x-www-form-urlencoded"),
        }
    }

    /// A good body.
    pub(super) fn good(&self) -> Vec<u8> {
        match &self.takes {
            Nothing => Vec::new(),
            Json(good) => good.to_string().into_bytes(),
            Form(good) => {
                let pairs = good.iter().map(|(name, value)| format!("{name}={value}"));
                pairs.collect::<Vec<_>>().join("&").into_bytes()
            }
        }
    }
}

pub(super) fn row(method: &'static str, path: &'static str, asks: Asks, takes: Takes) -> Row {
    Row {
        method,
        path,
        asks,
        takes,
    }
}

pub(super) fn table() -> Vec<Row> {
    let word = || format!("{CANARY}-word");
    let code = || Json(json!({"user_code": word()}));
    let person = json!({"email": format!("{CANARY}@example.org"), "password": word()});
    let start = vec![
        ("client_id", CLIENT_ID.to_owned()),
        ("host_name", word()),
        ("os", word()),
        ("version", word()),
    ];
    let poll = vec![
        ("grant_type", GRANT_TYPE.to_owned()),
        ("client_id", CLIENT_ID.to_owned()),
        ("device_code", word()),
    ];
    let config = json!({
        "command": [word()], "env": {"A": word()}, "secrets": {"B": word()}, "released_to": [],
    });
    vec![
        row("GET", routes::CONSOLE, Anybody, Nothing),
        row("GET", routes::DEVICE_PAGE, Anybody, Nothing),
        row("GET", "/assets/{name}", Anybody, Nothing),
        row("GET", routes::HEALTH, Anybody, Nothing),
        row("GET", routes::READY, Anybody, Nothing),
        row("GET", routes::SECURITY_TXT, Anybody, Nothing),
        row("GET", routes::OAUTH_METADATA, Anybody, Nothing),
        row("GET", routes::EPOCH, Anybody, Nothing),
        row("POST", routes::DEVICE_AUTHORIZATION, Anybody, Form(start)),
        row("POST", routes::TOKEN, Anybody, Form(poll)),
        row("GET", routes::TOKEN_OWNER, Anybody, Nothing),
        row("POST", routes::SIGN_UP, Anybody, Json(person.clone())),
        row("POST", routes::LOG_IN, Anybody, Json(person)),
        // With its cookie it would end the session, whatever else is wrong.
        row("POST", routes::LOG_OUT, Anybody, Nothing),
        row("GET", routes::ME, Person, Nothing),
        row("GET", routes::SESSION, Person, Nothing),
        row("GET", routes::SIGN_IN, Anybody, Nothing),
        row(
            "POST",
            routes::SIGN_IN_START,
            Anybody,
            Json(json!({"return_to": word(), "link": false})),
        ),
        row("GET", routes::SIGN_IN_BACK, Anybody, Nothing),
        row("GET", routes::IDENTITIES, Person, Nothing),
        row("DELETE", routes::IDENTITY, Person, Nothing),
        row("POST", routes::VERIFY_SEND, Person, Nothing),
        row(
            "POST",
            routes::VERIFY,
            Person,
            Json(json!({"token": word()})),
        ),
        row(
            "POST",
            routes::PASSWORD_FORGOT,
            Anybody,
            Json(json!({"email": word()})),
        ),
        row(
            "POST",
            routes::PASSWORD_RESET,
            Anybody,
            Json(json!({"token": word(), "password": word()})),
        ),
        row("GET", routes::DEVICE, Person, Nothing),
        row("POST", routes::DEVICE_APPROVE, Person, code()),
        row("POST", routes::DEVICE_DENY, Person, code()),
        row("GET", routes::AGENTS, Person, Nothing),
        row("DELETE", routes::AGENT, Person, Nothing),
        row("POST", routes::AGENT_RELEASE, Person, Nothing),
        row("GET", routes::AGENT_CHANNEL, Person, Nothing),
        row("GET", routes::MCP, Person, Nothing),
        row("GET", routes::MCP_ONE, Person, Nothing),
        row("PUT", routes::MCP_ONE, Person, Json(config)),
        row("DELETE", routes::MCP_ONE, Person, Nothing),
        row("GET", routes::MCP_SEALED, Person, Nothing),
        row("GET", routes::AUDIT, Person, Nothing),
        row(
            "POST",
            routes::HEARTBEAT,
            Agent,
            Json(json!({"state": "busy"})),
        ),
        row(
            "POST",
            routes::ACTIVITY,
            Agent,
            Json(json!({"kind": "run_started"})),
        ),
        row("GET", routes::AGENT_MCP, Agent, Nothing),
        row("DELETE", routes::UNREGISTER, Agent, Nothing),
        row("POST", routes::CLOUDFLARE, Agent, Nothing),
        row(
            "POST",
            routes::CLOUDFLARE_DIAL,
            Agent,
            Json(json!({"epoch": word()})),
        ),
        row("GET", routes::TUNNEL, Agent, Nothing),
        row("GET", routes::TUNNEL_WEBSOCKET, Agent, Nothing),
    ]
}

/// What the router routes, read from its source: methods and paths.
fn routed() -> BTreeSet<(String, String)> {
    let named: BTreeMap<&str, &str> = include_str!("../../../../protocol/src/routes.rs")
        .split("pub mod tunnel")
        .next()
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.strip_suffix("\";"))
        .filter_map(|line| line.split_once(": &str = \""))
        .collect();
    let mut routed = BTreeSet::new();
    for call in include_str!("../../../src/http/mod.rs")
        .split(".route(")
        .skip(1)
    {
        let (path, rest) = call.split_once(',').unwrap();
        let path = match path.trim().strip_prefix("routes::") {
            Some(name) => named[name],
            None => path.trim().trim_matches('"'),
        };
        // As far as the bracket that closes the call.
        let mut open = 1;
        let end = rest.find(|c| {
            open += i32::from(c == '(') - i32::from(c == ')');
            open == 0
        });
        let handlers = &rest[..end.unwrap()];
        let mut methods = 0;
        for method in ["get", "post", "put", "delete", "patch", "any", "on"] {
            let call = format!("{method}(");
            for (at, _) in handlers.match_indices(&call) {
                let before = handlers[..at].chars().next_back();
                if before.is_none_or(|c| c.is_whitespace() || c == '.') {
                    routed.insert((method.to_uppercase(), path.to_owned()));
                    methods += 1;
                }
            }
        }
        assert!(methods > 0, "no method is read out of {handlers}");
    }
    routed
}

#[test]
fn every_route_has_a_row() {
    let table = table();
    let rows = table
        .iter()
        .map(|row| (row.method.to_owned(), row.path.to_owned()));
    let rows: Vec<_> = rows.collect();
    let set: BTreeSet<_> = rows.iter().cloned().collect();
    assert_eq!(set.len(), rows.len(), "a row stands there twice");
    assert_eq!(set, routed());
    assert!(set.len() > 40);
}
