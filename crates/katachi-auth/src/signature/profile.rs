//! Profiles: what a strict signature covers, as a value.

/// What one kind of signature covers and how long it lives.
///
/// Signer and verifier hold the same profile, so nothing about it is negotiated and
/// nothing is left to the sender's choice: components stand in the profile's order,
/// parameters too, each exactly once.
///
/// A request profile always covers `@method`, `@authority`, `@path`, `@query` and
/// `content-digest`, then the epoch header, then what is added here.
///
/// ```
/// use katachi_auth::signature::Profile;
///
/// const MINE: Profile = Profile::request("example-app/1")
///     .label("example")
///     .cover(&["x-tenant"])
///     .cover_if_present(&["content-type", "idempotency-key"])
///     .window(30);
/// assert_eq!(MINE.tag(), "example-app/1");
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Profile {
    pub(crate) tag: &'static str,
    pub(crate) label: &'static str,
    pub(crate) purpose: &'static str,
    pub(crate) epoch_header: &'static str,
    pub(crate) channel_header: Option<&'static str>,
    pub(crate) required: &'static [&'static str],
    pub(crate) optional: &'static [&'static str],
    pub(crate) window: u32,
    pub(crate) skew: u32,
}

/// Headers that change what a request means; covered if and only if present.
const MEANINGFUL: &[&str] = &[
    "content-type",
    "content-encoding",
    "idempotency-key",
    "authorization",
];

impl Profile {
    /// What a katachi agent signs when it calls its relay.
    pub const AGENT_REQUEST: Self = Self::request("katachi-agent/1").purpose_name("api");

    /// The request that opens an agent's tunnel: as [`Self::AGENT_REQUEST`], and bound
    /// to the TLS connection by `katachi-tls-exporter` (RFC 9266).
    pub const TUNNEL_REQUEST: Self = Self::request("katachi-agent/1")
        .purpose_name("tunnel")
        .channel_binding("katachi-tls-exporter");

    /// What a katachi relay signs when it answers an agent: `@status`,
    /// `content-digest`, and of the request `@method`, `@path`, `@query` and its
    /// signature.
    pub const RELAY_RESPONSE: Self = Self::request("katachi-relay/1").purpose_name("response");

    /// Longest list of additional headers in either group.
    pub const MAX_HEADERS: usize = 8;

    /// A request profile under `tag` with label `katachi`, epoch header
    /// `katachi-epoch`, a window of 60 s and 5 s of tolerance for clocks ahead.
    ///
    /// `content-type`, `content-encoding`, `idempotency-key` and `authorization`
    /// are covered if present.
    #[must_use]
    pub const fn request(tag: &'static str) -> Self {
        Self {
            tag,
            label: "katachi",
            purpose: tag,
            epoch_header: "katachi-epoch",
            channel_header: None,
            required: &[],
            optional: MEANINGFUL,
            window: 60,
            skew: 5,
        }
    }

    /// A response profile under `tag`, bound to the request that it answers.
    #[must_use]
    pub const fn response(tag: &'static str) -> Self {
        Self::request(tag)
    }

    /// Names the dictionary member that carries the signature.
    ///
    /// # Panics
    ///
    /// Panics, at compile time for a constant, if `label` is not a key of RFC 8941.
    #[must_use]
    pub const fn label(self, label: &'static str) -> Self {
        assert!(is_lower_token(label), "a label is lower-case ASCII");
        Self { label, ..self }
    }

    /// Names the purpose that keys are derived for; the tag unless set.
    #[must_use]
    pub const fn purpose_name(self, purpose: &'static str) -> Self {
        Self { purpose, ..self }
    }

    /// Names the header that carries the epoch.
    ///
    /// # Panics
    ///
    /// Panics, at compile time for a constant, if `header` is not a lower-case name.
    #[must_use]
    pub const fn epoch_header(self, header: &'static str) -> Self {
        assert!(is_lower_token(header), "a header name is lower-case ASCII");
        Self {
            epoch_header: header,
            ..self
        }
    }

    /// Binds requests to their TLS connection: `header` carries 32 bytes exported by
    /// both ends under the label `EXPORTER-Channel-Binding`, in base64url.
    ///
    /// # Panics
    ///
    /// Panics, at compile time for a constant, if `header` is not a lower-case name.
    #[must_use]
    pub const fn channel_binding(self, header: &'static str) -> Self {
        assert!(is_lower_token(header), "a header name is lower-case ASCII");
        Self {
            channel_header: Some(header),
            ..self
        }
    }

    /// Headers that must be present and are covered.
    ///
    /// # Panics
    ///
    /// Panics, at compile time for a constant, if there are more than
    /// [`Self::MAX_HEADERS`] or one is not a lower-case name.
    #[must_use]
    pub const fn cover(self, headers: &'static [&'static str]) -> Self {
        check_names(headers);
        Self {
            required: headers,
            ..self
        }
    }

    /// Headers that are covered if and only if present. Replaces the list of
    /// [`Self::request`].
    ///
    /// # Panics
    ///
    /// Panics, at compile time for a constant, if there are more than
    /// [`Self::MAX_HEADERS`] or one is not a lower-case name.
    #[must_use]
    pub const fn cover_if_present(self, headers: &'static [&'static str]) -> Self {
        check_names(headers);
        Self {
            optional: headers,
            ..self
        }
    }

    /// How long a signature lives, in seconds.
    #[must_use]
    pub const fn window(self, seconds: u32) -> Self {
        Self {
            window: seconds,
            ..self
        }
    }

    /// How far a client's clock may be ahead, in seconds.
    #[must_use]
    pub const fn skew(self, seconds: u32) -> Self {
        Self {
            skew: seconds,
            ..self
        }
    }

    /// The `tag` parameter.
    #[must_use]
    pub const fn tag(&self) -> &'static str {
        self.tag
    }

    /// The purpose that keys are derived for.
    #[must_use]
    pub const fn purpose(&self) -> &'static str {
        self.purpose
    }

    /// The header that carries the epoch.
    #[must_use]
    pub const fn epoch_header_name(&self) -> &'static str {
        self.epoch_header
    }

    /// The header that carries the channel binding, if the profile asks for one.
    #[must_use]
    pub const fn channel_header_name(&self) -> Option<&'static str> {
        self.channel_header
    }
}

const fn check_names(headers: &[&str]) {
    assert!(headers.len() <= Profile::MAX_HEADERS, "too many headers");
    let mut at = 0;
    while at < headers.len() {
        assert!(
            is_lower_token(headers[at]),
            "a header name is lower-case ASCII"
        );
        at += 1;
    }
}

/// Lower-case letters, digits, `-` and `_`, a letter first: valid both as a field
/// name and as a structured-field key.
const fn is_lower_token(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.is_empty() || !bytes[0].is_ascii_lowercase() {
        return false;
    }
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_') {
            return false;
        }
        at += 1;
    }
    true
}
