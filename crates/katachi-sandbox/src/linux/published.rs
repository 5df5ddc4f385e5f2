//! The self-test of published ports: servers inside, and who reaches them.
//!
//! The same word is offered inside on every published port and on one that is
//! not. From outside it has to be heard on the host's loopback at the published
//! ports, and nowhere else.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::codec::{Reader, Writer};

/// How long each side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// For who listens elsewhere, has nothing to do with us, and says nothing.
const ELSEWHERE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(5);

/// What is served inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Servers {
    ports: Vec<u16>,
    /// A port that no rule publishes.
    unpublished: u16,
    /// What they say, which nobody else does.
    word: u64,
}

/// What was heard of them outside.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Published ports at which nothing was heard.
    pub(super) missed: Vec<u16>,
    /// Whether the word was heard where it should not have been.
    pub(super) elsewhere: bool,
}

impl Servers {
    pub(super) fn new(ports: &[u16], word: u64) -> io::Result<Self> {
        let unpublished = loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let port = listener.local_addr()?.port();
            if !ports.contains(&port) {
                break port;
            }
        };
        Ok(Self {
            ports: ports.to_owned(),
            unpublished,
            word,
        })
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.list(self.ports.iter(), |writer, port| {
            writer.number((*port).into());
        });
        writer.number(self.unpublished.into()).number(self.word);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            ports: reader.list(|reader| reader.number()?.try_into().ok())?,
            unpublished: reader.number()?.try_into().ok()?,
            word: reader.number()?,
        })
    }

    /// Inside: says the word to whoever connects, until the first visitors have
    /// left.
    pub(super) fn serve(&self) {
        let Ok(listeners) = self.listen() else {
            return;
        };
        let until = Instant::now() + PATIENCE;
        let (mut visitors, mut came): (Vec<TcpStream>, bool) = (Vec::new(), false);
        while !self.ports.is_empty() && Instant::now() < until {
            for listener in &listeners {
                while let Ok((visitor, _)) = listener.accept() {
                    let _ = (&visitor).write_all(&self.word.to_le_bytes());
                    if visitor.set_nonblocking(true).is_ok() {
                        visitors.push(visitor);
                        came = true;
                    }
                }
            }
            visitors.retain_mut(|visitor| {
                let said = visitor.read(&mut [0]);
                said.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            });
            if came && visitors.is_empty() {
                return;
            }
            thread::sleep(STEP);
        }
    }

    fn listen(&self) -> io::Result<Vec<TcpListener>> {
        let listen = |port: &u16| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *port))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let ports = self.ports.iter().chain([&self.unpublished]);
        ports.map(listen).collect()
    }

    /// Outside: who can be reached where, unless the servers have ended.
    pub(super) fn visit(&self, ended: &AtomicBool) -> Heard {
        let mut heard = Heard::default();
        // While one is there the servers stay.
        let mut visit = None;
        for port in &self.ports {
            let place = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
            match self.hear_until(place, ended) {
                Some(stream) => visit = visit.or(Some(stream)),
                None => heard.missed.push(*port),
            }
        }
        if visit.is_some() {
            heard.elsewhere = self
                .elsewhere()
                .any(|place| self.hear(place, ELSEWHERE).is_ok_and(|said| said.is_some()));
        }
        heard
    }

    /// Addresses of this machine at which nothing of the sandbox listens.
    fn elsewhere(&self) -> impl Iterator<Item = SocketAddr> {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        // All of this network is loopback, and the host's own address is what
        // others reach it by.
        let others = [Some(Ipv4Addr::new(127, 0, 0, 2).into()), own_address()];
        let ports = self.ports.iter().flat_map(move |port| {
            let others = others.into_iter().flatten();
            others.map(move |address| SocketAddr::new(address, *port))
        });
        let unpublished = self.unpublished;
        loopback
            .into_iter()
            .map(move |address| SocketAddr::new(address, unpublished))
            .chain(ports)
    }

    fn hear_until(&self, place: SocketAddr, ended: &AtomicBool) -> Option<TcpStream> {
        while !ended.load(Ordering::Acquire) {
            // Until the server inside is there, the connection ends.
            if let Ok(Some(stream)) = self.hear(place, PATIENCE) {
                return Some(stream);
            }
            thread::sleep(STEP);
        }
        None
    }

    /// A connection on which the word came.
    fn hear(&self, place: SocketAddr, patience: Duration) -> io::Result<Option<TcpStream>> {
        let mut stream = TcpStream::connect_timeout(&place, patience)?;
        stream.set_read_timeout(Some(patience))?;
        let mut said = [0; 8];
        stream.read_exact(&mut said)?;
        Ok((said == self.word.to_le_bytes()).then_some(stream))
    }
}

/// The address with which this machine would speak to others. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address for documentation (RFC 5737).
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}
