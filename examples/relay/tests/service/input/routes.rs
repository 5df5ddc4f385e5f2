//! The routes: who may ask them, and for what.

use std::collections::{BTreeMap, BTreeSet};

use http::HeaderMap;
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
    /// And answers so, once what stands in `{}` is filled in.
    Nothing(u16),
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

    /// The same, with what is asked.
    pub(super) fn target(&self) -> String {
        self.filled() + self.query()
    }

    /// The query without which it looks no further.
    pub(super) fn query(&self) -> &'static str {
        match self.path {
            routes::AGENT_CHANNEL => CHANNEL_QUERY,
            routes::DEVICE => "?user_code=BCDF-GHJK",
            _ => "",
        }
    }

    pub(super) fn reads_query(&self) -> bool {
        !self.query().is_empty()
    }

    /// The headers without which it looks no further.
    pub(super) fn upgrade(&self) -> &'static [(&'static str, &'static str)] {
        match self.path {
            routes::AGENT_CHANNEL => &[
                ("connection", "upgrade, close"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ],
            _ => &[],
        }
    }

    /// What comes with it whoever asks.
    pub(super) fn headers(&self) -> HeaderMap {
        let kind = self.kind().map(|kind| ("content-type", kind));
        let all = self.upgrade().iter().copied().chain(kind);
        all.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    /// Whether a page of ours asks it to change something.
    pub(super) fn is_unsafe_page(&self) -> bool {
        self.path.starts_with("/api/") && self.method != "GET"
    }

    /// The status for who says no name, and asks for it otherwise as one should.
    pub(super) fn of_nobody(&self) -> u16 {
        match self.path {
            // Says that there is nobody.
            routes::SESSION => 200,
            // What is no tunnel is looked at no further.
            routes::TUNNEL => 426,
            routes::TUNNEL_WEBSOCKET => 400,
            _ => 401,
        }
    }

    /// The status for who says a name that nobody has.
    pub(super) fn of_wrong_name(&self) -> u16 {
        match self.is_unsafe_page() {
            true => 403,
            false => self.of_nobody(),
        }
    }

    /// The type of its body.
    pub(super) fn kind(&self) -> Option<&'static str> {
        match self.takes {
            Nothing(_) => None,
            Json(_) => Some("application/json"),
            Form(_) => Some("application/x-www-form-urlencoded"),
        }
    }

    /// A good body.
    pub(super) fn good(&self) -> Vec<u8> {
        match &self.takes {
            Nothing(_) => Vec::new(),
            Json(good) => good.to_string().into_bytes(),
            Form(good) => {
                let pairs = good.iter().map(|(name, value)| format!("{name}={value}"));
                pairs.collect::<Vec<_>>().join("&").into_bytes()
            }
        }
    }
}

/// As [`channel_with`](crate::relay::channel_with) has it.
const CHANNEL_QUERY: &str =
    "?mode=resume&device=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&stream=BBBBBBBBBBBBBBBBBBBBBB";

/// The status where `what` is wrong in a body that has the form of a good one: a text
/// that means nothing. Otherwise it is 400.
pub(super) fn of_text(row: &Row, what: &str, sends_mail: bool) -> Option<u16> {
    let (member, wrong) = what.split_once(" is ")?;
    if !["a zero byte", "half a character", "a long text"].contains(&wrong) {
        return None;
    }
    match (row.path, member) {
        (routes::SIGN_UP | routes::LOG_IN, "password") if wrong == "a long text" => Some(413),
        (routes::PASSWORD_RESET, "password") if sends_mail && wrong == "a long text" => Some(413),
        // It tells nobody which of them is wrong.
        (routes::LOG_IN, _) => Some(401),
        // A relay that sends no mail has none of these.
        (routes::VERIFY | routes::PASSWORD_FORGOT | routes::PASSWORD_RESET, _) if !sends_mail => {
            Some(404)
        }
        (routes::DEVICE_APPROVE | routes::DEVICE_DENY, _) => Some(404),
        // Nor has a relay without an account at Cloudflare.
        (routes::CLOUDFLARE_DIAL, _) => Some(404),
        _ => None,
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
        row("GET", routes::CONSOLE, Anybody, Nothing(200)),
        row("GET", routes::DEVICE_PAGE, Anybody, Nothing(200)),
        row("GET", "/assets/{name}", Anybody, Nothing(404)),
        row("GET", routes::HEALTH, Anybody, Nothing(200)),
        row("GET", routes::READY, Anybody, Nothing(200)),
        row("GET", routes::SECURITY_TXT, Anybody, Nothing(200)),
        row("GET", routes::OAUTH_METADATA, Anybody, Nothing(200)),
        row("GET", routes::EPOCH, Anybody, Nothing(200)),
        row("POST", routes::DEVICE_AUTHORIZATION, Anybody, Form(start)),
        row("POST", routes::TOKEN, Anybody, Form(poll)),
        row("GET", routes::TOKEN_OWNER, Anybody, Nothing(401)),
        row("POST", routes::SIGN_UP, Anybody, Json(person.clone())),
        row("POST", routes::LOG_IN, Anybody, Json(person)),
        // With its cookie it would end the session, whatever else is wrong.
        row("POST", routes::LOG_OUT, Anybody, Nothing(204)),
        row("GET", routes::ME, Person, Nothing(200)),
        row("GET", routes::SESSION, Person, Nothing(200)),
        row("GET", routes::SIGN_IN, Anybody, Nothing(200)),
        row(
            "POST",
            routes::SIGN_IN_START,
            Anybody,
            Json(json!({"return_to": format!("/{CANARY}"), "link": false})),
        ),
        row("GET", routes::SIGN_IN_BACK, Anybody, Nothing(404)),
        row("GET", routes::IDENTITIES, Person, Nothing(200)),
        row("DELETE", routes::IDENTITY, Person, Nothing(404)),
        row("POST", routes::VERIFY_SEND, Person, Nothing(404)),
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
        row("GET", routes::DEVICE, Person, Nothing(404)),
        row("POST", routes::DEVICE_APPROVE, Person, code()),
        row("POST", routes::DEVICE_DENY, Person, code()),
        row("GET", routes::AGENTS, Person, Nothing(200)),
        row("DELETE", routes::AGENT, Person, Nothing(404)),
        row("POST", routes::AGENT_RELEASE, Person, Nothing(404)),
        row("GET", routes::AGENT_CHANNEL, Person, Nothing(404)),
        row("GET", routes::MCP, Person, Nothing(200)),
        row("GET", routes::MCP_ONE, Person, Nothing(404)),
        row("PUT", routes::MCP_ONE, Person, Json(config)),
        row("DELETE", routes::MCP_ONE, Person, Nothing(404)),
        row("GET", routes::MCP_SEALED, Person, Nothing(404)),
        row("GET", routes::AUDIT, Person, Nothing(200)),
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
        row("GET", routes::AGENT_MCP, Agent, Nothing(200)),
        row("DELETE", routes::UNREGISTER, Agent, Nothing(204)),
        row("POST", routes::CLOUDFLARE, Agent, Nothing(404)),
        row(
            "POST",
            routes::CLOUDFLARE_DIAL,
            Agent,
            Json(json!({"epoch": word()})),
        ),
        row("GET", routes::TUNNEL, Agent, Nothing(426)),
        row("GET", routes::TUNNEL_WEBSOCKET, Agent, Nothing(400)),
    ]
}

/// What a relay that sends mail is asked by, as far as that makes a difference.
pub(super) fn mail_table() -> Vec<Row> {
    let mut rows = table();
    rows.retain(|row| {
        let verifies = [routes::VERIFY, routes::VERIFY_SEND].contains(&row.path);
        let resets = [routes::PASSWORD_FORGOT, routes::PASSWORD_RESET].contains(&row.path);
        verifies || resets || [routes::SIGN_UP, routes::LOG_IN].contains(&row.path)
    });
    assert_eq!(rows.len(), 6);
    for row in &mut rows {
        match (row.path, &mut row.takes) {
            (routes::VERIFY_SEND, takes) => *takes = Nothing(202),
            (routes::LOG_IN, Json(good)) => good["token"] = json!(format!("{CANARY}-word")),
            _ => {}
        }
    }
    rows
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
