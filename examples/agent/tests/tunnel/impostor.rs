//! Whoever runs the relay, where an agent meets it: has certificates of every kind,
//! passes calls on to the real relay or changes what comes back, or answers by itself,
//! and does with the agent's tunnel what it likes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::ServerConfig;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::far::ADDRESS;

const NAME: &str = "katachi.localhost";
/// Where the agent asks for its tunnel.
const TUNNEL: &[u8] = b"GET /v1/tunnel";

/// A connection of the agent.
pub(crate) type Agent = tokio_rustls::server::TlsStream<TcpStream>;

/// How the impostor shows who it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shows {
    /// What the agent was told to trust.
    Good,
    /// The same, by a TLS that is too old.
    OldTls,
    /// A certificate of another authority, which has the name of the right one.
    Foreign,
    Expired,
    /// A good one for another name.
    OtherName,
}

/// What becomes of an answer of the real relay.
pub(crate) type Alter = Arc<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>;

/// What it answers by itself to a whole request; nothing hangs up.
pub(crate) type Answers = Arc<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// What is done with a tunnel that the agent asked for.
pub(crate) type Receive =
    Arc<dyn Fn(Agent) -> futures_util::future::BoxFuture<'static, ()> + Send + Sync>;

struct State {
    shows: Shows,
    alter: Option<Alter>,
    receive: Option<Receive>,
    /// How often it was connected to.
    met: usize,
    open: Vec<tokio::task::AbortHandle>,
}

/// A relay that is not to be trusted, in front of the real one.
pub(crate) struct Impostor {
    state: Arc<Mutex<State>>,
    authority: tempfile::TempDir,
}

impl Impostor {
    /// Takes the place on loopback, at `listener`, of the relay at the same port, whose
    /// authority is `ca_pem`.
    pub(crate) fn before(listener: TcpListener, ca_pem: &str) -> Self {
        let port = listener.local_addr().unwrap().port();
        Self::start(listener, Behind::Relay(Relay::new(port, ca_pem)))
    }

    /// Listens at `listener`, with no relay behind it.
    pub(crate) fn alone(listener: TcpListener, answers: Answers) -> Self {
        Self::start(listener, Behind::Nobody(answers))
    }

    fn start(listener: TcpListener, behind: Behind) -> Self {
        let state = Arc::new(Mutex::new(State {
            shows: Shows::Good,
            alter: None,
            receive: None,
            met: 0,
            open: Vec::new(),
        }));
        let authority = tempfile::tempdir().unwrap();
        let own = Authority::new();
        std::fs::write(authority.path().join("ca.pem"), &own.pem).unwrap();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                let mut state = shared.lock().unwrap();
                state.met += 1;
                let acceptor = own.acceptor(state.shows);
                let (behind, own_state) = (behind.clone(), Arc::clone(&shared));
                let task = tokio::spawn(async move {
                    if let Ok(agent) = acceptor.accept(agent).await {
                        let _ = serve(agent, &behind, &own_state).await;
                    }
                });
                state.open.push(task.abort_handle());
            }
        });
        Self { state, authority }
    }

    /// File of the authority that the agent trusts.
    pub(crate) fn authority(&self) -> String {
        self.authority.path().join("ca.pem").display().to_string()
    }

    /// From now on shows this; what is open is cut.
    pub(crate) fn shows(&self, shows: Shows) {
        let mut state = self.state.lock().unwrap();
        state.shows = shows;
        state.cut();
    }

    /// Alters what the real relay answers.
    pub(crate) fn alters(&self, alter: Option<Alter>) {
        self.state.lock().unwrap().alter = alter;
    }

    /// Receives tunnels so; what is open is cut.
    pub(crate) fn receives(&self, receive: Receive) {
        let mut state = self.state.lock().unwrap();
        state.receive = Some(receive);
        state.cut();
    }

    /// How often it was connected to.
    pub(crate) fn met(&self) -> usize {
        self.state.lock().unwrap().met
    }
}

impl State {
    fn cut(&mut self) {
        self.open.drain(..).for_each(|task| task.abort());
    }
}

/// Certificates of every kind.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    foreign: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let make = || {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).unwrap().pem();
            (Issuer::new(params, key), pem)
        };
        let ((issuer, pem), (foreign, _)) = (make(), make());
        Self {
            issuer,
            foreign,
            pem,
        }
    }

    fn acceptor(&self, shows: Shows) -> TlsAcceptor {
        let name = match shows {
            Shows::OtherName => "elsewhere.localhost",
            _ => NAME,
        };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if shows == Shows::Expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let issuer = match shows {
            Shows::Foreign => &self.foreign,
            _ => &self.issuer,
        };
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        let version = match shows {
            Shows::OldTls => &TLS12,
            _ => &TLS13,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Where its answers come from.
#[derive(Clone)]
enum Behind {
    Relay(Relay),
    Nobody(Answers),
}

impl Behind {
    async fn ask(&self, request: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
        match self {
            Self::Relay(relay) => relay.ask(request).await.map(Some),
            Self::Nobody(answers) => Ok(answers(request)),
        }
    }
}

/// The way to the real relay.
#[derive(Clone)]
struct Relay {
    address: SocketAddr,
    connector: TlsConnector,
}

impl Relay {
    fn new(port: u16, ca_pem: &str) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap();
        roots.add(authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            address: (ADDRESS, port).into(),
            connector: TlsConnector::from(Arc::new(config)),
        }
    }

    /// The whole answer to a whole request.
    async fn ask(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(NAME).unwrap();
        let mut relay = self.connector.connect(name, tcp).await?;
        relay.write_all(request).await?;
        Ok(message(&mut relay, &mut Vec::new())
            .await?
            .unwrap_or_default())
    }
}

async fn serve(mut agent: Agent, behind: &Behind, state: &Mutex<State>) -> std::io::Result<()> {
    let mut rest = Vec::new();
    while let Some(request) = message(&mut agent, &mut rest).await? {
        let (alter, receive) = {
            let state = state.lock().unwrap();
            (state.alter.clone(), state.receive.clone())
        };
        match receive {
            Some(receive) if request.starts_with(TUNNEL) => {
                receive(agent).await;
                return Ok(());
            }
            _ => {}
        }
        let Some(answer) = behind.ask(&request).await? else {
            return Ok(());
        };
        let answer = match alter {
            Some(alter) => alter(answer),
            None => answer,
        };
        agent.write_all(&answer).await?;
    }
    Ok(())
}

/// The next head with the body that it announces; `None` at the end. `rest` is what was
/// read of the one after it.
async fn message(
    from: &mut (impl AsyncRead + Unpin),
    rest: &mut Vec<u8>,
) -> std::io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = memchr::memmem::find(rest, b"\r\n\r\n") {
            let whole = end + 4 + announced(&rest[..end]);
            while rest.len() < whole {
                if from.read_buf(rest).await? == 0 {
                    return Ok(None);
                }
            }
            let after = rest.split_off(whole);
            return Ok(Some(std::mem::replace(rest, after)));
        }
        if from.read_buf(rest).await? == 0 {
            return Ok(None);
        }
    }
}

fn announced(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    length.map_or(0, |length| length.trim().parse().unwrap())
}
