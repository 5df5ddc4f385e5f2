//! TLS to nginx, and TLS from there to a server.

use std::sync::Arc;

use katachi_benches::nginx::{Nginx, STREAM, free_port};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{PIECE, SIZE, Used};
use crate::server::Failure;

pub(super) async fn measure() -> Result<Used, Failure> {
    let home = tempfile::tempdir()?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (certificate, key) = (home.path().join("cert.pem"), home.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let key_der = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let server = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key_der)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = listener.local_addr()?.port();
    tokio::spawn(agent(listener, TlsAcceptor::from(Arc::new(server))));

    let port = free_port();
    let block = format!(
        "stream {{ server {{ listen 127.0.0.1:{port} ssl; ssl_protocols TLSv1.3; \
         ssl_certificate {}; ssl_certificate_key {}; proxy_ssl on; \
         proxy_ssl_protocols TLSv1.3; proxy_pass 127.0.0.1:{origin}; }} }}",
        certificate.display(),
        key.display()
    );
    let module = format!("load_module {STREAM};");
    let nginx = Nginx::start(home.path(), "proxy", port, &module, &block);

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let client = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", nginx.port)).await?;
    let tls = TlsConnector::from(Arc::new(client));
    let mut browser = tls.connect("localhost".try_into()?, tcp).await?;
    let used = || katachi_benches::processor_time(nginx.worker());
    let mut piece = vec![7; PIECE];
    let start = used()?;
    for _ in 0..pieces() {
        browser.write_all(&piece).await?;
    }
    browser.flush().await?;
    browser.read_exact(&mut [0; 1]).await?;
    let middle = used()?;
    for _ in 0..pieces() {
        browser.read_exact(&mut piece).await?;
    }
    Ok(Used {
        to_agent: middle - start,
        to_browser: used()? - middle,
    })
}

fn pieces() -> usize {
    (SIZE << 20) / PIECE
}

/// Takes everything, says so, and sends as much. Connections that end before,
/// such as the one that looks whether nginx listens, are left alone.
async fn agent(listener: TcpListener, tls: TlsAcceptor) -> Result<(), std::io::Error> {
    loop {
        let (tcp, _) = listener.accept().await?;
        let tls = tls.clone();
        tokio::spawn(async move {
            let mut stream = tls.accept(tcp).await?;
            let mut piece = vec![7; PIECE];
            for _ in 0..pieces() {
                stream.read_exact(&mut piece).await?;
            }
            stream.write_all(&[1]).await?;
            for _ in 0..pieces() {
                stream.write_all(&piece).await?;
            }
            stream.flush().await
        });
    }
}
