//! The code for tokens, by the `oauth2` crate.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::{HeaderValue, Request, header};
use katachi_crypto::SecretString;
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse,
    BasicTokenType,
};
use oauth2::{
    AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken,
    EndpointNotSet, EndpointSet, ExtraTokenFields, PkceCodeChallenge, PkceCodeVerifier,
    RedirectUrl, RequestTokenError, Scope, StandardRevocableToken, StandardTokenResponse,
    TokenResponse as _, TokenUrl,
};
use serde::{Deserialize, Serialize};

use super::discovery::SecretIn;
use super::{Client, Fetch, LoginError, SetUpError, fetch};

/// What the provider granted besides an identity.
#[non_exhaustive]
pub struct Tokens {
    /// Opens the provider's API.
    pub access: SecretString,
    /// Gets the next access token, where the provider gives one.
    pub refresh: Option<SecretString>,
    /// How long the access token lives, if the provider says.
    pub expires_in: Option<Duration>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Deserialize, Serialize)]
pub(super) struct IdTokenField {
    id_token: Option<String>,
}

impl fmt::Debug for IdTokenField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdTokenField { .. }")
    }
}

impl ExtraTokenFields for IdTokenField {}

pub(super) type TokenAnswer = StandardTokenResponse<IdTokenField, BasicTokenType>;

type Oauth = oauth2::Client<
    BasicErrorResponse,
    TokenAnswer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// Longest token answer, in bytes: an ID token, an access token and a refresh token.
pub(super) const MAX_LEN: usize = 64 * 1024;

/// Our client at one provider, as the `oauth2` crate sees it.
pub(super) struct Exchange(Oauth);

impl Exchange {
    pub(super) fn new(
        client: &Client,
        authorization_endpoint: &str,
        token_endpoint: &str,
        secret_in: SecretIn,
    ) -> Result<Self, SetUpError> {
        let refused = |what, url: &str| SetUpError::Url {
            what,
            url: url.to_owned(),
        };
        let authorization = AuthUrl::new(authorization_endpoint.to_owned())
            .map_err(|_| refused("the authorization endpoint", authorization_endpoint))?;
        let token = TokenUrl::new(token_endpoint.to_owned())
            .map_err(|_| refused("the token endpoint", token_endpoint))?;
        let redirect = RedirectUrl::new(client.redirect_uri.clone())
            .map_err(|_| refused("the redirect URI", &client.redirect_uri))?;
        let mut oauth = oauth2::Client::new(ClientId::new(client.id.clone()))
            .set_auth_uri(authorization)
            .set_token_uri(token)
            .set_redirect_uri(redirect)
            .set_auth_type(match secret_in {
                SecretIn::Header => AuthType::BasicAuth,
                SecretIn::Body => AuthType::RequestBody,
            });
        if let Some(secret) = &client.secret {
            let secret = secret.expose_secret().to_owned();
            oauth = oauth.set_client_secret(ClientSecret::new(secret));
        }
        Ok(Self(oauth))
    }

    /// Where to send the browser.
    pub(super) fn url(
        &self,
        scopes: &[&'static str],
        state: &str,
        nonce: &SecretString,
        verifier: &SecretString,
    ) -> String {
        let state = CsrfToken::new(state.to_owned());
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&as_verifier(verifier));
        let scopes = scopes.iter().map(|scope| Scope::new((*scope).to_owned()));
        let mut request = self
            .0
            .authorize_url(|| state)
            .set_pkce_challenge(challenge)
            .add_scopes(scopes.clone());
        if scopes.clone().any(|scope| scope.as_str() == "openid") {
            request = request.add_extra_param("nonce", nonce.expose_secret());
        }
        request.url().0.into()
    }

    /// Exchanges the code.
    pub(super) async fn redeem(
        &self,
        http: &impl Fetch,
        code: &SecretString,
        verifier: &SecretString,
    ) -> Result<(Tokens, Option<SecretString>), LoginError> {
        let answer = self
            .0
            .exchange_code(AuthorizationCode::new(code.expose_secret().to_owned()))
            .set_pkce_verifier(as_verifier(verifier))
            .request_async(&Asking(http))
            .await
            .map_err(explain)?;
        let id_token = answer.extra_fields().id_token.clone();
        Ok((tokens(&answer), id_token.map(SecretString::new)))
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("client_id", self.0.client_id())
            .finish_non_exhaustive()
    }
}

/// What the `oauth2` crate does not keep secret, moved where it is.
pub(super) fn tokens(answer: &TokenAnswer) -> Tokens {
    let owned = |text: &str| SecretString::new(text.to_owned());
    Tokens {
        access: owned(answer.access_token().secret()),
        refresh: answer.refresh_token().map(|token| owned(token.secret())),
        expires_in: answer.expires_in(),
    }
}

fn as_verifier(verifier: &SecretString) -> PkceCodeVerifier {
    PkceCodeVerifier::new(verifier.expose_secret().to_owned())
}

/// Our [`Fetch`] as the `oauth2` crate's client. A closure would do the same, but the
/// compiler cannot tell that its future may move between threads, and a server's
/// handlers must.
struct Asking<'a, F>(&'a F);

impl<'c, F: Fetch> AsyncHttpClient<'c> for Asking<'_, F> {
    type Error = super::FetchError;
    type Future = Pin<
        Box<dyn Future<Output = Result<http::Response<Vec<u8>>, super::FetchError>> + Send + 'c>,
    >;

    fn call(&'c self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(ask(self.0, request))
    }
}

#[derive(Deserialize)]
struct OnlyError {
    #[expect(dead_code, reason = "only its presence counts")]
    error: String,
}

async fn ask(
    http: &impl Fetch,
    mut request: Request<Vec<u8>>,
) -> Result<http::Response<Vec<u8>>, super::FetchError> {
    let agent = HeaderValue::from_static("katachi-auth");
    request.headers_mut().insert(header::USER_AGENT, agent);
    let mut response = fetch::bounded(http, request, MAX_LEN).await?;
    // GitHub answers errors with status 200, RFC 6749 section 5.2 with 400.
    if response.status() == 200 && serde_json::from_slice::<OnlyError>(response.body()).is_ok() {
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

fn explain(error: RequestTokenError<super::FetchError, BasicErrorResponse>) -> LoginError {
    match error {
        RequestTokenError::ServerResponse(response) => {
            // The description may repeat what was sent; the code is one of a short list.
            LoginError::Code(response.error().as_ref().chars().take(64).collect())
        }
        RequestTokenError::Request(error) => LoginError::Fetch(error),
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            LoginError::Answer("neither tokens nor an error")
        }
    }
}
