//! Asking for signatures: `Accept-Signature` (RFC 9421 section 5).

use std::fmt;

use sfv::{BareItem, Dictionary, FieldType as _, InnerList, ListEntry};

use super::component::{identity, joined, member, values};
use super::{GenericError, Message, Signed, Source, parse, sign};
use crate::signature::SigningKey;

/// Most signatures that one message may ask for.
const MAX_REQUESTS: usize = 8;

const FIELD: &str = "accept-signature";

/// A signature that one side asks the other to make on its next message.
///
/// ```
/// use katachi_auth::signature::generic::{Message, Requested, Terms, accept_signature, requested};
/// use katachi_auth::signature::{RequestView, ResponseView, SigningKey};
/// # use katachi_crypto::mac::HmacKey;
///
/// // A server says which signature it wants.
/// let wanted = Requested::parse("sig1", r#"("@method" "@path");created;tag="example""#)?;
/// let value = accept_signature([&wanted]);
/// assert_eq!(value, r#"sig1=("@method" "@path");created;tag="example""#);
///
/// // The client reads that and makes it.
/// let headers: [(&str, &[u8]); 1] = [("Accept-Signature", value.as_bytes())];
/// let response = ResponseView { status: 401, headers: &headers, body: b"" };
/// let asked = requested(&Message::Response { response: &response, request: None })?;
/// # let key = SigningKey::from(HmacKey::from_slice(&[1; 32]));
/// let next = RequestView {
///     method: "GET", authority: "api.example", path: "/", query: None, headers: &[], body: b"",
/// };
/// let next = Message::Request { request: &next, scheme: "https" };
/// let terms = Terms { created: 1_800_000_000, lifetime: 60, key_id: "k1" };
/// let (input, _signature) = asked[0].fulfil(&next, &terms, &key)?;
/// assert_eq!(input, r#"sig1=("@method" "@path");created=1800000000;tag="example";keyid="k1""#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Requested {
    label: String,
    list: InnerList,
}

/// What a signer puts into a signature that was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Terms<'a> {
    /// When it is made, in seconds since 1970.
    pub created: i64,
    /// How long it lives where an end is asked for, in seconds.
    pub lifetime: u32,
    /// The key's name, plain ASCII.
    pub key_id: &'a str,
}

impl Requested {
    /// A request for a signature under `label`. `wanted` is the member of
    /// `Accept-Signature` without its label: components, then `created` and `expires`
    /// without a value, and `nonce`, `alg`, `keyid` and `tag` with the one to be used.
    ///
    /// # Errors
    ///
    /// Returns [`GenericError`] if `wanted` is not of that form, or not canonical.
    pub fn parse(label: &str, wanted: &str) -> Result<Self, GenericError> {
        let fields = parse(&format!("{label}={wanted}")).ok_or(GenericError::Malformed(FIELD))?;
        match read(&fields)?.as_slice() {
            [one] if one.label == label => Ok(one.clone()),
            _ => Err(GenericError::Malformed(FIELD)),
        }
    }

    /// The label that the signature shall have.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The components to cover, as identifiers such as `"@method"`.
    pub fn components(&self) -> impl Iterator<Item = String> {
        self.list.items.iter().map(|item| item.serialize())
    }

    /// The key that shall sign, if one is named.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.text("keyid")
    }

    /// The application that the signature shall be for, if one is named.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.text("tag")
    }

    fn text(&self, name: &str) -> Option<&str> {
        let value = self.list.params.get(name)?;
        value.as_string().map(|text| text.as_str())
    }

    /// Makes the signature on `message` (section 5.2). `created` and `keyid` stand in it
    /// also where nobody asked for them.
    ///
    /// Returns the values of `Signature-Input` and `Signature`.
    ///
    /// # Errors
    ///
    /// Returns [`GenericError`] if the message lacks a component, or another algorithm
    /// or key is asked for than `key` and `terms` have.
    pub fn fulfil(
        &self,
        message: &Message<'_>,
        terms: &Terms<'_>,
        key: &SigningKey,
    ) -> Result<(String, String), GenericError> {
        let mut list = self.list.clone();
        let algorithm = match key {
            SigningKey::Hmac(_) => "hmac-sha256",
            SigningKey::Ed25519(_) => "ed25519",
        };
        let refused = |name: &str| GenericError::Parameter(name.to_owned());
        let integer = |name: &str, seconds: i64| {
            let seconds = sfv::Integer::try_from(seconds).map_err(|_| refused(name))?;
            Ok(BareItem::Integer(seconds))
        };
        let expires = terms.created.saturating_add(i64::from(terms.lifetime));
        if self.key_id().is_some_and(|wanted| wanted != terms.key_id) {
            return Err(refused("keyid"));
        }
        if self.text("alg").is_some_and(|wanted| wanted != algorithm) {
            return Err(GenericError::Algorithm);
        }
        for (name, value) in &mut list.params {
            match name.as_str() {
                "created" => *value = integer("created", terms.created)?,
                "expires" => *value = integer("expires", expires)?,
                _ => {}
            }
        }
        if list.params.get("created").is_none() {
            let created = integer("created", terms.created)?;
            list.params
                .insert(sfv::KeyRef::constant("created").to_owned(), created);
        }
        if list.params.get("keyid").is_none() {
            let key_id =
                sfv::String::from_string(terms.key_id.to_owned()).map_err(|_| refused("keyid"))?;
            list.params.insert(
                sfv::KeyRef::constant("keyid").to_owned(),
                BareItem::String(key_id),
            );
        }
        let input = member(&list).ok_or(GenericError::Malformed("signature-input"))?;
        sign(message, &self.label, &input, key)
    }

    /// Whether a verified signature is what was asked for: it covers at least these
    /// components, has every parameter, and the values that were named.
    ///
    /// # Security
    ///
    /// Whether `created`, `expires` and the key are acceptable is still the caller's to say.
    #[must_use]
    pub fn is_met_by(&self, signed: &Signed) -> bool {
        let covered: Vec<String> = signed.list.items.iter().map(identity).collect();
        let components = self.list.items.iter().map(identity);
        let mut params = self.list.params.iter();
        components
            .into_iter()
            .all(|wanted| covered.contains(&wanted))
            && params.all(|(name, wanted)| match signed.list.params.get(name) {
                Some(given) if matches!(name.as_str(), "created" | "expires") => {
                    given.as_integer().is_some()
                }
                Some(given) => given == wanted,
                None => false,
            })
    }
}

impl fmt::Display for Requested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let member = member(&self.list).unwrap_or_default();
        write!(f, "{}={member}", self.label)
    }
}

/// The value of `Accept-Signature` that asks for these signatures.
pub fn accept_signature<'a>(requests: impl IntoIterator<Item = &'a Requested>) -> String {
    let members: Vec<String> = requests.into_iter().map(ToString::to_string).collect();
    members.join(", ")
}

/// Reads which signatures a message asks for in `Accept-Signature`; none if it does not.
///
/// # Errors
///
/// Returns [`GenericError`] if the field is not canonical, asks for more than eight
/// signatures, or names a parameter that is unknown or has no business in a request.
pub fn requested(message: &Message<'_>) -> Result<Vec<Requested>, GenericError> {
    let values = values(&Source::of(message), FIELD, false);
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let text = joined(&values).ok_or(GenericError::Malformed(FIELD))?;
    let fields = parse(&text).ok_or(GenericError::Malformed(FIELD))?;
    read(&fields)
}

fn read(fields: &Dictionary) -> Result<Vec<Requested>, GenericError> {
    if fields.len() > MAX_REQUESTS {
        return Err(GenericError::Malformed(FIELD));
    }
    let read = |(label, entry): (&sfv::Key, &ListEntry)| {
        let ListEntry::InnerList(list) = entry else {
            return Err(GenericError::Malformed(FIELD));
        };
        for (name, value) in &list.params {
            // Section 5.1: times are the signer's to choose, all else has its value.
            let fits = match name.as_str() {
                "created" | "expires" => matches!(value, BareItem::Boolean(true)),
                "nonce" | "alg" | "keyid" | "tag" => value.as_string().is_some(),
                _ => false,
            };
            if !fits {
                return Err(GenericError::Parameter(name.as_str().to_owned()));
            }
        }
        let label = label.as_str().to_owned();
        Ok(Requested {
            label,
            list: list.clone(),
        })
    };
    fields.iter().map(read).collect()
}
