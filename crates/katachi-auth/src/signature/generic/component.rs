//! The signature base, and the value of each component in it.

use sfv::{BareItem, Dictionary, FieldType, InnerList, Item, List, ListEntry, Parser};

use super::{GenericError, Message};
use crate::signature::{Request, Response};

/// Most components of a signature.
const MAX_COMPONENTS: usize = 64;

/// The base (RFC 9421 section 2.5) over `list`.
pub(super) fn base(message: &Message<'_>, list: &InnerList) -> Result<String, GenericError> {
    if list.items.len() > MAX_COMPONENTS {
        return Err(GenericError::Malformed("signature-input"));
    }
    let mut base = String::new();
    let mut seen: Vec<String> = Vec::with_capacity(list.items.len());
    for item in &list.items {
        let identifier = item.serialize();
        let identity = identity(item);
        let value = (!seen.contains(&identity))
            .then(|| component(message, item))
            .flatten()
            .ok_or_else(|| GenericError::Component(identifier.clone()))?;
        base.push_str(&identifier);
        base.push_str(": ");
        base.push_str(&value);
        base.push('\n');
        seen.push(identity);
    }
    let params = member(list).ok_or(GenericError::Malformed("signature-input"))?;
    base.push_str("\"@signature-params\": ");
    base.push_str(&params);
    Ok(base)
}

/// An inner list as it stands behind a label.
pub(super) fn member(list: &InnerList) -> Option<String> {
    let mut alone = Dictionary::new();
    let key = sfv::KeyRef::constant("s");
    alone.insert(key.to_owned(), ListEntry::InnerList(list.clone()));
    Some(alone.serialize()?.strip_prefix("s=")?.to_owned())
}

/// The identifier with its parameters in one order: theirs does not tell two
/// components apart (RFC 9421 section 2).
pub(super) fn identity(item: &Item) -> String {
    let mut params: Vec<_> = item.params.iter().collect();
    params.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    let mut sorted = Item::new(item.bare_item.clone());
    sorted.params = params
        .into_iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    sorted.serialize()
}

pub(super) fn name_of(item: &Item) -> Option<&str> {
    item.bare_item.as_string().map(|name| name.as_str())
}

/// How a field, or a query parameter, is written.
#[derive(Clone, Copy)]
enum Shape<'a> {
    Plain,
    /// `bs`: the bytes of each value, encoded.
    Bytes,
    /// `sf`: the structured field, canonical.
    Structured,
    /// `key`: one member of a dictionary.
    Member(&'a str),
    /// `name`: one parameter of the query.
    Parameter(&'a str),
}

/// The value of one component, or none if the message has none.
fn component(message: &Message<'_>, item: &Item) -> Option<String> {
    let name = name_of(item)?;
    let (mut of_request, mut of_trailers) = (false, false);
    let mut shape = Shape::Plain;
    for (param, value) in &item.params {
        let text = value.as_string().map(|text| text.as_str());
        match (param.as_str(), value, text, shape) {
            ("req", BareItem::Boolean(true), ..) => of_request = true,
            ("tr", BareItem::Boolean(true), ..) => of_trailers = true,
            ("bs", BareItem::Boolean(true), _, Shape::Plain) => shape = Shape::Bytes,
            ("sf", BareItem::Boolean(true), _, Shape::Plain) => shape = Shape::Structured,
            ("key", _, Some(key), Shape::Plain) => shape = Shape::Member(key),
            ("name", _, Some(name), Shape::Plain) => shape = Shape::Parameter(name),
            _ => return None,
        }
    }
    let source = match (message, of_request) {
        (Message::Request { .. }, false) | (Message::Response { .. }, false) => Source::of(message),
        (
            Message::Response {
                request: Some((request, scheme)),
                ..
            },
            true,
        ) => Source::Request(*request, scheme),
        _ => return None,
    };
    if name.starts_with('@') {
        (!of_trailers).then(|| derived(&source, name, shape))?
    } else {
        field(&source, name, of_trailers, shape)
    }
}

/// Where a component's value is taken from.
pub(super) enum Source<'a> {
    Request(&'a dyn Request, &'a str),
    Response(&'a dyn Response),
}

impl<'a> Source<'a> {
    /// The message itself.
    pub(super) fn of(message: &Message<'a>) -> Self {
        match message {
            Message::Request { request, scheme } => Self::Request(*request, scheme),
            Message::Response { response, .. } => Self::Response(*response),
        }
    }
}

/// Derived components (RFC 9421 section 2.2).
fn derived(source: &Source<'_>, name: &str, shape: Shape<'_>) -> Option<String> {
    let (request, scheme) = match (source, name, shape) {
        (Source::Response(response), "@status", Shape::Plain) => {
            return Some(format!("{:03}", response.status()));
        }
        (Source::Request(request, scheme), ..) => (*request, *scheme),
        _ => return None,
    };
    let query = request.query();
    match (name, shape) {
        ("@method", Shape::Plain) => Some(request.method().to_owned()),
        ("@authority", Shape::Plain) => authority(request, scheme),
        ("@scheme", Shape::Plain) => Some(scheme.to_ascii_lowercase()),
        ("@path", Shape::Plain) => Some(path(request).to_owned()),
        ("@query", Shape::Plain) => Some(format!("?{}", query.unwrap_or_default())),
        // Section 2.2.5: of a CONNECT the authority, of all else here the origin form.
        ("@request-target", Shape::Plain) if request.method() == "CONNECT" => {
            request.authority().map(str::to_owned)
        }
        ("@request-target", Shape::Plain) => Some(with_query(path(request), query)),
        ("@target-uri", Shape::Plain) => {
            let scheme = scheme.to_ascii_lowercase();
            let authority = authority(request, &scheme)?;
            let target = with_query(path(request), query);
            Some(format!("{scheme}://{authority}{target}"))
        }
        ("@query-param", Shape::Parameter(wanted)) => query_param(query?, wanted),
        _ => None,
    }
}

/// Lower-case and without the port that the scheme implies (RFC 9421 section 2.2.3).
fn authority(request: &dyn Request, scheme: &str) -> Option<String> {
    let authority = request.authority()?.to_ascii_lowercase();
    let default = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return Some(authority),
    };
    let bare = authority.strip_suffix(default);
    Some(bare.map_or_else(|| authority.clone(), str::to_owned))
}

/// An empty path is `/` (RFC 9421 section 2.2.6).
fn path(request: &dyn Request) -> &str {
    match request.path() {
        "" => "/",
        path => path,
    }
}

fn with_query(path: &str, query: Option<&str>) -> String {
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// The one parameter with this name, both read as a form and encoded again
/// (RFC 9421 section 2.2.8).
fn query_param(query: &str, wanted: &str) -> Option<String> {
    let encode = |text: &str| {
        // Here `+` can only stand for a space: a plus is `%2B`.
        let form: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        form.replace('+', "%20")
    };
    let mut found = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| encode(name) == wanted)
        .map(|(_, value)| encode(&value));
    let value = found.next()?;
    found.next().is_none().then_some(value)
}

/// Fields (RFC 9421 section 2.1).
fn field(source: &Source<'_>, name: &str, trailer: bool, shape: Shape<'_>) -> Option<String> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let values = values(source, name, trailer);
    if values.is_empty() {
        return None;
    }
    match shape {
        Shape::Plain => joined(&values),
        Shape::Bytes => {
            use base64::Engine as _;
            let encode = |value: &&[u8]| {
                let text = base64::engine::general_purpose::STANDARD.encode(value);
                format!(":{text}:")
            };
            Some(values.iter().map(encode).collect::<Vec<_>>().join(", "))
        }
        Shape::Structured => structured(&joined(&values)?),
        Shape::Member(key) => {
            let fields = Parser::new(&joined(&values)?).parse::<Dictionary>().ok()?;
            let mut one = Dictionary::new();
            one.insert(
                sfv::KeyRef::constant("k").to_owned(),
                fields.get(key)?.clone(),
            );
            let text = one.serialize()?;
            // A lone `true` is written as the key without a value.
            Some(
                text.strip_prefix("k=")
                    .map_or_else(|| text.replacen('k', "?1", 1), Into::into),
            )
        }
        Shape::Parameter(_) => None,
    }
}

/// A structured field, written in its canonical form (RFC 9421 section 2.1.1).
///
/// Which of the three types a field is, only its definition tells. One that is written
/// alike by every type that can read it needs no definition; any other has no value.
fn structured(text: &str) -> Option<String> {
    let readings = [
        write(Parser::new(text).parse::<Dictionary>().ok()),
        write(Parser::new(text).parse::<List>().ok()),
        Parser::new(text)
            .parse::<Item>()
            .ok()
            .map(|item| item.serialize()),
    ];
    let mut readings = readings.into_iter().flatten();
    let first = readings.next()?;
    readings.all(|other| other == first).then_some(first)
}

fn write<F: FieldType<SerializeResult = Option<String>>>(field: Option<F>) -> Option<String> {
    field?.serialize()
}

pub(super) fn values<'a>(source: &Source<'a>, name: &str, trailer: bool) -> Vec<&'a [u8]> {
    let mut values = Vec::new();
    let mut take = |value: &'a [u8]| values.push(value.trim_ascii());
    match (source, trailer) {
        (Source::Request(request, _), false) => (**request).each_header(name, &mut take),
        (Source::Request(request, _), true) => (**request).each_trailer(name, &mut take),
        (Source::Response(response), false) => (**response).each_header(name, &mut take),
        (Source::Response(response), true) => (**response).each_trailer(name, &mut take),
    }
    values
}

pub(super) fn joined(values: &[&[u8]]) -> Option<String> {
    let text = String::from_utf8(values.join(&b", "[..])).ok()?;
    text.bytes()
        .all(|byte| (0x20..0x7f).contains(&byte))
        .then_some(text)
}
