//! What travels inside the end-to-end channel between a browser and an agent.
//!
//! The relay carries a channel as bytes it cannot read: a WebSocket with binary
//! frames towards the browser, the body of one HTTP/2 request towards the agent.
//! Each request of the browser is a channel of its own, so that cancelling it is
//! closing the carrier.
//!
//! ```text
//! device                                       agent
//!   Noise handshake (IKpsk2 or XX once, IK) ⇄
//!   message: ChannelRequest, JSON           →
//!                                           ←  message: ChannelHead, JSON
//!                                           ←  messages: the body, in pieces
//!                                           ←  close
//! ```

use serde::{Deserialize, Serialize};

/// How a device opens a channel.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// With the secret of a pairing link, once.
    Pair,
    /// By numbers that a person compares, once.
    Code,
    /// As a device that is paired.
    Resume,
}

/// The query of both carriers. The handshake covers every part of it: a relay
/// that changes one gets no channel.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ChannelQuery {
    /// How the channel is opened.
    pub mode: Mode,
    /// The device's X25519 public key, 43 characters of base64url.
    pub device: String,
    /// Names this channel among those of the device: 22 characters of base64url.
    pub stream: String,
}

impl ChannelQuery {
    /// The query as it stands behind the `?`; nothing in it needs escaping.
    #[must_use]
    pub fn to_query(&self) -> String {
        let mode = match self.mode {
            Mode::Pair => "pair",
            Mode::Code => "code",
            Mode::Resume => "resume",
        };
        format!("mode={mode}&device={}&stream={}", self.device, self.stream)
    }

    /// Tells whether both names have their length and alphabet.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        is_device(&self.device) && is_base64url(&self.stream, 22)
    }
}

/// Tells whether `text` has the length and alphabet of a device's identifier.
#[must_use]
pub fn is_device(text: &str) -> bool {
    is_base64url(text, 43)
}

fn is_base64url(text: &str, length: usize) -> bool {
    text.len() == length
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The only message of the device.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ChannelRequest {
    /// `GET`, `POST` or `DELETE`.
    pub method: String,
    /// Path and query of a route of the agent's API.
    pub path: String,
    /// The JSON body, where the route takes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<serde_json::Value>,
    /// When pairing: what the device calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When pairing: the Ed25519 public key with which the device will sign
    /// [approvals](crate::approval), 43 characters of base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<String>,
}

impl ChannelRequest {
    /// Most bytes of the encoded request.
    pub const MAX_BYTES: usize = 256 * 1024;
    /// Most characters of `name`.
    pub const MAX_NAME: usize = 64;

    /// Tells whether `signing_key` is absent or has its length and alphabet.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let key = self.signing_key.as_deref();
        key.is_none_or(|key| is_base64url(key, 43))
    }
}

/// The first message of the agent; the body follows it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ChannelHead {
    /// The status, as HTTP has it.
    pub status: u16,
}

/// A browser or program that may use the agent. `GET /v1/devices`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Device {
    /// Its public key, base64url.
    pub id: String,
    /// What it calls itself.
    pub name: String,
    /// When it was paired.
    pub paired_at: crate::Timestamp,
    /// Its Ed25519 public key, base64url; one without approves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<String>,
}

/// The answer of `GET /v1/devices`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Devices {
    /// Oldest first.
    pub devices: Vec<Device>,
}

/// What a pairing link carries behind its `#`, which no browser sends anywhere.
///
/// Written `pair/1.` and two values of 43 characters of base64url: the agent's
/// public key and the secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PairingFragment {
    /// The agent's X25519 public key, base64url.
    pub agent: String,
    /// The secret of this pairing, base64url.
    pub secret: crate::Sensitive,
}

impl PairingFragment {
    /// Reads the part of a link behind its `#`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (agent, secret) = text.strip_prefix("pair/1.")?.split_once('.')?;
        (is_base64url(agent, 43) && is_base64url(secret, 43)).then(|| Self {
            agent: agent.to_owned(),
            secret: crate::Sensitive::new(secret),
        })
    }

    /// The text, to be put behind a `#`.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("pair/1.{}.{}", self.agent, self.secret.expose_secret())
    }
}

#[cfg(test)]
mod tests {
    use super::{ChannelQuery, Mode, PairingFragment};

    #[test]
    fn names_of_another_length_or_alphabet_are_refused() {
        let query = |device: &str, stream: &str| ChannelQuery {
            mode: Mode::Resume,
            device: device.to_owned(),
            stream: stream.to_owned(),
        };
        assert!(query(&"a".repeat(43), &"_".repeat(22)).is_well_formed());
        assert!(!query(&"a".repeat(42), &"_".repeat(22)).is_well_formed());
        assert!(!query(&"a".repeat(43), &"/".repeat(22)).is_well_formed());
        assert!(!query(&"&".repeat(43), &"_".repeat(22)).is_well_formed());
    }

    #[test]
    fn a_fragment_reads_back_as_it_was_written() {
        let text = format!("pair/1.{}.{}", "k".repeat(43), "s".repeat(43));
        assert_eq!(PairingFragment::parse(&text).unwrap().expose(), text);
        for wrong in [
            "",
            "pair/1.",
            "pair/1.a.b",
            &text[..text.len() - 1],
            &format!("{text}."),
        ] {
            assert_eq!(PairingFragment::parse(wrong), None, "{wrong}");
        }
    }
}
