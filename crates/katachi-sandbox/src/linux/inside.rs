//! The namespace's side of the network.
//!
//! A socket belongs to the namespace it was made in, whoever holds it. So the
//! first process makes the listeners of the proxy in here and hands them out,
//! and the caller's process, outside, accepts what connects to them. For ports
//! that are published it goes the other way: sockets made in here are
//! connected from outside.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::helper::{Failure, Step as _};
use super::spec::Doors;
use super::sys::net;
use crate::network::names;

/// Where the proxy listens inside, at the first address of the pool.
pub(super) const PROXY_PORT: u16 = 3128;
/// Asks for a socket for IPv4 or IPv6.
pub(crate) const WANT_V4: u8 = 4;
pub(crate) const WANT_V6: u8 = 6;

/// The channel to the caller, once its listeners are handed out.
pub(super) struct Inside(OwnedFd);

/// Makes what the plan wants and hands it to the caller.
pub(super) fn open(doors: &Doors, channel: Option<OwnedFd>) -> Result<Inside, Failure> {
    let channel = channel
        .ok_or_else(|| io::Error::other("the caller gave no channel"))
        .step("open the network")?;
    let mut listeners: Vec<OwnedFd> = Vec::new();
    if doors.proxy {
        listeners = listen(doors).step("listen for the proxy")?;
    }
    let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(OwnedFd::as_fd).collect();
    net::send(channel.as_fd(), b"l", &fds).step("hand out the listeners")?;
    Ok(Inside(channel))
}

/// The proxy's own listener, the resolver's, and one for each port.
fn listen(doors: &Doors) -> io::Result<Vec<OwnedFd>> {
    net::add_loopback_address(1, names::GATEWAY, names::MASK)?;
    for (index, address) in doors.addresses.iter().enumerate() {
        net::add_loopback_address(2 + index, *address, Ipv4Addr::BROADCAST)?;
    }
    let mut listeners: Vec<OwnedFd> = vec![
        TcpListener::bind((names::GATEWAY, PROXY_PORT))?.into(),
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 53))?.into(),
    ];
    for port in &doors.ports {
        listeners.push(TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port))?.into());
    }
    for port in &doors.ports_v6 {
        listeners.push(TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, *port))?.into());
    }
    Ok(listeners)
}

impl Inside {
    pub(super) fn channel(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Answers one request of the caller. `false` when it let go.
    pub(super) fn answer(&self) -> bool {
        let mut wish = [0];
        let Ok((1, _)) = net::receive(self.channel(), &mut wish) else {
            return false;
        };
        let socket = net::stream_socket(wish[0] == WANT_V6);
        match socket {
            Ok(socket) => net::send(self.channel(), b"s", &[socket.as_fd()]),
            Err(_) => net::send(self.channel(), b"-", &[]),
        }
        .is_ok()
    }
}
