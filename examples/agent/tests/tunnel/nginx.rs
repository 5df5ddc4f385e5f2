//! nginx as the proxy of a network that ends every TLS connection, with an authority of
//! its own, and passes HTTP and WebSockets on.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

const PROGRAM: &str = "/usr/sbin/nginx";

/// A running nginx, gone with this.
pub(crate) struct Nginx {
    master: Child,
    directory: TempDir,
}

pub(crate) fn is_installed() -> bool {
    Path::new(PROGRAM).exists()
}

impl Nginx {
    /// Listens on loopback, on the port of `to`, and passes everything on to that.
    pub(crate) fn before(to: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        certify(directory.path());
        let port = to.port();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .concat();
        let config = format!(
            "daemon off; pid nginx.pid; worker_processes 1; events {{}}
             http {{ access_log off; {paths}
               map $http_upgrade $passed_on {{ default upgrade; '' ''; }}
               server {{
                 listen 127.0.0.1:{port} ssl; ssl_protocols TLSv1.3;
                 ssl_certificate cert.pem; ssl_certificate_key key.pem;
                 location / {{
                   proxy_pass https://{to}; proxy_ssl_protocols TLSv1.3;
                   proxy_ssl_server_name on; proxy_ssl_name katachi.localhost;
                   proxy_http_version 1.1; proxy_set_header Host $http_host;
                   proxy_set_header Upgrade $http_upgrade;
                   proxy_set_header Connection $passed_on;
                 }}
               }}
             }}"
        );
        std::fs::write(directory.path().join("nginx.conf"), config).unwrap();
        let mut nginx = Self {
            master: run(directory.path()),
            directory,
        };
        nginx.listens(port);
        nginx
    }

    /// File of the authority whose certificates it shows.
    pub(crate) fn authority(&self) -> String {
        self.directory.path().join("ca.pem").display().to_string()
    }

    /// Ends it with all that it passes on, and starts it again.
    pub(crate) fn restart(&mut self, port: u16) {
        self.end();
        self.master = run(self.directory.path());
        self.listens(port);
    }

    fn listens(&mut self, port: u16) {
        let deadline = Instant::now() + Duration::from_secs(10);
        // It is written when the ports are open, and removed when nginx ends.
        let written = self.directory.path().join("nginx.pid");
        while !written.exists() || TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            assert!(self.master.try_wait().unwrap().is_none(), "nginx ended");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(&mut self) {
        // It ends its workers when it is asked to, and not when it is killed.
        let id = self.master.id().to_string();
        let _ = Command::new("kill").arg(id).status();
        let _ = self.master.wait();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(directory: &Path) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(["-e", "stderr", "-c", "nginx.conf", "-p"]);
    command.arg(directory).stdin(Stdio::null());
    command.stderr(Stdio::null()).spawn().unwrap()
}

/// An authority, and a certificate of it for the relay's name.
fn certify(directory: &Path) {
    let (key, own_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&own_key).unwrap().pem();
    let issuer = Issuer::new(authority, own_key);
    let names = vec!["katachi.localhost".to_owned()];
    let certificate = CertificateParams::new(names).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    for (name, text) in [
        ("ca.pem", authority_pem),
        ("cert.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
    ] {
        std::fs::write(directory.join(name), text).unwrap();
    }
}
