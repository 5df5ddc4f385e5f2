//! What anyone may ask.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use katachi_auth::device::Metadata;
use katachi_auth::replay::AsyncReplayStore as _;
use katachi_protocol::agent::Epoch;
use katachi_protocol::routes;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::App;
use crate::failure::Failure;
use crate::records::store::values;

/// `GET /healthz`: the process lives.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the database answers.
pub(super) async fn ready(State(app): State<App>) -> Response {
    match app
        .records
        .read(|tx| {
            tx.query_one("SELECT count(*) FROM device_grants", values![], |row| {
                row.uint(0)
            })
        })
        .await
    {
        Ok(_) => "ready\n".into_response(),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the database does not answer\n",
        )
            .into_response(),
    }
}

/// `GET /.well-known/security.txt`, RFC 9116.
pub(super) async fn security_txt(State(app): State<App>) -> Result<Response, Failure> {
    // RFC 9116 section 2.5.5 recommends less than a year.
    let expires = (OffsetDateTime::now_utc() + Duration::days(180))
        .replace_nanosecond(0)
        .map_err(Failure::internal)?
        .format(&Rfc3339)
        .map_err(Failure::internal)?;
    let text = format!(
        "Contact: {}\nExpires: {expires}\nPreferred-Languages: en\nCanonical: {}{}\n",
        app.security_contact,
        app.hosts.public(),
        routes::SECURITY_TXT,
    );
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

/// `GET /.well-known/oauth-authorization-server`, RFC 8414.
pub(super) async fn metadata(State(app): State<App>) -> Json<Metadata> {
    let issuer = app.hosts.public().to_string();
    Json(Metadata::for_device_flow(
        &issuer,
        routes::DEVICE_AUTHORIZATION,
        routes::TOKEN,
    ))
}

/// `GET /v1/epoch`.
pub(super) async fn epoch(State(app): State<App>) -> Result<Json<Epoch>, Failure> {
    let epoch = app.replay.epoch().await.map_err(Failure::internal)?;
    Ok(Json(Epoch {
        epoch: epoch.to_string(),
    }))
}
