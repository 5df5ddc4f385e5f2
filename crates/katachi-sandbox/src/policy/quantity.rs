//! Sizes such as `2GiB` and times such as `10m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number of bytes, written as `512`, `64KiB`, `100MiB` or `2GiB`.
///
/// ```
/// use katachi_sandbox::policy::ByteSize;
///
/// assert_eq!("2GiB".parse::<ByteSize>()?.bytes(), 2 << 30);
/// # Ok::<(), katachi_sandbox::policy::ParseQuantityError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(u64);

/// A time, of a clock or of processors, written as `500ms`, `30s`, `10m` or `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeSpan(u64);

/// A share of the machine's processors, written as `0.5` or `2`, to the
/// thousandth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct CpuShare(u32);

/// Text that is no size, time or share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseQuantityError {
    text: String,
    expected: &'static str,
}

const SIZES: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("", 1),
];
const TIMES: &[(&str, u64)] = &[("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const A_SIZE: &str = "a size such as \"512MiB\" or \"2GiB\"";
const A_SHARE: &str = "a number of processors from 0.01 to 10000, such as 0.5 or 2";
const A_TIME: &str = "a time such as \"500ms\", \"30s\", \"10m\" or \"1h\"";

impl ByteSize {
    /// That many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl TimeSpan {
    /// That long, to the millisecond.
    #[must_use]
    pub fn new(time: Duration) -> Self {
        Self(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    /// In milliseconds.
    #[must_use]
    pub const fn milliseconds(self) -> u64 {
        self.0
    }

    /// As a duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

fn parse(
    text: &str,
    units: &[(&str, u64)],
    expected: &'static str,
) -> Result<u64, ParseQuantityError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    units
        .iter()
        .find(|(name, _)| *name == unit)
        .and_then(|(_, factor)| number.parse::<u64>().ok()?.checked_mul(*factor))
        .ok_or_else(|| ParseQuantityError {
            text: text.to_owned(),
            expected,
        })
}

fn print(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let (name, factor) = units
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .find(|(_, factor)| value != 0 && value.is_multiple_of(*factor))
        .unwrap_or(&units[units.len() - 1]);
    write!(f, "{}{name}", value / factor)
}

impl CpuShare {
    /// Thousandths of one processor.
    #[must_use]
    pub const fn thousandths(self) -> u32 {
        self.0
    }
}

impl TryFrom<f64> for CpuShare {
    type Error = ParseQuantityError;

    fn try_from(processors: f64) -> Result<Self, Self::Error> {
        if (0.01..=10_000.0).contains(&processors) {
            // In range, so that nothing is cut off.
            return Ok(Self((processors * 1000.0).round() as u32));
        }
        Err(ParseQuantityError {
            text: processors.to_string(),
            expected: A_SHARE,
        })
    }
}

impl From<CpuShare> for f64 {
    fn from(share: CpuShare) -> Self {
        Self::from(share.0) / 1000.0
    }
}

impl fmt::Display for CpuShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f64::from(*self).fmt(f)
    }
}

impl FromStr for ByteSize {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, SIZES, A_SIZE).map(Self)
    }
}

impl FromStr for TimeSpan {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, TIMES, A_TIME).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0, SIZES)
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0, TIMES)
    }
}

impl TryFrom<String> for ByteSize {
    type Error = ParseQuantityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

impl TryFrom<String> for TimeSpan {
    type Error = ParseQuantityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TimeSpan> for String {
    fn from(time: TimeSpan) -> Self {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in [
            "",
            "GiB",
            "2 GiB",
            "2gb",
            "-1",
            "1.5GiB",
            "99999999999999999999",
            "9999999999TiB",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        for text in ["", "10", "m", "10 m", "10min"] {
            assert!(text.parse::<TimeSpan>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn prints_what_it_parses(value: u64, share in 10..10_000_000_u32) {
            prop_assert_eq!(CpuShare::try_from(f64::from(CpuShare(share))), Ok(CpuShare(share)));
            prop_assert_eq!(ByteSize(value).to_string().parse(), Ok(ByteSize(value)));
            prop_assert_eq!(TimeSpan(value).to_string().parse(), Ok(TimeSpan(value)));
        }
    }
}
