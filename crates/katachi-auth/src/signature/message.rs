//! What the signer and the verifier need to see of a message.

/// A request, as it was received or as it will be sent.
///
/// Every part is the bytes of the wire: nothing is decoded, lower-cased or
/// normalised. Where sender and receiver disagree on them, the signature fails.
///
/// # Security
///
/// The handler must act on the same bytes that this view shows. Do not verify one
/// copy of a request and execute another.
pub trait Request {
    /// The method, such as `POST`.
    fn method(&self) -> &str;

    /// Host and, unless it is the scheme's default, port. `None` if the request
    /// names none, several, or two that differ.
    fn authority(&self) -> Option<&str>;

    /// The path, percent-encoded, without the query. Never empty.
    fn path(&self) -> &str;

    /// What follows the `?`, percent-encoded; `None` without one.
    fn query(&self) -> Option<&str>;

    /// Shows each value of the header `name` (lower-case) in order.
    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]));

    /// Shows each value of the trailer field `name` (lower-case) in order. Only
    /// signatures of the generic mode look there.
    fn each_trailer<'a>(&'a self, _name: &str, _visit: &mut dyn FnMut(&'a [u8])) {}

    /// The whole body, as received, before any content decoding.
    fn body(&self) -> &[u8];
}

/// A response, as it was received or as it will be sent.
pub trait Response {
    /// The status code.
    fn status(&self) -> u16;

    /// Shows each value of the header `name` (lower-case) in order.
    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8]));

    /// Shows each value of the trailer field `name` (lower-case) in order. Only
    /// signatures of the generic mode look there.
    fn each_trailer<'a>(&'a self, _name: &str, _visit: &mut dyn FnMut(&'a [u8])) {}

    /// The whole body, as received, before any content decoding.
    fn body(&self) -> &[u8];
}

impl<R: Request + ?Sized> Request for &R {
    fn method(&self) -> &str {
        (**self).method()
    }

    fn authority(&self) -> Option<&str> {
        (**self).authority()
    }

    fn path(&self) -> &str {
        (**self).path()
    }

    fn query(&self) -> Option<&str> {
        (**self).query()
    }

    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        (**self).each_header(name, visit);
    }

    fn each_trailer<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        (**self).each_trailer(name, visit);
    }

    fn body(&self) -> &[u8] {
        (**self).body()
    }
}

/// A request in borrowed parts, for callers without the `http` crate.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The method, such as `POST`.
    pub method: &'a str,
    /// Host and port.
    pub authority: &'a str,
    /// The path, percent-encoded.
    pub path: &'a str,
    /// What follows the `?`.
    pub query: Option<&'a str>,
    /// Names (in any case) and values.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body.
    pub body: &'a [u8],
}

impl Request for RequestView<'_> {
    fn method(&self) -> &str {
        self.method
    }

    fn authority(&self) -> Option<&str> {
        Some(self.authority)
    }

    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> Option<&str> {
        self.query
    }

    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        each(self.headers, name, visit);
    }

    fn body(&self) -> &[u8] {
        self.body
    }
}

/// A response in borrowed parts, for callers without the `http` crate.
#[derive(Clone, Copy, Debug)]
pub struct ResponseView<'a> {
    /// The status code.
    pub status: u16,
    /// Names (in any case) and values.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body.
    pub body: &'a [u8],
}

impl Response for ResponseView<'_> {
    fn status(&self) -> u16 {
        self.status
    }

    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        each(self.headers, name, visit);
    }

    fn body(&self) -> &[u8] {
        self.body
    }
}

pub(crate) fn each<'a>(headers: &[(&str, &'a [u8])], name: &str, visit: &mut dyn FnMut(&'a [u8])) {
    for (candidate, value) in headers {
        if candidate.eq_ignore_ascii_case(name) {
            visit(value);
        }
    }
}

/// The values of one header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Field<'a> {
    Absent,
    Once(&'a [u8]),
    Repeated,
}

pub(crate) fn field<'a>(each: impl FnOnce(&mut dyn FnMut(&'a [u8]))) -> Field<'a> {
    let mut found = Field::Absent;
    each(&mut |value| {
        found = match found {
            Field::Absent => Field::Once(value),
            _ => Field::Repeated,
        };
    });
    found
}

/// Whether a value may stand in a signature base: printable ASCII, no space at
/// either end. (RFC 9421 section 2.1 strips those; here they are refused.)
pub(crate) fn is_plain(value: &[u8]) -> bool {
    let edge = |byte: Option<&u8>| byte != Some(&b' ');
    edge(value.first())
        && edge(value.last())
        && value.iter().all(|byte| (0x20..0x7f).contains(byte))
}
