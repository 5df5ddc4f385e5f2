//! Ports of the sandbox on the host's loopback.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::sys::{self, Interest};
use super::wire::{Wire, milliseconds};
use super::{Shared, relay};
use crate::error::SpawnError;
use crate::platform::inside::{WANT_V4, WANT_V6};
use crate::platform::sys::net;

/// For a socket and for its connection; nothing on the way leaves the machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes the ports on the host's loopback, and nowhere else, before the
/// command starts.
pub(crate) fn bind(ports: &[u16]) -> Result<Vec<(u16, TcpListener)>, SpawnError> {
    let mut listeners = Vec::new();
    for port in ports {
        let refused = |error: io::Error| SpawnError::Request {
            problem: format!("port {port} of the host's loopback cannot be published: {error}"),
            next_step: "free the port, or remove it from network.publish".to_owned(),
        };
        listeners.push((
            *port,
            TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).map_err(refused)?,
        ));
        match TcpListener::bind((Ipv6Addr::LOCALHOST, *port)) {
            Ok(listener) => listeners.push((*port, listener)),
            // Somebody else there would answer for us.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(refused(error)),
            // There is no IPv6 here.
            Err(_) => {}
        }
    }
    Ok(listeners)
}

/// One connection from the host to a server inside.
pub(super) fn serve(shared: &Shared, client: TcpStream, port: u16) {
    let connected = connect(
        shared,
        WANT_V4,
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
    )
    .or_else(|_| {
        connect(
            shared,
            WANT_V6,
            SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
        )
    });
    let Ok(server) = connected else { return };
    let both = Wire::new(client, &shared.stop).and_then(|client| {
        let server = Wire::new(server, &shared.stop)?;
        relay::relay(shared, &server.stream, &client.stream)
    });
    // An error of a connection ends it, and concerns nobody else.
    drop(both);
}

/// Connects a socket that was made inside.
fn connect(shared: &Shared, wish: u8, to: SocketAddr) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    let stream = TcpStream::from(socket(shared, wish, deadline)?);
    stream.set_nonblocking(true)?;
    match net::connect(stream.as_fd(), to) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
        Ok(()) => return Ok(stream),
    }
    let mut found = Vec::new();
    let fds = [
        (stream.as_fd(), Interest::WRITE),
        (shared.stop.as_fd(), Interest::READ),
    ];
    sys::wait(fds, milliseconds(deadline), &mut found)?;
    if !found[0].write {
        return Err(io::ErrorKind::TimedOut.into());
    }
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

fn socket(shared: &Shared, wish: u8, deadline: Instant) -> io::Result<OwnedFd> {
    let Some(channel) = &shared.channel else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    let channel = channel.lock().unwrap_or_else(PoisonError::into_inner);
    net::send(channel.as_fd(), &[wish], &[])?;
    let mut found = Vec::new();
    let fds = [
        (channel.as_fd(), Interest::READ),
        (shared.stop.as_fd(), Interest::READ),
    ];
    sys::wait(fds, milliseconds(deadline), &mut found)?;
    if !found[0].read {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let (_, mut fds) = net::receive(channel.as_fd(), &mut [0; 8])?;
    fds.pop().ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}
