//! What can go wrong between us and PostgreSQL.

use std::time::Duration;

use katachi_crypto::KeyId;
use tokio_postgres::error::SqlState;

use super::Progress;
use crate::column::ColumnError;

/// Why something in PostgreSQL could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// The connection as configured would not be safe.
    #[error("this connection is not made: {0}")]
    Connection(&'static str),
    /// The server refused, or the connection broke.
    #[error("PostgreSQL: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// No answer in time. Whether the statement took effect is not known.
    #[error("PostgreSQL gave no answer within {0:?}")]
    Timeout(Duration),
    /// A rotation was not finished when its time was up. Run it again to go on.
    #[error("not finished after {0:?}; run the rotation again to go on")]
    Unfinished(Duration, Progress),
    /// The tenant has no key.
    #[error("tenant {0:?} has no key")]
    NoTenant(String),
    /// The tenant's keys were destroyed.
    #[error("the keys of tenant {0:?} were destroyed")]
    Destroyed(String),
    /// A former key still seals something. Rotate, then retire again.
    #[error("key {0} still seals something: run the rotation first")]
    StillNeeded(KeyId),
    /// A table lacks the generated column or the foreign key.
    #[error("{0} is not prepared: SealedColumn::install, or run what SealedColumn::ddl says")]
    NotInstalled(String),
    /// A value or key could not be sealed or opened.
    #[error(transparent)]
    Column(#[from] ColumnError),
}

impl PostgresError {
    /// Whether the same may succeed on a new connection.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Timeout(_) => true,
            Self::Database(error) => match error.code() {
                None => error.is_closed() || is_io(error),
                Some(code) => [
                    SqlState::ADMIN_SHUTDOWN,
                    SqlState::CRASH_SHUTDOWN,
                    SqlState::CANNOT_CONNECT_NOW,
                    SqlState::TOO_MANY_CONNECTIONS,
                    SqlState::QUERY_CANCELED,
                    SqlState::LOCK_NOT_AVAILABLE,
                    SqlState::T_R_DEADLOCK_DETECTED,
                    SqlState::T_R_SERIALIZATION_FAILURE,
                ]
                .contains(code),
            },
            _ => false,
        }
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            // rustls reports a certificate it refuses as `InvalidData`.
            return error.kind() != std::io::ErrorKind::InvalidData;
        }
        source = error.source();
    }
    false
}

/// Whether a write was refused because its value was sealed with a key that was
/// retired or destroyed meanwhile: load the tenant's cipher again, seal, write again.
#[must_use]
pub fn is_retired_key(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        *error.code() == SqlState::FOREIGN_KEY_VIOLATION
            && error
                .constraint()
                .is_some_and(|name| name.ends_with(super::table::CONSTRAINT))
    })
}
