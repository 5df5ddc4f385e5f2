//! Servers on the host's loopback, for as long as a case lasts.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use katachi_sandbox::Resolve;

/// Says "reached" to every request and remembers what it was told.
pub(crate) struct Recorder {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let told = told.clone();
                std::thread::spawn(move || record(stream, &told));
            }
        });
        Self { port, seen }
    }

    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }
}

fn record(mut stream: TcpStream, told: &Mutex<Vec<u8>>) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut part) {
        told.lock().unwrap().extend(&part[..count]);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nreached";
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}

/// Finds the same address for every name and remembers for which it was asked.
#[derive(Clone)]
pub(crate) struct Fixed {
    pub(crate) address: IpAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fixed {
    pub(crate) fn new(address: &str) -> Self {
        Self {
            address: address.parse().unwrap(),
            asked: Arc::default(),
        }
    }

    pub(crate) fn loopback() -> Self {
        Self::new(&Ipv4Addr::LOCALHOST.to_string())
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Resolve for Fixed {
    fn resolve(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        self.asked.lock().unwrap().push(host.to_owned());
        Ok(vec![self.address])
    }
}

/// Files over HTTPS, under a certificate for one name.
pub(crate) struct Files {
    pub(crate) port: u16,
    /// The certificate, which stands for itself.
    pub(crate) certificate: PathBuf,
    /// The first bytes of TLS for some name.
    config: Arc<rustls::ClientConfig>,
}

impl Files {
    /// Serves what lies below `root`; `.tgz` and others as they are.
    pub(crate) fn new(name: &str, root: &Path, certificate: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener, name, root, certificate)
    }

    pub(crate) fn on(listener: TcpListener, name: &str, root: &Path, certificate: PathBuf) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let der = made.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der.clone()], key.unwrap())
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let port = listener.local_addr().unwrap().port();
        let (server, root) = (Arc::new(server), root.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, root) = (server.clone(), root.clone());
                std::thread::spawn(move || answer(stream, server, &root));
            }
        });
        Self {
            port,
            certificate,
            config: Arc::new(client),
        }
    }

    /// The first message of TLS for `name`, without a name if it is an address.
    pub(crate) fn hello(&self, name: &str) -> Vec<u8> {
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(self.config.clone(), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }
}

fn answer(stream: TcpStream, config: Arc<rustls::ServerConfig>, root: &Path) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
    let session = rustls::ServerConnection::new(config).unwrap();
    let mut stream = rustls::StreamOwned::new(session, stream);
    let mut head = Vec::new();
    let mut part = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part) {
            Ok(count @ 1..) => head.extend(&part[..count]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or("/");
    let path = target
        .split('?')
        .next()
        .unwrap_or("/")
        .trim_start_matches('/');
    let mut file = root.join(path.replace("..", ""));
    if file.is_dir() {
        file = file.join("index");
    }
    let (status, content) = match std::fs::read(&file) {
        Ok(content) => ("200 OK", content),
        Err(_) => ("404 Not Found", Vec::new()),
    };
    let kind = match file.extension().and_then(|end| end.to_str()) {
        Some("html") => "text/html",
        _ if file.ends_with("index") => "text/html",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&content);
    stream.conn.send_close_notify();
    let _ = stream.flush();
}
