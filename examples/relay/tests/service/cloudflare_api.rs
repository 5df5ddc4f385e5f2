//! A stand-in for the part of Cloudflare's API that the relay calls: it refuses what
//! the documentation does not know, and can be away or out of patience.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

pub(crate) const API_TOKEN: &str = "api-token-5dbe1f9ac0";
pub(crate) const ACCOUNT: &str = "699d98642c564d2e855e9661899b7252";
pub(crate) const ZONE: &str = "023e105f4ecef8ad9ca31a8372d0c353";
/// What a tunnel's token decodes to, but for the tunnel's identifier.
const TUNNEL_SECRET: &str = "bTSquyUGwLQjYJn8cI8S1h6M6wUc2ajI";

/// How the API is today.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Answers 503.
    Away,
    /// Answers 429 and names seven seconds.
    OutOfPatience,
}

#[derive(Debug, Default)]
struct Books {
    mood: Mood,
    calls: Vec<String>,
    /// By identifier: name, and whether its connections were ended.
    tunnels: BTreeMap<String, (String, bool)>,
    /// By identifier: name and content.
    records: BTreeMap<String, (String, String)>,
    made: usize,
}

/// The running API; it ends with the test.
#[derive(Clone)]
pub(crate) struct Api {
    books: Arc<Mutex<Books>>,
    pub(crate) address: SocketAddr,
}

impl Api {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Self {
            books: Arc::default(),
            address: listener.local_addr().unwrap(),
        };
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&api.books));
        tokio::spawn(async move { axum::serve(listener, router).await });
        api
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/client/v4", self.address)
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.books.lock().unwrap().mood = mood;
    }

    /// Method and path of every call, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.books.lock().unwrap().calls.clone()
    }

    /// How many tunnels and records there are.
    pub(crate) fn left(&self) -> (usize, usize) {
        let books = self.books.lock().unwrap();
        (books.tunnels.len(), books.records.len())
    }

    /// Somebody deletes every record by hand.
    pub(crate) fn lose_records(&self) {
        self.books.lock().unwrap().records.clear();
    }

    /// The only name that leads to a tunnel, and the token of that tunnel.
    pub(crate) fn only(&self) -> (String, String) {
        let books = self.books.lock().unwrap();
        let Some((name, content)) = books.records.values().next() else {
            panic!(
                "no DNS record was made for the tunnels {:?}; the calls were {:#?}",
                books.tunnels, books.calls
            );
        };
        let id = content.strip_suffix(".cfargotunnel.com");
        let id = id.unwrap_or_else(|| panic!("{name} leads to {content}, which is no tunnel"));
        assert!(
            books.tunnels.contains_key(id),
            "{name} leads to the tunnel {id}, which there is not: {:?}",
            books.tunnels
        );
        (name.clone(), token(id))
    }
}

fn token(id: &str) -> String {
    use base64::Engine as _;
    let inside = json!({ "a": ACCOUNT, "s": TUNNEL_SECRET, "t": id });
    base64::engine::general_purpose::STANDARD.encode(inside.to_string())
}

async fn answer(State(books): State<Arc<Mutex<Books>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut books = books.lock().unwrap();
    books.calls.push(format!("{} {}", head.method, head.uri));
    let bearer = head.headers.get("authorization");
    if bearer.is_none_or(|value| value != format!("Bearer {API_TOKEN}").as_str()) {
        return refuse(StatusCode::FORBIDDEN, 10000, "Authentication error");
    }
    match books.mood {
        Mood::Well => {}
        Mood::Away => return refuse(StatusCode::SERVICE_UNAVAILABLE, 7003, "Not now"),
        Mood::OutOfPatience => {
            let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, 971, "Slow down");
            response.headers_mut().insert("retry-after", 7.into());
            return response;
        }
    }
    let path = head.uri.path().to_owned();
    let query: BTreeMap<String, String> = head
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let tunnels = format!("/client/v4/accounts/{ACCOUNT}/cfd_tunnel");
    let records = format!("/client/v4/zones/{ZONE}/dns_records");
    let method = head.method.as_str();
    if let Some(rest) = path.strip_prefix(&tunnels) {
        let parts: Vec<&str> = rest.split('/').skip(1).collect();
        return of_tunnels(&mut books, method, &parts, &query, &body);
    }
    if let Some(rest) = path.strip_prefix(&records) {
        let parts: Vec<&str> = rest.split('/').skip(1).collect();
        return of_records(&mut books, method, &parts, &query, &body);
    }
    refuse(StatusCode::NOT_FOUND, 7003, "Could not route")
}

fn of_tunnels(
    books: &mut Books,
    method: &str,
    parts: &[&str],
    query: &BTreeMap<String, String>,
    body: &Value,
) -> Response {
    let missing = || refuse(StatusCode::NOT_FOUND, 1003, "Tunnel not found");
    match (method, parts) {
        ("GET", []) => {
            assert_eq!(query["is_deleted"], "false");
            let named = books
                .tunnels
                .iter()
                .filter(|(_, (name, _))| *name == query["name"]);
            let listed = named.map(|(id, (name, _))| json!({ "id": id, "name": name }));
            ok(listed.collect())
        }
        ("POST", []) => {
            let name = body["name"].as_str().unwrap().to_owned();
            assert_eq!(*body, json!({ "name": name, "config_src": "local" }));
            if books.tunnels.values().any(|(other, _)| *other == name) {
                return refuse(
                    StatusCode::CONFLICT,
                    1013,
                    "You already have a tunnel with this name",
                );
            }
            books.made += 1;
            let id = format!("c1744f8b-faa1-48a4-9e5c-{:012}", books.made);
            books.tunnels.insert(id.clone(), (name.clone(), false));
            ok(json!({ "id": id, "name": name, "token": token(&id) }))
        }
        ("GET", [id, "token"]) if books.tunnels.contains_key(*id) => ok(token(id).into()),
        ("DELETE", [id, "connections"]) => match books.tunnels.get_mut(*id) {
            Some((_, ended)) => {
                *ended = true;
                ok(json!({}))
            }
            None => missing(),
        },
        ("DELETE", [id]) => match books.tunnels.get(*id) {
            Some((_, false)) => refuse(
                StatusCode::BAD_REQUEST,
                1022,
                "Tunnel has active connections",
            ),
            Some(_) => {
                books.tunnels.remove(*id);
                ok(json!({ "id": id }))
            }
            None => missing(),
        },
        _ => missing(),
    }
}

fn of_records(
    books: &mut Books,
    method: &str,
    parts: &[&str],
    query: &BTreeMap<String, String>,
    body: &Value,
) -> Response {
    let shown = |id: &str, (name, content): &(String, String)| json!({ "id": id, "type": "CNAME", "name": name, "content": content, "proxied": true });
    match (method, parts) {
        ("GET", []) => {
            assert_eq!(query["type"], "CNAME");
            let named = books
                .records
                .iter()
                .filter(|(_, (name, _))| *name == query["name"]);
            ok(named.map(|(id, record)| shown(id, record)).collect())
        }
        ("POST", []) => {
            let text = |field: &str| body[field].as_str().unwrap().to_owned();
            assert_eq!(
                (text("type").as_str(), &body["proxied"], &body["ttl"]),
                ("CNAME", &json!(true), &json!(1))
            );
            books.made += 1;
            let id = format!("{:032x}", books.made);
            let record = (text("name"), text("content"));
            let answer = ok(shown(&id, &record));
            books.records.insert(id, record);
            answer
        }
        ("DELETE", [id]) if books.records.remove(*id).is_some() => ok(json!({ "id": id })),
        _ => refuse(StatusCode::NOT_FOUND, 81044, "Record does not exist."),
    }
}

fn ok(result: Value) -> Response {
    axum::Json(json!({ "success": true, "errors": [], "messages": [], "result": result }))
        .into_response()
}

fn refuse(status: StatusCode, code: u32, message: &str) -> Response {
    let errors = json!([{ "code": code, "message": message }]);
    let body = json!({ "success": false, "errors": errors, "messages": [], "result": null });
    (status, axum::Json(body)).into_response()
}
