//! What a provider says of itself (OpenID Connect Discovery 1.0), and whether it can be
//! worked with.

use oauth2::url::{Host, Url};
use serde::Deserialize;

use super::id_token::Algorithm;
use super::{Fetch, FetchError, fetch};

/// Why a provider cannot be used. Whoever configures it reads this.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SetUpError {
    /// A URL is none, or is neither `https` nor on this machine.
    #[error("{what} must be an https URL without user, password and fragment, not `{url}`")]
    Url {
        /// Which one.
        what: &'static str,
        /// What stands there.
        url: String,
    },
    /// The description could not be fetched.
    #[error("cannot fetch the provider's description: {0}")]
    Fetch(#[from] FetchError),
    /// The description is of another issuer: the name must be exact, down to the last slash.
    #[error("the provider calls itself `{found}`, not `{asked}`: configure that name")]
    Issuer {
        /// The issuer that was asked for.
        asked: String,
        /// The issuer that the description names.
        found: String,
    },
    /// It lacks something that a safe sign-in needs.
    #[error("the provider does not support {0}")]
    Unsupported(&'static str),
    /// The HTTP client could not be set up.
    #[error("cannot set up HTTP: {0}")]
    Http(String),
}

/// How a client with a secret authenticates at the token endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SecretIn {
    Header,
    Body,
}

/// What is used of a description.
#[derive(Debug, Deserialize)]
pub(super) struct Description {
    pub(super) issuer: String,
    pub(super) authorization_endpoint: String,
    pub(super) token_endpoint: String,
    pub(super) jwks_uri: String,
    pub(super) userinfo_endpoint: Option<String>,
    response_types_supported: Vec<String>,
    code_challenge_methods_supported: Option<Vec<String>>,
    id_token_signing_alg_values_supported: Vec<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// RFC 9207 section 3.
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

const MAX_LEN: usize = 128 * 1024;

impl Description {
    /// Fetches the description of `issuer`.
    pub(super) async fn fetch(http: &impl Fetch, issuer: &str) -> Result<Self, SetUpError> {
        check_url("the issuer", issuer, false)?;
        let url = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let accept = [("accept", "application/json")];
        let description: Self = fetch::get_json(http, &url, None, &accept, MAX_LEN).await?;
        description.check(issuer)?;
        Ok(description)
    }

    fn check(&self, issuer: &str) -> Result<(), SetUpError> {
        // Discovery section 4.3: or one provider speaks for another.
        if self.issuer != issuer {
            return Err(SetUpError::Issuer {
                asked: issuer.to_owned(),
                found: self.issuer.clone(),
            });
        }
        let local = is_local(issuer);
        check_url(
            "the authorization endpoint",
            &self.authorization_endpoint,
            local,
        )?;
        check_url("the token endpoint", &self.token_endpoint, local)?;
        check_url("the address of its keys", &self.jwks_uri, local)?;
        if let Some(url) = &self.userinfo_endpoint {
            check_url("the userinfo endpoint", url, local)?;
        }
        let has = |list: &[String], wanted: &str| list.iter().any(|item| item == wanted);
        if !has(&self.response_types_supported, "code") {
            return Err(SetUpError::Unsupported("the authorization code flow"));
        }
        // Providers that say nothing of PKCE are given a challenge all the same.
        if let Some(methods) = &self.code_challenge_methods_supported
            && !has(methods, "S256")
        {
            return Err(SetUpError::Unsupported("PKCE with S256"));
        }
        if !self
            .id_token_signing_alg_values_supported
            .iter()
            .any(|name| Algorithm::parse(name).is_some())
        {
            return Err(SetUpError::Unsupported(
                "ID tokens signed by RS256, ES256 or EdDSA",
            ));
        }
        self.secret_in().map(drop)
    }

    /// RFC 8414 section 2: without a list it is `client_secret_basic`.
    pub(super) fn secret_in(&self) -> Result<SecretIn, SetUpError> {
        let Some(methods) = &self.token_endpoint_auth_methods_supported else {
            return Ok(SecretIn::Header);
        };
        let has = |wanted: &str| methods.iter().any(|method| method == wanted);
        if has("client_secret_basic") {
            Ok(SecretIn::Header)
        } else if has("client_secret_post") || has("none") {
            Ok(SecretIn::Body)
        } else {
            Err(SetUpError::Unsupported(
                "client_secret_basic, client_secret_post or public clients",
            ))
        }
    }
}

/// An `https` URL; `http` only on this machine's loopback, and there only if `local` says
/// that whoever named it is there too, or if it is the issuer itself.
pub(super) fn check_url(what: &'static str, text: &str, local: bool) -> Result<Url, SetUpError> {
    let refused = || SetUpError::Url {
        what,
        url: text.chars().take(200).collect(),
    };
    let url = Url::parse(text).map_err(|_| refused())?;
    let named = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    let safe = match url.scheme() {
        "https" => true,
        "http" => (local || what == "the issuer") && is_loopback(&url),
        _ => false,
    };
    if named && safe && text.len() <= 2048 {
        Ok(url)
    } else {
        Err(refused())
    }
}

fn is_local(issuer: &str) -> bool {
    Url::parse(issuer).is_ok_and(|url| url.scheme() == "http" && is_loopback(&url))
}

/// RFC 8252 section 8.3: the addresses, and not `localhost`, which a resolver may send
/// elsewhere.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> serde_json::Value {
        serde_json::json!({
            "issuer": "https://id.example",
            "authorization_endpoint": "https://id.example/auth",
            "token_endpoint": "https://id.example/token",
            "jwks_uri": "https://id.example/keys",
            "response_types_supported": ["code", "id_token"],
            "id_token_signing_alg_values_supported": ["RS256", "PS256"],
        })
    }

    fn verdict(change: impl FnOnce(&mut serde_json::Value)) -> Result<(), SetUpError> {
        let mut json = description();
        change(&mut json);
        serde_json::from_value::<Description>(json)
            .unwrap()
            .check("https://id.example")
    }

    #[test]
    fn a_provider_must_offer_what_a_safe_sign_in_needs() {
        verdict(|_| ()).unwrap();
        let unsupported = |change: fn(&mut serde_json::Value)| {
            assert!(matches!(verdict(change), Err(SetUpError::Unsupported(_))));
        };
        unsupported(|json| json["response_types_supported"] = ["id_token"].into());
        unsupported(|json| json["code_challenge_methods_supported"] = ["plain"].into());
        unsupported(|json| json["id_token_signing_alg_values_supported"] = ["HS256"].into());
        unsupported(|json| {
            json["token_endpoint_auth_methods_supported"] = ["private_key_jwt"].into();
        });
    }

    #[test]
    fn a_provider_speaks_for_itself_alone_and_over_tls() {
        let other = verdict(|json| json["issuer"] = "https://id.example/".into());
        assert!(matches!(other, Err(SetUpError::Issuer { .. })));
        for bad in [
            "http://id.example/token",
            "http://127.0.0.1/token",
            "https://user@id.example/token",
            "https://id.example/token#a",
            "file:///etc/passwd",
            "token",
        ] {
            let outcome = verdict(|json| json["token_endpoint"] = bad.into());
            assert!(matches!(outcome, Err(SetUpError::Url { .. })), "{bad}");
        }
        assert!(check_url("the issuer", "http://127.0.0.1:8080", false).is_ok());
        assert!(check_url("the issuer", "http://localhost:8080", false).is_err());
    }
}
