//! Password records, made and checked where blocking is allowed.

use std::sync::Arc;
use std::time::Duration;

use katachi_auth::password::{self, PasswordError, Record, Verdict};
use katachi_crypto::SecretString;
use katachi_crypto::password::Params;
use katachi_protocol::Sensitive;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::failure::Failure;

/// Passwords hashed at once: 4 times 19 MiB at the usual cost.
const AT_ONCE: usize = 4;

/// How long others wait for a place.
const PATIENCE: Duration = Duration::from_secs(2);

/// Hashes and checks passwords.
#[derive(Clone, Debug)]
pub(super) struct Passwords {
    passwords: Arc<password::Passwords>,
    /// As many as hash at once. Whoever waits for one takes no thread from those who
    /// wait for the database.
    places: Arc<Semaphore>,
}

impl Passwords {
    pub(super) fn new(cost: Params) -> Self {
        Self {
            passwords: Arc::new(password::Passwords::new(cost, AT_ONCE)),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The record of a new password.
    pub(super) async fn hash(&self, password: Sensitive) -> Result<String, Failure> {
        let work = move |passwords: &password::Passwords| passwords.hash(&secret(&password));
        Ok(self.work(work).await?.to_string())
    }

    /// Checks a password; without a record the work is the same.
    pub(super) async fn verify(
        &self,
        password: Sensitive,
        record: Option<String>,
    ) -> Result<Verdict, Failure> {
        self.work(move |passwords| {
            let record = record.map(|text| Record::parse(&text)).transpose()?;
            passwords.verify(record.as_ref(), &secret(&password))
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&password::Passwords) -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, Failure> {
        let place = Arc::clone(&self.places).acquire_owned();
        let Ok(Ok(place)) = timeout(PATIENCE, place).await else {
            return Err(Failure::Unavailable);
        };
        let passwords = Arc::clone(&self.passwords);
        let worked = tokio::task::spawn_blocking(move || {
            // Kept until the work is done, whether or not anybody still waits for it.
            let _place = place;
            work(&passwords)
        });
        worked.await.map_err(Failure::internal)?.map_err(refuse)
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
