//! Reaching an agent by its public name.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::replay::{Epoch, Nonce};
use katachi_auth::signature::{Freshness, RequestView, Signer};
use katachi_protocol::routes::tunnel::ORIGIN;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::Cloudflare;
use crate::carrier::{ByteStream, bounds};

/// Time from the first packet to the open tunnel.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cloudflare {
    /// Opens a tunnel to the agent behind `hostname`, signed for the `epoch` of its
    /// replay memory.
    ///
    /// # Errors
    ///
    /// Returns why it does not open, for the log.
    pub(crate) async fn dial(
        &self,
        hostname: &str,
        signer: &Signer,
        epoch: Epoch,
    ) -> Result<impl Read + Write + Send + Unpin + 'static, String> {
        tokio::time::timeout(PATIENCE, self.open(hostname, signer, epoch))
            .await
            .map_err(|_| format!("no answer within {PATIENCE:?}"))?
    }

    async fn open(
        &self,
        hostname: &str,
        signer: &Signer,
        epoch: Epoch,
    ) -> Result<impl Read + Write + Send + Unpin + use<>, String> {
        let tcp = match self.edge {
            Some(edge) => TcpStream::connect(edge).await,
            None => TcpStream::connect((hostname, 443)).await,
        };
        let tcp = tcp.map_err(|error| format!("no connection: {error}"))?;
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(hostname.to_owned()).map_err(|error| error.to_string())?;
        let tls = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, tcp)
            .await
            .map_err(|error| format!("no trusted TLS connection: {error}"))?;

        let mut request = format!("wss://{hostname}{ORIGIN}")
            .into_client_request()
            .map_err(|error| error.to_string())?;
        let view = RequestView {
            method: "GET",
            authority: hostname,
            path: ORIGIN,
            query: None,
            headers: &[],
            body: &[],
        };
        let nonce = Nonce::random().map_err(|error| error.to_string())?;
        let freshness = Freshness::new(SystemClock.now(), nonce, epoch);
        let signed = signer
            .sign(&view, &freshness)
            .map_err(|error| error.to_string())?;
        signed.apply(request.headers_mut());
        let opened =
            tokio_tungstenite::client_async_with_config(request, tls, Some(bounds())).await;
        match opened {
            Ok((socket, _)) => Ok(TokioIo::new(ByteStream::new(socket))),
            Err(tungstenite::Error::Http(answer)) => {
                Err(format!("the answer was {}", answer.status()))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// TLS 1.3 for the names of agents, under `authority` or the web's.
pub(super) fn tls(authority: Option<&Path>) -> Result<ClientConfig, String> {
    let mut config = match authority {
        None => web()?,
        Some(path) => {
            let wrong = |why: String| format!("--cloudflare-ca {}: {why}", path.display());
            let mut roots = RootCertStore::empty();
            let found = CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))?;
            for certificate in found {
                let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
                roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("no certificate in it".to_owned()));
            }
            builder()?
                .with_root_certificates(roots)
                .with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// TLS 1.3 under the authorities of the system.
pub(super) fn web() -> Result<ClientConfig, String> {
    let builder = builder()?.with_platform_verifier();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.with_no_client_auth())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())
}
