//! Moments, for people.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::macros::format_description;

/// Seconds since 1970 of `moment`.
pub(crate) fn seconds(moment: SystemTime) -> u64 {
    moment
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// `2026-11-23 21:30 UTC` for a number of seconds since 1970.
pub(crate) fn show(seconds: u64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|moment| moment.format(&format).ok())
        .unwrap_or_else(|| format!("{seconds} s"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_moment_reads_like_a_date() {
        assert_eq!(super::show(1_700_000_000), "2023-11-14 22:13 UTC");
        assert!(!super::show(u64::MAX).is_empty());
    }
}
