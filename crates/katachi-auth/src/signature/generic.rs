//! RFC 9421 with other implementations.
//!
//! Signs and verifies whatever components and parameters the other side chose, in its
//! own order. Nothing is decided here beyond the mathematics: the caller must check in
//! [`Signed`] what was covered, when it was made and for whom, must check the body's
//! digest, and must spend the nonce. Between two programs of your own use a
//! [`super::Profile`], which decides all of that.
//!
//! Fields must arrive in canonical form (RFC 8941 section 4.1), as all implementations
//! write them; so there is one reading of every message.

use sfv::{BareItem, Dictionary, FieldType as _, InnerList, Item, ListEntry, Parser};

use super::{Request, Response, SigningKey, VerifyingKey};

/// The message that is signed.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Message<'a> {
    /// A request, with the scheme it was made over (`https`).
    Request {
        /// The request.
        request: &'a dyn Request,
        /// `https` or `http`.
        scheme: &'a str,
    },
    /// A response and, if its signature should cover parts of it, the request.
    Response {
        /// The response.
        response: &'a dyn Response,
        /// The request and its scheme.
        request: Option<(&'a dyn Request, &'a str)>,
    },
}

impl std::fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Request { .. } => "Message::Request { .. }",
            Self::Response { .. } => "Message::Response { .. }",
        })
    }
}

/// Why a message could not be signed or verified.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenericError {
    /// A field is absent, too long, no structured field, or not in canonical form.
    #[error("{0} is absent, too long, or not a canonical structured field")]
    Malformed(&'static str),
    /// No signature, or not exactly one, has this label.
    #[error("there is no signature with this label")]
    NoSuchLabel,
    /// A component is unknown here, absent from the message, or stands there twice.
    #[error("the component {0} is unknown, absent, or covered twice")]
    Component(String),
    /// The `alg` parameter names another algorithm than the key's.
    #[error("the signature names another algorithm than the key's")]
    Algorithm,
    /// The signature is not by this key over these bytes.
    #[error("the signature is not valid for this message and key")]
    Signature,
}

/// What a verified signature covers and says. Check it.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed {
    list: InnerList,
}

/// Longest field read, in bytes, and most components of a signature.
const MAX_FIELD: usize = 16 * 1024;
const MAX_COMPONENTS: usize = 64;

impl Signed {
    /// The covered components as identifiers, such as `"@method"` or
    /// `"signature";req;key="sig1"`.
    pub fn components(&self) -> impl Iterator<Item = String> {
        self.list.items.iter().map(Item::serialize)
    }

    /// Whether a component without parameters is covered.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        self.list
            .items
            .iter()
            .any(|item| item.params.is_empty() && name_of(item) == Some(name))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.list
            .params
            .get(name)?
            .as_string()
            .map(|text| text.as_str())
    }

    fn seconds(&self, name: &str) -> Option<i64> {
        self.list.params.get(name)?.as_integer().map(i64::from)
    }

    /// When it was made, in seconds since 1970.
    #[must_use]
    pub fn created(&self) -> Option<i64> {
        self.seconds("created")
    }

    /// When it ends, in seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> Option<i64> {
        self.seconds("expires")
    }

    /// The nonce.
    #[must_use]
    pub fn nonce(&self) -> Option<&str> {
        self.text("nonce")
    }

    /// The key it names.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.text("keyid")
    }

    /// The application it was made for.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.text("tag")
    }

    fn algorithm(&self) -> Option<&str> {
        self.text("alg")
    }
}

/// Reads what the signature `label` claims, before its key is known. Nothing is verified.
///
/// # Errors
///
/// Returns [`GenericError`] if there is no such signature in canonical form.
pub fn claims(message: &Message<'_>, label: &str) -> Result<Signed, GenericError> {
    let fields = dictionary(message, "signature-input")?;
    match fields.get(label) {
        Some(ListEntry::InnerList(list)) => Ok(Signed { list: list.clone() }),
        _ => Err(GenericError::NoSuchLabel),
    }
}

/// Verifies the signature `label`.
///
/// # Errors
///
/// Returns [`GenericError`] if there is none, or it is not valid.
pub fn verify(
    message: &Message<'_>,
    label: &str,
    key: &VerifyingKey,
) -> Result<Signed, GenericError> {
    let signed = claims(message, label)?;
    let signatures = dictionary(message, "signature")?;
    let signature = match signatures.get(label) {
        Some(ListEntry::Item(Item {
            bare_item: BareItem::ByteSequence(bytes),
            params,
        })) if params.is_empty() => bytes,
        _ => return Err(GenericError::NoSuchLabel),
    };
    let base = base(message, &signed.list)?;
    let (algorithm, genuine) = match key {
        VerifyingKey::Hmac(key) => (
            "hmac-sha256",
            key.verify(base.as_bytes(), signature).is_ok(),
        ),
        VerifyingKey::Ed25519(public) => (
            "ed25519",
            VerifyingKey::verify_ed25519(public, base.as_bytes(), signature),
        ),
    };
    if signed.algorithm().is_some_and(|named| named != algorithm) {
        return Err(GenericError::Algorithm);
    }
    if genuine {
        Ok(signed)
    } else {
        Err(GenericError::Signature)
    }
}

/// Signs a message. `input` is the member of `Signature-Input` without its label, such
/// as `("@method" "@path");created=1618884473;keyid="k"`.
///
/// Returns the values of `Signature-Input` and `Signature`.
///
/// # Errors
///
/// Returns [`GenericError`] if `input` is not canonical or names a component that the
/// message does not have.
pub fn sign(
    message: &Message<'_>,
    label: &str,
    input: &str,
    key: &SigningKey,
) -> Result<(String, String), GenericError> {
    let field = format!("{label}={input}");
    let fields = parse(&field).ok_or(GenericError::Malformed("signature-input"))?;
    let Some(ListEntry::InnerList(list)) = fields.get(label) else {
        return Err(GenericError::NoSuchLabel);
    };
    let base = base(message, list)?;
    let signature = key.sign_base(|mut out| super::base::Sink::put(&mut out, base.as_bytes()));
    Ok((field, format!("{label}={signature}")))
}

/// The signature base (RFC 9421 section 2.5) of `label`, as both sides compute it; for
/// finding out where two implementations differ.
///
/// # Errors
///
/// Returns [`GenericError`] if there is no such signature, or the message lacks a
/// component.
pub fn signature_base(message: &Message<'_>, label: &str) -> Result<String, GenericError> {
    base(message, &claims(message, label)?.list)
}

fn base(message: &Message<'_>, list: &InnerList) -> Result<String, GenericError> {
    if list.items.len() > MAX_COMPONENTS {
        return Err(GenericError::Malformed("signature-input"));
    }
    let mut base = String::new();
    let mut seen: Vec<String> = Vec::with_capacity(list.items.len());
    for item in &list.items {
        let identifier = item.serialize();
        let value = (!seen.contains(&identifier))
            .then(|| component(message, item))
            .flatten()
            .ok_or_else(|| GenericError::Component(identifier.clone()))?;
        base.push_str(&identifier);
        base.push_str(": ");
        base.push_str(&value);
        base.push('\n');
        seen.push(identifier);
    }
    let mut alone = Dictionary::new();
    let key = sfv::KeyRef::constant("s");
    alone.insert(key.to_owned(), ListEntry::InnerList(list.clone()));
    let params = alone
        .serialize()
        .ok_or(GenericError::Malformed("signature-input"))?;
    base.push_str("\"@signature-params\": ");
    base.push_str(params.trim_start_matches("s="));
    Ok(base)
}

fn name_of(item: &Item) -> Option<&str> {
    item.bare_item.as_string().map(|name| name.as_str())
}

/// The value of one component, or none if the message has none.
fn component(message: &Message<'_>, item: &Item) -> Option<String> {
    let name = name_of(item)?;
    let mut of_request = false;
    let mut shape = None;
    for (param, value) in &item.params {
        match (param.as_str(), value) {
            ("req", BareItem::Boolean(true)) => of_request = true,
            ("bs" | "sf", BareItem::Boolean(true)) | ("key" | "name", BareItem::String(_))
                if shape.is_none() =>
            {
                shape = Some((param.as_str(), value.as_string().map(|text| text.as_str())));
            }
            // `tr` (trailers) among them.
            _ => return None,
        }
    }
    let source = match (message, of_request) {
        (Message::Request { request, scheme }, false) => Source::Request(*request, scheme),
        (Message::Response { response, .. }, false) => Source::Response(*response),
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
        derived(&source, name, shape)
    } else {
        field(&source, name, shape)
    }
}

enum Source<'a> {
    Request(&'a dyn Request, &'a str),
    Response(&'a dyn Response),
}

/// Derived components (RFC 9421 section 2.2).
fn derived(source: &Source<'_>, name: &str, shape: Option<(&str, Option<&str>)>) -> Option<String> {
    let (request, scheme) = match (source, name, shape) {
        (Source::Response(response), "@status", None) => {
            return Some(response.status().to_string());
        }
        (Source::Request(request, scheme), _, _) => (*request, *scheme),
        _ => return None,
    };
    let query = request.query();
    match (name, shape) {
        ("@method", None) => Some(request.method().to_owned()),
        ("@authority", None) => request.authority().map(str::to_ascii_lowercase),
        ("@scheme", None) => Some(scheme.to_ascii_lowercase()),
        ("@path", None) => Some(request.path().to_owned()),
        ("@query", None) => Some(format!("?{}", query.unwrap_or_default())),
        ("@request-target", None) => Some(with_query(request.path(), query)),
        ("@target-uri", None) => {
            let authority = request.authority()?.to_ascii_lowercase();
            Some(format!(
                "{scheme}://{authority}{}",
                with_query(request.path(), query)
            ))
        }
        ("@query-param", Some(("name", Some(wanted)))) => query_param(query?, wanted),
        _ => None,
    }
}

fn with_query(path: &str, query: Option<&str>) -> String {
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// The one parameter with this (percent-encoded) name (RFC 9421 section 2.2.8).
fn query_param(query: &str, wanted: &str) -> Option<String> {
    let mut found = query.split('&').filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == wanted).then(|| value.replace('+', "%20"))
    });
    let value = found.next()?;
    found.next().is_none().then_some(value)
}

/// Fields (RFC 9421 section 2.1).
fn field(source: &Source<'_>, name: &str, shape: Option<(&str, Option<&str>)>) -> Option<String> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let values = values(source, name);
    if values.is_empty() {
        return None;
    }
    match shape {
        Some(("bs", None)) => {
            use base64::Engine as _;
            let encode = |value: &&[u8]| {
                format!(
                    ":{}:",
                    base64::engine::general_purpose::STANDARD.encode(value)
                )
            };
            Some(values.iter().map(encode).collect::<Vec<_>>().join(", "))
        }
        Some(("key", Some(key))) => {
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
        Some(("sf", None)) => {
            let text = joined(&values)?;
            Parser::new(&text).parse::<Dictionary>().ok()?.serialize()
        }
        None => joined(&values),
        _ => None,
    }
}

fn values<'a>(source: &Source<'a>, name: &str) -> Vec<&'a [u8]> {
    let mut values = Vec::new();
    let mut take = |value: &'a [u8]| values.push(value.trim_ascii());
    match source {
        Source::Request(request, _) => (**request).each_header(name, &mut take),
        Source::Response(response) => (**response).each_header(name, &mut take),
    }
    values
}

fn joined(values: &[&[u8]]) -> Option<String> {
    let text = String::from_utf8(values.join(&b", "[..])).ok()?;
    text.bytes()
        .all(|byte| (0x20..0x7f).contains(&byte))
        .then_some(text)
}

fn dictionary(message: &Message<'_>, name: &'static str) -> Result<Dictionary, GenericError> {
    let source = match message {
        Message::Request { request, scheme } => Source::Request(*request, scheme),
        Message::Response { response, .. } => Source::Response(*response),
    };
    joined(&values(&source, name))
        .and_then(|text| parse(&text))
        .ok_or(GenericError::Malformed(name))
}

/// Reads a dictionary and makes sure that it was written in the one canonical way.
fn parse(text: &str) -> Option<Dictionary> {
    if text.len() > MAX_FIELD {
        return None;
    }
    let fields: Dictionary = Parser::new(text).parse().ok()?;
    (fields.serialize()? == text).then_some(fields)
}
