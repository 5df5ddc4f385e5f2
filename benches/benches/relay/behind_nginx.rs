//! nginx that ends TLS before the plain route.

use std::net::Ipv4Addr;
use std::path::Path;

use katachi_benches::nginx::{Nginx, free_port};

use crate::server::{Failure, Server};
use crate::{agent, plain};

/// Processor time of both for `calls`, in nanoseconds.
pub(super) async fn measure(home: &Path, warm_up: u32, calls: u32) -> Result<f64, Failure> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let (certificate, key) = (home.join("cert.pem"), home.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;

    let origin = Server::start("--origin", &home.join("origin"))?;
    let upstream = origin.url.trim_start_matches("http://");
    let port = free_port();
    // Connections on both sides are kept for as many calls as there are.
    let block = format!(
        "http {{ access_log off; keepalive_requests 1000000; \
         upstream origin {{ server {upstream}; keepalive 4; keepalive_requests 1000000; }} \
         server {{ listen 127.0.0.1:{port} ssl; ssl_protocols TLSv1.3; \
         ssl_certificate {}; ssl_certificate_key {}; \
         location / {{ proxy_pass http://origin; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; }} }} }}",
        certificate.display(),
        key.display()
    );
    let nginx = Nginx::start(home, "calls", port, "", &block);

    let http = agent::client(Ipv4Addr::LOCALHOST)?.build()?;
    let url = format!("https://127.0.0.1:{}", nginx.port);
    for _ in 0..warm_up {
        plain::call(&http, &url).await?;
    }
    let used = || -> Result<f64, Failure> {
        Ok(origin.used()? + katachi_benches::processor_time(nginx.worker())?)
    };
    let before = used()?;
    for _ in 0..calls {
        plain::call(&http, &url).await?;
    }
    Ok(used()? - before)
}
