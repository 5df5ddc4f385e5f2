//! E-mail that proves an address or resets a password.
//!
//! ```text
//!   POST reset  ──▶ Outbox::post(address) ──▶ same answer, always
//!                        │ later, on a thread of its own
//!                        ▼
//!                   account? ─▶ Links::issue ─▶ Mailer::send
//!   GET link    ──▶ shows a button, changes nothing
//!   POST link   ──▶ Links::redeem: once, in time, for its purpose
//! ```
//!
//! The request is answered before anybody looks whether the address has an account, so
//! neither body nor time tells. A [`Link`] is a token of 256 bits of which the server
//! keeps the digest; it is good once, for an hour, for one purpose, and a newer one
//! replaces it.
//!
//! [`Mailer`] sends. [`FileMailer`] writes into a folder, for a person who runs
//! everything on one machine; `SmtpMailer` (feature `smtp`) speaks to a server, never
//! without TLS.

mod address;
mod file;
mod link;
mod message;
mod outbox;
#[cfg(feature = "smtp")]
mod smtp;

pub use address::{Address, ParseAddressError};
pub use file::FileMailer;
pub use link::{Confirmed, Link, LinkStore, Links, MemoryLinks, Purpose, Put};
pub use message::{Mail, MailError};
pub use outbox::{Outbox, OutboxFull};
#[cfg(feature = "smtp")]
pub use smtp::{Security, SmtpMailer};

/// Sends mail.
///
/// # Security
///
/// An implementation must give up by itself, and must not write the text of a mail into
/// a log: it holds a link that opens an account.
pub trait Mailer: Send + Sync {
    /// Sends `mail`, or says why not. It may take a while: call it through [`Outbox`].
    ///
    /// # Errors
    ///
    /// Returns [`MailError`] if nobody took the mail.
    fn send(&self, mail: &Mail) -> Result<(), MailError>;
}

impl<M: Mailer + ?Sized> Mailer for std::sync::Arc<M> {
    fn send(&self, mail: &Mail) -> Result<(), MailError> {
        (**self).send(mail)
    }
}
