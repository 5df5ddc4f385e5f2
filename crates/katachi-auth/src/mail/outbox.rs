//! Mail on a thread of its own, so that nobody learns from the time of an answer.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::{fmt, io, thread};

use super::{Mail, MailError, Mailer};

/// Takes jobs in, and does them one after the other on a thread of its own.
///
/// Handing a job in takes the same time and has the same outcome whatever it is about:
/// whether the address has an account is only looked up by the thread.
///
/// ```
/// use katachi_auth::mail::{Address, Mail, MailError, Mailer, Outbox};
/// # struct Nobody;
/// # impl Mailer for Nobody {
/// #     fn send(&self, _: &Mail) -> Result<(), MailError> { Ok(()) }
/// # }
///
/// let outbox = Outbox::start(
///     Nobody,
///     100,
///     // Here the account is looked up and the link is made; none for an unknown address.
///     |address: Address| (address.as_str() == "ana@example.com").then(|| {
///         Mail::new(address, "Reset your password", "https://…".to_owned().into_secret())
///     })?.ok(),
///     |error| eprintln!("{error}"),
/// )?;
/// outbox.post(Address::parse("ana@example.com")?)?;
/// outbox.post(Address::parse("nobody@example.com")?)?;
/// # trait Text { fn into_secret(self) -> katachi_crypto::SecretString; }
/// # impl Text for String {
/// #     fn into_secret(self) -> katachi_crypto::SecretString {
/// #         katachi_crypto::SecretString::new(self)
/// #     }
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Outbox<J: Send + 'static> {
    sender: Option<SyncSender<J>>,
    thread: Option<JoinHandle<()>>,
}

/// 503: too many jobs are waiting. Everybody hears it alike.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("too much mail is waiting to be sent")]
pub struct OutboxFull;

impl<J: Send + 'static> Outbox<J> {
    /// Starts the thread. At most `capacity` jobs wait; `write` turns one into a mail, or
    /// into none; `failed` hears of mail that was not sent, for the log.
    ///
    /// # Errors
    ///
    /// Returns an error if the system gives no thread.
    pub fn start(
        mailer: impl Mailer + 'static,
        capacity: usize,
        mut write: impl FnMut(J) -> Option<Mail> + Send + 'static,
        mut failed: impl FnMut(MailError) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, jobs) = sync_channel(capacity);
        let thread = thread::Builder::new()
            .name("outbox".into())
            .spawn(move || {
                for mail in jobs.into_iter().filter_map(&mut write) {
                    if let Err(error) = mailer.send(&mail) {
                        failed(error);
                    }
                }
            })?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
        })
    }

    /// Hands a job in.
    ///
    /// # Errors
    ///
    /// Returns [`OutboxFull`] if too many wait, or the thread has panicked.
    pub fn post(&self, job: J) -> Result<(), OutboxFull> {
        let sender = self.sender.as_ref().ok_or(OutboxFull)?;
        sender.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => OutboxFull,
        })
    }
}

impl<J: Send + 'static> Drop for Outbox<J> {
    /// Waits for what was handed in.
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<J: Send + 'static> fmt::Debug for Outbox<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox { .. }")
    }
}
