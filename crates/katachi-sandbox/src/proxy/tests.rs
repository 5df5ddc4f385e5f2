//! The proxy on the host's loopback, with curl before it and a server behind.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Output};
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::environment::Proxies;
use crate::{PlanOptions, Policy, Resolve};

/// More than a copy at once and a socket's buffer hold.
const BODY: usize = 3 << 20;

/// A server on loopback that counts who came.
struct Origin {
    port: u16,
    visits: Arc<AtomicUsize>,
}

impl Origin {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let visits = Arc::new(AtomicUsize::new(0));
        let seen = visits.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                seen.fetch_add(1, Ordering::AcqRel);
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if client.read(&mut byte).unwrap_or(0) == 0 {
                        break;
                    }
                    request.extend(byte);
                }
                let leaked = request
                    .to_ascii_lowercase()
                    .windows(19)
                    .any(|part| part == b"proxy-authorization");
                let body = vec![if leaked { b'!' } else { b'x' }; BODY];
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
                let _ = client.write_all(&[head.as_bytes(), &body].concat());
            }
        });
        Self { port, visits }
    }

    fn visits(&self) -> usize {
        self.visits.load(Ordering::Acquire)
    }
}

/// Every name leads to this machine.
struct Here;

impl Resolve for Here {
    fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }
}

struct Bed {
    origin: Origin,
    feed: Feed,
    plan: Arc<Inner>,
}

impl Bed {
    fn new(limit: &str) -> Self {
        let origin = Origin::start();
        let port = origin.port;
        // The name alone would lead to this machine, which no name may.
        let text = format!(
            "[network]\nallow = [\"a.test:{port}\", \"127.0.0.1:{port}\", \"inner.test:1\"]\n{limit}"
        );
        let policy = Policy::from_toml(&text, "test").unwrap();
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let plan = policy.plan(&PlanOptions::new(here).resolver(Here)).unwrap();
        Self {
            origin,
            feed: Feed::default(),
            plan: plan.0,
        }
    }

    fn listen(&self) -> (Network, u16, Proxies) {
        Network::on_loopback(self.plan.clone(), self.feed.clone()).unwrap()
    }

    fn recorded(&self, reason: &str) -> bool {
        let found = self.feed.list();
        found.iter().any(|seen| seen.reason.contains(reason))
    }

    fn url(&self) -> String {
        format!("http://a.test:{}/", self.origin.port)
    }
}

/// curl with nothing but these words and variables.
fn curl(words: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "20",
            "-w",
            "%{stderr}<%{http_code} %{http_connect}>",
        ])
        .args(words)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(variables.iter().copied())
        .output()
        .expect("curl is installed")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// HTTP with a whole address, CONNECT, SOCKS 5.
fn ways(proxies: &Proxies) -> [Vec<&str>; 3] {
    [
        vec!["-x", &proxies.http],
        vec!["-x", &proxies.http, "--proxytunnel"],
        vec!["-x", &proxies.all],
    ]
}

#[test]
fn whoever_has_the_credentials_reaches_allowed_hosts_in_each_way() {
    let bed = Bed::new("");
    let (_network, _, proxies) = bed.listen();
    let url = bed.url();
    for way in ways(&proxies) {
        let got = curl(&[way.as_slice(), &[&url]].concat(), &[]);
        assert!(got.status.success(), "{way:?}: {}", said(&got));
        // No letter of another kind: the credentials went no further.
        assert!(got.stdout == vec![b'x'; BODY], "{way:?}");
    }
    assert_eq!(bed.origin.visits(), 3);
    assert!(bed.feed.list().is_empty());
    // As a command has them.
    let variables: Vec<(String, String)> = crate::environment::proxy_variables(&proxies)
        .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
        .collect();
    for family in [&["http_proxy"][..], &["all_proxy"], &["ALL_PROXY"]] {
        let chosen: Vec<(&str, &str)> = variables
            .iter()
            .filter(|(name, _)| family.contains(&name.as_str()))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(chosen.len(), 1);
        let got = curl(&[&url], &chosen);
        assert!(got.stdout == vec![b'x'; BODY], "{family:?}: {}", said(&got));
    }
    assert_eq!(
        variables
            .iter()
            .filter(|(_, value)| value.starts_with("socks5h://"))
            .count(),
        2
    );
}

#[test]
fn another_process_without_the_credentials_is_refused_and_recorded() {
    let bed = Bed::new("");
    let (_network, port, right) = bed.listen();
    let place = format!("127.0.0.1:{port}");
    let (_other, _, others) = bed.listen();
    let foreign = |url: &str| url.rsplit_once('@').unwrap().0.to_owned() + "@" + &place;
    let strangers = [
        Proxies {
            http: format!("http://{place}"),
            all: format!("socks5h://{place}"),
        },
        Proxies {
            http: format!("http://katachi:@{place}"),
            all: format!("socks5h://katachi:0@{place}"),
        },
        // Those of another command.
        Proxies {
            http: foreign(&others.http),
            all: foreign(&others.all),
        },
        Proxies {
            http: right.http.replace("katachi:", "Katachi:"),
            all: right.all.replace("katachi:", "Katachi:"),
        },
    ];
    for stranger in &strangers {
        for way in ways(stranger) {
            let before = bed.origin.visits();
            let got = curl(&[way.as_slice(), &[&bed.url()]].concat(), &[]);
            let said = said(&got);
            let refused = match way[1].starts_with("http:") {
                true => said.contains("407"),
                false => got.status.code() == Some(97),
            };
            assert!(refused, "{way:?}: {said}");
            assert_eq!(bed.origin.visits(), before, "{way:?}");
        }
    }
    assert!(bed.recorded(serve::STRANGER));
    // A client that waits to be asked is answered once it says them.
    let (user, place) = right.http["http://".len()..].split_once('@').unwrap();
    let words = ["-x", place, "--proxy-anyauth", "--proxy-user", user];
    let got = curl(&[&words[..], &[&bed.url()]].concat(), &[]);
    assert!(got.stdout == vec![b'x'; BODY], "{}", said(&got));
}

#[test]
fn without_credentials_another_process_would_get_through() {
    let bed = Bed::new("");
    let (listeners, port) = loopback::listeners().unwrap();
    let doors = listeners
        .into_iter()
        .map(|one| (Door::Proxy, one))
        .collect();
    let feed = bed.feed.clone();
    let waiting = Network::prepare().unwrap();
    let _network = waiting
        .open(bed.plan.clone(), doors, None, None, None, feed)
        .unwrap();
    let place = format!("127.0.0.1:{port}");
    let open = Proxies {
        http: format!("http://{place}"),
        all: format!("socks5h://{place}"),
    };
    for way in ways(&open) {
        let got = curl(&[way.as_slice(), &[&bed.url()]].concat(), &[]);
        assert!(got.stdout == vec![b'x'; BODY], "{way:?}: {}", said(&got));
    }
}

#[test]
fn credentials_open_nothing_that_the_policy_closes() {
    let bed = Bed::new("[limits]\nnetwork = \"4MiB\"");
    let (network, port, proxies) = bed.listen();
    for (url, reason) in [
        (format!("http://b.test:{}/", bed.origin.port), "no rule"),
        ("http://inner.test:1/".to_owned(), "it led to 127.0.0.1"),
        ("http://169.254.169.254/".to_owned(), "no rule"),
    ] {
        for way in ways(&proxies) {
            let got = curl(&[way.as_slice(), &[&url]].concat(), &[]);
            let said = said(&got);
            let refused = match way[1].starts_with("http:") {
                true => said.contains("403"),
                false => got.status.code() == Some(97),
            };
            assert!(refused, "{way:?} {url}: {said}");
        }
        let found = bed.feed.list();
        assert!(bed.recorded(reason), "{url}: {found:?}");
    }
    assert_eq!(bed.origin.visits(), 0);
    // What is copied is counted too.
    let words = ["-x", &proxies.all, &bed.url()];
    assert!(curl(&words, &[]).stdout == vec![b'x'; BODY]);
    assert!(!curl(&words, &[]).status.success());
    assert!(bed.recorded("limits.network was used up"));
    drop(network);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}

#[test]
fn a_connection_on_which_nothing_passes_ends() {
    let bed = Bed::new("");
    let (stop, _going) = io::pipe().unwrap();
    let shared = Shared {
        plan: bed.plan.clone(),
        names: Mutex::default(),
        log: Log(bed.feed.clone()),
        stop,
        open: AtomicUsize::new(0),
        left: AtomicU64::new(u64::MAX),
        channel: None,
        credentials: None,
        idle: Duration::from_millis(300),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let pair = || {
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        other.set_nonblocking(true).unwrap();
        (one, other)
    };
    let ((mut command, here), (mut server, there)) = (pair(), pair());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let ended = relay::relay(&shared, &here, &there);
        drop((here, there));
        tell.send(ended.is_ok())
    });
    // What passes counts anew.
    command.write_all(b"question").unwrap();
    let mut seen = [0; 8];
    server.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"question");
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(true));
    assert_eq!(command.read(&mut seen).unwrap(), 0);
    assert_eq!(server.read(&mut seen).unwrap(), 0);
}
