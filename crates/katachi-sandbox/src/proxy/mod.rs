//! The caller's side of the network: what accepts connections of the sandbox
//! and opens others for them.
//!
//! One thread for each sandbox waits at the listeners that were made inside,
//! and answers the resolver's questions itself. Each connection has a thread
//! of its own with a small stack, at most [`MOST`] of them: the code of a
//! connection is then a straight line with a deadline at each step. Bytes that
//! only pass are moved by the kernel and never copied. Nothing of this touches
//! the caller's async runtime, if it has one.
//!
//! ```text
//!  inside                        |  caller's process
//!  program -> 198.18.0.1:3128  --+--> HTTP, SOCKS 5    \
//!  program -> 198.18.x.y:443   --+--> name of x.y       > decide -> resolve -> check -> connect
//!  program -> 127.0.0.1:53/udp --+--> 198.18.x.y       /
//!  server on 127.0.0.1:3000   <--+--- 127.0.0.1:3000 of the host, if published
//! ```
//!
//! Where a command has no network of its own, the proxy listens on a port of
//! the host's loopback, the only one that its sandbox lets it reach. Any other
//! process can connect there too, so each connection has to say what the
//! command alone was told: see [`credentials`].

mod credentials;
mod log;
#[cfg(any(test, not(target_os = "linux")))]
mod loopback;
mod open;
#[cfg(target_os = "linux")]
mod publish;
mod relay;
mod serve;
mod sys;
#[cfg(test)]
mod tests;
mod wire;

use std::io::{self, PipeReader, PipeWriter};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::feed::Feed;
use crate::network::dns::{self, Kind, Reply};
use crate::network::host::Host;
use crate::network::names::Names;
use crate::plan::Inner;
#[cfg(target_os = "linux")]
use crate::platform::sys::net;
use credentials::Credentials;
use log::Log;
#[cfg(target_os = "linux")]
pub(crate) use publish::bind;
use sys::{Found, Interest};

/// Connections of one command at one time.
const MOST: usize = 128;
/// Stack of a connection's thread, in bytes.
const STACK: usize = 256 * 1024;
/// Stack of the thread that waits at the doors, in bytes.
const DOOR_STACK: usize = 512 * 1024;

/// The network of one running command. Dropping it closes everything.
#[derive(Debug)]
pub(crate) struct Network {
    /// Closing it stops every thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

/// The thread of a command's network, before there is anything to do: where the
/// caller can have no thread, nothing is to run.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// First, since the thread that is waited for ends with it.
    begin: mpsc::SyncSender<Doors>,
    stopped: PipeReader,
    network: Network,
}

/// What a thread waits at.
#[derive(Debug)]
struct Doors {
    shared: Arc<Shared>,
    listeners: Vec<(Door, TcpListener)>,
    resolver: Option<UdpSocket>,
}

/// See [`Shared::idle`].
const IDLE: Duration = Duration::from_secs(600);

/// What every connection needs.
#[derive(Debug)]
struct Shared {
    plan: Arc<Inner>,
    names: Mutex<Names>,
    log: Log,
    /// Readable once everything is to end.
    stop: PipeReader,
    /// Connections that are open.
    open: AtomicUsize,
    /// Bytes that may still pass.
    left: AtomicU64,
    /// Where sockets of the namespace come from, if there is one.
    channel: Option<Mutex<OwnedFd>>,
    /// What a connection has to say, where others can connect too.
    credentials: Option<Credentials>,
    /// A connection on which nothing passes for so long is closed.
    idle: Duration,
}

/// How a connection came in.
#[derive(Clone, Copy, Debug)]
enum Door {
    /// By the proxy's own port.
    Proxy,
    /// By an address that stands for a name.
    Direct,
    /// From the host, for this port inside.
    #[cfg(target_os = "linux")]
    Published(u16),
}

impl Waiting {
    /// Takes over the listeners that the first process made, and begins.
    #[cfg(target_os = "linux")]
    pub(crate) fn begin(
        self,
        plan: Arc<Inner>,
        channel: OwnedFd,
        published: Vec<(u16, TcpListener)>,
        feed: Feed,
    ) -> io::Result<Network> {
        let (_, fds) = net::receive(channel.as_fd(), &mut [0; 8])?;
        let mut fds = fds.into_iter();
        let mut doors = Vec::new();
        if let Some(fd) = fds.next() {
            doors.push((Door::Proxy, TcpListener::from(fd)));
        }
        let resolver = fds.next().map(UdpSocket::from);
        doors.extend(fds.map(|fd| (Door::Direct, TcpListener::from(fd))));
        let published = published
            .into_iter()
            .map(|(port, listener)| (Door::Published(port), listener));
        doors.extend(published);
        self.open(plan, doors, resolver, Some(channel), None, feed)
    }

    fn open(
        self,
        plan: Arc<Inner>,
        listeners: Vec<(Door, TcpListener)>,
        resolver: Option<UdpSocket>,
        channel: Option<OwnedFd>,
        credentials: Option<Credentials>,
        feed: Feed,
    ) -> io::Result<Network> {
        for (_, listener) in &listeners {
            listener.set_nonblocking(true)?;
        }
        if let Some(resolver) = &resolver {
            resolver.set_nonblocking(true)?;
        }
        let left = plan
            .policy
            .limits
            .network
            .map_or(u64::MAX, |size| size.bytes());
        let shared = Arc::new(Shared {
            plan,
            names: Mutex::default(),
            log: Log(feed),
            stop: self.stopped,
            open: AtomicUsize::new(0),
            left: AtomicU64::new(left),
            channel: channel.map(Mutex::new),
            credentials,
            idle: IDLE,
        });
        // The thread waits until this is sent or dropped.
        let _ = self.begin.send(Doors {
            shared,
            listeners,
            resolver,
        });
        Ok(self.network)
    }
}

impl Network {
    /// Starts the thread.
    pub(crate) fn prepare() -> io::Result<Waiting> {
        let (stopped, stop) = io::pipe()?;
        let (begin, begun) = mpsc::sync_channel::<Doors>(1);
        let thread = std::thread::Builder::new()
            .name("katachi-network".to_owned())
            .stack_size(DOOR_STACK)
            .spawn(move || {
                // Otherwise nothing was started.
                if let Ok(doors) = begun.recv() {
                    wait_at_doors(&doors.shared, &doors.listeners, doors.resolver.as_ref());
                }
            })?;
        Ok(Waiting {
            begin,
            stopped,
            network: Self {
                stop: Some(stop),
                thread: Some(thread),
            },
        })
    }

    /// Closes every listener and connection.
    pub(crate) fn stop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It only panics if we have a bug, and is gone then too.
            let _ = thread.join();
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop();
    }
}

fn wait_at_doors(
    shared: &Arc<Shared>,
    doors: &[(Door, TcpListener)],
    resolver: Option<&UdpSocket>,
) {
    let mut found: Vec<Found> = Vec::new();
    loop {
        let fds = std::iter::once(shared.stop.as_fd())
            .chain(doors.iter().map(|(_, listener)| listener.as_fd()))
            .chain(resolver.map(|resolver| resolver.as_fd()))
            .map(|fd| (fd, Interest::READ));
        if sys::wait(fds, -1, &mut found).is_err() || found[0].read {
            return;
        }
        for ((door, listener), found) in doors.iter().zip(&found[1..]) {
            if found.read {
                accept(shared, *door, listener);
            }
        }
        if let (Some(resolver), true) = (resolver, found.len() > doors.len() + 1) {
            answer_questions(shared, resolver);
        }
    }
}

/// Takes what waits at a listener.
fn accept(shared: &Arc<Shared>, door: Door, listener: &TcpListener) {
    // Not for ever: other doors wait too.
    for _ in 0..MOST {
        match listener.accept() {
            Ok((client, _)) => begin(shared, door, client),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {
                // Out of descriptors, most likely: let some be closed.
                std::thread::sleep(std::time::Duration::from_millis(10));
                return;
            }
        }
    }
}

fn begin(shared: &Arc<Shared>, door: Door, client: TcpStream) {
    if shared.open.fetch_add(1, Ordering::AcqRel) >= MOST {
        shared.open.fetch_sub(1, Ordering::AcqRel);
        shared.log.add(
            "a further connection",
            format!("{MOST} connections are open, which is the most at one time"),
            None,
        );
        return;
    }
    let threads = shared.clone();
    let started = std::thread::Builder::new()
        .name("katachi-connection".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            let _leaving = Leaving(&threads.open);
            match door {
                Door::Proxy => serve::proxy(&threads, client),
                Door::Direct => serve::direct(&threads, client),
                #[cfg(target_os = "linux")]
                Door::Published(port) => publish::serve(&threads, client, port),
            }
        });
    if started.is_err() {
        shared.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts a connection out however its thread ends.
struct Leaving<'a>(&'a AtomicUsize);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn answer_questions(shared: &Shared, resolver: &UdpSocket) {
    let mut message = [0; dns::LONGEST + 1];
    for _ in 0..64 {
        let Ok((length, from)) = resolver.recv_from(&mut message) else {
            return;
        };
        let Some(question) = dns::parse(&message[..length]) else {
            continue;
        };
        let answer = question.answer(reply(shared, question.name.as_ref(), question.kind));
        // Whoever asked may be gone.
        let _ = resolver.send_to(&answer, from);
    }
}

/// Answers from the policy; nobody is asked.
fn reply(shared: &Shared, name: Option<&Host>, kind: Kind) -> Reply {
    let Some(Host::Name(name)) = name else {
        return Reply::NoSuchName;
    };
    if name == "localhost" || name.ends_with(".localhost") {
        return match kind {
            Kind::V4 => Reply::Address(std::net::Ipv4Addr::LOCALHOST),
            _ => Reply::Nothing,
        };
    }
    let host = Host::Name(name.clone());
    if !shared.plan.network.rules.knows(&host) {
        // Searching the reverse tree is no attempt to reach anybody.
        if kind != Kind::Other {
            let denied = shared.plan.network.rules.decide(&host, open::HTTPS);
            shared.log.add(name, denied.rule, denied.allow_with);
        }
        return Reply::NoSuchName;
    }
    if kind != Kind::V4 {
        return Reply::Nothing;
    }
    let mut names = shared.names.lock().unwrap_or_else(PoisonError::into_inner);
    match names.address(name) {
        Some(address) => Reply::Address(address),
        None => Reply::Failure,
    }
}
