//! Accounts: what a browser sends to sign up and in, and what it learns about
//! itself. The session travels in the cookie
//! [`SESSION_COOKIE`](crate::routes::SESSION_COOKIE), never in a body.

use serde::{Deserialize, Serialize};

use crate::{Sensitive, Timestamp};

/// Opens an account.
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
}

/// Who the browser is signed in as.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Me {
    /// Identifier of the account.
    pub id: String,
    /// Its e-mail address, lower case.
    pub email: String,
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
