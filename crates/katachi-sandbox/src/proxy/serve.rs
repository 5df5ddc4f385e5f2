//! One connection of the sandbox, from its first byte.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Shared;
use super::open::{HTTPS, Refusal, open};
use super::relay;
use super::sys::{self, Interest};
use super::wire::Wire;
use crate::network::body::Body;
use crate::network::hello::{self, Hello};
use crate::network::host::Host;
use crate::network::http::{self, Reader, Request};
use crate::network::socks;

/// For everything before the first byte is passed on, however slowly it comes.
const HEAD: Duration = Duration::from_secs(10);
/// The TLS alert "access denied" (RFC 8446, section 6.2).
const TLS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// Of whoever does not say what the command alone was told.
pub(super) const STRANGER: &str = "it came without the credentials of this command";
/// The status for it, with the field that it needs (RFC 9110, section 15.5.8).
const UNKNOWN: &str =
    "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"katachi-sandbox\"";

/// A connection to the proxy's own port.
pub(super) fn proxy(shared: &Shared, client: TcpStream) {
    // Errors of a connection end it, and concern nobody else.
    let _ = Wire::new(client, &shared.stop).and_then(|client| speak(shared, &client));
}

fn speak(shared: &Shared, client: &Wire<'_>) -> io::Result<()> {
    let deadline = Instant::now() + HEAD;
    let mut bytes = Vec::new();
    client.read(&mut bytes, http::LONGEST, deadline)?;
    match bytes.first() {
        None => Ok(()),
        Some(&socks::VERSION) => socks(shared, client, bytes, deadline),
        Some(4) => {
            shared.log.add(
                "the proxy",
                "SOCKS 4 is not offered, only SOCKS 5 and HTTP".to_owned(),
                None,
            );
            Ok(())
        }
        Some(_) => http(shared, client, bytes, &Reader::Proxy, deadline),
    }
}

fn socks(
    shared: &Shared,
    client: &Wire<'_>,
    mut bytes: Vec<u8>,
    deadline: Instant,
) -> io::Result<()> {
    /// Longest greeting, password and request together.
    const LONGEST: usize = 2 + 255 + 513 + 262;
    let (greeting, methods) = loop {
        if let Some(greeting) = socks::greeting(&bytes) {
            break greeting;
        }
        more(client, &mut bytes, LONGEST, deadline)?;
    };
    bytes.drain(..greeting);
    match &shared.credentials {
        None if methods.nothing => client.write(&socks::NO_AUTHENTICATION, deadline)?,
        Some(credentials) if methods.password => {
            client.write(&socks::WITH_PASSWORD, deadline)?;
            let (length, known) = loop {
                match socks::password(&bytes) {
                    Ok(Some(said)) => break (said.length, credentials.fit(&said)),
                    Ok(None) => more(client, &mut bytes, LONGEST, deadline)?,
                    Err(_) => break (0, false),
                }
            };
            if !known {
                shared.log.add("the proxy", STRANGER.to_owned(), None);
                return client.write(&socks::WRONG_PASSWORD, deadline);
            }
            bytes.drain(..length);
            client.write(&socks::RIGHT_PASSWORD, deadline)?;
        }
        wanted => {
            if wanted.is_some() {
                shared.log.add("the proxy", STRANGER.to_owned(), None);
            }
            return client.write(&socks::NO_METHOD, deadline);
        }
    }
    let (length, host, port) = loop {
        match socks::request(&bytes) {
            Ok(Some(request)) => break request,
            Ok(None) => more(client, &mut bytes, LONGEST, deadline)?,
            Err(bad) => {
                shared
                    .log
                    .add("a SOCKS request", bad.problem.to_owned(), None);
                return client.write(&bad.reply.message(), deadline);
            }
        }
    };
    bytes.drain(..length);
    let upstream = match open(shared, &host, port) {
        Ok(upstream) => upstream,
        Err(refusal) => {
            let reply = match refusal {
                Refusal::Denied(_) => socks::Reply::NotAllowed,
                Refusal::Unreachable(_) => socks::Reply::HostUnreachable,
            };
            return client.write(&reply.message(), Instant::now() + HEAD);
        }
    };
    client.write(&socks::Reply::Succeeded.message(), Instant::now() + HEAD)?;
    tunnel(shared, client, upstream, &host, port, bytes)
}

fn http(
    shared: &Shared,
    client: &Wire<'_>,
    mut bytes: Vec<u8>,
    reader: &Reader<'_>,
    deadline: Instant,
) -> io::Result<()> {
    let (request, length) = loop {
        match http::parse(&bytes, reader) {
            Ok(Some(read)) => break read,
            // One byte more than a head may have, so that it is noticed.
            Ok(None) => more(client, &mut bytes, http::LONGEST + 1, deadline)?,
            Err(problem) => {
                let target = match reader {
                    Reader::Proxy => "an HTTP request".to_owned(),
                    Reader::Origin(host, port) => format!("{host}:{port}"),
                };
                shared.log.add(&target, problem.to_owned(), None);
                return say(client, "400 Bad Request", problem);
            }
        }
    };
    if let (Some(credentials), Reader::Proxy) = (&shared.credentials, reader)
        && !credentials.fit_basic(http::proxy_authorization(&bytes[..length]))
    {
        shared.log.add("the proxy", STRANGER.to_owned(), None);
        return say(client, UNKNOWN, STRANGER);
    }
    bytes.drain(..length);
    let (host, port) = match &request {
        Request::Tunnel { host, port } | Request::Forward { host, port, .. } => (host, *port),
    };
    let upstream = match open(shared, host, port) {
        Ok(upstream) => upstream,
        Err(Refusal::Denied(sentence)) => return say(client, "403 Forbidden", &sentence),
        Err(Refusal::Unreachable(reason)) => return say(client, "502 Bad Gateway", &reason),
    };
    match request {
        Request::Tunnel { host, port } => {
            client.write(
                b"HTTP/1.1 200 Connection established\r\n\r\n",
                Instant::now() + HEAD,
            )?;
            tunnel(shared, client, upstream, &host, port, bytes)
        }
        Request::Forward {
            host,
            port,
            head,
            body,
        } => {
            let upstream = Wire::new(upstream, client.stop())?;
            shared.count(head.len())?;
            upstream.write(&head, Instant::now() + HEAD)?;
            forward(shared, client, &upstream, body, bytes).inspect_err(|error| {
                if error.kind() == io::ErrorKind::InvalidData {
                    shared
                        .log
                        .add(&format!("{host}:{port}"), error.to_string(), None);
                }
            })
        }
    }
}

/// Says why not, in words a person or a model reads.
fn say(client: &Wire<'_>, status: &str, reason: &str) -> io::Result<()> {
    let reason = crate::report::one_line(reason);
    let body = format!("katachi-sandbox: {reason}\n");
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nX-Katachi-Denied: {reason}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write(
        &[head.as_bytes(), body.as_bytes()].concat(),
        Instant::now() + HEAD,
    )
}

fn more(client: &Wire<'_>, bytes: &mut Vec<u8>, limit: usize, deadline: Instant) -> io::Result<()> {
    match client.read(bytes, limit, deadline)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Sends the body on, and then whatever the origin answers; a byte after the
/// body would be a second request that nobody judged.
fn forward(
    shared: &Shared,
    client: &Wire<'_>,
    upstream: &Wire<'_>,
    mut body: Body,
    mut bytes: Vec<u8>,
) -> io::Result<()> {
    const PART: usize = 64 * 1024;
    let mut found = Vec::new();
    let mut open = true;
    loop {
        if !bytes.is_empty() {
            let taken = body
                .take(&bytes)
                .map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, problem))?;
            shared.count(taken)?;
            upstream.write(&bytes[..taken], Instant::now() + shared.idle)?;
            if taken < bytes.len() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a second request came on one connection",
                ));
            }
            bytes.clear();
        }
        let deadline = Instant::now() + shared.idle;
        let client_interest = Interest {
            read: open,
            write: false,
        };
        let fds = [
            (client.stream.as_fd(), client_interest),
            (upstream.stream.as_fd(), Interest::READ),
            (client.stop().as_fd(), Interest::READ),
        ];
        sys::wait(fds, super::wire::milliseconds(deadline), &mut found)?;
        if found[2].read || !found.iter().any(|found| found.any()) {
            return Ok(());
        }
        if found[0].read && client.read(&mut bytes, PART, deadline)? == 0 {
            if !body.is_done() {
                return Ok(());
            }
            open = false;
        }
        if found[1].read {
            let mut answer = Vec::new();
            if upstream.read(&mut answer, PART, deadline)? == 0 {
                return Ok(());
            }
            shared.count(answer.len())?;
            client.write(&answer, Instant::now() + shared.idle)?;
        }
    }
}

/// A connection of a program that knows no proxy.
pub(super) fn direct(shared: &Shared, client: TcpStream) {
    let Ok(at) = client.local_addr() else { return };
    let _ = Wire::new(client, &shared.stop).and_then(|client| direct_to(shared, &client, at));
}

fn direct_to(shared: &Shared, client: &Wire<'_>, at: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + HEAD;
    let address = at.ip().to_canonical();
    let name = match address {
        IpAddr::V4(address) => {
            let names = shared.names.lock().unwrap_or_else(PoisonError::into_inner);
            names.name(address).map(|name| Host::Name(name.to_owned()))
        }
        IpAddr::V6(_) => None,
    };
    let host = name.unwrap_or(Host::Address(address));
    // A name on the port of HTTP is reached by requests, each of which says
    // whom it means.
    if at.port() == 80 && matches!(host, Host::Name(_)) {
        let reader = Reader::Origin(&host, 80);
        return http(shared, client, Vec::new(), &reader, deadline);
    }
    match open(shared, &host, at.port()) {
        Ok(upstream) => tunnel(shared, client, upstream, &host, at.port(), Vec::new()),
        // There is no language yet to say it in; the report has it.
        Err(_) => Ok(()),
    }
}

/// Passes bytes both ways, once the first of them were seen to mean the host
/// that was allowed.
fn tunnel(
    shared: &Shared,
    client: &Wire<'_>,
    upstream: TcpStream,
    host: &Host,
    port: u16,
    mut seen: Vec<u8>,
) -> io::Result<()> {
    let upstream = Wire::new(upstream, client.stop())?;
    let mut begun = Instant::now();
    let mut found = Vec::new();
    loop {
        match judge(&seen, host, port) {
            Verdict::Pass => break,
            Verdict::Deny(reason) => {
                shared.log.add(&format!("{host}:{port}"), reason, None);
                return client.write(&TLS_DENIED, Instant::now() + HEAD);
            }
            Verdict::More => {}
        }
        // A client that has begun, or has to, does not take its time.
        let hurry = !seen.is_empty() || port == HTTPS;
        let patience = if hurry { HEAD } else { shared.idle };
        let deadline = begun + patience;
        let fds = [
            (client.stream.as_fd(), Interest::READ),
            (upstream.stream.as_fd(), Interest::READ),
            (client.stop().as_fd(), Interest::READ),
        ];
        sys::wait(fds, super::wire::milliseconds(deadline), &mut found)?;
        // What the command said before it ended is still passed on.
        let over = found[2].read && !found[0].read;
        if over || Instant::now() >= deadline {
            return Ok(());
        }
        if found[0].read && client.read(&mut seen, hello::LONGEST, deadline)? == 0 {
            // It never said anything, so there is nothing to judge.
            if seen.is_empty() && port != HTTPS {
                break;
            }
            return Ok(());
        }
        if found[1].read {
            // A server that speaks first: mail, ssh, databases.
            let mut greeting = Vec::new();
            if upstream.read(&mut greeting, 16 * 1024, deadline)? == 0 {
                return Ok(());
            }
            shared.count(greeting.len())?;
            client.write(&greeting, deadline)?;
            if !hurry {
                begun = Instant::now();
            }
        }
    }
    shared.count(seen.len())?;
    upstream.write(&seen, Instant::now() + HEAD)?;
    relay::relay(shared, &client.stream, &upstream.stream)
}

enum Verdict {
    Pass,
    More,
    Deny(String),
}

/// Whether the client's first bytes may go to the host.
fn judge(seen: &[u8], host: &Host, port: u16) -> Verdict {
    if seen.is_empty() {
        return Verdict::More;
    }
    if !hello::is_tls(seen) {
        return if port == HTTPS {
            Verdict::Deny("on port 443 only TLS passes, and it is none".to_owned())
        } else {
            Verdict::Pass
        };
    }
    match (hello::parse(seen), host) {
        (Ok(None), _) => Verdict::More,
        (Ok(Some(Hello::Name(name))), host) if name == *host => Verdict::Pass,
        (Ok(Some(Hello::Name(name))), _) => Verdict::Deny(format!(
            "its TLS names {name}, another host than the one allowed"
        )),
        (Ok(Some(Hello::Encrypted)), _) => {
            Verdict::Deny("its TLS encrypts the name of the host".to_owned())
        }
        (Ok(Some(Hello::Nameless)), Host::Name(_)) if port == HTTPS => {
            Verdict::Deny("its TLS names no host".to_owned())
        }
        (Ok(Some(Hello::Nameless)), _) => Verdict::Pass,
        (Err(problem), _) => Verdict::Deny(problem.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_passes_where_tls_is_spoken() {
        let name = Host::Name("a.test".into());
        let pass = |seen: &[u8], port| matches!(judge(seen, &name, port), Verdict::Pass);
        assert!(pass(b"SSH-2.0-x\r\n", 22));
        assert!(!pass(b"SSH-2.0-x\r\n", HTTPS));
        assert!(!pass(b"GET / HTTP/1.1\r\n", HTTPS));
        assert!(matches!(judge(b"", &name, 22), Verdict::More));
        assert!(matches!(judge(b"\x16", &name, 22), Verdict::More));
        assert!(matches!(
            judge(b"\x16\x03\x01\x00\x00", &name, 22),
            Verdict::Deny(_)
        ));
    }
}
