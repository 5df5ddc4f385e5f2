//! What a provider sends back through the browser (RFC 6749 section 4.1.2).

use katachi_crypto::SecretString;

use crate::device::form::Form;
use crate::session::Token;

/// The query of a redirect back to us, read and bounded, but not yet believed.
///
/// ```
/// use katachi_auth::oauth::Callback;
///
/// let state = "a".repeat(43);
/// let query = format!("code=abc&state={state}&iss=https%3A%2F%2Fid.example");
/// let callback = Callback::parse(&query)?;
/// assert_eq!(callback.issuer(), Some("https://id.example"));
/// # Ok::<(), katachi_auth::oauth::CallbackError>(())
/// ```
#[derive(Debug)]
pub struct Callback {
    state: String,
    outcome: Outcome,
    issuer: Option<String>,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Code(SecretString),
    Error(String),
}

/// 400: not a redirect of a provider that we sent somebody to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CallbackError {
    /// Too long, not percent-encoded UTF-8, or a parameter stands there twice.
    #[error("not a query that a provider would send")]
    Malformed,
    /// `state` is absent or was not made here.
    #[error("there is no state of ours in it")]
    State,
    /// Neither `code` nor `error`, or both, or one that no provider would send.
    #[error("neither a code nor an error")]
    Outcome,
}

/// Longest code and longest error code, in bytes.
const MAX_CODE: usize = 4096;
const MAX_ERROR: usize = 64;

impl Callback {
    /// Reads the query of a redirect: what stands after `?`, without a fragment.
    /// Parameters that it does not know are passed over.
    ///
    /// # Errors
    ///
    /// Returns [`CallbackError`] if no provider that we sent a browser to can have made it.
    pub fn parse(query: &str) -> Result<Self, CallbackError> {
        let form = Form::parse(query.as_bytes()).map_err(|_| CallbackError::Malformed)?;
        let state = form.get("state").ok_or(CallbackError::State)?;
        if state.len() != Token::TEXT_LEN {
            return Err(CallbackError::State);
        }
        let outcome = match (form.get("code"), form.get("error")) {
            (Some(code), None) if fits(code, MAX_CODE) => {
                Outcome::Code(SecretString::new(code.to_owned()))
            }
            (None, Some(error)) if fits(error, MAX_ERROR) => Outcome::Error(error.to_owned()),
            _ => return Err(CallbackError::Outcome),
        };
        Ok(Self {
            state: state.to_owned(),
            outcome,
            issuer: form.get("iss").map(str::to_owned),
        })
    }

    /// The `state` that it carries.
    #[must_use]
    pub fn state(&self) -> &str {
        &self.state
    }

    /// The code, if the provider granted one.
    #[must_use]
    pub const fn code(&self) -> Option<&SecretString> {
        match &self.outcome {
            Outcome::Code(code) => Some(code),
            Outcome::Error(_) => None,
        }
    }

    /// The error code, if it granted none.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Error(error) => Some(error),
            Outcome::Code(_) => None,
        }
    }

    /// Who says to have sent it (RFC 9207), if anybody.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    pub(super) const fn outcome(&self) -> &Outcome {
        &self.outcome
    }
}

/// RFC 6749 appendix A: visible ASCII and, in errors, spaces.
fn fits(text: &str, longest: usize) -> bool {
    text.len() <= longest && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_no_provider_would_send() {
        let state = "s".repeat(43);
        let refused = |query: &str| Callback::parse(query).unwrap_err();
        assert_eq!(refused(""), CallbackError::State);
        assert_eq!(refused("code=a"), CallbackError::State);
        assert_eq!(refused("code=a&state=short"), CallbackError::State);
        assert_eq!(refused(&format!("state={state}")), CallbackError::Outcome);
        let both = format!("state={state}&code=a&error=access_denied");
        assert_eq!(refused(&both), CallbackError::Outcome);
        let twice = format!("state={state}&state={state}&code=a");
        assert_eq!(refused(&twice), CallbackError::Malformed);
        let again = format!("state={state}&code=a&c%6fde=b");
        assert_eq!(refused(&again), CallbackError::Malformed);
        let long = format!("state={state}&code={}", "a".repeat(4097));
        assert_eq!(refused(&long), CallbackError::Outcome);
        let control = format!("state={state}&code=a%0a");
        assert_eq!(refused(&control), CallbackError::Outcome);
    }

    #[test]
    fn a_code_is_not_shown_in_logs() {
        let query = format!("code=very-secret&state={}", "s".repeat(43));
        let callback = Callback::parse(&query).unwrap();
        assert_eq!(callback.code().unwrap().expose_secret(), "very-secret");
        assert!(!format!("{callback:?}").contains("very-secret"));
    }
}
