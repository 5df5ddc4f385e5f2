//! `katachi-relay key rotate`: of the cluster's key, or of the accounts' own.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::cli::Place;
use crate::config::DatabaseSource;
use crate::records::rotation::{self, Progress};
use crate::records::{FILE, Records, RecordsError, nodes};
use crate::service::ServeError;

/// Arguments of `key rotate`.
#[derive(Args, Clone, Debug)]
pub(super) struct Rotate {
    /// Change the accounts' own keys instead, and seal under them what they sealed
    ///
    /// Also for a relay that is alone, and for the embedded database. Run again, a
    /// rotation that was ended within the last day goes on where it was.
    #[arg(long)]
    accounts: bool,

    /// Only the keys that were made at least so long ago, such as 90d
    ///
    /// A whole number and s, m, h, d or w. 0s means every key, also those that a rotation
    /// which was ended has changed already.
    #[arg(long, value_name = "DURATION", requires = "accounts")]
    older_than: Option<Age>,

    /// Print what was done as one line of JSON on standard output
    #[arg(long, requires = "accounts")]
    json: bool,

    #[command(flatten)]
    place: Place,
}

/// A number of seconds, minutes, hours, days or weeks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Age(Duration);

#[derive(Debug, thiserror::Error)]
#[error("write a whole number and s, m, h, d or w, such as 90d")]
struct ParseAgeError;

/// Accounts that are named which keep their keys.
const NAMED: usize = 32;

impl Rotate {
    /// Waits for a disk or a server.
    pub(super) fn run(self) -> Result<Vec<String>, ServeError> {
        let storage = |error: RecordsError| ServeError::Storage(error.to_string());
        if !self.accounts {
            let url = self.place.url().map_err(|error| match error {
                ServeError::Config(why) => ServeError::Config(format!(
                    "{why}; for the keys of the accounts in any database: --accounts"
                )),
                other => other,
            })?;
            let rotated = nodes::rotate(&url, &self.place.vault.open()?);
            return rotated.map(|()| Vec::new()).map_err(storage);
        }
        let source = self.place.source()?;
        let state_dir = self.place.vault.state_dir()?;
        // Before a vault is made where no relay ever was.
        if matches!(source, DatabaseSource::Embedded) && !state_dir.join(FILE).exists() {
            return Err(storage(RecordsError::NoDatabase(state_dir)));
        }
        let vault = self.place.vault.open()?;
        let records = Records::open_beside(&source, &state_dir, vault).map_err(storage)?;
        let age = self.older_than.map(|Age(age)| age);
        let mut shown = Shown::default();
        let done = rotation::run(&records, age, |progress| shown.see(progress));
        let done = done.map_err(|error| {
            ServeError::Storage(format!("{error}; run the same again to go on"))
        })?;
        let mut failed: Vec<_> = done.failed.iter().collect();
        failed.sort();
        for (account, why) in failed.iter().take(NAMED) {
            eprintln!("katachi-relay: account {account} keeps its key: {why}");
        }
        eprintln!(
            "katachi-relay: {} accounts have a new key, {} values were sealed again",
            done.rotated, done.values
        );
        if self.json {
            let named = failed.iter().take(NAMED);
            let named: Vec<_> = named
                .map(|(account, why)| json!({"account": account, "error": why}))
                .collect();
            let line = json!({
                "accounts": done.accounts,
                "rotated": done.rotated,
                "values": done.values,
                "continued": done.continued,
                "failed": failed.len(),
                "failures": named,
            });
            crate::cli::print_line(&line.to_string());
        }
        match failed.len() {
            0 => Ok(Vec::new()),
            accounts => Err(ServeError::NotRotated { accounts }),
        }
    }
}

/// What was said of a rotation so far: a line for each account, or for each percent
/// of many.
#[derive(Default)]
struct Shown {
    begun: bool,
    percent: u64,
}

impl Shown {
    fn see(&mut self, progress: &Progress) {
        let done = progress.rotated + progress.failed.len() as u64;
        let all = progress.accounts;
        if !std::mem::replace(&mut self.begun, true) {
            if progress.continued {
                eprintln!("katachi-relay: going on with the rotation that was ended");
            }
            eprintln!("katachi-relay: {done} of {all} accounts");
            return;
        }
        let percent = (done * 100).checked_div(all).unwrap_or(100);
        if percent > self.percent {
            self.percent = percent;
            eprintln!("katachi-relay: {done} of {all} accounts");
        }
    }
}

impl FromStr for Age {
    type Err = ParseAgeError;

    fn from_str(text: &str) -> Result<Self, ParseAgeError> {
        let end = text.find(|c: char| !c.is_ascii_digit());
        let (number, unit) = text.split_at(end.ok_or(ParseAgeError)?);
        let seconds: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            "w" => 7 * 24 * 60 * 60,
            _ => return Err(ParseAgeError),
        };
        let number: u64 = number.parse().map_err(|_| ParseAgeError)?;
        let seconds = number.checked_mul(seconds).ok_or(ParseAgeError)?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_number_and_a_unit() {
        for (text, seconds) in [
            ("0s", 0),
            ("5m", 300),
            ("2h", 7200),
            ("90d", 7_776_000),
            ("1w", 604_800),
        ] {
            assert_eq!(text.parse::<Age>().unwrap().0.as_secs(), seconds, "{text}");
        }
        for wrong in [
            "",
            "s",
            "90",
            "90 d",
            "-1d",
            "1.5d",
            "1y",
            "1dd",
            "99999999999999999d",
        ] {
            assert!(wrong.parse::<Age>().is_err(), "{wrong}");
        }
    }
}
