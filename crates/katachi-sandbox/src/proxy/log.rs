//! What the proxy refused.

use crate::feed::Feed;
use crate::report::Violation;

/// Refusals of one command, each kind once.
#[derive(Debug)]
pub(super) struct Log(pub(super) Feed);

impl Log {
    pub(super) fn add(&self, target: &str, reason: String, allow_with: Option<String>) {
        self.0.add_once(Violation {
            control: "network".to_owned(),
            operation: "connect".to_owned(),
            target: target.to_owned(),
            reason,
            allow_with,
        });
    }
}
