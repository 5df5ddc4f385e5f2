//! The client's side: when to poll again, and when to stop.

use std::time::Duration;

/// What the token endpoint answered to a poll.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PollAnswer {
    /// The token.
    Granted,
    /// `authorization_pending`.
    Pending,
    /// `slow_down`.
    SlowDown,
    /// `access_denied`.
    Denied,
    /// `expired_token`.
    Expired,
    /// No answer, or a server error: ask again, ever more slowly.
    Unreachable,
    /// Any other `error`, with its code.
    Other(String),
}

impl PollAnswer {
    /// Reads the answer from its status and, if it could be read, the JSON body's
    /// `error` member.
    #[must_use]
    pub fn from_status(status: u16, error: Option<&str>) -> Self {
        match (status, error) {
            (200, _) => Self::Granted,
            (_, Some("authorization_pending")) => Self::Pending,
            (_, Some("slow_down")) => Self::SlowDown,
            (_, Some("access_denied")) => Self::Denied,
            (_, Some("expired_token")) => Self::Expired,
            (429 | 500..=599, _) => Self::Unreachable,
            (_, Some(error)) => Self::Other(error.to_owned()),
            (status, None) => Self::Other(format!("status {status}")),
        }
    }
}

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// Wait this long, then poll.
    Wait(Duration),
    /// The token is there.
    Done,
    /// Stop.
    Stop(Failure),
}

/// Why a client stops.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Somebody said no, or the server thinks that we poll without restraint.
    #[error("the request was denied")]
    Denied,
    /// Nobody approved in time.
    #[error("nobody approved in time: start again")]
    Expired,
    /// The server refused for another reason.
    #[error("the server refused: {0}")]
    Refused(String),
}

/// Decides when to poll. It reads no clock: the caller says how long ago it started.
///
/// Waits are a fifth longer than asked for, because clocks in virtual machines run
/// fast by up to a third and a server that counts honestly would answer `slow_down`
/// for ever; after the first `slow_down`, two fifths.
#[derive(Clone, Debug)]
pub struct Polling {
    interval: Duration,
    expires_in: Duration,
    slow_downs: u32,
    failures: u32,
}

const DEFAULT_INTERVAL: u64 = 5;
const LONGEST_WAIT: Duration = Duration::from_secs(120);

impl Polling {
    /// Begins with what the server answered: `interval` (5 s if absent) and `expires_in`.
    #[must_use]
    pub fn new(interval: Option<u64>, expires_in: u64) -> Self {
        // A server cannot make us hammer it, or sleep for a year.
        let interval = interval.unwrap_or(DEFAULT_INTERVAL).clamp(1, 60);
        Self {
            interval: Duration::from_secs(interval),
            expires_in: Duration::from_secs(expires_in.min(24 * 3600)),
            slow_downs: 0,
            failures: 0,
        }
    }

    /// How long to wait before the next poll.
    #[must_use]
    pub fn wait(&self) -> Duration {
        let margin = if self.slow_downs == 0 { 6 } else { 7 };
        let doubled = self.interval.saturating_mul(1 << self.failures.min(6));
        (doubled * margin / 5).min(LONGEST_WAIT.max(self.interval))
    }

    /// Takes an answer, `elapsed` after the flow began.
    pub fn answered(&mut self, answer: PollAnswer, elapsed: Duration) -> Next {
        match answer {
            PollAnswer::Granted => return Next::Done,
            PollAnswer::Denied => return Next::Stop(Failure::Denied),
            PollAnswer::Expired => return Next::Stop(Failure::Expired),
            PollAnswer::Other(error) => return Next::Stop(Failure::Refused(error)),
            PollAnswer::Pending => self.failures = 0,
            PollAnswer::SlowDown => {
                self.failures = 0;
                self.slow_downs += 1;
                // RFC 8628 section 3.5: for this and all later polls.
                self.interval += Duration::from_secs(5);
            }
            PollAnswer::Unreachable => self.failures += 1,
        }
        let wait = self.wait();
        if elapsed + wait >= self.expires_in {
            return Next::Stop(Failure::Expired);
        }
        Next::Wait(wait)
    }

    /// Whether the server found us too fast more than once although we waited longer
    /// than asked: the clock of this machine probably runs fast. Tell the person.
    #[must_use]
    pub const fn clock_runs_fast(&self) -> bool {
        self.slow_downs >= 2
    }
}
