//! RFC 9421 with other implementations.
//!
//! Signs and verifies whatever components and parameters the other side chose, in its
//! own order. Nothing is decided here beyond the mathematics: the caller must check in
//! [`Signed`] what was covered, when it was made and for whom, must check the body's
//! digest, and must spend the nonce. Between two programs of your own use a
//! [`super::Profile`], which decides all of that.
//!
//! All derived components and parameters of the standard are spoken: `@method`,
//! `@target-uri`, `@authority`, `@scheme`, `@request-target`, `@path`, `@query`,
//! `@query-param`, `@status`; `sf`, `key`, `bs`, `tr` (with [`WithTrailers`]), `req`. The
//! algorithms are `hmac-sha256` and `ed25519`.
//!
//! Fields must arrive in canonical form (RFC 8941 section 4.1), as all implementations
//! write them; so there is one reading of every message.
//!
//! Either side may ask the other to sign, by `Accept-Signature`: see [`Requested`].

mod component;
mod negotiate;

use sfv::{BareItem, Dictionary, FieldType as _, InnerList, Item, ListEntry, Parser};

use self::component::{Source, base, joined, name_of, values};
use super::{Request, Response, SigningKey, VerifyingKey};

pub use negotiate::{Requested, Terms, accept_signature, requested};

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

/// A message with the trailer fields that came behind its body (RFC 9110 section 6.5),
/// for signatures that cover them (`tr`).
#[derive(Clone, Copy, Debug)]
pub struct WithTrailers<'a, M> {
    /// The message.
    pub message: M,
    /// Names (in any case) and values.
    pub trailers: &'a [(&'a str, &'a [u8])],
}

impl<M: Request> Request for WithTrailers<'_, M> {
    fn method(&self) -> &str {
        self.message.method()
    }

    fn authority(&self) -> Option<&str> {
        self.message.authority()
    }

    fn path(&self) -> &str {
        self.message.path()
    }

    fn query(&self) -> Option<&str> {
        self.message.query()
    }

    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        self.message.each_header(name, visit);
    }

    fn each_trailer<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        super::message::each(self.trailers, name, visit);
    }

    fn body(&self) -> &[u8] {
        self.message.body()
    }
}

impl<M: Response> Response for WithTrailers<'_, M> {
    fn status(&self) -> u16 {
        self.message.status()
    }

    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        self.message.each_header(name, visit);
    }

    fn each_trailer<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        super::message::each(self.trailers, name, visit);
    }

    fn body(&self) -> &[u8] {
        self.message.body()
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
    /// A parameter that was asked for is unknown, or cannot be given.
    #[error("the parameter {0} that was asked for cannot be given")]
    Parameter(String),
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

/// Longest field read, in bytes.
const MAX_FIELD: usize = 16 * 1024;

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

fn dictionary(message: &Message<'_>, name: &'static str) -> Result<Dictionary, GenericError> {
    joined(&values(&Source::of(message), name, false))
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
