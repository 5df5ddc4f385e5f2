//! Somebody who says yes at a provider.

use std::sync::Arc;

/// Somebody whom the provider does not remember: cookies of its own, and no TLS, as
/// everything is on loopback.
fn person() -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .cookie_store(true)
        .redirect(reqwest::redirect::Policy::none());
    client.build().unwrap()
}

/// Follows redirects until one leads back to a relay: its path and query.
pub(crate) async fn agree(url: &str) -> String {
    let person = person();
    let mut at: reqwest::Url = url.parse().unwrap();
    for _ in 0..10 {
        let answer = person.get(at.clone()).send().await.unwrap();
        let status = answer.status();
        let Some(to) = answer.headers().get("location") else {
            panic!("{status} at {at}: {}", answer.text().await.unwrap());
        };
        at = at.join(to.to_str().unwrap()).unwrap();
        if at.host_str() == Some("katachi.localhost") {
            return format!("{}?{}", at.path(), at.query().unwrap_or_default());
        }
    }
    panic!("redirected for ever");
}

/// The parameter of a path's query.
pub(crate) fn parameter(path: &str, name: &str) -> String {
    let query = path.split_once('?').unwrap().1;
    let prefix = format!("{name}=");
    let found = query.split('&').find_map(|pair| pair.strip_prefix(&prefix));
    found.unwrap().to_owned()
}
