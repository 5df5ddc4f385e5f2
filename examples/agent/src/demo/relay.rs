//! Chapter 1: the relay, over TLS 1.3, with strict headers.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use katachi_protocol::routes;
use rustls::ProtocolVersion;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Story;
use super::browser::Browser;
use super::sign_in;
use crate::config::KeychainUse;
use crate::relay_process::{More, RelayProcess};

/// Whom mail of the relay is from.
const MAIL_FROM: &str = "relay@katachi.example";

pub(super) async fn start(story: &mut Story) -> anyhow::Result<()> {
    let state = story.config.paths.embedded_relay();
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let provider = sign_in::provider().await?;
    let (spec, secret) = provider.registration(sign_in::PROVIDER);
    let mail = state.join(sign_in::MAIL).display().to_string();
    let more = More {
        options: [
            "--provider",
            &spec,
            "--mail-from",
            MAIL_FROM,
            "--mail-dir",
            &mail,
        ]
        .map(str::to_owned)
        .to_vec(),
        variables: vec![secret],
    };
    // Its vault goes with the temporary home; nothing is left in a keychain.
    let relay = RelayProcess::start_with(listen, &state, KeychainUse::Off, more).await?;
    let endpoint = relay.endpoint().clone();
    story.progress.good(format_args!(
        "process {} listens on {}",
        relay.id().unwrap_or_default(),
        endpoint.url
    ));

    let version = handshake(&endpoint, &[&rustls::version::TLS13])
        .await
        .context("a TLS 1.3 handshake")?;
    let older = handshake(&endpoint, &[&rustls::version::TLS12]).await;
    let only_new = version == ProtocolVersion::TLSv1_3 && older.is_err();
    let stranger = crate::relay_client::Endpoint {
        ca_pem: Some(other_authority()?),
        ..endpoint.clone()
    };
    let distrusted = handshake(&stranger, &[&rustls::version::TLS13])
        .await
        .is_err();
    story.ledger.check(
        3,
        only_new && distrusted,
        "a TLS 1.3 handshake succeeded, one limited to TLS 1.2 and one that trusts another authority were refused",
    );
    story.progress.good("TLS 1.3 only");

    let browser = Browser::new(&endpoint)?;
    let page = browser.page(routes::CONSOLE).await?;
    if !page.status().is_success() {
        bail!("the console answered {}", page.status());
    }
    let header = |name: &str| {
        page.headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let transport = header("strict-transport-security");
    let content = header("content-security-policy");
    let strict = transport.contains("max-age=")
        && content.contains("default-src 'none'")
        && content.contains("frame-ancestors 'none'")
        && !content.contains("unsafe-")
        && header("x-content-type-options") == "nosniff"
        && header("referrer-policy") == "no-referrer";
    story.ledger.check(
        3,
        strict,
        format!("HSTS `{transport}`, a content policy without exceptions, nosniff, no-referrer"),
    );
    story.progress.good(format_args!("HSTS: {transport}"));

    let security = browser.page(routes::SECURITY_TXT).await?;
    let served = security.status().is_success();
    let text = security.text().await.unwrap_or_default();
    story.ledger.check(
        16,
        served && text.contains("Contact:") && text.contains("Expires:"),
        "security.txt (RFC 9116) is served with a contact and an expiry",
    );
    story
        .ledger
        .unwitnessed(16, "how fast people answer cannot be shown by a program");
    story.browser = Some(Arc::new(browser));
    story.provider = Some(provider);
    story.relay = Some(relay);
    Ok(())
}

/// Shakes hands with the given versions and says which was agreed on.
async fn handshake(
    endpoint: &crate::relay_client::Endpoint,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> anyhow::Result<ProtocolVersion> {
    let mut config = endpoint.tls_with(versions)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let addresses = endpoint.addresses().await?;
    let tcp = TcpStream::connect(&addresses[..]).await?;
    let mut tls = TlsConnector::from(Arc::new(config))
        .connect(endpoint.server_name()?, tcp)
        .await?;
    let version = tls.get_ref().1.protocol_version();
    // A refusal of our version may only arrive with the first answer.
    tokio::io::AsyncWriteExt::shutdown(&mut tls).await?;
    version.context("no version was agreed on")
}

/// A certificate authority that has nothing to do with the relay.
fn other_authority() -> anyhow::Result<String> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    Ok(params.self_signed(&key)?.pem())
}
