//! The hot-path parser of `Signature-Input` and `Signature`.
//!
//! A profile leaves so little open that parsing is mostly comparing: the component
//! list has one spelling for each set of optional headers, the parameters one order.
//! So only canonical bytes are accepted, and what is accepted is exactly what
//! [`RequestInput::serialise`] writes. Nothing is allocated.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{KeyId, Profile};
use crate::replay::Nonce;

/// Longest `Signature-Input` looked at, in bytes.
pub(crate) const MAX_INPUT: usize = 2048;
/// Longest integer of RFC 8941, in digits.
const MAX_DIGITS: usize = 15;

/// The bytes are not the one canonical form that the profile allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// Longer than any valid value.
    #[error("longer than any valid value")]
    TooLong,
    /// Another label, or none.
    #[error("the first member is not the profile's label")]
    Label,
    /// A component is missing, unknown, repeated or out of place.
    #[error("the covered components are not those of the profile, each once, in order")]
    Components,
    /// A parameter is missing, unknown, repeated, out of place or badly formed.
    #[error("the parameters are not the profile's, each once, in order and canonical")]
    Parameters,
    /// The `tag` parameter is another.
    #[error("the tag is not the profile's")]
    Tag,
    /// Bytes follow the member: a second signature, whitespace, a parameter.
    #[error("something follows the one signature that is allowed")]
    Trailing,
}

/// What a request's `Signature-Input` claims. Nothing in it is verified.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestInput<'a> {
    /// Which of the profile's optional headers are covered, lowest bit first.
    pub(crate) optional: u8,
    /// The member without its label: the value of `@signature-params`.
    pub(crate) params: &'a [u8],
    created: u64,
    expires: u64,
    nonce: Nonce,
    key_id: &'a str,
}

impl<'a> RequestInput<'a> {
    /// Reads the value of `Signature-Input`.
    ///
    /// # Errors
    ///
    /// Returns [`InputError`] unless `value` is one member, in canonical form, with
    /// the components and parameters of `profile` in their order.
    pub fn parse(profile: &Profile, value: &'a [u8]) -> Result<Self, InputError> {
        let mut at = Cursor::begin(profile, value)?;
        let params = at.rest;
        at.expect(b"(", InputError::Components)?;
        let mut list = ComponentList {
            at: &mut at,
            first: true,
        };
        for name in fixed_components(profile) {
            if !list.item(name) {
                return Err(InputError::Components);
            }
        }
        let mut optional = 0;
        for (bit, name) in profile.optional.iter().enumerate() {
            if list.item(name) {
                optional |= 1 << bit;
            }
        }
        at.expect(b")", InputError::Components)?;
        at.expect(b";created=", InputError::Parameters)?;
        let created = at.integer()?;
        at.expect(b";expires=", InputError::Parameters)?;
        let expires = at.integer()?;
        at.expect(b";nonce=\"", InputError::Parameters)?;
        let nonce = Nonce::parse(at.string()?).map_err(|_| InputError::Parameters)?;
        let key_id = at.key_id()?;
        at.tag(profile)?;
        Ok(Self {
            optional,
            params,
            created,
            expires,
            nonce,
            key_id,
        })
    }

    /// Writes the value that [`Self::parse`] reads back to the same claims.
    #[must_use]
    pub fn serialise(&self, profile: &Profile) -> Vec<u8> {
        let mut out = format!("{}=", profile.label).into_bytes();
        let nonce = self.nonce;
        write_request_params(
            &mut out,
            profile,
            self.optional,
            self.created,
            self.expires,
            &nonce,
            self.key_id,
        );
        out
    }

    /// When the request says it was made, in seconds since 1970.
    #[must_use]
    pub const fn created(&self) -> u64 {
        self.created
    }

    /// When the request says it ends, in seconds since 1970.
    #[must_use]
    pub const fn expires(&self) -> u64 {
        self.expires
    }

    /// The nonce it carries.
    #[must_use]
    pub const fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// The key it claims to be signed with; for fetching that key beforehand.
    #[must_use]
    pub const fn key_id(&self) -> &'a str {
        self.key_id
    }
}

/// What a response's `Signature-Input` claims.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ResponseInput<'a> {
    pub(crate) params: &'a [u8],
    pub(crate) created: u64,
    pub(crate) key_id: &'a str,
}

impl<'a> ResponseInput<'a> {
    pub(crate) fn parse(profile: &Profile, value: &'a [u8]) -> Result<Self, InputError> {
        let mut at = Cursor::begin(profile, value)?;
        let params = at.rest;
        at.expect(RESPONSE_HEAD, InputError::Components)?;
        at.expect(profile.label.as_bytes(), InputError::Components)?;
        at.expect(b"\")", InputError::Components)?;
        at.expect(b";created=", InputError::Parameters)?;
        let created = at.integer()?;
        let key_id = at.key_id()?;
        at.tag(profile)?;
        Ok(Self {
            params,
            created,
            key_id,
        })
    }
}

/// All of a response's component list but the label of the request's signature.
const RESPONSE_HEAD: &[u8] = b"(\"@status\" \"content-digest\" \"@method\";req \"@path\";req \
\"@query\";req \"signature\";req;key=\"";

pub(crate) fn write_response_params(
    out: &mut Vec<u8>,
    profile: &Profile,
    created: u64,
    key_id: &str,
) {
    out.extend_from_slice(RESPONSE_HEAD);
    out.extend_from_slice(profile.label.as_bytes());
    out.extend_from_slice(b"\");created=");
    out.extend_from_slice(created.to_string().as_bytes());
    write_tail(out, profile, key_id);
}

pub(crate) fn write_request_params(
    out: &mut Vec<u8>,
    profile: &Profile,
    optional: u8,
    created: u64,
    expires: u64,
    nonce: &Nonce,
    key_id: &str,
) {
    let chosen = profile
        .optional
        .iter()
        .enumerate()
        .filter(|(bit, _)| optional & (1 << bit) != 0)
        .map(|(_, name)| *name);
    for (at, name) in fixed_components(profile).chain(chosen).enumerate() {
        out.extend_from_slice(if at == 0 { b"(\"" } else { b" \"" });
        out.extend_from_slice(name.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(format!(");created={created};expires={expires};nonce=\"").as_bytes());
    out.extend_from_slice(&nonce.encode());
    out.push(b'"');
    write_tail(out, profile, key_id);
}

fn write_tail(out: &mut Vec<u8>, profile: &Profile, key_id: &str) {
    for part in [";keyid=\"", key_id, "\";tag=\"", profile.tag, "\""] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The components that every request of the profile covers, in order.
pub(crate) fn fixed_components(profile: &Profile) -> impl Iterator<Item = &'static str> {
    [
        "@method",
        "@authority",
        "@path",
        "@query",
        "content-digest",
        profile.epoch_header,
    ]
    .into_iter()
    .chain(profile.channel_header)
    .chain(profile.required.iter().copied())
}

/// Reads `label=:base64:` into `out` and returns how many bytes it holds.
pub(crate) fn parse_signature(
    profile: &Profile,
    value: &[u8],
    out: &mut [u8; 64],
) -> Option<usize> {
    let encoded = signature_text(profile, value)?;
    let encoded = encoded.strip_prefix(b":")?.strip_suffix(b":")?;
    // 64 bytes are 88 characters, 32 are 44; no other algorithm is spoken.
    if encoded.len() != 44 && encoded.len() != 88 {
        return None;
    }
    // The decoder estimates by whole quanta, so it wants up to two bytes of slack.
    let mut decoded = [0; 66];
    let written = STANDARD.decode_slice(encoded, &mut decoded).ok()?;
    out.get_mut(..written)?.copy_from_slice(&decoded[..written]);
    Some(written)
}

/// The member `:base64:` of a `Signature` value, colons included.
pub(crate) fn signature_text<'a>(profile: &Profile, value: &'a [u8]) -> Option<&'a [u8]> {
    value
        .strip_prefix(profile.label.as_bytes())?
        .strip_prefix(b"=")
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn begin(profile: &Profile, value: &'a [u8]) -> Result<Self, InputError> {
        if value.len() > MAX_INPUT {
            return Err(InputError::TooLong);
        }
        let mut at = Self { rest: value };
        at.expect(profile.label.as_bytes(), InputError::Label)?;
        at.expect(b"=", InputError::Label)?;
        Ok(at)
    }

    fn expect(&mut self, bytes: &[u8], otherwise: InputError) -> Result<(), InputError> {
        self.rest = self.rest.strip_prefix(bytes).ok_or(otherwise)?;
        Ok(())
    }

    /// An integer without sign or leading zero (RFC 8941 section 3.3.1).
    fn integer(&mut self) -> Result<u64, InputError> {
        let digits = self
            .rest
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let (number, rest) = self.rest.split_at(digits);
        if !(1..=MAX_DIGITS).contains(&digits) || (number[0] == b'0' && digits > 1) {
            return Err(InputError::Parameters);
        }
        self.rest = rest;
        Ok(number
            .iter()
            .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
    }

    /// The rest of a string up to its closing quote; escapes are not allowed.
    fn string(&mut self) -> Result<&'a str, InputError> {
        let end = self
            .rest
            .iter()
            .position(|&byte| byte == b'"')
            .ok_or(InputError::Parameters)?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        // Both strings are checked to be plain ASCII by their types.
        std::str::from_utf8(text).map_err(|_| InputError::Parameters)
    }

    fn key_id(&mut self) -> Result<&'a str, InputError> {
        self.expect(b";keyid=\"", InputError::Parameters)?;
        let key_id = self.string()?;
        if !KeyId::accepts(key_id.as_bytes()) {
            return Err(InputError::Parameters);
        }
        Ok(key_id)
    }

    fn tag(&mut self, profile: &Profile) -> Result<(), InputError> {
        self.expect(b";tag=\"", InputError::Parameters)?;
        self.expect(profile.tag.as_bytes(), InputError::Tag)?;
        self.expect(b"\"", InputError::Tag)?;
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(InputError::Trailing)
        }
    }
}

struct ComponentList<'c, 'a> {
    at: &'c mut Cursor<'a>,
    first: bool,
}

impl ComponentList<'_, '_> {
    /// Steps over `"name"`, with the space before it, if it comes next.
    fn item(&mut self, name: &str) -> bool {
        let mut rest = self.at.rest;
        if !self.first {
            let Some(after) = rest.strip_prefix(b" ") else {
                return false;
            };
            rest = after;
        }
        let Some(rest) = rest
            .strip_prefix(b"\"")
            .and_then(|rest| rest.strip_prefix(name.as_bytes()))
            .and_then(|rest| rest.strip_prefix(b"\""))
        else {
            return false;
        };
        self.at.rest = rest;
        self.first = false;
        true
    }
}
