//! Password records, made and checked where blocking is allowed.

use std::sync::Arc;

use katachi_auth::password::{self, PasswordError, Record, Verdict};
use katachi_crypto::SecretString;
use katachi_crypto::password::Params;
use katachi_protocol::Sensitive;

use crate::failure::Failure;

/// Passwords hashed at once: 4 times 19 MiB.
const AT_ONCE: usize = 4;

/// Hashes and checks passwords.
#[derive(Clone, Debug)]
pub(super) struct Passwords(Arc<password::Passwords>);

impl Passwords {
    pub(super) fn new() -> Self {
        Self(Arc::new(password::Passwords::new(Params::FLOOR, AT_ONCE)))
    }

    /// The record of a new password.
    pub(super) async fn hash(&self, password: Sensitive) -> Result<String, Failure> {
        let passwords = Arc::clone(&self.0);
        let hashed = tokio::task::spawn_blocking(move || passwords.hash(&secret(&password)));
        let record = hashed.await.map_err(Failure::internal)?.map_err(refuse)?;
        Ok(record.to_string())
    }

    /// Checks a password; without a record the work is the same.
    pub(super) async fn verify(
        &self,
        password: Sensitive,
        record: Option<String>,
    ) -> Result<Verdict, Failure> {
        let passwords = Arc::clone(&self.0);
        let verified = tokio::task::spawn_blocking(move || {
            let record = record.map(|text| Record::parse(&text)).transpose()?;
            passwords.verify(record.as_ref(), &secret(&password))
        });
        verified.await.map_err(Failure::internal)?.map_err(refuse)
    }
}

fn secret(password: &Sensitive) -> SecretString {
    SecretString::new(password.expose_secret().to_owned())
}

fn refuse(error: PasswordError) -> Failure {
    match error {
        PasswordError::TooLong => Failure::TooLarge,
        PasswordError::TooShort => Failure::BadRequest(error.to_string()),
        PasswordError::Busy => Failure::Unavailable,
        error => Failure::internal(error),
    }
}
