//! Numbers for Prometheus, on a listener of their own that only this machine
//! reaches.
//!
//! They count and name nobody: no account, agent, address or path is among them.

use std::fmt::Write as _;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::http::App;

/// Media type of the text format, version 0.0.4.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The classes of status that are counted.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What is counted while the relay runs.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: [AtomicU64; CLASSES.len()],
    microseconds: AtomicU64,
    channels: AtomicU64,
    opened: AtomicU64,
}

/// An open channel, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Open(App);

impl Metrics {
    /// Counts an answered request.
    pub(crate) fn answered(&self, status: StatusCode, took: Duration) {
        // A status has three digits; those from 600 on are ours to no one.
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[class].fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// The text format; `tunnels` of them are open.
    fn render(&self, tunnels: usize) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, lines: &[(&str, String)]| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed).to_string();
        let labels = CLASSES.map(|class| format!("{{status=\"{class}\"}}"));
        let requests: Vec<_> = labels
            .iter()
            .zip(&self.requests)
            .map(|(label, count)| (label.as_str(), read(count)))
            .collect();
        let (name, help) = ("requests_total", "Requests answered, by class of status.");
        family(&named(name), "counter", help, &requests);
        let seconds = Duration::from_micros(self.microseconds.load(Ordering::Relaxed));
        let (name, help) = (
            "request_seconds_total",
            "Time until the heads of all answers.",
        );
        let seconds = seconds.as_secs_f64().to_string();
        family(&named(name), "counter", help, &[("", seconds)]);
        let (name, help) = ("channels_opened_total", "Channels opened by browsers.");
        family(&named(name), "counter", help, &[("", read(&self.opened))]);
        let (name, help) = ("channels", "Channels open now.");
        family(&named(name), "gauge", help, &[("", read(&self.channels))]);
        let (name, help) = ("tunnels", "Agents connected now.");
        family(&named(name), "gauge", help, &[("", tunnels.to_string())]);
        text
    }
}

fn named(name: &str) -> String {
    format!("katachi_relay_{name}")
}

impl Open {
    /// Counts a channel of `app` as open.
    pub(crate) fn count(app: &App) -> Self {
        app.metrics.opened.fetch_add(1, Ordering::Relaxed);
        app.metrics.channels.fetch_add(1, Ordering::Relaxed);
        Self(app.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.channels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves `GET /metrics` until `stop` ends.
pub(crate) async fn serve(
    listener: TcpListener,
    app: App,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .with_state(app);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop);
    if let Err(error) = serving.await {
        tracing::error!(%error, "metrics are not served any more");
    }
}

async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response {
    // A page of some site may have its own name point here.
    if !is_asked_by_address(&headers) {
        return StatusCode::MISDIRECTED_REQUEST.into_response();
    }
    let text = app.metrics.render(app.tunnels.count());
    ([(header::CONTENT_TYPE, FORMAT)], text).into_response()
}

fn is_asked_by_address(headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let Some(Ok(authority)) = host.map(str::parse::<Authority>) else {
        return false;
    };
    let host = authority.host().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_name_with_a_number() {
        let metrics = Metrics::default();
        metrics.answered(StatusCode::NOT_FOUND, Duration::from_millis(1500));
        let text = metrics.render(3);
        for line in text.lines().filter(|line| !line.starts_with("# ")) {
            let (name, value) = line.split_once(' ').unwrap();
            assert!(name.starts_with("katachi_relay_"), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
        for line in [
            "katachi_relay_requests_total{status=\"4xx\"} 1",
            "katachi_relay_request_seconds_total 1.5",
            "katachi_relay_tunnels 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }

    #[test]
    fn a_name_that_points_here_is_not_ours() {
        let asked = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            is_asked_by_address(&headers)
        };
        for host in ["127.0.0.1:9464", "[::1]:9464", "localhost"] {
            assert!(asked(host), "{host}");
        }
        for host in [
            "attacker.example",
            "127.0.0.1.attacker.example",
            "10.0.0.1",
            "",
        ] {
            assert!(!asked(host), "{host}");
        }
    }
}
