//! [`Fetch`] by reqwest.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use rustls_platform_verifier::BuilderVerifierExt as _;

use super::{Fetch, FetchError, SetUpError};

/// HTTP by reqwest: rustls on ring, the platform's certificates, no redirect, no proxy
/// out of the environment, ten seconds for everything.
#[derive(Clone, Debug)]
pub struct Reqwest(::reqwest::Client);

/// For one request from connect to the last byte.
const DEADLINE: Duration = Duration::from_secs(10);

impl Reqwest {
    /// A client that trusts what the platform trusts.
    ///
    /// # Errors
    ///
    /// Returns [`SetUpError::Http`] if the platform's certificates cannot be used.
    pub fn new() -> Result<Self, SetUpError> {
        let refused = |error: rustls::Error| SetUpError::Http(error.to_string());
        let config = Self::tls()?
            .with_platform_verifier()
            .map_err(refused)?
            .with_no_client_auth();
        Self::with_tls(config)
    }

    /// A client that trusts `roots` alone, for providers with a certificate of their own.
    ///
    /// # Errors
    ///
    /// Returns [`SetUpError::Http`] if the configuration is refused.
    pub fn trusting(roots: rustls::RootCertStore) -> Result<Self, SetUpError> {
        Self::with_tls(
            Self::tls()?
                .with_root_certificates(roots)
                .with_no_client_auth(),
        )
    }

    fn tls()
    -> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>, SetUpError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| SetUpError::Http(error.to_string()))
    }

    fn with_tls(config: rustls::ClientConfig) -> Result<Self, SetUpError> {
        let client = ::reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .redirect(::reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .timeout(DEADLINE)
            .build()
            .map_err(|error| SetUpError::Http(error.to_string()))?;
        Ok(Self(client))
    }
}

impl Fetch for Reqwest {
    async fn fetch(
        &self,
        request: Request<Vec<u8>>,
        limit: usize,
    ) -> Result<Response<Vec<u8>>, FetchError> {
        let request = ::reqwest::Request::try_from(request).map_err(explain)?;
        let mut response = self.0.execute(request).await.map_err(explain)?;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(explain)? {
            if body.len() + piece.len() > limit {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&piece);
        }
        let mut answer = Response::new(body);
        *answer.status_mut() = response.status();
        *answer.headers_mut() = response.headers().clone();
        Ok(answer)
    }
}

fn explain(error: ::reqwest::Error) -> FetchError {
    if error.is_timeout() {
        return FetchError::Late;
    }
    // A URL may hold a code; the reason below it does not.
    FetchError::Unreachable(error.without_url().to_string())
}
