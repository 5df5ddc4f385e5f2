//! A proxy for one command where commands share the host's network.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::Arc;

use super::credentials::Credentials;
use super::{Door, Network};
use crate::environment::Proxies;
use crate::feed::Feed;
use crate::plan::Inner;

impl Network {
    /// Listens on a port of the host's loopback, for one command that is told
    /// where and with which credentials.
    pub(crate) fn on_loopback(plan: Arc<Inner>, feed: Feed) -> io::Result<(Self, u16, Proxies)> {
        let (listeners, port) = listeners()?;
        let credentials = Credentials::new()?;
        let proxies = credentials.proxies(port);
        let doors = listeners
            .into_iter()
            .map(|listener| (Door::Proxy, listener))
            .collect();
        let network = Self::prepare()?.open(plan, doors, None, None, Some(credentials), feed)?;
        Ok((network, port, proxies))
    }
}

/// A port that nobody else answers on, for either kind of address.
pub(super) fn listeners() -> io::Result<(Vec<TcpListener>, u16)> {
    /// Ports that are tried.
    const TRIES: usize = 16;
    for _ in 0..TRIES {
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = v4.local_addr()?.port();
        match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
            Ok(v6) => return Ok((vec![v4, v6], port)),
            // Somebody else there would be reached in our place.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            // There is no IPv6 here.
            Err(_) => return Ok((vec![v4], port)),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}
