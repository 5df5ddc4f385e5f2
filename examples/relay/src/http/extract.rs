//! Bodies and queries, read once, within bounds, into types.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Extensions, HeaderMap};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::App;
use crate::connection::Connection;
use crate::failure::Failure;

/// A JSON body.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

/// The query of the URL.
#[derive(Debug)]
pub(super) struct QueryOf<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        require_type(request.headers(), "application/json")?;
        let (head, body) = request.into_parts();
        let body = read(app, &head.extensions, body, app.limits.body_bytes).await?;
        let value = serde_json::from_slice(&body).map_err(|error| {
            Failure::BadRequest(format!("the body is not what this path takes: {error}"))
        })?;
        Ok(Self(value))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => Err(Failure::BadRequest(error.body_text())),
        }
    }
}

/// The part of the path that the caller fills in: an identifier, or a name.
#[derive(Debug)]
pub(super) struct PathPart(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathPart {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let wrong = || Failure::BadRequest("no name or identifier has such characters".to_owned());
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| wrong())?;
        // Nothing here is named so, and a database may not take a zero byte.
        match text.chars().any(char::is_control) {
            true => Err(wrong()),
            false => Ok(Self(text)),
        }
    }
}

/// Refuses a body of another type.
pub(super) fn require_type(headers: &HeaderMap, expected: &str) -> Result<(), Failure> {
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(expected) {
        Ok(())
    } else {
        Err(Failure::UnsupportedMediaType)
    }
}

/// Reads a whole body of at most `limit` bytes, as long as it comes in time and its
/// connection has room for it beside the others that are read.
pub(super) async fn read(
    app: &App,
    extensions: &Extensions,
    body: Body,
    limit: usize,
) -> Result<Bytes, Failure> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Failure::TooLarge);
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let room = extensions
        .get::<Connection>()
        .map(|c| Arc::clone(&c.bodies));
    let collect = async {
        let most = body.size_hint().upper().unwrap_or(limit as u64);
        let most = u32::try_from(most.min(limit as u64)).unwrap_or(u32::MAX);
        // Held until the body is there; nobody closes it.
        let _room = match &room {
            Some(room) => room.acquire_many(most).await.ok(),
            None => None,
        };
        Limited::new(body, limit).collect().await
    };
    match tokio::time::timeout(app.limits.body, collect).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::TooLarge),
        Ok(Err(_)) => Err(Failure::BadRequest("the body broke off".to_owned())),
        Err(_) => Err(Failure::Slow),
    }
}
