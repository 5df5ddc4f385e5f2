//! How the relay is believed to be the relay.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls_platform_verifier::BuilderVerifierExt as _;

/// A relay's address and whom to believe about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Endpoint {
    /// `https://host[:port]`, no trailing slash.
    pub(crate) url: String,
    /// The certificate authority of a relay that made its own, PEM. Where it
    /// is absent the platform decides.
    pub(crate) ca_pem: Option<String>,
}

impl Endpoint {
    /// Host and port as requests name them.
    pub(crate) fn authority(&self) -> &str {
        self.url.strip_prefix("https://").unwrap_or(&self.url)
    }

    /// Host without the port.
    pub(crate) fn host(&self) -> String {
        self.authority()
            .parse::<http::uri::Authority>()
            .map_or_else(|_| self.authority().to_owned(), |a| a.host().to_owned())
    }

    /// The name that the certificate must hold.
    ///
    /// # Errors
    ///
    /// Returns an error if the host is neither a DNS name nor an address.
    pub(crate) fn server_name(&self) -> anyhow::Result<ServerName<'static>> {
        let host = self.host();
        let bare = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        ServerName::try_from(bare).with_context(|| format!("`{host}` is not a host name"))
    }

    /// Where to connect to.
    ///
    /// Names below `localhost` are this machine (RFC 6761, section 6.3),
    /// whatever a resolver says.
    ///
    /// # Errors
    ///
    /// Returns an error if the name does not resolve.
    pub(crate) async fn addresses(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let authority: http::uri::Authority = self.authority().parse()?;
        let port = authority.port_u16().unwrap_or(443);
        if is_local_name(authority.host()) {
            return Ok(vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)]);
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let found: Vec<_> = tokio::net::lookup_host((host, port))
            .await
            .with_context(|| format!("cannot find the relay {host}"))?
            .collect();
        match found.is_empty() {
            true => bail!("cannot find the relay {host}: the name has no address"),
            false => Ok(found),
        }
    }

    /// TLS 1.3 and nothing older, through ring, against our roots.
    ///
    /// # Errors
    ///
    /// Returns an error if the certificate authority is not PEM or the
    /// platform has no verifier.
    pub(crate) fn tls(&self) -> anyhow::Result<ClientConfig> {
        self.tls_with(&[&rustls::version::TLS13])
    }

    /// The same with other versions, to see whether a relay accepts them.
    ///
    /// # Errors
    ///
    /// As for [`Endpoint::tls`].
    pub(crate) fn tls_with(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> anyhow::Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
        let config = match &self.ca_pem {
            None => builder.with_platform_verifier()?.with_no_client_auth(),
            Some(pem) => {
                let mut roots = rustls::RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    roots.add(certificate.context("the relay's certificate authority")?)?;
                }
                if roots.is_empty() {
                    bail!("the file for the relay's certificate authority holds no certificate");
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
        };
        Ok(config)
    }

    /// An HTTP client that speaks to this relay alone and follows no redirect.
    ///
    /// # Errors
    ///
    /// Returns an error if the TLS configuration is refused.
    pub(crate) fn http(&self) -> anyhow::Result<reqwest::ClientBuilder> {
        let mut builder = client(self.tls()?);
        let host = self.host();
        if is_local_name(&host) {
            // Port 0 keeps the port of the URL.
            builder = builder.resolve(&host, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        }
        Ok(builder)
    }
}

/// An HTTP client that follows no redirect, for servers with certificates that
/// this machine trusts.
///
/// # Errors
///
/// Returns an error if the platform has no verifier.
pub(crate) fn public_http() -> anyhow::Result<reqwest::ClientBuilder> {
    let anywhere = Endpoint {
        url: String::new(),
        ca_pem: None,
    };
    Ok(client(anywhere.tls_with(rustls::DEFAULT_VERSIONS)?))
}

fn client(tls: ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .https_only(true)
        .connect_timeout(std::time::Duration::from_secs(10))
        .user_agent(concat!("katachi-agent/", env!("CARGO_PKG_VERSION")))
}

fn is_local_name(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint {
            url: url.into(),
            ca_pem: None,
        }
    }

    #[test]
    fn hosts_are_told_from_ports() {
        assert_eq!(endpoint("https://a.example:1").host(), "a.example");
        assert_eq!(endpoint("https://a.example").authority(), "a.example");
        assert!(endpoint("https://[::1]:2").server_name().is_ok());
    }

    #[tokio::test]
    async fn names_below_localhost_are_this_machine() {
        let found = endpoint("https://katachi.localhost:7")
            .addresses()
            .await
            .unwrap();
        assert_eq!(found, ["127.0.0.1:7".parse().unwrap()]);
        assert!(!is_local_name("localhost.evil.example"));
        assert!(!is_local_name("evillocalhost"));
    }

    #[test]
    fn a_file_without_a_certificate_is_refused() {
        let endpoint = Endpoint {
            url: "https://a".into(),
            ca_pem: Some("nothing here".into()),
        };
        let message = endpoint.tls().unwrap_err().to_string();
        assert!(message.contains("no certificate"), "{message}");
    }
}
