//! A start that a person has to approve, and the answer that a paired device
//! signs.
//!
//! The agent asks before it starts a command that its policy lists under
//! `commands.ask`: in the stream of the run, as
//! [`RunEvent::Approval`](crate::run::RunEvent::Approval), and to every paired
//! device that reads `GET /v1/approvals`. The answer of a device counts once, for
//! exactly what was asked, and until it expires.

use serde::{Deserialize, Serialize};

/// What is to be started, where, and under which plan.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ApprovalRequest {
    /// Names this request: 22 characters of base64url, drawn anew for each.
    pub nonce: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The directory it starts in, absolute, with all links followed.
    pub directory: String,
    /// Hash of the sandbox plan that will confine it.
    pub plan_hash: String,
    /// The line of the policy that wants a person to be asked.
    pub rule: String,
    /// From then on no answer counts.
    pub expires_at: crate::Timestamp,
}

/// What a person says to it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Start it, this once.
    Approve,
    /// Do not.
    Deny,
}

impl Decision {
    /// The word that is signed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
        }
    }
}

/// A device's answer. `POST /v1/approvals`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ApprovalAnswer {
    /// The request, as the person saw it.
    pub request: ApprovalRequest,
    /// What the person said.
    pub decision: Decision,
    /// Ed25519 over [`ApprovalRequest::signed_bytes`], 86 characters of base64url.
    pub signature: String,
}

/// What waits for an answer. `GET /v1/approvals`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Approvals {
    /// In no particular order.
    pub approvals: Vec<ApprovalRequest>,
}

impl ApprovalRequest {
    /// What a device signs, so that it can mean one answer to one request and
    /// nothing else: fields of a 32-bit big-endian length and their bytes, which
    /// are the name of this encoding, the decision, nonce, plan hash, directory,
    /// rule, expiry (decimal), and the words of `argv`.
    ///
    /// ```
    /// # use katachi_protocol::approval::{ApprovalRequest, Decision};
    /// let request = |argv: &[&str]| ApprovalRequest {
    ///     nonce: "A".repeat(22),
    ///     argv: argv.iter().map(|word| (*word).to_owned()).collect(),
    ///     directory: "/work".to_owned(),
    ///     plan_hash: "8f".repeat(32),
    ///     rule: "commands.ask = touch".to_owned(),
    ///     expires_at: 1_800_000_000,
    /// };
    /// let signed = request(&["touch", "a b"]).signed_bytes(Decision::Approve);
    /// assert!(signed.starts_with(b"\0\0\0\x12katachi-approval/1\0\0\0\x07approve"));
    /// assert_ne!(signed, request(&["touch", "a", "b"]).signed_bytes(Decision::Approve));
    /// ```
    #[must_use]
    pub fn signed_bytes(&self, decision: Decision) -> Vec<u8> {
        let expires = self.expires_at.to_string();
        let fields = [
            "katachi-approval/1",
            decision.word(),
            &self.nonce,
            &self.plan_hash,
            &self.directory,
            &self.rule,
            &expires,
        ];
        let words = self.argv.iter().map(String::as_str);
        crate::fields::encode(fields.into_iter().chain(words))
    }
}
