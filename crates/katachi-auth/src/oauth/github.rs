//! GitHub, which speaks OAuth 2.0 but not OpenID Connect: who signed in is asked of its
//! API (`GET /user`, `GET /user/emails`, version 2022-11-28).

use serde::Deserialize;

use super::fetch::get_json;
use super::{Email, Fetch, FetchError, Identity};

pub(super) const ISSUER: &str = "https://github.com";
pub(super) const SCOPES: &[&str] = &["read:user", "user:email"];

const HEADERS: &[(&str, &str)] = &[
    ("accept", "application/vnd.github+json"),
    // Without it GitHub answers as the oldest version that it still supports.
    ("x-github-api-version", "2022-11-28"),
];
const MAX_LEN: usize = 256 * 1024;

/// Whether the GitHub server at `host` calls itself `issuer` in its redirects: it names
/// its authorization server there (RFC 9207), `https://github.com/login/oauth`.
pub(super) fn sends(host: &str, issuer: &str) -> bool {
    issuer.strip_prefix(host) == Some("/login/oauth")
}

#[derive(Deserialize)]
struct User {
    /// Never given to another, unlike the login.
    id: u64,
    login: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    email: String,
    primary: bool,
    verified: bool,
}

/// Asks who holds `token`.
pub(super) async fn identity(
    http: &impl Fetch,
    issuer: &str,
    api: &str,
    token: &str,
) -> Result<Identity, FetchError> {
    let user: User = get_json(http, &format!("{api}/user"), Some(token), HEADERS, MAX_LEN).await?;
    let url = format!("{api}/user/emails");
    let addresses: Vec<Address> = match get_json(http, &url, Some(token), HEADERS, MAX_LEN).await {
        Ok(addresses) => addresses,
        // The person did not grant it; they are still who they are.
        Err(FetchError::Status(403 | 404)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let primary = addresses.into_iter().find(|address| address.primary);
    Ok(Identity {
        issuer: issuer.to_owned(),
        subject: user.id.to_string(),
        email: primary.map(|address| Email {
            address: address.email,
            verified: address.verified,
        }),
        name: Some(user.name.unwrap_or(user.login)),
    })
}
