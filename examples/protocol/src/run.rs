//! Commands and messages, and the events that come back: one JSON object per
//! line ([`NDJSON`](crate::NDJSON)), sent as it happens. A stream ends with
//! [`RunEvent::Exit`] or [`RunEvent::Error`]; one that ends without either was
//! cut off.

use serde::{Deserialize, Serialize};

/// Runs one program in the agent's sandbox.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// Program and arguments; no shell is involved.
    pub argv: Vec<String>,
    /// Directory relative to the workspace, the workspace itself where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

impl RunRequest {
    /// Most elements of `argv`.
    pub const MAX_ARGS: usize = 256;
    /// Most bytes of all elements of `argv` together.
    pub const MAX_BYTES: usize = 32 * 1024;
}

/// Sends a message to the AI process of the agent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MessageRequest {
    /// Continues a session; a new one where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What the person wrote.
    pub text: String,
}

impl MessageRequest {
    /// Most bytes of `text`.
    pub const MAX_BYTES: usize = 128 * 1024;
}

/// Where output came from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output, or the answer to a message.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One thing that happened to a command.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunEvent {
    /// It waits for a paired device to approve it; `POST /v1/approvals`.
    Approval(crate::approval::ApprovalRequest),
    /// It was started, under this plan.
    Started {
        /// Identifier of the run.
        id: String,
        /// What was started.
        argv: Vec<String>,
        /// Hash of the sandbox plan that confines it.
        plan_hash: String,
        /// The chat session it belongs to, for messages.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<String>,
    },
    /// It wrote something; invalid UTF-8 is replaced.
    Output {
        /// Where.
        stream: OutputStream,
        /// What.
        data: String,
    },
    /// The AI uses a tool; what the sandbox refuses to it follows as
    /// [`Denied`](Self::Denied).
    Tool {
        /// Name of the tool.
        name: String,
        /// What it is given, on one line, shortened.
        detail: String,
    },
    /// The sandbox refused an action.
    Denied {
        /// The control that refused: `command`, `read`, `write`, `network`, ...
        control: String,
        /// What was tried: `exec`, `open`, `connect`, ...
        operation: String,
        /// On what.
        target: String,
        /// Why it is refused.
        reason: String,
        /// The line of the policy file that would allow it, where one can.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        allow_with: Option<String>,
    },
    /// It ended. Exactly one of `code` and `signal` is present.
    Exit {
        /// Exit code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        /// Signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// How long it ran.
        seconds: f64,
    },
    /// It could not be started or followed to its end.
    Error {
        /// For people, with the next step.
        message: String,
    },
}

/// A line is not an event.
#[derive(Debug, thiserror::Error)]
#[error("a line of the stream is not a run event: {0}")]
pub struct ParseEventError(#[from] serde_json::Error);

impl RunEvent {
    /// The event as one line, with its line feed.
    #[must_use]
    pub fn to_line(&self) -> String {
        // A struct of strings, numbers and lists has no failing serialisation.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    /// Reads one line, without its line feed.
    ///
    /// # Errors
    ///
    /// Returns [`ParseEventError`] if `line` is not one event in JSON.
    pub fn from_line(line: &str) -> Result<Self, ParseEventError> {
        Ok(serde_json::from_str(line)?)
    }

    /// Whether this event ends its stream.
    #[must_use]
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Exit { .. } | Self::Error { .. })
    }
}

/// The law of a line: what is read from it, written and read again is the
/// same, on one line. For tests and fuzzers.
///
/// # Panics
///
/// Panics if the law is broken.
#[doc(hidden)]
pub fn check_line_law(line: &str) {
    let Ok(event) = RunEvent::from_line(line) else {
        return;
    };
    let written = event.to_line();
    assert_eq!(written.matches('\n').count(), 1, "an event is one line");
    let again = RunEvent::from_line(written.trim_end_matches('\n'));
    assert_eq!(again.ok(), Some(event), "an event reads back as it was");
}

#[cfg(test)]
mod tests {
    use super::{OutputStream, RunEvent, RunRequest};

    fn every_kind() -> Vec<RunEvent> {
        vec![
            RunEvent::Started {
                id: "r1".into(),
                argv: vec!["ls".into(), "-l".into()],
                plan_hash: "ab".into(),
                session: None,
            },
            RunEvent::Output {
                stream: OutputStream::Stderr,
                data: "a\nb\u{2028}\"".into(),
            },
            RunEvent::Denied {
                control: "read".into(),
                operation: "open".into(),
                target: "/etc/shadow".into(),
                reason: "outside the workspace".into(),
                allow_with: Some("read = [\"/etc/shadow\"]".into()),
            },
            RunEvent::Tool {
                name: "run".into(),
                detail: "{\"argv\":[\"ls\"]}".into(),
            },
            RunEvent::Exit {
                code: Some(0),
                signal: None,
                seconds: 0.5,
            },
            RunEvent::Exit {
                code: None,
                signal: Some(9),
                seconds: 1.0,
            },
            RunEvent::Error {
                message: "no such program".into(),
            },
        ]
    }

    #[test]
    fn every_event_is_one_line_and_reads_back_equal() {
        for event in every_kind() {
            let line = event.to_line();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(line.ends_with('\n'));
            assert_eq!(RunEvent::from_line(line.trim_end()).unwrap(), event);
        }
    }

    #[test]
    fn the_fuzzer_s_corpus_keeps_the_law() {
        let corpus = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../fuzz/corpus/protocol_run_event"
        );
        // Absent where the package stands alone.
        let Ok(files) = std::fs::read_dir(corpus) else {
            return;
        };
        for file in files {
            super::check_line_law(&std::fs::read_to_string(file.unwrap().path()).unwrap());
        }
    }

    #[test]
    fn only_exit_and_error_end_a_stream() {
        let ends: Vec<bool> = every_kind().iter().map(RunEvent::is_last).collect();
        assert_eq!(ends, [false, false, false, false, true, true, true]);
    }

    #[test]
    fn a_request_with_an_unknown_field_is_refused() {
        let refused = serde_json::from_str::<RunRequest>(r#"{"argv":["ls"],"shell":true}"#);
        assert!(refused.unwrap_err().to_string().contains("shell"));
    }
}
