//! Certificates from an ACME authority (RFC 8555), renewed before they end.
//!
//! The authority looks whether the public name leads here by a handshake on this
//! port (TLS-ALPN-01, RFC 8737), so no other port has to be open. The account's key
//! and the certificate with its key are sealed in the state directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use katachi_store::Vault;
use katachi_store::file::{SealedFile, SealedFileError};
use rustls::client::WebPkiServerVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_acme::acme::{ACME_TLS_ALPN_NAME, LETS_ENCRYPT_PRODUCTION_DIRECTORY};
use rustls_acme::{AccountCache, AcmeConfig, AcmeState, CertCache};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tracing::{info, warn};

use crate::tls::{TlsError, server_config};

/// How to ask for a certificate.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Acme {
    /// Where the authority writes to, for instance about certificates that end.
    pub contact: Option<String>,
    /// URL of the authority's directory; Let's Encrypt where absent.
    pub directory: Option<String>,
    /// PEM file with the authorities that the directory's own certificate is of;
    /// those of the system where absent.
    pub authority: Option<PathBuf>,
}

/// What the command line says of it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AcmeOptions {
    /// Ask an ACME authority for the certificate of the public URL, and renew it
    ///
    /// The authority has to reach this relay at port 443 of that name.
    #[arg(long, env = "KATACHI_RELAY_ACME", requires = "public_url", conflicts_with_all = ["tls_cert", "cluster"])]
    pub acme: bool,

    /// Where the authority may write to about the certificate
    #[arg(
        long,
        value_name = "EMAIL",
        env = "KATACHI_RELAY_ACME_CONTACT",
        requires = "acme"
    )]
    pub acme_contact: Option<String>,

    /// Directory of the authority [default: that of Let's Encrypt]
    #[arg(
        long,
        value_name = "URL",
        env = "KATACHI_RELAY_ACME_DIRECTORY",
        requires = "acme"
    )]
    pub acme_directory: Option<String>,

    /// Authorities of the directory's own certificate in PEM, for one of your own
    #[arg(
        long,
        value_name = "FILE",
        env = "KATACHI_RELAY_ACME_AUTHORITY",
        requires = "acme_directory"
    )]
    pub acme_authority: Option<PathBuf>,
}

impl AcmeOptions {
    pub(crate) fn source(&self) -> Option<Acme> {
        self.acme.then(|| Acme {
            contact: self.acme_contact.clone(),
            directory: self.acme_directory.clone(),
            authority: self.acme_authority.clone(),
        })
    }
}

/// Asks for certificates and renews them, as long as it is polled.
pub(crate) struct Renewal(AcmeState<SealedFileError, SealedFileError>);

impl std::fmt::Debug for Renewal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Renewal")
    }
}

impl Renewal {
    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        while let Some(event) = self.0.next().await {
            match event {
                Ok(event) => info!(?event, "certificate"),
                // It asks again by itself, after a while that doubles.
                Err(error) => warn!(%error, "no new certificate yet"),
            }
        }
    }
}

/// Prepares TLS for `host` as `acme` says. There is no certificate before the
/// renewal has run for a moment, unless one was kept.
pub(crate) fn prepare(
    acme: &Acme,
    host: &str,
    state_dir: &Path,
    vault: Vault,
) -> Result<(ServerConfig, Renewal), TlsError> {
    let directory = acme
        .directory
        .as_deref()
        .unwrap_or(LETS_ENCRYPT_PRODUCTION_DIRECTORY);
    let kept = Kept {
        dir: state_dir.join("acme"),
        vault,
    };
    std::fs::create_dir_all(&kept.dir).map_err(|error| TlsError::State {
        path: kept.dir.clone(),
        problem: error.to_string(),
    })?;
    let contact = acme
        .contact
        .iter()
        .map(|address| format!("mailto:{address}"));
    let state = AcmeConfig::new_with_client_config([host], client(acme.authority.as_deref())?)
        .directory(directory)
        .contact(contact)
        .cache(kept)
        .state();
    let mut config = server_config(|builder| Ok(builder.with_cert_resolver(state.resolver())))?;
    config.alpn_protocols.push(ACME_TLS_ALPN_NAME.to_vec());
    Ok((config, Renewal(state)))
}

/// Whether a connection was opened by the authority to look, and is over.
pub(crate) fn is_challenge(protocol: Option<&[u8]>) -> bool {
    protocol == Some(ACME_TLS_ALPN_NAME)
}

/// How the authority's directory is asked.
fn client(authority: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let Some(path) = authority else {
        return Ok(Arc::new(
            builder.with_platform_verifier()?.with_no_client_auth(),
        ));
    };
    let problem = |problem: String| TlsError::File {
        path: path.to_owned(),
        option: "acme-authority",
        problem,
    };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| problem(error.to_string()))?;
    roots.add_parsable_certificates(certificates);
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| problem(error.to_string()))?;
    Ok(Arc::new(
        builder.with_webpki_verifier(verifier).with_no_client_auth(),
    ))
}

/// What is kept between starts.
struct Kept {
    dir: PathBuf,
    vault: Vault,
}

impl Kept {
    fn file(
        &self,
        what: &str,
        of: &[String],
        directory: &str,
    ) -> Result<SealedFile, SealedFileError> {
        // The name in the vault binds it to its place: what one authority issued is
        // not taken for another's.
        let name = format!("katachi-relay/acme/{what} {directory} {}", of.join(" "));
        SealedFile::at(self.dir.join(format!("{what}.sealed")))?.named(&name)
    }

    /// What was kept under that name; nothing where it is of another.
    fn load(
        &self,
        what: &str,
        of: &[String],
        directory: &str,
    ) -> Result<Option<Vec<u8>>, SealedFileError> {
        let file = self.file(what, of, directory)?;
        if !file.exists()? {
            return Ok(None);
        }
        match file.read(&self.vault) {
            Ok(kept) => Ok(Some(kept.expose_secret().to_vec())),
            Err(error) => {
                warn!(%error, what, "what was kept of another authority or name is not used");
                Ok(None)
            }
        }
    }
}

#[async_trait]
impl CertCache for Kept {
    type EC = SealedFileError;

    async fn load_cert(
        &self,
        domains: &[String],
        directory: &str,
    ) -> Result<Option<Vec<u8>>, Self::EC> {
        self.load("certificate", domains, directory)
    }

    async fn store_cert(
        &self,
        domains: &[String],
        directory: &str,
        pem: &[u8],
    ) -> Result<(), Self::EC> {
        self.file("certificate", domains, directory)?
            .write(&self.vault, pem)
    }
}

#[async_trait]
impl AccountCache for Kept {
    type EA = SealedFileError;

    async fn load_account(
        &self,
        contact: &[String],
        directory: &str,
    ) -> Result<Option<Vec<u8>>, Self::EA> {
        self.load("account", contact, directory)
    }

    async fn store_account(
        &self,
        contact: &[String],
        directory: &str,
        key: &[u8],
    ) -> Result<(), Self::EA> {
        self.file("account", contact, directory)?
            .write(&self.vault, key)
    }
}
