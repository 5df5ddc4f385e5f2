//! How long to wait before dialling again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// Waits that grow, with full jitter so that a thousand agents of a restarted
/// relay do not return in the same instant.
#[derive(Debug)]
pub(crate) struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    /// Starts with short waits.
    pub(crate) fn new() -> Self {
        Self { ceiling: FIRST }
    }

    /// A connection held; the next wait is short again.
    pub(crate) fn reset(&mut self) {
        self.ceiling = FIRST;
    }

    /// The next wait, a `fraction` (0 to 1) of the current ceiling, and never
    /// less than a tenth of it.
    pub(crate) fn next(&mut self, fraction: f64) -> Duration {
        let wait = self.ceiling.mul_f64(fraction.clamp(0.1, 1.0));
        self.ceiling = (self.ceiling * 2).min(LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_minute_and_start_over_after_success() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.next(1.0), FIRST);
        assert_eq!(backoff.next(1.0), FIRST * 2);
        for _ in 0..20 {
            assert!(backoff.next(1.0) <= LONGEST);
        }
        assert_eq!(backoff.next(1.0), LONGEST);
        backoff.reset();
        assert!(backoff.next(0.0) > Duration::ZERO);
    }
}
