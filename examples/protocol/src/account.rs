//! Accounts: what a browser sends to sign up and in, and what it learns about
//! itself. The session travels in the cookie
//! [`SESSION_COOKIE`](crate::routes::SESSION_COOKIE), never in a body.

use serde::{Deserialize, Serialize};

use crate::{Sensitive, Timestamp};

/// Opens an account. Where the relay sends mail, nobody is signed in by it, and a mail
/// to the address says what came of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignUp {
    /// An e-mail address, at most 254 bytes.
    pub email: String,
    /// 10 to 1,024 bytes.
    pub password: Sensitive,
}

/// Signs in to an account.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// The address given at sign-up, in any case.
    pub email: String,
    /// The account's password.
    pub password: Sensitive,
    /// What the link in the mail ends with, for an account whose address is not
    /// confirmed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Sensitive>,
}

/// Who the browser is signed in as.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Me {
    /// Identifier of the account.
    pub id: String,
    /// Its e-mail address, lower case.
    pub email: String,
    /// Whether somebody showed that they read that address's mail.
    #[serde(default)]
    pub verified: bool,
    /// When the session ends if it is not used.
    pub session_expires: Timestamp,
}

/// Whether there is a session, for a page that has to know before it asks for
/// anything else.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SessionState {
    /// Who is signed in, if anybody.
    pub me: Option<Me>,
}

/// What the sign-in page can offer.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SignInOptions {
    /// Where else one can have an account that opens one here.
    pub providers: Vec<ProviderOption>,
    /// Whether the relay sends mail: addresses can be verified and passwords reset.
    pub mail: bool,
    /// Whether strangers may open accounts.
    pub sign_up: bool,
}

/// A provider, as a button shows it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProviderOption {
    /// Its name in paths.
    pub name: String,
    /// Its name for people.
    pub label: String,
}

/// Begins a sign-in at a provider.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StartSignIn {
    /// Where to go afterwards: a path of the relay.
    #[serde(default)]
    pub return_to: Option<String>,
    /// Link the identity to the account that is signed in, instead of signing in.
    #[serde(default)]
    pub link: bool,
}

/// Where to go for a sign-in that has begun.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SignInStarted {
    /// A page of the provider.
    pub url: String,
}

/// What opens an account.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Identities {
    /// Whether a password does.
    pub password: bool,
    /// Identities elsewhere, oldest first.
    pub identities: Vec<LinkedIdentity>,
}

/// An identity elsewhere that opens the account.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LinkedIdentity {
    /// Names it here.
    pub id: String,
    /// The provider's name for people; its address, if this relay knows it no longer.
    pub provider: String,
    /// What the person is called there.
    pub label: String,
    /// When it was linked.
    pub linked_at: Timestamp,
}

/// The token of a link that proves that somebody reads an address's mail.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyAddress {
    /// What the link ends with.
    pub token: Sensitive,
}

/// Asks for a link that resets a password.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ForgotPassword {
    /// The address given at sign-up, in any case.
    pub email: String,
}

/// Resets a password.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ResetPassword {
    /// What the link ends with.
    pub token: Sensitive,
    /// 10 to 1,024 bytes.
    pub password: Sensitive,
}
