//! From the browser through the tunnel: the request is checked here, carried
//! to the agent, and its answer handed on as it comes.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use katachi_protocol::NDJSON;
use katachi_protocol::agent::AgentStatus;
use katachi_protocol::problem::Problem;
use katachi_protocol::record::{Denials, History};
use katachi_protocol::routes::tunnel;
use katachi_protocol::run::{MessageRequest, RunRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::App;
use super::accounts::Session;
use super::extract::{JsonBody, QueryOf};
use crate::failure::Failure;
use crate::records::agents;

/// Largest answer that is not a stream, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// `POST /api/agents/{id}/run`.
pub(super) async fn run(
    State(app): State<App>,
    session: Session,
    Path(id): Path<String>,
    JsonBody(request): JsonBody<RunRequest>,
) -> Result<Response, Failure> {
    let bytes: usize = request.argv.iter().map(String::len).sum();
    if request.argv.first().is_none_or(String::is_empty) {
        return Err(Failure::BadRequest("`argv` names no program".to_owned()));
    }
    if request.argv.len() > RunRequest::MAX_ARGS || bytes > RunRequest::MAX_BYTES {
        return Err(Failure::TooLarge);
    }
    if request.argv.iter().any(|word| word.contains('\0')) {
        return Err(Failure::BadRequest("`argv` has a zero byte".to_owned()));
    }
    stream(&app, &session, &id, tunnel::RUN, &request).await
}

/// `POST /api/agents/{id}/message`.
pub(super) async fn message(
    State(app): State<App>,
    session: Session,
    Path(id): Path<String>,
    JsonBody(request): JsonBody<MessageRequest>,
) -> Result<Response, Failure> {
    if request.text.trim().is_empty() {
        return Err(Failure::BadRequest("`text` is empty".to_owned()));
    }
    if request.text.len() > MessageRequest::MAX_BYTES {
        return Err(Failure::TooLarge);
    }
    stream(&app, &session, &id, tunnel::MESSAGE, &request).await
}

/// `GET /api/agents/{id}/status`.
pub(super) async fn status(
    State(app): State<App>,
    session: Session,
    Path(id): Path<String>,
) -> Result<Json<AgentStatus>, Failure> {
    fetch(&app, &session, &id, tunnel::STATUS.to_owned()).await
}

/// `GET /api/agents/{id}/denials`.
pub(super) async fn denials(
    State(app): State<App>,
    session: Session,
    Path(id): Path<String>,
) -> Result<Json<Denials>, Failure> {
    fetch(&app, &session, &id, tunnel::DENIALS.to_owned()).await
}

/// What to search for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Search {
    #[serde(default)]
    q: String,
}

/// `GET /api/agents/{id}/history?q=`.
pub(super) async fn history(
    State(app): State<App>,
    session: Session,
    Path(id): Path<String>,
    QueryOf(search): QueryOf<Search>,
) -> Result<Json<History>, Failure> {
    if search.q.len() > 1024 {
        return Err(Failure::TooLarge);
    }
    let target = format!("{}?q={}", tunnel::HISTORY, percent_encode(&search.q));
    fetch(&app, &session, &id, target).await
}

async fn stream(
    app: &App,
    session: &Session,
    id: &str,
    target: &str,
    body: &impl Serialize,
) -> Result<Response, Failure> {
    require_owner(app, session, id).await?;
    let body = serde_json::to_vec(body).map_err(Failure::internal)?;
    let request = build(Method::POST, target, body)?;
    let answer = app.tunnels.ask(id, request).await?;
    if answer.status() != StatusCode::OK {
        return refused(answer).await;
    }
    let mut response = Response::new(answer.into_body());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(response)
}

async fn fetch<T: DeserializeOwned>(
    app: &App,
    session: &Session,
    id: &str,
    target: String,
) -> Result<Json<T>, Failure> {
    require_owner(app, session, id).await?;
    let answer = app
        .tunnels
        .ask(id, build(Method::GET, &target, Vec::new())?)
        .await?;
    let status = answer.status();
    let whole = tokio::time::timeout(app.limits.answer, collect(answer.into_body()));
    let body = whole.await.map_err(|_| Failure::AnswerLate)??;
    if status != StatusCode::OK {
        return match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if status.is_client_error() => Err(Failure::Agent(status, problem)),
            _ => Err(Failure::TunnelBroken),
        };
    }
    // Read and written anew, so that a page never shows what is not of this form.
    let value = serde_json::from_slice(&body).map_err(|_| Failure::TunnelBroken)?;
    Ok(Json(value))
}

/// The agent said no. Its reason is passed on if it is one.
pub(super) async fn refused(answer: Response<Body>) -> Result<Response, Failure> {
    let status = answer.status();
    let body = collect(answer.into_body()).await?;
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) if status.is_client_error() => Ok((status, Json(problem)).into_response()),
        _ => Err(Failure::TunnelBroken),
    }
}

async fn collect(body: Body) -> Result<Bytes, Failure> {
    let collected = Limited::new(body, MAX_ANSWER).collect().await;
    Ok(collected.map_err(|_| Failure::TunnelBroken)?.to_bytes())
}

fn build(method: Method, target: &str, body: Vec<u8>) -> Result<Request<Body>, Failure> {
    Request::builder()
        .method(method)
        // HTTP/2 wants an authority; the agent's router looks at the path only.
        .uri(format!("https://agent{target}"))
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json, application/x-ndjson")
        .body(Body::from(body))
        .map_err(Failure::internal)
}

pub(super) async fn require_owner(app: &App, session: &Session, id: &str) -> Result<(), Failure> {
    let (user, agent) = (session.user.id.clone(), id.to_owned());
    let owned = app
        .records
        .read(move |tx| agents::one(tx, &user, &agent))
        .await
        .map_err(Failure::internal)?;
    owned
        .map(drop)
        .ok_or(Failure::NotFound("there is no such agent in this account"))
}

fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut encoded, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
            encoded
        })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_search_cannot_leave_its_parameter() {
        assert_eq!(super::percent_encode("a b&c=d#é"), "a%20b%26c%3Dd%23%C3%A9");
    }
}
