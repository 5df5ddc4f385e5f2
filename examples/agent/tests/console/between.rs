//! Whoever runs the relay, where a page meets it: ends the page's TLS with a
//! certificate of their own, passes everything on to the real relay, keeps what the
//! page said, and does to its channels what it is told to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::frames::{Frames, cut};

/// The only name of the relay.
const NAME: &str = "katachi.localhost";

/// What is done to each channel while it is asked for.
#[derive(Clone, Copy)]
pub(crate) enum Attack {
    /// The channel is not opened; this is the answer.
    Instead(&'static str),
    /// Nothing is said any more, once it is open or before.
    Silence { is_open: bool },
    /// To what the agent says.
    Heard(fn(&mut Passing, Vec<u8>) -> Vec<Message>),
    /// To what the page says.
    Said(fn(&mut Passing, Vec<u8>) -> Vec<Message>),
}

/// The frames of one direction of a channel.
#[derive(Default)]
pub(crate) struct Passing {
    /// How many passed before.
    pub(crate) count: usize,
    /// What is kept to be passed later.
    pub(crate) held: Frames,
    /// What the agent said in a channel that was let alone.
    pub(crate) earlier: Frames,
}

#[derive(Default)]
struct State {
    attack: Option<Attack>,
    /// Everything that pages said, below their TLS.
    said: Vec<u8>,
    /// What the agent said in the longest channel that was let alone.
    earlier: Frames,
}

/// A relay that does as it likes.
pub(crate) struct Between {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    _runtime: tokio::runtime::Runtime,
}

impl Between {
    /// In front of the relay at `port`, whose authority is `ca_pem`.
    pub(crate) fn start(port: u16, ca_pem: &str) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, acceptor, connector) = (Arc::clone(&state), acceptor(), connector(ca_pem));
        runtime.spawn(async move {
            while let Ok((page, _)) = listener.accept().await {
                let (state, connector) = (Arc::clone(&shared), connector.clone());
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let page = acceptor.accept(page).await?;
                    let relay = TcpStream::connect(("127.0.0.1", port)).await?;
                    let name = ServerName::try_from(NAME).unwrap();
                    let relay = connector.connect(name, relay).await?;
                    converse(page, relay, &state).await
                });
            }
        });
        Self {
            address,
            state,
            _runtime: runtime,
        }
    }

    /// Lets channels alone if there is no attack.
    pub(crate) fn attacks(&self, attack: Option<Attack>) {
        self.state.lock().unwrap().attack = attack;
    }

    /// Whether a page ever said `text` so that this relay can read it.
    pub(crate) fn heard(&self, text: &str) -> bool {
        memchr::memmem::find(&self.state.lock().unwrap().said, text.as_bytes()).is_some()
    }
}

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn connector(ca_pem: &str) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

type Page = tokio_rustls::server::TlsStream<TcpStream>;
type Relay = tokio_rustls::client::TlsStream<TcpStream>;

async fn converse(mut page: Page, mut relay: Relay, state: &Mutex<State>) -> std::io::Result<()> {
    let Some((head, rest)) = head(&mut page).await? else {
        return Ok(());
    };
    state
        .lock()
        .unwrap()
        .said
        .extend([&head[..], &rest].concat());
    let text = String::from_utf8_lossy(&head).to_lowercase();
    if !text.contains("upgrade: websocket") {
        relay.write_all(&[head, rest].concat()).await?;
        return pass_on(page, relay, state).await;
    }
    let attack = state.lock().unwrap().attack;
    if let Some(Attack::Instead(answer)) = attack {
        page.write_all(answer.as_bytes()).await?;
        return page.shutdown().await;
    }
    if let Some(Attack::Silence { is_open: false }) = attack {
        return tokio::io::copy(&mut page, &mut tokio::io::sink())
            .await
            .map(drop);
    }
    relay.write_all(&head).await?;
    let Some((answer, early)) = self::head(&mut relay).await? else {
        return Ok(());
    };
    page.write_all(&answer).await?;
    let mut page = WebSocketStream::from_partially_read(page, rest, Role::Server, None).await;
    if let Some(Attack::Silence { is_open: true }) = attack {
        while let Some(Ok(_)) = page.next().await {}
        return Ok(());
    }
    let relay = WebSocketStream::from_partially_read(relay, early, Role::Client, None).await;
    carry(page, relay, attack, state).await;
    Ok(())
}

/// What comes up to the end of a head, and what comes after it; `None` at the end.
async fn head(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut head = Vec::new();
    loop {
        if let Some(end) = memchr::memmem::find(&head, b"\r\n\r\n") {
            let rest = head.split_off(end + 4);
            return Ok(Some((head, rest)));
        }
        if from.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
}

async fn pass_on(page: Page, relay: Relay, state: &Mutex<State>) -> std::io::Result<()> {
    let (mut from_page, mut to_page) = tokio::io::split(page);
    let (mut from_relay, mut to_relay) = tokio::io::split(relay);
    let up = async {
        let mut piece = Vec::new();
        while from_page.read_buf(&mut piece).await? > 0 {
            state.lock().unwrap().said.extend(&piece);
            to_relay.write_all(&piece).await?;
            piece.clear();
        }
        to_relay.shutdown().await
    };
    let down = async {
        tokio::io::copy(&mut from_relay, &mut to_page).await?;
        to_page.shutdown().await
    };
    tokio::try_join!(up, down).map(drop)
}

/// Carries one channel until either end leaves or is made to.
async fn carry(
    mut page: WebSocketStream<Page>,
    mut relay: WebSocketStream<Relay>,
    attack: Option<Attack>,
    state: &Mutex<State>,
) {
    let earlier = state.lock().unwrap().earlier.clone();
    let passing = || Passing {
        earlier: earlier.clone(),
        ..Passing::default()
    };
    let (mut up, mut down) = (passing(), passing());
    let (mut said, mut heard) = (Vec::new(), Vec::new());
    let mut whole = Frames::new();
    'open: loop {
        let (is_page, message) = tokio::select! {
            message = page.next() => (true, message),
            message = relay.next() => (false, message),
        };
        let bytes = match message {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            _ => break,
        };
        let (buffer, passing) = match is_page {
            true => (&mut said, &mut up),
            false => (&mut heard, &mut down),
        };
        buffer.extend_from_slice(&bytes);
        if is_page {
            state.lock().unwrap().said.extend_from_slice(&bytes);
        }
        for frame in cut(buffer) {
            if !is_page && attack.is_none() {
                whole.push(frame.clone());
            }
            let messages = match attack {
                Some(Attack::Heard(change)) if !is_page => change(passing, frame),
                Some(Attack::Said(change)) if is_page => change(passing, frame),
                _ => vec![Message::binary(frame)],
            };
            passing.count += 1;
            for message in messages {
                let leaves = message.is_close();
                let sent = match is_page {
                    true => relay.send(message).await,
                    false => page.send(message).await,
                };
                if leaves || sent.is_err() {
                    break 'open;
                }
            }
        }
    }
    // Neither end waits for what does not come.
    let _ = page.close(None).await;
    let _ = relay.close(None).await;
    let mut state = state.lock().unwrap();
    if whole.len() > state.earlier.len() {
        state.earlier = whole;
    }
}
