//! The promises and what was seen of them.
//!
//! A status is never written down by hand: chapters record findings while they
//! try things, and [`Ledger::report`] works out the status from those.

use serde::Serialize;

use crate::output::{self, BAD, BOLD, GOOD, QUIET, WEAK, paint};

/// How many promises there are; they are numbered from 1.
pub(crate) const COUNT: usize = TITLES.len();

const TITLES: [&str; 16] = [
    "Code stays on the machine: only structured calls cross the tunnel",
    "Zero-trust tunnel, encrypted end to end",
    "Browser and relay speak HTTPS with HSTS",
    "Cloudflare Tunnel as carrier",
    "API keys in the OS keychain, encrypted with a machine-specific key",
    "Tunnel credentials encrypted on disk by the machine's fingerprint",
    "History and memory in SQLCipher, useless on another machine",
    "Managed MCP configurations sealed with AES-256-GCM",
    "Sign-in with GitHub, Google, or e-mail and password",
    "Device authorization flow",
    "HMAC-SHA256 signed calls with strict timestamps and no replay",
    "AI processes run only allowed commands",
    "AI processes see only allowed directories",
    "AI processes make no arbitrary network requests",
    "Windows confines AI processes too",
    "Vulnerability reports answered within 48 hours",
];

/// How a promise stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Seen to hold, entirely.
    Kept,
    /// Seen to hold in part; the evidence says which part does not.
    Partial,
    /// Not built.
    Absent,
    /// This machine lacks what it needs.
    Unavailable,
    /// Cannot be shown here.
    Unwitnessed,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Partial => "partial",
            Self::Absent => "absent",
            Self::Unavailable => "unavailable",
            Self::Unwitnessed => "unwitnessed",
        }
    }

    fn painted(self) -> String {
        let style = match self {
            Self::Kept => GOOD,
            Self::Partial | Self::Unavailable => WEAK,
            Self::Absent | Self::Unwitnessed => QUIET,
        };
        paint(style, format!("{:<11}", self.word()))
    }
}

/// One thing that was tried, or could not be, for one promise.
#[derive(Clone, Debug)]
struct Finding {
    status: Status,
    evidence: String,
    failed: bool,
}

/// Collects what was seen.
#[derive(Debug)]
pub(crate) struct Ledger {
    findings: [Vec<Finding>; COUNT],
}

impl Ledger {
    /// Starts with nothing seen.
    pub(crate) fn new() -> Self {
        Self {
            findings: std::array::from_fn(|_| Vec::new()),
        }
    }

    /// Something was tried for promise `id` and held.
    pub(crate) fn held(&mut self, id: usize, evidence: impl Into<String>) {
        self.record(id, Status::Kept, evidence, false);
    }

    /// Something was tried for promise `id` and holds only in part.
    pub(crate) fn weaker(&mut self, id: usize, evidence: impl Into<String>) {
        self.record(id, Status::Partial, evidence, false);
    }

    /// This machine lacks what a piece of promise `id` needs.
    pub(crate) fn unavailable(&mut self, id: usize, evidence: impl Into<String>) {
        self.record(id, Status::Unavailable, evidence, false);
    }

    /// A piece of promise `id` exists and cannot be shown here.
    pub(crate) fn unwitnessed(&mut self, id: usize, evidence: impl Into<String>) {
        self.record(id, Status::Unwitnessed, evidence, false);
    }

    /// Something was tried for promise `id` and did not hold.
    pub(crate) fn failed(&mut self, id: usize, evidence: impl Into<String>) {
        self.record(id, Status::Absent, evidence, true);
    }

    /// Records a check of promise `id`: held, or failed.
    pub(crate) fn check(&mut self, id: usize, held: bool, evidence: impl Into<String>) {
        if held {
            self.held(id, evidence);
        } else {
            self.failed(id, evidence);
        }
    }

    /// Whether anything that was tried did not hold.
    pub(crate) fn any_failure(&self) -> bool {
        self.findings.iter().flatten().any(|finding| finding.failed)
    }

    /// Works out the status of every promise from what was recorded.
    pub(crate) fn report(&self, seconds: f64) -> Report {
        let promises = (1..=COUNT).map(|id| self.promise(id)).collect();
        Report { promises, seconds }
    }

    fn record(&mut self, id: usize, status: Status, evidence: impl Into<String>, failed: bool) {
        debug_assert!((1..=COUNT).contains(&id), "there is no promise {id}");
        if let Some(findings) = id.checked_sub(1).and_then(|i| self.findings.get_mut(i)) {
            findings.push(Finding {
                status,
                evidence: evidence.into(),
                failed,
            });
        }
    }

    fn promise(&self, id: usize) -> Promise {
        let findings = &self.findings[id - 1];
        let evidence = findings
            .iter()
            .map(|finding| match finding.failed {
                true => format!("FAILED: {}", finding.evidence),
                false => finding.evidence.clone(),
            })
            .collect::<Vec<_>>()
            .join("; ");
        Promise {
            id,
            title: TITLES[id - 1],
            status: overall(findings),
            evidence: match evidence.is_empty() {
                true => "not tried: the chapter that shows it was not reached".to_owned(),
                false => evidence,
            },
        }
    }
}

/// One status for several findings: only unanimous ones stand, and anything
/// that held beside something that did not makes the whole partial.
fn overall(findings: &[Finding]) -> Status {
    let Some(first) = findings.first() else {
        return Status::Absent;
    };
    if findings
        .iter()
        .all(|finding| finding.status == first.status)
    {
        return first.status;
    }
    let anything_held = findings
        .iter()
        .any(|finding| matches!(finding.status, Status::Kept | Status::Partial));
    match anything_held {
        true => Status::Partial,
        false => Status::Absent,
    }
}

/// One promise, its status and what was seen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Promise {
    pub(crate) id: usize,
    pub(crate) title: &'static str,
    pub(crate) status: Status,
    pub(crate) evidence: String,
}

/// Every promise, in order.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) promises: Vec<Promise>,
    pub(crate) seconds: f64,
}

impl Report {
    /// Renders the table for a terminal `columns` wide.
    pub(crate) fn table(&self, columns: usize) -> String {
        let mut text = String::new();
        let indent = " ".repeat(17);
        for promise in &self.promises {
            let status = match promise.evidence.contains("FAILED: ") {
                true => paint(BAD, format!("{:<11}", "FAILED")),
                false => promise.status.painted(),
            };
            text.push_str(&format!(
                " {:>2}  {status} {}\n",
                promise.id,
                paint(BOLD, promise.title)
            ));
            for line in output::wrap(&promise.evidence, columns.saturating_sub(indent.len())) {
                text.push_str(&format!("{indent}{}\n", paint(QUIET, line)));
            }
        }
        let count = |status| self.promises.iter().filter(|p| p.status == status).count();
        text.push_str(&format!(
            "\n{} kept, {} partial, {} absent, {} unavailable, {} unwitnessed, in {:.1} s\n",
            count(Status::Kept),
            count(Status::Partial),
            count(Status::Absent),
            count(Status::Unavailable),
            count(Status::Unwitnessed),
            self.seconds
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(ledger: &Ledger, id: usize) -> Status {
        ledger.report(0.0).promises[id - 1].status
    }

    #[test]
    fn a_promise_nobody_looked_at_is_absent() {
        let ledger = Ledger::new();
        assert_eq!(status_of(&ledger, 1), Status::Absent);
        assert!(!ledger.any_failure());
    }

    #[test]
    fn only_unanimous_findings_keep_a_promise() {
        let mut ledger = Ledger::new();
        ledger.held(1, "a");
        ledger.held(1, "b");
        assert_eq!(status_of(&ledger, 1), Status::Kept);
        ledger.unwitnessed(1, "c");
        assert_eq!(status_of(&ledger, 1), Status::Partial);
    }

    #[test]
    fn unavailable_and_absent_together_never_look_better_than_absent() {
        let mut ledger = Ledger::new();
        ledger.unavailable(2, "a");
        ledger.failed(2, "b");
        assert_eq!(status_of(&ledger, 2), Status::Absent);
    }

    #[test]
    fn a_failed_check_is_remembered_and_never_kept() {
        let mut ledger = Ledger::new();
        ledger.check(3, true, "fine");
        ledger.check(3, false, "broken");
        assert!(ledger.any_failure());
        assert_ne!(status_of(&ledger, 3), Status::Kept);
        assert!(ledger.report(0.0).table(80).contains("FAILED"));
    }

    #[test]
    fn the_report_has_every_promise_once_in_order() {
        let report = Ledger::new().report(1.0);
        let ids: Vec<_> = report.promises.iter().map(|promise| promise.id).collect();
        assert_eq!(ids, (1..=COUNT).collect::<Vec<_>>());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["promises"][0]["status"], "absent");
    }
}
