//! Finds damage, page by page.

use rusqlite::Connection;

use super::connection::Role;
use super::handle::Open;
use super::{Database, DatabaseError, anchor};

/// What [`Database::verify`] found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Pages in the file.
    pub pages: u64,
    /// What is wrong; empty for a sound database.
    pub problems: Vec<Problem>,
    /// Whether an old page, put in the place of the current one, would be
    /// among the problems.
    pub comparison: Comparison,
}

/// What the pages of a file were compared with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Comparison {
    /// Nothing: the database has no [`Anchor`](super::Anchor). An old page
    /// would not be noticed, unless the structure no longer fits.
    #[default]
    NotAnchored,
    /// Each with the record of the last clean checkpoint, or with the log.
    Compared {
        /// How many there were.
        pages: u64,
    },
    /// Nothing: there has been no clean checkpoint since the file came to be,
    /// was restored or got another key, or it has more pages than a record
    /// holds (two million). [`Database::checkpoint`] makes one.
    NotPossible,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Problem {
    /// The page, counted from 1, where the damage is in one page.
    pub page: Option<u64>,
    /// What was found, without any content.
    pub detail: String,
}

impl Report {
    /// Tells whether nothing was found.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn add(&mut self, detail: String) {
        let page = page_in(&detail);
        self.problems.push(Problem { page, detail });
    }
}

impl Database {
    /// Authenticates every page, then checks the structure of tables, indexes
    /// and full-text indexes, and foreign keys. Writers wait.
    ///
    /// A page of an older version of this same file, put back in place,
    /// authenticates. In an anchored database it is found nevertheless, by
    /// comparing with the record of the last clean checkpoint; in others only
    /// the structure check may notice it.
    ///
    /// # Errors
    ///
    /// Returns an error where the check itself could not run. Damage is no
    /// error: it is in the report.
    pub fn verify(&self) -> Result<Report, DatabaseError> {
        let writer = self.writer()?;
        let mut report = Report::default();
        // Pages that a reader keeps in the log may be in the file by half.
        let mut all_in_file = true;
        if let Some(anchored) = &self.0.anchored {
            let waiting = Open::begin(&writer, "BEGIN IMMEDIATE")?;
            let (settings, sentry) = (&self.0.settings, &self.0.sentry);
            anchor::compare(&anchored.anchor, settings, sentry, &mut report)?;
            waiting.commit()?;
            match anchored.settle(settings, sentry, &writer) {
                // A reader keeps the log; what is in the file is looked at.
                Ok(()) => {}
                Err(DatabaseError::Busy) => all_in_file = false,
                Err(DatabaseError::Corrupt { detail, .. }) => report.add(detail),
                Err(other) => return Err(other),
            }
        }
        // A connection of its own: no cache hides the file, and a failed page
        // makes SQLCipher refuse everything on the connection that met it.
        let fresh = match self.0.settings.connect(Role::Writer) {
            Ok(fresh) => fresh,
            Err(DatabaseError::Corrupt { detail, .. }) => {
                report.add(detail);
                return Ok(report);
            }
            Err(other) => return Err(other),
        };
        fresh.guard.as_owner(|| {
            let connection = &fresh.connection;
            report.pages = connection
                .query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))
                .map(i64::unsigned_abs)
                .unwrap_or_default();
            if self.0.anchored.is_none() {
                // Brings the pages that still wait in the log into the file.
                let pragma = "PRAGMA wal_checkpoint(TRUNCATE)";
                let blocked = connection.query_row(pragma, [], |row| row.get(0));
                all_in_file = blocked.is_ok_and(|blocked: i64| blocked == 0);
            }
            if all_in_file {
                authenticate(connection, &mut report)?;
            } else {
                let in_log = anchor::pages_in_log(&self.0.settings)?;
                let mut file = Report::default();
                authenticate(connection, &mut file)?;
                let certain = |problem: &Problem| problem.page.is_none_or(|page| !in_log(page));
                report
                    .problems
                    .extend(file.problems.into_iter().filter(certain));
            }
            let mut structure = |line: String| {
                if line != "ok" {
                    report.add(line);
                }
            };
            lines(connection, "PRAGMA integrity_check", &mut structure)?;
            let mut orphan =
                |table: String| report.add(format!("a row of {table} refers to nothing"));
            lines(connection, "PRAGMA foreign_key_check", &mut orphan)
        })?;
        Ok(report)
    }
}

/// Checks the authentication code of every page in the file.
///
/// Another process may be checkpointing, so a page only counts as damaged if
/// it is found so twice.
pub(super) fn authenticate(
    connection: &Connection,
    report: &mut Report,
) -> Result<(), DatabaseError> {
    let mut twice: Vec<Vec<String>> = Vec::new();
    for _ in 0..2 {
        let mut found = Vec::new();
        lines(connection, "PRAGMA cipher_integrity_check", &mut |line| {
            found.push(line)
        })?;
        if found.is_empty() {
            return Ok(());
        }
        twice.push(found);
    }
    let (first, second) = (&twice[0], &twice[1]);
    for line in second.iter().filter(|line| first.contains(line)) {
        report.add(line.clone());
    }
    Ok(())
}

/// Hands the first column of every row to `each`; damage met on the way is a
/// row too.
fn lines(
    connection: &Connection,
    pragma: &str,
    each: &mut dyn FnMut(String),
) -> Result<(), DatabaseError> {
    let outcome = (|| {
        let mut statement = connection.prepare(pragma)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // Some pragmas answer numbers, which nobody needs.
            if let Ok(line) = row.get::<_, String>(0) {
                each(line);
            }
        }
        Ok::<_, rusqlite::Error>(())
    })();
    match outcome.map_err(DatabaseError::from) {
        Err(DatabaseError::Corrupt { detail, .. }) => {
            each(detail);
            Ok(())
        }
        other => other,
    }
}

/// The number after the word "page" in a message of SQLite or SQLCipher.
fn page_in(message: &str) -> Option<u64> {
    let mut words = message.split_whitespace();
    words.find(|word| *word == "page")?;
    let digits: String = words
        .next()?
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::page_in;

    #[test]
    fn finds_the_page_in_a_message() {
        assert_eq!(page_in("HMAC verification failed for page 17"), Some(17));
        assert_eq!(
            page_in("error reading 4096 bytes from file page 3 at offset 8192"),
            Some(3)
        );
        assert_eq!(page_in("row 5 missing from index by_name"), None);
        assert_eq!(page_in("page"), None);
    }
}
