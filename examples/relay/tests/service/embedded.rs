//! The embedded database, for the suite that runs on both.

use std::path::Path;

use katachi_relay::DatabaseSource;

/// Where a relay with its state here keeps its records.
pub(crate) fn database(_state: &Path) -> DatabaseSource {
    DatabaseSource::Embedded
}
