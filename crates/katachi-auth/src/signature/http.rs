//! Requests and responses of the `http` crate.

use ::http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use ::http::uri::Scheme;
use ::http::{Version, request, response};

use super::{Request, Response, SignedRequest};

/// A request's head and its collected body, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    /// Everything but the body.
    pub head: &'a request::Parts,
    /// The whole body.
    pub body: &'a [u8],
}

/// A response's head and its collected body, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct ResponseParts<'a> {
    /// Everything but the body.
    pub head: &'a response::Parts,
    /// The whole body.
    pub body: &'a [u8],
}

impl<B: AsRef<[u8]>> Request for ::http::Request<B> {
    fn method(&self) -> &str {
        ::http::Request::method(self).as_str()
    }

    fn authority(&self) -> Option<&str> {
        authority(self.version(), self.uri(), self.headers())
    }

    fn path(&self) -> &str {
        self.uri().path()
    }

    fn query(&self) -> Option<&str> {
        self.uri().query()
    }

    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        each(self.headers(), name, visit);
    }

    fn body(&self) -> &[u8] {
        ::http::Request::body(self).as_ref()
    }
}

impl Request for RequestParts<'_> {
    fn method(&self) -> &str {
        self.head.method.as_str()
    }

    fn authority(&self) -> Option<&str> {
        authority(self.head.version, &self.head.uri, &self.head.headers)
    }

    fn path(&self) -> &str {
        self.head.uri.path()
    }

    fn query(&self) -> Option<&str> {
        self.head.uri.query()
    }

    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        each(&self.head.headers, name, visit);
    }

    fn body(&self) -> &[u8] {
        self.body
    }
}

impl<B: AsRef<[u8]>> Response for ::http::Response<B> {
    fn status(&self) -> u16 {
        ::http::Response::status(self).as_u16()
    }

    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        each(self.headers(), name, visit);
    }

    fn body(&self) -> &[u8] {
        ::http::Response::body(self).as_ref()
    }
}

impl Response for ResponseParts<'_> {
    fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        each(&self.head.headers, name, visit);
    }

    fn body(&self) -> &[u8] {
        self.body
    }
}

impl SignedRequest {
    /// Adds the headers to those of the request that was signed.
    pub fn apply(&self, headers: &mut HeaderMap) {
        apply_headers(headers, self.headers());
    }
}

/// Adds headers that the signer made, such as those of [`super::sign_response`].
///
/// # Panics
///
/// Does not panic for headers made by this crate: they are plain ASCII.
pub fn apply_headers<V: AsRef<str>>(
    headers: &mut HeaderMap,
    signed: impl IntoIterator<Item = (&'static str, V)>,
) {
    for (name, value) in signed {
        let value = HeaderValue::from_str(value.as_ref()).expect("the signer writes plain ASCII");
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// The one name that a request is addressed to.
///
/// HTTP/2 has it in the target, HTTP/1.1 in `Host`. Two that differ, two `Host`
/// fields, and a full URI beside a `Host` (RFC 9112 section 3.2.2) are ambiguous:
/// whoever routes by one and verifies the other can be fooled.
fn authority<'a>(
    version: Version,
    uri: &'a ::http::Uri,
    headers: &'a HeaderMap,
) -> Option<&'a str> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return None;
    }
    let host = match host {
        Some(host) => Some(host.to_str().ok()?),
        None => None,
    };
    let target = match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => return None,
        Some(authority) => {
            let default = match uri.scheme() {
                Some(scheme) if *scheme == Scheme::HTTPS => ":443",
                Some(scheme) if *scheme == Scheme::HTTP => ":80",
                _ => "",
            };
            let text = authority.as_str();
            // As clients send it: without the port that the scheme implies.
            Some(text.strip_suffix(default).unwrap_or(text))
        }
        None => None,
    };
    match (target, host) {
        (Some(target), None) => Some(target),
        (None, Some(host)) => Some(host),
        (Some(target), Some(host)) if version >= Version::HTTP_2 && target == host => Some(target),
        _ => None,
    }
}

fn each<'a>(headers: &'a HeaderMap, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
    for value in headers.get_all(name) {
        visit(value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::Request as HttpRequest;

    fn of(request: ::http::request::Builder) -> Option<String> {
        let request = request.body(Vec::new()).unwrap();
        Request::authority(&request).map(str::to_owned)
    }

    #[test]
    fn takes_the_name_from_the_target_or_from_host() {
        let name = Some("relay.example:8443".to_owned());
        assert_eq!(of(HttpRequest::get("https://relay.example:8443/x")), name);
        assert_eq!(
            of(HttpRequest::get("/x").header("host", "relay.example:8443")),
            name
        );
        assert_eq!(
            of(HttpRequest::get("https://a.example:443/")),
            Some("a.example".into())
        );
        assert_eq!(of(HttpRequest::get("/")), None);
    }

    #[test]
    fn refuses_two_names() {
        let get = || HttpRequest::get("https://a.example/");
        assert_eq!(
            of(HttpRequest::get("/")
                .header("host", "a")
                .header("host", "a")),
            None
        );
        assert_eq!(of(get().header("host", "b.example")), None);
        assert_eq!(
            of(get().header("host", "a.example")),
            None,
            "a full URI in HTTP/1.1"
        );
        let two = get().version(Version::HTTP_2);
        assert_eq!(
            of(two.header("host", "a.example")),
            Some("a.example".into())
        );
        let two = get().version(Version::HTTP_2);
        assert_eq!(of(two.header("host", "b.example")), None);
        assert_eq!(of(HttpRequest::get("https://user@a.example/")), None);
    }
}
