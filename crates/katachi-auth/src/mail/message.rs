//! A mail, and why it was not sent.

use std::fmt;

use katachi_crypto::SecretString;
use lettre::Message;
use lettre::message::header::ContentType;

use super::Address;

/// A plain-text mail to one person.
pub struct Mail {
    to: Address,
    subject: String,
    text: SecretString,
}

/// Why a mail was not made or not sent.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// The subject has a line break or another control character, or is too long: it
    /// could smuggle a header.
    #[error("the subject is not one line of at most {} bytes", Mail::MAX_SUBJECT)]
    Subject,
    /// The mail could not be put together or written.
    #[error("cannot write the mail: {0}")]
    Write(String),
    /// The server cannot be used as configured.
    #[error("cannot use the mail server: {0}")]
    SetUp(String),
    /// The server did not take the mail.
    #[error("the mail server did not take the mail: {0}")]
    Refused(String),
}

impl Mail {
    /// Longest subject, in bytes.
    pub const MAX_SUBJECT: usize = 200;

    /// A mail to `to`.
    ///
    /// # Errors
    ///
    /// Returns [`MailError::Subject`] if the subject could smuggle a header.
    pub fn new(
        to: Address,
        subject: impl Into<String>,
        text: SecretString,
    ) -> Result<Self, MailError> {
        let subject = subject.into();
        if subject.len() > Self::MAX_SUBJECT || subject.chars().any(char::is_control) {
            return Err(MailError::Subject);
        }
        Ok(Self { to, subject, text })
    }

    /// Who gets it.
    #[must_use]
    pub const fn to(&self) -> &Address {
        &self.to
    }

    /// Its subject.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Its text. It holds a link that opens an account.
    #[must_use]
    pub const fn text(&self) -> &SecretString {
        &self.text
    }

    /// The whole message (RFC 5322) from `from`.
    pub(super) fn message(&self, from: &Address) -> Result<Message, MailError> {
        let unwritable = |error: &dyn fmt::Display| MailError::Write(error.to_string());
        let mailbox = |address: &Address| {
            let parsed: Result<lettre::Address, _> = address.as_str().parse();
            parsed
                .map(|address| lettre::message::Mailbox::new(None, address))
                .map_err(|error| unwritable(&error))
        };
        Message::builder()
            .from(mailbox(from)?)
            .to(mailbox(&self.to)?)
            .subject(self.subject.clone())
            .message_id(None)
            // Out-of-office programs stay quiet (RFC 3834 section 5).
            .raw_header(lettre::message::header::HeaderValue::new(
                lettre::message::header::HeaderName::new_from_ascii_str("Auto-Submitted"),
                "auto-generated".to_owned(),
            ))
            .header(ContentType::TEXT_PLAIN)
            .body(self.text.expose_secret().to_owned())
            .map_err(|error| unwritable(&error))
    }
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail")
            .field("to", &self.to)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}
