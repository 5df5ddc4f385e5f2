//! From a host and a port to a connection, in the one order that is safe:
//! decide, resolve, check the addresses, connect to what was checked.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::Shared;
use crate::network::address;
use crate::network::host::Host;
use crate::network::rule::Verdict;

pub(super) const HTTPS: u16 = 443;
/// For the resolver, and for each address.
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
const MOST_ADDRESSES: usize = 4;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The policy does not want it, in a sentence for whoever asked.
    Denied(String),
    /// It is allowed and did not work.
    Unreachable(String),
}

/// Opens a connection, or records why not.
pub(super) fn open(shared: &Shared, host: &Host, port: u16) -> Result<TcpStream, Refusal> {
    let target = format!("{host}:{port}");
    let rules = &shared.plan.network.rules;
    let decision = rules.decide(host, port);
    if !decision.allowed() {
        return Err(deny(shared, &target, decision.rule, decision.allow_with));
    }
    let name = match host {
        Host::Address(address) => return connect(&target, &[*address], port),
        Host::Name(name) => name,
    };
    let found = resolve(shared, name)
        .map_err(|error| Refusal::Unreachable(format!("{target}: {error}")))?;
    let mut usable = Vec::new();
    let mut refused = None;
    for address in found {
        let address = address.to_canonical();
        let literal = rules.decide(&Host::Address(address), port);
        match reason(address) {
            _ if literal.verdict == Verdict::Denied => {
                refused = Some((literal.rule, literal.allow_with))
            }
            Some(what) if !literal.allowed() => {
                let reason = format!(
                    "{} allows the name, and it led to {address}, which is {what}",
                    decision.rule
                );
                refused = Some((reason, literal.allow_with));
            }
            _ => usable.push(address),
        }
    }
    match refused {
        Some((reason, allow_with)) if usable.is_empty() => {
            Err(deny(shared, &target, reason, allow_with))
        }
        _ => connect(&target, &usable, port),
    }
}

/// Why a name must not lead to this address.
fn reason(address: IpAddr) -> Option<&'static str> {
    // Only an address of this machine can be bound.
    address::special(address).or_else(|| {
        UdpSocket::bind((address, 0))
            .is_ok()
            .then_some("this machine")
    })
}

fn deny(shared: &Shared, target: &str, rule: String, allow_with: Option<String>) -> Refusal {
    let hint = allow_with
        .as_deref()
        .map_or_else(String::new, |line| format!("; to allow it: {line}"));
    let sentence = format!("connect to {target} denied: {rule}{hint}");
    shared.log.add(target, rule, allow_with);
    Refusal::Denied(sentence)
}

/// Asks the resolver, which is allowed to hang: its thread is left alone then.
fn resolve(shared: &Shared, name: &str) -> io::Result<Vec<IpAddr>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let (resolver, asked) = (shared.plan.network.resolver.clone(), name.to_owned());
    std::thread::Builder::new()
        .name("katachi-resolve".to_owned())
        .spawn(move || {
            // Nobody listens any more after the deadline.
            let _ = sender.send(resolver.resolve(&asked));
        })?;
    let found = receiver
        .recv_timeout(PATIENCE)
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the resolver gave no answer"))??;
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
    }
    Ok(found)
}

/// Connects to the first of the checked addresses that answers.
fn connect(target: &str, addresses: &[IpAddr], port: u16) -> Result<TcpStream, Refusal> {
    let deadline = Instant::now() + 2 * PATIENCE;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses.iter().take(MOST_ADDRESSES) {
        let left = deadline
            .saturating_duration_since(Instant::now())
            .min(PATIENCE);
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&SocketAddr::new(*address, port), left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(Refusal::Unreachable(format!("{target}: {last}")))
}
