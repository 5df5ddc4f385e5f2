//! Requests to an HTTP proxy (RFC 9110 and 9112).
//!
//! A request is read once and written anew from what was understood, so that
//! nothing the origin reads was never judged: one host, one body, one request
//! for each connection. Where two readers could disagree, it is refused.

use super::body::Body;
use super::host::{self, Host};

/// Longest head, with its last empty line.
pub(crate) const LONGEST: usize = 32 * 1024;
/// Most header fields.
const FIELDS: usize = 100;
/// The port of `http`.
const HTTP: u16 = 80;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// `CONNECT`: bytes both ways.
    Tunnel { host: Host, port: u16 },
    /// One request, to be sent on.
    Forward {
        host: Host,
        port: u16,
        /// The head for the origin.
        head: Vec<u8>,
        /// Where the body ends.
        body: Body,
    },
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reader<'a> {
    /// A client that knows it has a proxy before it.
    Proxy,
    /// One that believes to speak with this host.
    Origin(&'a Host, u16),
}

/// Reads the head of a request: what it asks for and its length. `None` until
/// all of it is there; the reason if it is none.
pub(crate) fn parse(
    bytes: &[u8],
    reader: &Reader<'_>,
) -> Result<Option<(Request, usize)>, &'static str> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    let length = match parsed.parse(&bytes[..bytes.len().min(LONGEST)]) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= LONGEST => {
            return Err("the head of the request is too long");
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err("it has too many header fields"),
        Err(_) => return Err("it is no HTTP/1 request"),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err("it is no HTTP/1 request");
    };
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) || target.contains(['#', '\\']) {
        return Err("its target has bytes that no target has");
    }
    let request = if method == "CONNECT" {
        if matches!(reader, Reader::Origin(..)) {
            return Err("CONNECT is for the proxy only");
        }
        tunnel(target, parsed.headers)?
    } else {
        forward(method, target, version, parsed.headers, reader)?
    };
    Ok(Some((request, length)))
}

/// The value of `Proxy-Authorization` in a head; `None` unless there is exactly
/// one.
pub(crate) fn proxy_authorization(head: &[u8]) -> Option<&[u8]> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    parsed.parse(head).ok()?;
    let mut named = parsed
        .headers
        .iter()
        .filter(|field| is(field, "proxy-authorization"));
    match (named.next(), named.next()) {
        (Some(field), None) => Some(field.value),
        _ => None,
    }
}

fn tunnel(target: &str, fields: &[httparse::Header<'_>]) -> Result<Request, &'static str> {
    let (host, port) = host::authority(target)?;
    // Nothing follows but the tunnel, so a body would be read as a part of it.
    let framed = |name: &str| {
        fields
            .iter()
            .any(|field| is(field, name) && field.value != b"0")
    };
    if framed("content-length") || framed("transfer-encoding") {
        return Err("CONNECT has no body");
    }
    check_host(fields, &host, port, false)?;
    Ok(Request::Tunnel { host, port })
}

fn forward(
    method: &str,
    target: &str,
    version: u8,
    fields: &[httparse::Header<'_>],
    reader: &Reader<'_>,
) -> Result<Request, &'static str> {
    let (host, port, path) = match (absolute(target)?, reader) {
        (Some(named), Reader::Proxy) => named,
        (Some((host, port, path)), Reader::Origin(wanted, at)) => {
            if (&host, port) != (*wanted, *at) {
                return Err("its target is another host than the connection's");
            }
            (host, port, path)
        }
        (None, Reader::Origin(host, port)) if target.starts_with('/') => {
            ((*host).clone(), *port, target.to_owned())
        }
        (None, _) => return Err("its target is no http:// address"),
    };
    let origin = matches!(reader, Reader::Origin(..));
    check_host(fields, &host, port, origin && absolute(target)?.is_none())?;
    let body = Body::of(version, fields)?;
    let named = connection_fields(fields);
    let dropped = |name: &str| {
        const HOP: &[&str] = &[
            "host",
            "connection",
            "keep-alive",
            "te",
            "trailer",
            "upgrade",
            "proxy-connection",
            "proxy-authorization",
            "proxy-authenticate",
            "content-length",
            "transfer-encoding",
        ];
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        HOP.iter().any(|known| is(known)) || named.iter().any(|known| is(known))
    };
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}").into_bytes();
    if port != HTTP {
        head.extend(format!(":{port}").bytes());
    }
    head.extend(b"\r\n");
    for field in fields.iter().filter(|field| !dropped(field.name)) {
        head.extend(field.name.bytes());
        head.extend(b": ");
        head.extend(field.value);
        head.extend(b"\r\n");
    }
    head.extend(body.field().bytes());
    head.extend(b"Connection: close\r\n\r\n");
    Ok(Request::Forward {
        host,
        port,
        head,
        body,
    })
}

/// Host, port and path of an absolute target; `None` if it is none.
fn absolute(target: &str) -> Result<Option<(Host, u16, String)>, &'static str> {
    let Some((scheme, rest)) = target.split_once("://") else {
        return Ok(None);
    };
    if target.starts_with('/') {
        return Ok(None);
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err("of absolute targets, only http:// is offered; use CONNECT");
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        return Err("a target with `@` in its host is refused");
    }
    let (host, port) = host_and_port(authority)?;
    let path = match path {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    Ok(Some((host, port, path)))
}

fn host_and_port(text: &str) -> Result<(Host, u16), &'static str> {
    let bracket = text.rfind(']').unwrap_or(0);
    if text[bracket..].contains(':') {
        host::authority(text)
    } else {
        Ok((Host::parse(text)?, HTTP))
    }
}

/// The `Host` field must be at most one and mean the target.
fn check_host(
    fields: &[httparse::Header<'_>],
    host: &Host,
    port: u16,
    needed: bool,
) -> Result<(), &'static str> {
    let mut named = fields.iter().filter(|field| is(field, "host"));
    let (first, second) = (named.next(), named.next());
    if second.is_some() {
        return Err("it has two Host fields");
    }
    let Some(field) = first else {
        return if needed {
            Err("it has no Host field")
        } else {
            Ok(())
        };
    };
    // It is passed on as it is, and the next reader may convert it otherwise.
    let text = std::str::from_utf8(field.value)
        .ok()
        .filter(|text| text.is_ascii())
        .ok_or("its Host field is no host")?;
    let bracket = text.rfind(']').unwrap_or(0);
    let same = if text[bracket..].contains(':') {
        host::authority(text)? == (host.clone(), port)
    } else {
        // Clients leave out the port that their scheme stands for.
        Host::parse(text)? == *host
    };
    if same {
        Ok(())
    } else {
        Err("its Host field is another host than its target")
    }
}

/// Fields that `Connection` names as its own.
fn connection_fields<'a>(fields: &'a [httparse::Header<'_>]) -> Vec<&'a str> {
    fields
        .iter()
        .filter(|field| is(field, "connection"))
        .filter_map(|field| std::str::from_utf8(field.value).ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect()
}

pub(super) fn is(field: &httparse::Header<'_>, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> Result<Option<(Request, usize)>, &'static str> {
        parse(text.as_bytes(), &Reader::Proxy)
    }

    fn head(text: &str) -> String {
        match proxy(text) {
            Ok(Some((Request::Forward { head, .. }, _))) => String::from_utf8(head).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_connect() {
        let text = "CONNECT API.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n";
        let wanted = Request::Tunnel {
            host: Host::Name("api.example.com".into()),
            port: 443,
        };
        assert_eq!(proxy(text), Ok(Some((wanted, text.len()))));
        for length in 0..text.len() {
            assert_eq!(proxy(&text[..length]), Ok(None));
        }
    }

    #[test]
    fn authorization_is_one_field_and_never_sent_on() {
        let with = |fields: &str| format!("GET http://a.test/ HTTP/1.1\r\n{fields}\r\n");
        let one = with("proxy-AUTHORIZATION:  Basic YTpi \r\n");
        assert_eq!(
            proxy_authorization(one.as_bytes()),
            Some(&b"Basic YTpi"[..])
        );
        assert!(!head(&one).contains("YTpi"));
        for fields in [
            "",
            "Authorization: Basic YTpi\r\n",
            "Proxy-Authorization: Basic YTpi\r\nProxy-Authorization: Basic YTpi\r\n",
        ] {
            assert_eq!(proxy_authorization(with(fields).as_bytes()), None);
        }
    }

    #[test]
    fn writes_a_request_anew() {
        assert_eq!(
            head(
                "GET http://A.test?q=1 HTTP/1.1\r\nHost: a.test\r\nAccept: */*\r\nConnection: x-own, close\r\nX-Own: 1\r\nProxy-Authorization: secret\r\nUpgrade: h2c\r\n\r\n"
            ),
            "GET /?q=1 HTTP/1.1\r\nHost: a.test\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(
            head("POST http://[::1]:8080/x HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc"),
            "POST /x HTTP/1.1\r\nHost: [::1]:8080\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn refuses_what_two_readers_could_read_differently() {
        for text in [
            // Two hosts.
            "GET http://a.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
            "GET http://a.test:81/ HTTP/1.1\r\nHost: a.test:82\r\n\r\n",
            "CONNECT a.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\n",
            "GET http://a.test@b.test/ HTTP/1.1\r\n\r\n",
            "GET http://a.test\\@b.test/ HTTP/1.1\r\n\r\n",
            "GET http://a.test#@b.test/ HTTP/1.1\r\n\r\n",
            "CONNECT a.test@b.test:443 HTTP/1.1\r\n\r\n",
            "CONNECT a.test%00.b.test:443 HTTP/1.1\r\n\r\n",
            // Two bodies.
            "POST http://a.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "POST http://a.test/ HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
            "POST http://a.test/ HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "POST http://a.test/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST http://a.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST http://a.test/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST http://a.test/ HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "POST http://a.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "CONNECT a.test:443 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            // Fields that are none.
            "GET http://a.test/ HTTP/1.1\r\nContent-Length : 5\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nX: 1\r\n folded\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nX\0: 1\r\n\r\n",
            // Not for us.
            "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
            "GET https://a.test/ HTTP/1.1\r\n\r\n",
            "GET ftp://a.test/ HTTP/1.1\r\n\r\n",
            "CONNECT a.test HTTP/1.1\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\n",
            "GET http://a.test/",
        ] {
            let read = proxy(text);
            assert!(
                read.is_err() || text.ends_with("test/"),
                "{text:?}: {read:?}"
            );
        }
        let long = format!("GET http://a.test/ HTTP/1.1\r\nX: {}", "x".repeat(LONGEST));
        assert!(proxy(&long).is_err());
        let many = format!(
            "GET http://a.test/ HTTP/1.1\r\n{}\r\n",
            "X: 1\r\n".repeat(101)
        );
        assert!(proxy(&many).is_err());
    }

    #[test]
    fn a_client_without_a_proxy_names_the_host_it_reached() {
        let host = Host::Name("a.test".into());
        let read = |text: &str| parse(text.as_bytes(), &Reader::Origin(&host, 80));
        assert!(matches!(
            read("GET /x HTTP/1.1\r\nHost: A.test\r\n\r\n"),
            Ok(Some((Request::Forward { .. }, _)))
        ));
        for text in [
            "GET /x HTTP/1.1\r\n\r\n",
            "GET /x HTTP/1.1\r\nHost: b.test\r\n\r\n",
            "GET /x HTTP/1.1\r\nHost: a.test:81\r\n\r\n",
            "GET http://b.test/x HTTP/1.1\r\nHost: b.test\r\n\r\n",
            "CONNECT b.test:443 HTTP/1.1\r\n\r\n",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
