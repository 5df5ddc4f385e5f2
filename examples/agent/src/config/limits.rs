//! Limits of the tunnel.

use std::path::Path;
use std::time::Duration;

use super::file;
use crate::mistake::Mistake;

/// How long the tunnel waits, and how much the relay may send through it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    /// How often a silent relay is asked whether it is there.
    pub(crate) keep_alive: Duration,
    /// Time for its answer, after which the connection is given up.
    pub(crate) keep_alive_timeout: Duration,
    /// Time for each stage of dialling: TCP, TLS, the relay's answer.
    pub(crate) dial: Duration,
    /// Longest first wait before dialling again; it doubles with each failure.
    pub(crate) first_wait: Duration,
    /// Longest wait of all, whatever the relay asks for.
    pub(crate) longest_wait: Duration,
    /// A connection that held this long was a good one.
    pub(crate) held: Duration,
    /// Time for running requests to end once we were asked to stop.
    pub(crate) drain: Duration,
    /// Streams that the relay may have open at once.
    pub(crate) streams: u32,
    /// Bytes of one stream that may be under way unread (RFC 9113 section 5.2).
    pub(crate) stream_window: u32,
    /// Bytes of all streams that may be under way unread.
    pub(crate) tunnel_window: u32,
    /// Bytes of the headers of a request.
    pub(crate) header_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            keep_alive: seconds(15),
            keep_alive_timeout: seconds(10),
            dial: seconds(10),
            first_wait: Duration::from_millis(500),
            longest_wait: seconds(60),
            held: seconds(30),
            drain: seconds(5),
            streams: 128,
            stream_window: 256 << 10,
            tunnel_window: 4 << 20,
            header_bytes: 16 << 10,
        }
    }
}

/// Settles the limits from the `[tunnel]` section.
///
/// # Errors
///
/// Returns a [`Mistake`] for a time below 0.1 or above 3600 seconds.
pub(super) fn settle(file: &file::Tunnel, path: &Path) -> Result<Limits, Mistake> {
    let usual = Limits::default();
    let time = |key: &str, given: Option<f64>, usual: Duration| match given {
        None => Ok(usual),
        Some(seconds) => {
            let place = format!("{}: key tunnel.{key}", path.display());
            self::time(seconds, &place, HOUR, usual)
        }
    };
    Ok(Limits {
        keep_alive: time("keep_alive", file.keep_alive, usual.keep_alive)?,
        keep_alive_timeout: time(
            "keep_alive_timeout",
            file.keep_alive_timeout,
            usual.keep_alive_timeout,
        )?,
        longest_wait: time("longest_wait", file.longest_wait, usual.longest_wait)?,
        ..usual
    })
}

/// The longest time of most things here, in seconds.
pub(super) const HOUR: u32 = 3600;

/// Reads a time of `seconds` that stands at `place`.
///
/// # Errors
///
/// Returns a [`Mistake`] for less than 0.1 and for more than `most` seconds.
pub(super) fn time(
    seconds: f64,
    place: &str,
    most: u32,
    usual: Duration,
) -> Result<Duration, Mistake> {
    match (0.1..=f64::from(most)).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(Mistake::new(
            place,
            format!("{seconds} is not a number of seconds from 0.1 to {most}"),
            format!("leave it out for {} seconds", usual.as_secs_f64()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_seconds_and_have_bounds() {
        let settled = |keep_alive| {
            let file = file::Tunnel {
                keep_alive: Some(keep_alive),
                ..file::Tunnel::default()
            };
            settle(&file, Path::new("config.toml"))
        };
        let limits = settled(0.5).unwrap();
        assert_eq!(limits.keep_alive, Duration::from_millis(500));
        assert_eq!(limits.longest_wait, Limits::default().longest_wait);
        for wrong in [0.0, -1.0, 1e9, f64::NAN, f64::INFINITY] {
            let refused = settled(wrong).unwrap_err().to_string();
            assert!(refused.contains("tunnel.keep_alive"), "{refused}");
        }
    }
}
