//! Another data key for every account.
//!
//! One transaction for each account draws the key, seals under it what the former one
//! sealed, puts it in the former one's place, and notes that in the account's log. So
//! nothing ever names a key that is not there, wherever the program is killed, and the
//! former key is gone with the last value that needed it.
//!
//! Others go on meanwhile. Who writes to an account [holds](ReadTx::hold) its key from
//! before it seals until it commits, and a rotation waits for them; who reads sees one
//! state, key and values. Nobody keeps a key for longer, so that nobody has to be told.
//! In PostgreSQL a foreign key from what each row names to what its account has says
//! the same to whoever should not know of this.
//!
//! A rotation never keeps others waiting for what it cannot have: it [gives
//! way](Tx::give_way) and tries again. It takes the accounts with the oldest keys first,
//! and of a rotation of all of them the database remembers which keys are to go, so that
//! the next run goes on where one was ended.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use katachi_store::column::{Cell, ColumnCipher};

use super::audit::{self, Event};
use super::store::{ReadTx, Row, Tx, Value, int, values};
use super::{Records, RecordsError, agents, identities, mail_tokens, mcp, users};

/// Columns in which values lie that the accounts' keys seal.
pub(super) struct Sealed {
    pub(super) table: &'static str,
    /// The column that has the account.
    pub(super) account: &'static str,
    /// All that is sealed in a row.
    pub(super) columns: &'static [&'static str],
    pub(super) names: Names,
    /// The column that has the version of the cells; they have 1 if there is none.
    pub(super) version: Option<&'static str>,
    pub(super) kept: Kept,
}

/// What names a row of an account, and the bytes that its cells have for that.
pub(super) enum Names {
    /// Text; several are joined by slashes.
    Text(&'static [&'static str]),
    Bytes(&'static str),
}

/// Where the columns are sealed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kept {
    Everywhere,
    /// Where the file as a whole is not encrypted.
    InPostgres,
}

/// Everything that an account's key seals.
const SEALED: [&Sealed; 7] = [
    &users::SEALED,
    &agents::SEALED,
    &agents::SEALED_KEYS,
    &mcp::SEALED,
    &mcp::SEALED_SECRETS,
    &identities::SEALED,
    &mail_tokens::SEALED,
];

/// How far a rotation has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Accounts whose keys were to go when this run began.
    pub(crate) accounts: u64,
    /// Those that have a new one.
    pub(crate) rotated: u64,
    /// Values that were sealed again.
    pub(crate) values: u64,
    /// Whether this run went on where another was ended.
    pub(crate) continued: bool,
    /// Accounts that keep their key, and why.
    pub(crate) failed: HashMap<String, String>,
}

/// How long a run may go unfinished and still be gone on with.
const UNFINISHED: Duration = Duration::from_secs(24 * 60 * 60);
/// Time that is waited for others: less than PostgreSQL takes to look for a deadlock.
const GIVE_WAY: Duration = Duration::from_millis(250);
/// Time that others may keep an account, or the database be away.
const PATIENCE: Duration = Duration::from_secs(30);
/// Accounts that are read at once.
const PAGE: i64 = 256;
/// Who begins a run waits for who is beginning another.
const BEGINNING: &str = "katachi-relay/key-rotation";

/// Gives every account whose key was made at least `age` ago another one, or every
/// account; `report` hears of each. Waits for a disk or a server.
///
/// May be run by several at once, and again at any time. An account whose values do
/// not all open keeps its key and is named.
pub(crate) fn run(
    records: &Records,
    age: Option<Duration>,
    mut report: impl FnMut(&Progress),
) -> Result<Progress, RecordsError> {
    let (before, mut progress) = patiently(|| records.write_now(|tx| begin(tx, age)))?;
    report(&progress);
    loop {
        let done = progress.rotated;
        let mut after = (i64::MIN, String::new());
        loop {
            let page = patiently(|| records.read_now(|tx| page(tx, before, &after)))?;
            let Some(last) = page.last() else { break };
            after = last.clone();
            for (_, account) in page {
                if progress.failed.contains_key(&account) {
                    continue;
                }
                match patiently(|| records.write_now(|tx| rotate(records, tx, &account, before))) {
                    Ok(None) => progress.accounts = progress.accounts.saturating_sub(1),
                    Ok(Some(values)) => {
                        progress.rotated += 1;
                        progress.values += values;
                    }
                    Err(error) if error.is_of_one_account() => {
                        progress.failed.insert(account, error.to_string());
                    }
                    Err(error) => return Err(error),
                }
                let seen = progress.rotated + progress.failed.len() as u64;
                progress.accounts = progress.accounts.max(seen);
                report(&progress);
            }
        }
        // A relay of an older version may have made an account meanwhile that does not
        // say how old its key is: only a pass that found nothing is the last.
        if progress.rotated == done {
            break;
        }
    }
    patiently(|| records.write_now(finish))?;
    Ok(progress)
}

/// Tries again for a while what others, or the server, were in the way of.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, RecordsError>) -> Result<T, RecordsError> {
    let began = Instant::now();
    let mut rest = Duration::from_millis(10);
    loop {
        match attempt() {
            Err(error) if error.is_passing() && began.elapsed() < PATIENCE => {
                sleep(rest);
                rest = (rest * 2).min(Duration::from_secs(1));
            }
            outcome => return outcome,
        }
    }
}

/// Which keys are to go: those made before the number returned.
fn begin(tx: &Tx<'_>, age: Option<Duration>) -> Result<(i64, Progress), RecordsError> {
    tx.lock(BEGINNING)?;
    let now = int(tx.now()?.as_unix_millis());
    let newest = tx.query_one("SELECT max(key_made_ms) FROM users", values![], |row| {
        row.get::<Option<i64>>(0)
    })?;
    // Every key there is, also if the clock was set back since one was made.
    let all = now.max(newest.flatten().unwrap_or_default() + 1);
    let mut progress = Progress::default();
    let before = match age {
        Some(Duration::ZERO) => all,
        Some(age) => now - i64::try_from(age.as_millis()).unwrap_or(i64::MAX).min(now),
        None => match unfinished(tx)? {
            Some((begun, before)) if is_recent(begun, now) => {
                progress.continued = true;
                before
            }
            _ => {
                tx.execute("DELETE FROM key_rotation", values![])?;
                tx.execute(
                    "INSERT INTO key_rotation (id, begun_ms, before_ms) VALUES (1, ?1, ?2)",
                    values![now, all],
                )?;
                all
            }
        },
    };
    let accounts = tx.query_one(
        "SELECT count(*) FROM users WHERE key_made_ms < ?1",
        values![before],
        |row| row.uint(0),
    )?;
    progress.accounts = accounts.unwrap_or_default();
    Ok((before, progress))
}

fn unfinished(tx: &ReadTx<'_>) -> Result<Option<(i64, i64)>, RecordsError> {
    tx.query_one(
        "SELECT begun_ms, before_ms FROM key_rotation",
        values![],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

fn is_recent(begun: i64, now: i64) -> bool {
    let age = u64::try_from(now - begun).map(Duration::from_millis);
    age.is_ok_and(|age| age < UNFINISHED)
}

/// Forgets the run that all keys have outlasted which it should have replaced.
fn finish(tx: &Tx<'_>) -> Result<(), RecordsError> {
    tx.execute(
        "DELETE FROM key_rotation
         WHERE NOT EXISTS (SELECT 1 FROM users WHERE key_made_ms < before_ms)",
        values![],
    )?;
    Ok(())
}

/// Accounts whose keys are to go, the oldest keys first.
fn page(
    tx: &ReadTx<'_>,
    before: i64,
    (made, account): &(i64, String),
) -> Result<Vec<(i64, String)>, RecordsError> {
    tx.query(
        "SELECT key_made_ms, id FROM users
         WHERE key_made_ms < ?1 AND (key_made_ms > ?2 OR (key_made_ms = ?2 AND id > ?3))
         ORDER BY key_made_ms, id LIMIT ?4",
        values![before, *made, account, PAGE],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Gives one account another key. How many values were sealed again; `None` if it is
/// gone, or somebody else was faster.
fn rotate(
    records: &Records,
    tx: &Tx<'_>,
    account: &str,
    before: i64,
) -> Result<Option<u64>, RecordsError> {
    tx.give_way(GIVE_WAY)?;
    let sql = format!(
        "SELECT tenant_key, key_made_ms FROM users WHERE id = ?1{}",
        tx.hold_alone()
    );
    let found = tx.query_one(&sql, values![account], |row| {
        Ok((row.get::<Vec<u8>>(0)?, row.get::<i64>(1)?))
    })?;
    let Some((former, _)) = found.filter(|(_, made)| *made < before) else {
        return Ok(None);
    };
    let fresh = records.new_tenant_key(account)?;
    let cipher = records.0.keys.open_both(account, &fresh, &former)?;
    let mut values = 0;
    for sealed in SEALED {
        if sealed.kept == Kept::Everywhere || tx.covers() {
            values += sealed.reseal(tx, &cipher, account)?;
        }
    }
    let now = tx.now()?;
    tx.execute(
        "UPDATE users SET tenant_key = ?2, key_made_ms = ?3 WHERE id = ?1",
        values![account, fresh, int(now.as_unix_millis()).max(before)],
    )?;
    let event = Event {
        at: now.as_unix(),
        agent_id: None,
        action: "key_rotated",
        detail: format!("values={values}"),
    };
    audit::append(tx, &records.audit_key(), account, &event)?;
    Ok(Some(values))
}

impl Sealed {
    /// Seals everything of an account again; how many values.
    fn reseal(
        &self,
        tx: &Tx<'_>,
        cipher: &ColumnCipher,
        account: &str,
    ) -> Result<u64, RecordsError> {
        let Self { table, columns, .. } = self;
        let names = self.names.columns();
        let select = format!(
            "SELECT {}, {}, {} FROM {table} WHERE {} = ?1",
            self.version.unwrap_or("CAST(1 AS BIGINT)"),
            columns.join(", "),
            names.join(", "),
            self.account,
        );
        let mut rows = tx.query(&select, values![account], |row| {
            let values = (1..=columns.len()).map(|at| row.get::<Vec<u8>>(at));
            let values = values.collect::<Result<Vec<_>, _>>()?;
            let name = self.names.read(row, 1 + columns.len())?;
            Ok((row.uint(0)?, values, name))
        })?;
        let update = self.update(names);
        let mut done = 0;
        for (version, values, name) in &mut rows {
            let row = name.bytes();
            for (column, value) in columns.iter().zip(values.iter_mut()) {
                let cell = Cell {
                    table,
                    column,
                    row: &row,
                    version: *version,
                };
                *value = cipher.reseal(&cell, value).map_err(|source| {
                    let place = format!("{table}.{column} of {}", row.escape_ascii());
                    RecordsError::Reseal { place, source }
                })?;
            }
            let values = values.iter().map(Value::from);
            let values: Vec<Value> = values
                .chain([account.into()])
                .chain(name.values())
                .collect();
            // A row that is gone meanwhile is sealed under no key.
            done += tx.execute(&update, &values)? * columns.len();
        }
        Ok(done as u64)
    }

    /// Writes the values of one row; then come the account and what names the row.
    fn update(&self, names: &[&str]) -> String {
        let values = self.columns.len();
        let set = self.columns.iter().zip(1..);
        let set: Vec<_> = set.map(|(name, at)| format!("{name} = ?{at}")).collect();
        let named = names.iter().zip(values + 2..);
        let named: String = named
            .map(|(name, at)| format!(" AND {name} = ?{at}"))
            .collect();
        let (table, account) = (self.table, self.account);
        format!(
            "UPDATE {table} SET {} WHERE {account} = ?{}{named}",
            set.join(", "),
            values + 1
        )
    }
}

/// What names a row.
enum Name {
    Text(Vec<String>),
    Bytes(Vec<u8>),
}

impl Names {
    fn columns(&self) -> &[&'static str] {
        match self {
            Self::Text(columns) => columns,
            Self::Bytes(column) => std::slice::from_ref(column),
        }
    }

    fn read(&self, row: &Row<'_>, first: usize) -> Result<Name, RecordsError> {
        Ok(match self {
            Self::Text(columns) => {
                let texts = (first..first + columns.len()).map(|at| row.get(at));
                Name::Text(texts.collect::<Result<_, _>>()?)
            }
            Self::Bytes(_) => Name::Bytes(row.get(first)?),
        })
    }
}

impl Name {
    /// As the cells of the row have it.
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(texts) => texts.join("/").into_bytes(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }

    fn values(&self) -> Vec<Value> {
        match self {
            Self::Text(texts) => texts.iter().map(Value::from).collect(),
            Self::Bytes(bytes) => vec![bytes.into()],
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
