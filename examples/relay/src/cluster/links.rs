//! How nodes know each other: TLS 1.3, both ends with a certificate under an
//! authority whose key comes out of the cluster's.
//!
//! Whoever has the keyset can make one, and nobody else. The key of a certificate is
//! made at each start and never written. After a rotation the authority is another,
//! so that a node which was removed is a stranger. Certificates do not end by the
//! clock, which nobody has to trust for that.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::keyset::{ClusterId, Keyset};
use crate::tls::TlsError;

/// TLS towards the other nodes, under one keyset.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

/// The name that the certificate of a node has.
pub(crate) fn host_name(node: &str, cluster: &ClusterId) -> String {
    format!("{node}.{cluster}.katachi.internal")
}

impl Links {
    /// Makes the certificate of `node`.
    pub(crate) fn of(node: &str, keyset: &Keyset) -> Result<Self, TlsError> {
        let authority = authority_key(keyset)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&authority)?.der().clone();
        let issuer = Issuer::new(params, authority);

        let mut params = CertificateParams::new(vec![host_name(node, &keyset.id())])?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let chain = vec![params.signed_by(&key, &issuer)?.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|problem| rustls::Error::General(problem.to_owned()))?;
        Ok(Self {
            server: Arc::new(server(&root, chain.clone(), key.clone_key())?),
            client: Arc::new(client(&root, chain, key)?),
        })
    }
}

/// An Ed25519 key as RFC 8410 section 7 writes it, from its seed.
fn authority_key(keyset: &Keyset) -> Result<KeyPair, TlsError> {
    const HEADER: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let seed = keyset.authority_seed();
    let pkcs8 = [HEADER.as_slice(), seed.expose_secret()].concat();
    Ok(KeyPair::try_from(pkcs8)?)
}

fn server(
    root: &CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots(root)?, Arc::clone(&provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.max_early_data_size = 0;
    Ok(config)
}

fn client(
    root: &CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(root)?)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn roots(root: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    Ok(Arc::new(roots))
}
