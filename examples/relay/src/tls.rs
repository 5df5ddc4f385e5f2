//! TLS 1.3 and nothing older, with a certificate from files or from an
//! authority of our own.
//!
//! The self-made authority exists for loopback. It is constrained to
//! `localhost` names and 127.0.0.0/8, so that a person who tells a browser to
//! trust it has not given this program the power to speak for other sites. Its
//! key is sealed in the state directory; the leaf's key is made at each start
//! and never written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use katachi_store::file::SealedFile;
use katachi_store::vault::Vault;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints,
};
use rustls::server::WantsServerCert;
use rustls::{ConfigBuilder, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

use crate::config::{Config, LOCAL_HOST, TlsSource};

/// The certificate could not be used or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file does not hold what it should.
    #[error("{path}: {problem}; give a PEM file to --{option}")]
    File {
        /// Which.
        path: PathBuf,
        /// The option that named it.
        option: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Key and certificate do not belong together, or rustls takes neither.
    #[error("the certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The authority could not be made.
    #[error("could not make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The authority's files could not be read or written.
    #[error("{path}: {problem}")]
    State {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// What the listener needs, and what clients have to trust.
pub(crate) struct Identity {
    pub(crate) config: Arc<ServerConfig>,
    /// PEM of the self-made authority, for clients to trust.
    pub(crate) authority: Option<PathBuf>,
    /// What keeps the certificate fresh.
    #[cfg(feature = "acme")]
    pub(crate) renewal: Option<crate::acme::Renewal>,
}

impl Identity {
    fn of(config: ServerConfig, authority: Option<PathBuf>) -> Self {
        Self {
            config: Arc::new(config),
            authority,
            #[cfg(feature = "acme")]
            renewal: None,
        }
    }
}

/// Prepares TLS as `config` says, for a relay that is known as `host`.
pub(crate) fn prepare(config: &Config, host: &str, vault: &Vault) -> Result<Identity, TlsError> {
    // The name matters to those alone who ask for a certificate.
    #[cfg(not(feature = "acme"))]
    let _ = host;
    match &config.tls {
        TlsSource::Files { certificate, key } => {
            let (chain, key) = (read_chain(certificate)?, read_key(key)?);
            let config = server_config(|builder| builder.with_single_cert(chain, key))?;
            Ok(Identity::of(config, None))
        }
        TlsSource::SelfMade => {
            let (authority, path) = authority(&config.state_dir.join("tls"), vault)?;
            let (chain, key) = leaf(&authority)?;
            let config = server_config(|builder| builder.with_single_cert(chain, key))?;
            Ok(Identity::of(config, Some(path)))
        }
        #[cfg(feature = "acme")]
        TlsSource::Acme(acme) => {
            // A handle of its own, since it writes while the relay serves.
            let vault = crate::machine::open_vault(&config.state_dir, config.keychain);
            let vault = vault.map_err(|error| TlsError::State {
                path: config.state_dir.clone(),
                problem: error.to_string(),
            })?;
            let (tls, renewal) = crate::acme::prepare(acme, host, &config.state_dir, vault)?;
            Ok(Identity {
                renewal: Some(renewal),
                ..Identity::of(tls, None)
            })
        }
    }
}

pub(crate) fn server_config(
    certificate: impl FnOnce(
        ConfigBuilder<ServerConfig, WantsServerCert>,
    ) -> Result<ServerConfig, rustls::Error>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth();
    let mut config = certificate(builder)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Early data can be replayed by anyone who recorded it.
    config.max_early_data_size = 0;
    Ok(config)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let problem = |problem: String| TlsError::File {
        path: path.to_owned(),
        option: "tls-cert",
        problem,
    };
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| problem(error.to_string()))?;
    if chain.is_empty() {
        return Err(problem("no certificate in it".to_owned()));
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| TlsError::File {
        path: path.to_owned(),
        option: "tls-key",
        problem: error.to_string(),
    })
}

/// Loads the authority, or makes one. Returns it with the path of its PEM.
fn authority(dir: &Path, vault: &Vault) -> Result<(Issuer<'static, KeyPair>, PathBuf), TlsError> {
    let certificate = dir.join("ca.pem");
    let state = |path: &Path, problem: &dyn std::fmt::Display| TlsError::State {
        path: path.to_owned(),
        problem: problem.to_string(),
    };
    let sealed_key = SealedFile::at(dir.join("ca.key.sealed")).map_err(|e| state(dir, &e))?;
    if certificate.exists() {
        let key = sealed_key
            .read(vault)
            .map_err(|e| state(sealed_key.path(), &e))?;
        let pem =
            std::str::from_utf8(key.expose_secret()).map_err(|e| state(sealed_key.path(), &e))?;
        // Of the certificate, signing needs the name alone, which never changes.
        return Ok((
            Issuer::new(authority_params(), KeyPair::from_pem(pem)?),
            certificate,
        ));
    }
    std::fs::create_dir_all(dir).map_err(|e| state(dir, &e))?;
    let key = KeyPair::generate()?;
    let params = authority_params();
    let pem = params.self_signed(&key)?.pem();
    sealed_key
        .write(vault, key.serialize_pem().as_bytes())
        .map_err(|e| state(dir, &e))?;
    // The certificate last: where it exists, so does its key.
    let fresh = dir.join("ca.pem.new");
    std::fs::write(&fresh, pem).map_err(|e| state(&fresh, &e))?;
    std::fs::rename(&fresh, &certificate).map_err(|e| state(&certificate, &e))?;
    Ok((Issuer::new(params, key), certificate))
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("Katachi relay on this computer");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            // Covers katachi.localhost too, RFC 5280 section 4.2.1.10.
            GeneralSubtree::DnsName("localhost".to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 0], 8)),
        ],
        excluded_subtrees: Vec::new(),
    });
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(3650);
    params
}

fn leaf(
    authority: &Issuer<'static, KeyPair>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let names = [LOCAL_HOST, "localhost", "127.0.0.1"].map(str::to_owned);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = name(LOCAL_HOST);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(1);
    // The longest that browsers accept of a public authority.
    params.not_after = now + Duration::days(397);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|problem| rustls::Error::General(problem.to_owned()))?;
    Ok((vec![certificate.der().clone()], key))
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertificateParams, Issuer, KeyPair};
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls_pki_types::{ServerName, UnixTime};

    use super::authority_params;

    /// Whether a client that trusts the authority believes its leaf for `name`.
    fn believed(name: &str) -> bool {
        let key = KeyPair::generate().unwrap();
        let authority = authority_params().self_signed(&key).unwrap();
        let issuer = Issuer::new(authority_params(), key);
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&leaf_key, &issuer)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier
            .verify_server_cert(leaf.der(), &[], &name, &[], UnixTime::now())
            .is_ok()
    }

    #[test]
    fn the_self_made_authority_speaks_for_this_computer_alone() {
        for local in ["localhost", "katachi.localhost", "127.0.0.1"] {
            assert!(believed(local), "{local}");
        }
        for foreign in ["relay.example", "localhost.example", "192.0.2.1"] {
            assert!(!believed(foreign), "{foreign}");
        }
    }
}
