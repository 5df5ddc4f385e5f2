//! Requests that another site made a browser send.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::ORIGIN;
use http::{HeaderMap, Method};
use katachi_auth::origin::{Provenance, check};
use tracing::info;

use super::App;
use crate::failure::Failure;

/// Lets only requests of our own pages pass. A program that plays the browser
/// sends the header `Origin` with the relay's public URL.
pub(super) async fn layer(State(app): State<App>, request: Request, next: Next) -> Response {
    if is_ours(&app, request.method(), request.headers()) {
        return next.run(request).await;
    }
    info!(
        path = request.uri().path(),
        "refused a request from another site"
    );
    Failure::Forbidden("this request came from another site").into_response()
}

fn is_ours(app: &App, method: &Method, headers: &HeaderMap) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let from = Provenance {
        sec_fetch_site: header("sec-fetch-site"),
        sec_fetch_mode: header("sec-fetch-mode"),
        sec_fetch_dest: header("sec-fetch-dest"),
        origin: header(ORIGIN.as_str()),
    };
    check(method.as_str(), &from, &[app.hosts.public().to_string()]).is_ok()
}
