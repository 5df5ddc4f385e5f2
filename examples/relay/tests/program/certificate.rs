//! A certificate of somebody else's authority: served as it is given, under the public name.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Stdio};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::{failing, program};

pub(crate) const NAME: &str = "relay.example";

pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client that trusts this authority alone and knows where the names lead.
pub(crate) fn client(authority: &str, address: SocketAddr) -> reqwest::Client {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .resolve(NAME, address)
        .resolve("katachi.localhost", address)
        .build()
        .unwrap()
}

/// An authority: its PEM, and what signs in its name.
pub(crate) fn authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

#[tokio::test]
async fn a_certificate_of_ones_own_authority_is_served_under_the_public_name() {
    let state = tempfile::tempdir().unwrap();
    let (ours, issuer) = authority();
    let (theirs, _) = authority();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    let file = |name: &str, text: &str| {
        let path = state.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certificate = file("cert.pem", &certificate);
    let key = file("key.pem", &key.serialize_pem());
    let other_key = file("other.pem", &KeyPair::generate().unwrap().serialize_pem());
    // The port has to be known before: it is part of the public name.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (listen, url) = (free.to_string(), format!("https://{NAME}:{}", free.port()));
    let state_dir = state.path().join("state").to_str().unwrap().to_owned();
    let with_key = |key: &str| -> Vec<String> {
        [
            "serve",
            "--listen",
            &listen,
            "--public-url",
            &url,
            "--no-keychain",
            "--ready-json",
            "--state-dir",
            &state_dir,
            "--tls-cert",
            &certificate,
            "--tls-key",
            key,
        ]
        .map(str::to_owned)
        .into()
    };

    let wrong = with_key(&other_key);
    let wrong: Vec<&str> = wrong.iter().map(String::as_str).collect();
    let (_, said) = failing(&wrong);
    assert!(said.contains("--tls-key") || said.contains("key"), "{said}");

    let mut child = program();
    child
        .args(with_key(&key))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = Running(child.spawn().unwrap());
    let mut line = String::new();
    let stdout = child.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["public_url"], url);
    assert_eq!(
        ready["ca"],
        serde_json::Value::Null,
        "no authority of its own"
    );
    let answer = client(&ours, free)
        .get(format!("{url}/healthz"))
        .send()
        .await;
    assert_eq!(answer.unwrap().status(), 200);
    let refused = client(&theirs, free)
        .get(format!("{url}/healthz"))
        .send()
        .await;
    assert!(refused.unwrap_err().is_connect());
}
