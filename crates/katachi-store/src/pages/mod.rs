//! The two formats that tell an old page of a database from the current one:
//! our record of the pages, and SQLite's write-ahead log as far as it matters.

pub(crate) mod log;
pub(crate) mod record;

pub(crate) use log::Log;
pub(crate) use record::{Layout, Record, Tag};
