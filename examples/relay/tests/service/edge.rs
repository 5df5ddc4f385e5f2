//! What every answer has, which hosts are ours, and what is not even a
//! request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::agent::{connect, try_connect};
use crate::relay::{TestRelay, headers};

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let relay = TestRelay::start().await;
    let browser = relay.browser();
    for path in [
        "/",
        "/device",
        "/assets/console.js",
        "/healthz",
        "/api/me",
        "/nothing/here",
        "/v1/epoch",
        "/v1/agent/mcp",
    ] {
        let answer = browser.get(path).await;
        let header = |name: &str| {
            answer
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap())
                .unwrap_or_default()
        };
        assert_eq!(
            header("strict-transport-security"),
            "max-age=31536000",
            "{path}"
        );
        let policy = header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}"
        );
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(
            header("cross-origin-opener-policy"),
            "same-origin",
            "{path}"
        );
        let cache = if path.starts_with("/assets/") {
            "no-cache"
        } else {
            "no-store"
        };
        assert_eq!(header("cache-control"), cache, "{path}");
    }
}

#[tokio::test]
async fn the_console_is_served_and_asked_for_once() {
    let relay = TestRelay::start().await;
    let browser = relay.browser();
    let page = browser.get("/").await;
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert!(page.text().await.unwrap().contains("/assets/console.js"));
    let script = browser.get("/assets/console.js").await;
    assert_eq!(
        script.headers()["content-type"],
        "text/javascript; charset=utf-8"
    );
    let tag = script.headers()["etag"].to_str().unwrap().to_owned();
    let again = browser
        .raw(
            Method::GET,
            "/assets/console.js",
            headers(&[("if-none-match", &tag)]),
            "",
        )
        .await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    for path in [
        "/assets/../src/main.rs",
        "/assets/%2e%2e/main.rs",
        "/assets/",
        "/assets/secret",
    ] {
        assert_eq!(
            browser.get(path).await.status(),
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
}

#[tokio::test]
async fn security_txt_says_whom_to_tell_and_is_not_stale() {
    let relay = TestRelay::start().await;
    let text = relay
        .browser()
        .get("/.well-known/security.txt")
        .await
        .text()
        .await
        .unwrap();
    assert!(text.starts_with("Contact: https://"));
    let expires = text
        .lines()
        .find_map(|line| line.strip_prefix("Expires: "))
        .unwrap();
    let now = time::OffsetDateTime::now_utc();
    let expires =
        time::OffsetDateTime::parse(expires, &time::format_description::well_known::Rfc3339)
            .unwrap();
    assert!(expires > now && expires < now + time::Duration::days(366));
    assert!(text.contains(&format!(
        "Canonical: {}/.well-known/security.txt",
        relay.url
    )));
}

#[tokio::test]
async fn a_host_that_is_not_ours_is_misdirected() {
    let relay = TestRelay::start().await;
    let port = relay.address.port();
    for (host, path, expected) in [
        ("attacker.example".to_owned(), "/v1/epoch", "421"),
        (format!("attacker.example:{port}"), "/", "421"),
        (
            format!("katachi.localhost:{}", port.wrapping_add(1)),
            "/api/me",
            "421",
        ),
        (format!("localhost:{port}"), "/api/me", "421"),
        (format!("localhost:{port}"), "/", "308"),
        (format!("127.0.0.1:{port}"), "/v1/epoch", "200"),
        (format!("katachi.localhost:{port}"), "/api/me", "401"),
    ] {
        let answer = exchange(
            &relay,
            &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        )
        .await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected}")),
            "{host}{path}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_request_with_two_hosts_or_none_is_refused() {
    let relay = TestRelay::start().await;
    let host = format!("katachi.localhost:{}", relay.address.port());
    for request in [
        "GET /v1/epoch HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(),
        format!(
            "GET /v1/epoch HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ),
        format!(
            "GET https://127.0.0.1:{}/v1/epoch HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n",
            relay.address.port()
        ),
    ] {
        let answer = exchange(&relay, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{request}: {answer}");
    }
}

#[tokio::test]
async fn http_1_and_http_2_are_both_served() {
    let relay = TestRelay::start().await;
    let answer = relay.browser().get("/healthz").await;
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    let host = format!("katachi.localhost:{}", relay.address.port());
    let answer = exchange(
        &relay,
        &format!("GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ready\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let relay = TestRelay::start().await;
    let modern = relay.tls(&[]);
    let mut roots = rustls::RootCertStore::empty();
    use rustls_pki_types::pem::PemObject as _;
    roots
        .add(rustls_pki_types::CertificateDer::from_pem_file(&relay.authority).unwrap())
        .unwrap();
    let old = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS12])
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    for (config, accepted) in [(modern, true), (old, false)] {
        let stream = TcpStream::connect(relay.address).await.unwrap();
        let name = ServerName::try_from("katachi.localhost").unwrap();
        let connected = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await;
        assert_eq!(connected.is_ok(), accepted, "{connected:?}");
    }
}

#[tokio::test]
async fn plain_text_and_noise_get_no_answer() {
    let relay = TestRelay::start().await;
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[0xff; 600], &[]] {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP/"));
    }
    assert_eq!(
        relay.browser().get("/healthz").await.status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_peer_that_dribbles_is_dropped_and_nobody_waits_for_it() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| {
        config.limits.handshake = Duration::from_millis(1500);
        config.limits.headers = Duration::from_millis(1500);
        config.limits.body = Duration::from_millis(1500);
        // Nobody is asked whether it is there: that is another end.
        config.limits.keep_alive = Duration::from_secs(3600);
    })
    .await;
    // Stalls in the handshake, in the headers, and before the first request.
    let mut silent = TcpStream::connect(relay.address).await.unwrap();
    let mut idle = connect(&relay).await;
    let mut dribbling = connect(&relay).await;
    dribbling.write_all(b"GET / HTT").await.unwrap();
    // After one request, within the next.
    let mut second = connect(&relay).await;
    let host = format!("katachi.localhost:{}", relay.address.port());
    let whole = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\nGET / HTT");
    second.write_all(whole.as_bytes()).await.unwrap();
    // In the other version, before the first request.
    let tls = TlsConnector::from(Arc::new(relay.tls(&[b"h2"])));
    let stream = TcpStream::connect(relay.address).await.unwrap();
    let name = ServerName::try_from("katachi.localhost").unwrap();
    let mut unsaid = tls.connect(name, stream).await.unwrap();
    unsaid
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    assert_eq!(
        relay.browser().get("/healthz").await.status(),
        StatusCode::OK
    );
    let mut rest = Vec::new();
    let ended = async {
        let _ = silent.read_to_end(&mut rest).await;
        let _ = idle.read_to_end(&mut rest).await;
        let _ = dribbling.read_to_end(&mut rest).await;
        let _ = second.read_to_end(&mut rest).await;
        let _ = unsaid.read_to_end(&mut rest).await;
    };
    let ended = tokio::time::timeout(Duration::from_secs(30), ended).await;
    assert!(ended.is_ok(), "one of them goes on");

    // Stalls in the body.
    let host = format!("katachi.localhost:{}", relay.address.port());
    let request = format!(
        "POST /api/login HTTP/1.1\r\nHost: {host}\r\nOrigin: {}\r\nContent-Type: application/json\r\n\
         Content-Length: 40\r\nConnection: close\r\n\r\n{{\"email\"",
        relay.url
    );
    let answer = exchange(&relay, &request).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn one_address_has_only_so_many_connections() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay =
        TestRelay::start_with(state, |config| config.limits.connections_per_address = 2).await;
    let first = connect(&relay).await;
    let _second = connect(&relay).await;
    let mut third = TcpStream::connect(relay.address).await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(5), third.read_to_end(&mut answer)).await;
    assert!(closed.is_ok() && answer.is_empty());
    drop(first);
    // The relay notices in its own time that a place became free.
    assert!(let_in_within(&relay, Duration::from_secs(5)).await);
}

async fn let_in_within(relay: &TestRelay, patience: Duration) -> bool {
    let started = Instant::now();
    while started.elapsed() < patience {
        if try_connect(relay).await.is_some() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// Whether the relay lets somebody in whose address has one place alone, which is held
/// by a client that asks for megabytes and reads none of them.
async fn lets_in_beside_who_does_not_read(write: Duration) -> bool {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let relay = TestRelay::start_with(state, |config| {
        config.limits.connections_per_address = 1;
        config.limits.write = write;
    })
    .await;
    let mut deaf = connect(&relay).await;
    let port = relay.address.port();
    let ask = format!("GET /assets/noise.js HTTP/1.1\r\nHost: katachi.localhost:{port}\r\n\r\n");
    // More than all buffers on the way hold.
    let all = ask.repeat(1500);
    let asked = tokio::spawn(async move {
        let _ = deaf.write_all(all.as_bytes()).await;
        std::future::pending::<()>().await;
        drop(deaf);
    });
    let let_in = let_in_within(&relay, Duration::from_secs(4)).await;
    asked.abort();
    let_in
}

#[tokio::test]
async fn a_client_that_reads_nothing_loses_its_connection() {
    let (ended, control) = tokio::join!(
        lets_in_beside_who_does_not_read(Duration::from_millis(500)),
        lets_in_beside_who_does_not_read(Duration::from_secs(600)),
    );
    assert!(ended, "it holds its connection");
    assert!(!control, "the relay ended it for another reason");
}

#[tokio::test]
async fn malformed_and_oversized_bodies_have_their_own_status() {
    let relay = TestRelay::start().await;
    let browser = relay.browser();
    let json = [
        ("origin", relay.url.as_str()),
        ("content-type", "application/json"),
    ];
    let big = format!(
        "{{\"email\":\"a@b.c\",\"password\":\"{}\"}}",
        "x".repeat(400 * 1024)
    );
    for (body, expected) in [
        (String::new(), 400),
        ("{".to_owned(), 400),
        ("[]".to_owned(), 400),
        ("{\"email\":\"a@b.c\"}".to_owned(), 400),
        (
            "{\"email\":\"a@b.c\",\"password\":\"x\",\"admin\":true}".to_owned(),
            400,
        ),
        (
            format!(
                "{{\"email\":\"a@b.c\",\"password\":\"{}\"}}",
                "x".repeat(2000)
            ),
            413,
        ),
        (big, 413),
        ("[".repeat(100_000), 400),
    ] {
        let shown = body.get(..40).unwrap_or(&body).to_owned();
        let answer = browser
            .raw(Method::POST, "/api/login", headers(&json), body)
            .await;
        assert_eq!(answer.status().as_u16(), expected, "{shown}");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert!(problem["message"].is_string());
    }
    let text = [
        ("origin", relay.url.as_str()),
        ("content-type", "text/plain"),
    ];
    let answer = browser
        .raw(Method::POST, "/api/login", headers(&text), "{}")
        .await;
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let answer = browser
        .raw(Method::PUT, "/api/login", headers(&json), "{}")
        .await;
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(answer.json::<serde_json::Value>().await.unwrap()["message"].is_string());
}

#[tokio::test]
async fn headers_without_end_are_cut_off() {
    let relay = TestRelay::start().await;
    let host = format!("katachi.localhost:{}", relay.address.port());
    let many = (0..1000)
        .map(|n| format!("X-{n}: y\r\n"))
        .collect::<String>();
    let long = |kibibytes: usize| format!("X-Long: {}\r\n", "y".repeat(kibibytes * 1024));
    let request = |extra: &str| {
        format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{extra}\r\n")
    };
    let answer = exchange(&relay, &request(&long(15))).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for extra in [many, long(17), long(30), long(63), long(200)] {
        let answer = exchange(&relay, &request(&extra)).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
            "{answer}"
        );
    }
}

/// Sends bytes, and reads what comes back until the relay closes or is silent
/// for five seconds.
async fn exchange(relay: &TestRelay, request: &str) -> String {
    let mut stream = connect(relay).await;
    // The relay may close before all was sent.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(read)) =
        tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await
    {
        if read == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}
