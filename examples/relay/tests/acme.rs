//! Certificates from a real ACME server: Let's Encrypt's own test server `pebble`, which
//! looks at this relay's port as the public one would.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

/// A name that nobody has (RFC 6761).
const NAME: &str = "relay.test";
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|all| all == "1");
    let present = ["pebble", "pebble-challtestsrv"].iter().all(|program| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|dir| dir.join(program).is_file())
    });
    let trial = |name: &str, test: fn()| {
        let name = match present {
            true => name.to_owned(),
            false => format!("{name} (needs pebble)"),
        };
        Trial::test(name, move || {
            if !present {
                return Err("pebble is absent, and KATACHI_REQUIRE_ALL=1 asks for it".into());
            }
            test();
            Ok(())
        })
        .with_ignored_flag(!present && !required)
    };
    let trials = vec![
        trial(
            "a_certificate_is_asked_for_kept_and_used_again",
            asked_for_kept_and_used_again,
        ),
        trial(
            "without_the_authority_there_is_no_certificate_and_no_end",
            without_the_authority,
        ),
        Trial::test("what_cannot_be_certified_is_refused", || {
            what_cannot_be_certified();
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The authority, which looks for the relay at `relay`, whatever the name.
struct Authority {
    _servers: [Running; 2],
    directory: String,
    management: String,
    /// Of its own server.
    certificate: PathBuf,
}

impl Authority {
    fn start(dir: &Path, relay: u16) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
        let put = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let certificate = put("pebble-ca.pem", own.pem());
        let (acme, management, dns) = (free(), free(), free());
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{acme}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": put("pebble.pem", leaf.pem()),
            "privateKey": put("pebble.key", leaf_key.serialize_pem()),
            "httpPort": free(),
            "tlsPort": relay,
        }});
        let config = put("pebble.json", config.to_string());
        let names = Command::new("pebble-challtestsrv")
            .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""])
            .args(["-dns01", &format!("127.0.0.1:{dns}")])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-management", &format!("127.0.0.1:{}", free())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let pebble = Command::new("pebble")
            .arg("-config")
            .arg(&config)
            .args(["-dnsserver", &format!("127.0.0.1:{dns}")])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let authority = Self {
            _servers: [Running(names.unwrap()), Running(pebble.unwrap())],
            directory: format!("https://127.0.0.1:{acme}/dir"),
            management: format!("https://127.0.0.1:{management}"),
            certificate,
        };
        until("pebble", || authority.get("/roots/0"));
        authority
    }

    fn get(&self, path: &str) -> Option<String> {
        let pem = std::fs::read(&self.certificate).unwrap();
        get(&format!("{}{path}", self.management), &pem, None)
    }
}

/// What `url` answers to a client that trusts `pem` alone.
fn get(url: &str, pem: &[u8], relay: Option<SocketAddr>) -> Option<String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let trusted = reqwest::Certificate::from_pem(pem).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .tls_certs_only([trusted]);
        if let Some(relay) = relay {
            client = client.resolve(NAME, relay);
        }
        let answer = client.build().unwrap().get(url).send().await.ok()?;
        let answer = answer.error_for_status().ok()?;
        answer.text().await.ok()
    })
}

fn relay(state: &Path, port: u16, directory: &str, certificate: &Path) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_katachi-relay"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KATACHI_") {
            command.env_remove(name);
        }
    }
    let child = command
        .args(["serve", "--no-keychain", "--acme"])
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .args(["--public-url", &format!("https://{NAME}:{port}")])
        .args(["--acme-contact", "operator@relay.test"])
        .args(["--acme-directory", directory])
        .arg("--acme-authority")
        .arg(certificate)
        .arg("--state-dir")
        .arg(state)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Running(child.unwrap())
}

fn asked_for_kept_and_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (state, port) = (dir.path().join("state"), free());
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let authority = Authority::start(dir.path(), port);
    let root = authority.get("/roots/0").unwrap();
    let url = format!("https://{NAME}:{port}/healthz");
    let first = relay(&state, port, &authority.directory, &authority.certificate);
    until("a certificate", || get(&url, root.as_bytes(), Some(at)));
    // Another authority's client is not fooled: this is the control.
    let other = std::fs::read(&authority.certificate).unwrap();
    assert_eq!(get(&url, &other, Some(at)), None);
    until("what is kept", || {
        state.join("acme/certificate.sealed").exists().then_some(())
    });
    drop(first);

    // From then on it starts without the authority; what is kept is sealed.
    let (directory, certificate) = (authority.directory.clone(), authority.certificate.clone());
    drop(authority);
    for file in ["acme/certificate.sealed", "acme/account.sealed"] {
        let kept = std::fs::read(state.join(file)).unwrap();
        let text = String::from_utf8_lossy(&kept);
        assert!(
            kept.starts_with(b"KTC") && !text.contains("BEGIN"),
            "{file}"
        );
    }
    let _second = relay(&state, port, &directory, &certificate);
    until("the kept certificate", || {
        get(&url, root.as_bytes(), Some(at))
    });
}

fn without_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let (state, port) = (dir.path().join("state"), free());
    let authority = Authority::start(dir.path(), port);
    let root = authority.get("/roots/0").unwrap();
    let certificate = authority.certificate.clone();
    drop(authority);
    let nowhere = format!("https://127.0.0.1:{}/dir", free());
    let mut relay = relay(&state, port, &nowhere, &certificate);
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    until("the port", || std::net::TcpStream::connect(at).ok());
    std::thread::sleep(Duration::from_secs(1));
    let url = format!("https://{NAME}:{port}/healthz");
    assert_eq!(get(&url, root.as_bytes(), Some(at)), None);
    assert!(
        relay.0.try_wait().unwrap().is_none(),
        "it waits and asks again"
    );
}

fn what_cannot_be_certified() {
    let refused = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_katachi-relay"))
            .args([
                "serve",
                "--no-keychain",
                "--listen",
                "127.0.0.1:0",
                "--acme",
            ])
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&[]).contains("--public-url"));
    let local = refused(&["--public-url", "https://katachi.localhost:8443"]);
    assert!(local.contains("this computer"), "{local}");
    let files = [
        "--public-url",
        "https://relay.test",
        "--tls-cert",
        "a",
        "--tls-key",
        "b",
    ];
    assert!(refused(&files).contains("cannot be used with"));
}
