//! Moments, for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
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

/// Seconds since 1970 of a date as HTTP writes it (RFC 9110 section 5.6.7).
pub(crate) fn of_http(date: &str) -> Option<u64> {
    let moment = OffsetDateTime::parse(date, &Rfc2822).ok()?;
    u64::try_from(moment.unix_timestamp()).ok()
}

/// `30 minutes`, `90 seconds` or `2.5 seconds` for a length of time.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let (count, unit) = match time.subsec_nanos() == 0 && time.as_secs().is_multiple_of(60) {
        true if time.as_secs() > 60 => (seconds / 60.0, "minutes"),
        _ => (seconds, "seconds"),
    };
    match seconds == 1.0 {
        true => "1 second".to_owned(),
        false => format!("{count} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn a_length_of_time_reads_as_one_says_it() {
        for (milliseconds, words) in [
            (500, "0.5 seconds"),
            (1000, "1 second"),
            (60_000, "60 seconds"),
            (90_000, "90 seconds"),
            (120_000, "2 minutes"),
            (1_800_000, "30 minutes"),
        ] {
            assert_eq!(super::span(Duration::from_millis(milliseconds)), words);
        }
    }

    #[test]
    fn a_date_of_http_is_read() {
        let read = super::of_http;
        assert_eq!(read("Tue, 14 Nov 2023 22:13:20 GMT"), Some(1_700_000_000));
        for none in [
            "",
            "yesterday",
            "1700000000",
            "Tue, 14 Nov 1923 22:13:20 GMT",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn a_moment_reads_like_a_date() {
        assert_eq!(super::show(1_700_000_000), "2023-11-14 22:13 UTC");
        assert!(!super::show(u64::MAX).is_empty());
    }
}
