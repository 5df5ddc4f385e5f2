//! The credentials of a Cloudflare tunnel, checked before they are kept.
//!
//! `cloudflared` reads them in two forms: the file that `cloudflared tunnel
//! create` writes, and the token that the dashboard shows. Both are understood
//! here, and each can be written again.
//!
//! ```text
//! file   {"AccountTag":"…","TunnelSecret":"…","TunnelID":"…","Endpoint":"…"}
//! token  base64 of {"a":"…","s":"…","t":"…","e":"…"}
//! ```
//!
//! The account is 32 hexadecimal digits, the secret base64 of 32 to 64 bytes,
//! the tunnel a UUID. The endpoint names a region and is left out where there
//! is none. Other fields are ignored, as `cloudflared` does.
//!
//! ```
//! use katachi_store::file::cloudflare::TunnelCredential;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = br#"{"AccountTag":"0123456789abcdef0123456789abcdef",
//!     "TunnelSecret":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
//!     "TunnelID":"6ff42ae2-765d-4adf-8112-31c55c1551ef"}"#;
//! let credential = TunnelCredential::parse(text)?;
//! assert_eq!(credential.tunnel_id(), "6ff42ae2-765d-4adf-8112-31c55c1551ef");
//! # Ok(())
//! # }
//! ```

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use katachi_crypto::{SecretBytes, SecretString};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use zeroize::{Zeroize as _, Zeroizing};

use super::{SealedFile, SealedFileError};
use crate::vault::Vault;

/// What a `cloudflared` needs to serve a tunnel.
#[derive(Debug, Eq, PartialEq)]
pub struct TunnelCredential {
    account_tag: String,
    tunnel_id: String,
    secret: SecretBytes,
    endpoint: Option<String>,
}

/// Why a text is no tunnel credential. Never repeats what stood there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelCredentialError {
    /// It is longer than [`TunnelCredential::MAX_LEN`].
    #[error("a tunnel credential has at most {} bytes", TunnelCredential::MAX_LEN)]
    TooLong,
    /// It is neither of the two forms.
    #[error(
        "this is neither the JSON file of `cloudflared tunnel create` nor a tunnel token from the dashboard"
    )]
    UnknownForm,
    /// The JSON breaks off or is malformed.
    #[error("the JSON is malformed at line {line}, column {column}")]
    Json {
        /// Counted from one.
        line: usize,
        /// Counted from one.
        column: usize,
    },
    /// A field that has to be there is not.
    #[error("the field {field} is missing")]
    Missing {
        /// Its name in the file; a token abbreviates it to its first letter.
        field: &'static str,
    },
    /// A field is not what it should be.
    #[error("the field {field} has to be {expected}")]
    Field {
        /// Its name in the file.
        field: &'static str,
        /// What it should be, in words.
        expected: &'static str,
    },
    /// The sealed file could not be read or written.
    #[error(transparent)]
    File(#[from] SealedFileError),
}

impl TunnelCredential {
    /// Longest text of either form that is read, in bytes.
    pub const MAX_LEN: usize = 4096;

    /// Reads either form, from a file or as pasted.
    ///
    /// # Errors
    ///
    /// Returns [`TunnelCredentialError`], which names the field and never
    /// contains a value.
    pub fn parse(text: &[u8]) -> Result<Self, TunnelCredentialError> {
        if text.len() > Self::MAX_LEN {
            return Err(TunnelCredentialError::TooLong);
        }
        let text = text.trim_ascii();
        if text.first() == Some(&b'{') {
            return from_json(text);
        }
        // Three bytes of content for four characters.
        let mut json = Zeroizing::new([0; Self::MAX_LEN / 4 * 3 + 3]);
        let length = STANDARD
            .decode_slice(text, &mut json[..])
            .map_err(|_| TunnelCredentialError::UnknownForm)?;
        match json.get(..length) {
            Some(json) if json.first() == Some(&b'{') => from_json(json),
            _ => Err(TunnelCredentialError::UnknownForm),
        }
    }

    /// The Cloudflare account, as 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn account_tag(&self) -> &str {
        &self.account_tag
    }

    /// The tunnel, as a UUID in lower case.
    #[must_use]
    pub fn tunnel_id(&self) -> &str {
        &self.tunnel_id
    }

    /// The region that the tunnel is bound to, if any.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// What proves the right to serve the tunnel: 32 to 64 bytes.
    #[must_use]
    pub fn secret(&self) -> &SecretBytes {
        &self.secret
    }

    /// The content of a credentials file.
    #[must_use]
    pub fn to_json(&self) -> SecretBytes {
        self.write(["AccountTag", "TunnelSecret", "TunnelID", "Endpoint"])
    }

    /// The token, as `cloudflared tunnel run --token-file` takes it.
    #[must_use]
    pub fn to_token(&self) -> SecretString {
        let json = self.write(["a", "s", "t", "e"]);
        SecretString::new(STANDARD.encode(json.expose_secret()))
    }

    /// Seals it into `file`, in place of what was there.
    ///
    /// # Errors
    ///
    /// Returns [`TunnelCredentialError::File`].
    pub fn seal(&self, vault: &Vault, file: &SealedFile) -> Result<(), TunnelCredentialError> {
        Ok(file.write(vault, self.to_json().expose_secret())?)
    }

    /// Opens what [`seal`](Self::seal) wrote, or a credentials file or token
    /// that was sealed as it is.
    ///
    /// # Errors
    ///
    /// Returns [`TunnelCredentialError`].
    pub fn open(vault: &Vault, file: &SealedFile) -> Result<Self, TunnelCredentialError> {
        Self::parse(file.read(vault)?.expose_secret())
    }

    /// All values are of characters that JSON takes as they are.
    fn write(&self, [account, secret, tunnel, endpoint]: [&str; 4]) -> SecretBytes {
        let encoded = Zeroizing::new(STANDARD.encode(self.secret.expose_secret()));
        // Long enough that no part of the secret is moved, and so left behind.
        let mut json = String::with_capacity(512);
        for piece in [
            "{\"",
            account,
            "\":\"",
            &self.account_tag,
            "\",\"",
            secret,
            "\":\"",
            &encoded,
            "\",\"",
            tunnel,
            "\":\"",
            &self.tunnel_id,
            "\"",
        ] {
            json.push_str(piece);
        }
        if let Some(region) = &self.endpoint {
            for piece in [",\"", endpoint, "\":\"", region, "\""] {
                json.push_str(piece);
            }
        }
        json.push('}');
        SecretBytes::new(json.into_bytes())
    }
}

/// Either form, nothing in it checked yet.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "AccountTag", alias = "a")]
    account: Option<Text<'a>>,
    #[serde(borrow, rename = "TunnelSecret", alias = "s")]
    secret: Option<Text<'a>>,
    #[serde(borrow, rename = "TunnelID", alias = "t")]
    tunnel: Option<Text<'a>>,
    #[serde(borrow, rename = "Endpoint", alias = "e")]
    endpoint: Option<Text<'a>>,
}

fn from_json(json: &[u8]) -> Result<TunnelCredential, TunnelCredentialError> {
    let fields: Fields<'_> =
        serde_json::from_slice(json).map_err(|error| TunnelCredentialError::Json {
            line: error.line(),
            column: error.column(),
        })?;
    let account_tag = checked(
        &fields.account,
        "AccountTag",
        "32 hexadecimal digits",
        is_tag,
    )?;
    let tunnel_id = checked(
        &fields.tunnel,
        "TunnelID",
        "a UUID such as 6ff42ae2-765d-4adf-8112-31c55c1551ef",
        is_uuid,
    )?;
    let endpoint = match &fields.endpoint {
        None => None,
        Some(endpoint) => {
            let endpoint = Some(endpoint);
            let shape = "the short name of a region";
            let endpoint = checked_text(endpoint, "Endpoint", shape, is_region)?;
            (!endpoint.is_empty()).then(|| endpoint.to_owned())
        }
    };
    let shape = "base64 of 32 to 64 bytes";
    let encoded = checked_text(fields.secret.as_ref(), "TunnelSecret", shape, |_| true)?;
    let wrong = TunnelCredentialError::Field {
        field: "TunnelSecret",
        expected: shape,
    };
    let mut secret = Zeroizing::new([0; 68]);
    let secret = match STANDARD.decode_slice(encoded, &mut secret[..]) {
        Ok(length @ 32..=64) => SecretBytes::new(secret[..length].to_vec()),
        _ => return Err(wrong),
    };
    Ok(TunnelCredential {
        account_tag: account_tag.to_ascii_lowercase(),
        tunnel_id: tunnel_id.to_ascii_lowercase(),
        secret,
        endpoint,
    })
}

fn checked<'f>(
    field: &'f Option<Text<'_>>,
    name: &'static str,
    expected: &'static str,
    fits: fn(&str) -> bool,
) -> Result<&'f str, TunnelCredentialError> {
    checked_text(field.as_ref(), name, expected, fits)
}

fn checked_text<'f>(
    field: Option<&'f Text<'_>>,
    name: &'static str,
    expected: &'static str,
    fits: impl Fn(&str) -> bool,
) -> Result<&'f str, TunnelCredentialError> {
    let text = field.ok_or(TunnelCredentialError::Missing { field: name })?;
    match &text.0 {
        Some(text) if fits(text) => Ok(text),
        _ => Err(TunnelCredentialError::Field {
            field: name,
            expected,
        }),
    }
}

fn is_tag(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_uuid(text: &str) -> bool {
    let is_dash = |place| matches!(place, 8 | 13 | 18 | 23);
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| {
            (is_dash(place) && byte == b'-') || (!is_dash(place) && byte.is_ascii_hexdigit())
        })
}

fn is_region(text: &str) -> bool {
    text.len() <= 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

/// A text, or `None` for a value of another type: which field it was is then
/// still known, and can be said.
struct Text<'a>(Option<Cow<'a, str>>);

impl Drop for Text<'_> {
    fn drop(&mut self) {
        if let Some(Cow::Owned(text)) = &mut self.0 {
            text.zeroize();
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    // A text with escapes, such as the `\/` that some writers put into base64.
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// See [`testing::laws::tunnel_credential`](crate::testing::laws::tunnel_credential).
#[cfg(any(test, feature = "testing"))]
pub(crate) fn check_law(bytes: &[u8]) {
    let Ok(credential) = TunnelCredential::parse(bytes) else {
        return;
    };
    let json = credential.to_json();
    let again = TunnelCredential::parse(json.expose_secret()).expect("what is written is read");
    assert_eq!(again, credential);
    assert_eq!(again.to_json(), json);
    let token = credential.to_token();
    let again = TunnelCredential::parse(token.expose_secret().as_bytes());
    assert_eq!(again.expect("what is written is read"), credential);
}
