//! Who signed in.

/// A person as a provider knows them.
///
/// # Security
///
/// Look an account up by [`Self::issuer`] and [`Self::subject`] together and by nothing
/// else. Names and addresses change hands: whoever registers a dead address elsewhere
/// must not inherit an account. To connect a provider to an account that exists, let its
/// owner sign in to that account first.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Identity {
    /// The provider's issuer; for GitHub, `https://github.com`.
    pub issuer: String,
    /// The provider's name for the person, never given to another: `sub`, or GitHub's
    /// numeric id.
    pub subject: String,
    /// Their address, if the provider tells it.
    pub email: Option<Email>,
    /// What to call them.
    pub name: Option<String>,
}

/// An address that a provider vouches for, or does not.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Email {
    /// The address, as the provider wrote it.
    pub address: String,
    /// Whether the provider has seen the person read its mail.
    pub verified: bool,
}

impl Identity {
    /// The address, if the provider vouches for it.
    #[must_use]
    pub fn verified_email(&self) -> Option<&str> {
        let email = self.email.as_ref().filter(|email| email.verified)?;
        Some(&email.address)
    }
}
