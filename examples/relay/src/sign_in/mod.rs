//! Other ways in than a password: providers where people have accounts, and links
//! in mail.

pub(crate) mod args;
pub(crate) mod mail;
pub(crate) mod provider;

pub use mail::{MailConfig, MailRoute};
pub use provider::{ParseProviderError, ProviderConfig};
