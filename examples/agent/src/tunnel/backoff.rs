//! How long to wait before dialling again.

use std::time::Duration;

use katachi_protocol::agent::Reconnect;

use crate::config::Limits;

/// Waits that grow, with full jitter so that a thousand agents of a restarted
/// relay do not return in the same instant.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Starts with short waits.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            first: limits.first_wait,
            longest: limits.longest_wait,
            ceiling: limits.first_wait,
        }
    }

    /// A connection held; the next wait is short again.
    pub(crate) fn reset(&mut self) {
        self.ceiling = self.first;
    }

    /// The next wait, a `fraction` (0 to 1) of the current ceiling, and never
    /// less than a tenth of it.
    pub(crate) fn next(&mut self, fraction: f64) -> Duration {
        let wait = self.ceiling.mul_f64(fraction.clamp(0.1, 1.0));
        self.ceiling = (self.ceiling * 2).min(self.longest);
        wait.min(self.longest)
    }

    /// The wait that the relay asked for, at the place `fraction` (0 to 1) of its
    /// spread; never longer than ours, and never shorter than after a connection
    /// that did not hold.
    pub(crate) fn told(&mut self, asked: Reconnect, fraction: f64) -> Duration {
        let own = self.next(fraction);
        let after = Duration::from_millis(asked.after_ms);
        let spread = Duration::from_millis(asked.spread_ms).min(self.longest);
        let wait = after.saturating_add(spread.mul_f64(fraction.clamp(0.0, 1.0)));
        wait.clamp(own.min(self.longest), self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_minute_and_start_over_after_success() {
        let limits = Limits::default();
        let (first, longest) = (limits.first_wait, limits.longest_wait);
        let mut backoff = Backoff::new(&limits);
        assert_eq!(backoff.next(1.0), first);
        assert_eq!(backoff.next(1.0), first * 2);
        for _ in 0..20 {
            assert!(backoff.next(1.0) <= longest);
        }
        assert_eq!(backoff.next(1.0), longest);
        backoff.reset();
        assert!(backoff.next(0.0) > Duration::ZERO);
    }

    #[test]
    fn a_relay_chooses_the_wait_within_our_bounds() {
        let limits = Limits::default();
        let told = |after_ms, spread_ms, fraction| {
            let asked = Reconnect {
                after_ms,
                spread_ms,
            };
            Backoff::new(&limits).told(asked, fraction)
        };
        assert_eq!(told(1_000, 4_000, 0.0), Duration::from_secs(1));
        assert_eq!(told(1_000, 4_000, 0.5), Duration::from_secs(3));
        assert_eq!(told(u64::MAX, u64::MAX, 1.0), limits.longest_wait);
        assert!(told(0, 0, 0.0) > Duration::ZERO);
        // One that sends us away again and again waits longer each time.
        let mut backoff = Backoff::new(&limits);
        let asked = Reconnect {
            after_ms: 0,
            spread_ms: 0,
        };
        for _ in 0..20 {
            backoff.told(asked, 1.0);
        }
        assert_eq!(backoff.told(asked, 1.0), limits.longest_wait);
    }
}
