//! The outermost layer of every request: which host it is for, and the
//! headers that every answer carries.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tracing::info;

use crate::config::{PublicUrl, authority};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::http::{App, SCRIPT_SOURCES};

/// The host names a relay answers to.
#[derive(Debug)]
pub(crate) struct Hosts {
    public: PublicUrl,
    canonical: String,
    accepted: BTreeSet<String>,
}

impl Hosts {
    /// The public name, and on loopback the address that was bound.
    pub(crate) fn new(public: PublicUrl, bound: SocketAddr) -> Self {
        let canonical = public.authority();
        let mut accepted = BTreeSet::from([canonical.clone()]);
        if bound.ip().is_loopback() {
            for host in [crate::config::LOCAL_HOST, "localhost", "127.0.0.1"] {
                accepted.insert(authority(host, bound.port()));
            }
        }
        Self {
            public,
            canonical,
            accepted,
        }
    }

    /// Every name, as clients send it.
    pub(crate) fn accepted(&self) -> Vec<String> {
        self.accepted.iter().cloned().collect()
    }

    pub(crate) fn public(&self) -> &PublicUrl {
        &self.public
    }
}

/// Refuses requests for hosts that are not ours (DNS rebinding, and a session
/// on a name that other programs share), and sets the security headers.
pub(crate) async fn guard(
    State(hosts): State<Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Response {
    let is_page = is_page(&request);
    let is_asset = request.uri().path().starts_with("/assets/");
    let mut response = match check_host(&hosts, &request) {
        Ok(()) => next.run(request).await,
        Err(Wrong::Elsewhere) if is_page => redirect_to_canonical(&hosts, &request),
        Err(Wrong::Elsewhere | Wrong::Foreign) => Failure::Misdirected.into_response(),
        Err(Wrong::Malformed) => {
            Failure::BadRequest("the request names no host, or two".to_owned()).into_response()
        }
    };
    set_headers(response.headers_mut(), is_asset);
    response
}

/// Carries a request that may change something to its end, even if whoever sent it
/// goes away meanwhile. What follows a committed write must not hang on the peer's
/// patience: that the key of an agent that was removed is dropped, that the account's
/// log says so, that the relay's own log has its line.
pub(crate) async fn to_the_end(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    tokio::spawn(next.run(request))
        .await
        .unwrap_or_else(|error| {
            let mut response = Failure::internal(error).into_response();
            set_headers(response.headers_mut(), false);
            response
        })
}

/// Writes one line for each request: who, what and how it ended; no query,
/// no header and no body.
pub(crate) async fn log(State(app): State<App>, request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<Connection>();
    let mut line = Line {
        peer: connection.map(|connection| connection.peer.ip()),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        started: Instant::now(),
        status: None,
    };
    let response = next.run(request).await;
    app.metrics
        .answered(response.status(), line.started.elapsed());
    line.status = Some(response.status());
    response
}

/// The line of a request, written when it ends, however it does.
struct Line {
    peer: Option<IpAddr>,
    method: Method,
    path: String,
    started: Instant,
    /// None for a request that was given up before it had an answer.
    status: Option<StatusCode>,
}

impl Drop for Line {
    fn drop(&mut self) {
        info!(
            peer = self.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            method = %self.method,
            path = self.path.get(..self.path.len().min(256)).unwrap_or("?"),
            status = self.status.map(|status| status.as_u16()),
            abandoned = self.status.is_none().then_some(true),
            microseconds = self.started.elapsed().as_micros() as u64,
            "request"
        );
    }
}

enum Wrong {
    /// No host, two hosts, or not a host.
    Malformed,
    /// A name of ours, but not the one that sessions belong to.
    Elsewhere,
    /// Not ours.
    Foreign,
}

fn check_host(hosts: &Hosts, request: &Request) -> Result<(), Wrong> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let from_header = match (named.next(), named.next()) {
        (None, _) => None,
        (Some(host), None) => Some(host.to_str().map_err(|_| Wrong::Malformed)?),
        (Some(_), Some(_)) => return Err(Wrong::Malformed),
    };
    let from_target = request.uri().authority().map(Authority::as_str);
    let named = match (from_header, from_target) {
        (None, None) => return Err(Wrong::Malformed),
        (Some(one), None) | (None, Some(one)) => one,
        // RFC 9113 section 8.3.1: they must not differ.
        (Some(header), Some(target)) if header == target => header,
        (Some(_), Some(_)) => return Err(Wrong::Malformed),
    };
    let named = named.to_ascii_lowercase();
    if !hosts.accepted.contains(&named) {
        return Err(Wrong::Foreign);
    }
    // Sessions live on one name only. Agents and probes may use any of ours.
    let path = request.uri().path();
    let for_browsers =
        is_page(request) || path.starts_with("/api/") || path.starts_with("/signin/");
    if for_browsers && named != hosts.canonical {
        return Err(Wrong::Elsewhere);
    }
    Ok(())
}

fn is_page(request: &Request) -> bool {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    reads && matches!(request.uri().path(), "/" | "/device")
}

fn redirect_to_canonical(hosts: &Hosts, request: &Request) -> Response {
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let location = format!("{}{target}", hosts.public);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Scripts, styles and images of our own; no frames around us, no plug-ins,
/// and no way for a string to become a script.
static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src {}; style-src 'self'; img-src 'self'; \
         connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        *SCRIPT_SOURCES
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// No script runs that the page does not name the digest of.
const INTEGRITY_POLICY: &str = "blocked-destinations=(script)";

const PERMISSIONS_POLICY: &str = "accelerometer=(), camera=(), display-capture=(), \
    geolocation=(), gyroscope=(), microphone=(), midi=(), payment=(), usb=()";

fn set_headers(headers: &mut HeaderMap, cacheable: bool) {
    let fixed: [(HeaderName, &'static str); 8] = [
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
        (
            HeaderName::from_static("integrity-policy"),
            INTEGRITY_POLICY,
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            PERMISSIONS_POLICY,
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        CONTENT_SECURITY_POLICY.clone(),
    );
    if !cacheable {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

#[cfg(test)]
mod tests {
    use super::{Hosts, Wrong, check_host};
    use axum::body::Body;
    use axum::extract::Request;

    fn verdict(path: &str, hosts_named: &[&str]) -> &'static str {
        let hosts = Hosts::new(
            "https://katachi.localhost:8443".parse().unwrap(),
            "127.0.0.1:8443".parse().unwrap(),
        );
        let mut request = Request::get(path);
        for host in hosts_named {
            request = request.header("host", *host);
        }
        match check_host(&hosts, &request.body(Body::empty()).unwrap()) {
            Ok(()) => "ok",
            Err(Wrong::Malformed) => "malformed",
            Err(Wrong::Elsewhere) => "elsewhere",
            Err(Wrong::Foreign) => "foreign",
        }
    }

    #[test]
    fn sessions_live_on_the_canonical_name_only() {
        assert_eq!(verdict("/api/me", &["katachi.localhost:8443"]), "ok");
        assert_eq!(verdict("/api/me", &["Katachi.Localhost:8443"]), "ok");
        assert_eq!(verdict("/api/me", &["localhost:8443"]), "elsewhere");
        assert_eq!(verdict("/v1/epoch", &["127.0.0.1:8443"]), "ok");
    }

    #[test]
    fn other_names_other_ports_and_two_names_are_refused() {
        assert_eq!(verdict("/v1/epoch", &["attacker.example"]), "foreign");
        assert_eq!(verdict("/v1/epoch", &["katachi.localhost:8444"]), "foreign");
        assert_eq!(
            verdict("/v1/epoch", &["katachi.localhost:8443."]),
            "foreign"
        );
        assert_eq!(verdict("/v1/epoch", &[]), "malformed");
        assert_eq!(
            verdict("/v1/epoch", &["localhost:8443", "localhost:8443"]),
            "malformed"
        );
        assert_eq!(
            verdict("https://localhost:8443/v1/epoch", &["127.0.0.1:8443"]),
            "malformed"
        );
        assert_eq!(
            verdict("https://localhost:8443/v1/epoch", &["localhost:8443"]),
            "ok"
        );
    }
}
