//! HTTP as this module needs it: one bounded answer to one request, in time.

use std::future::Future;

use http::{Method, Request, Response, header};
use serde::de::DeserializeOwned;

/// No usable answer came.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Nobody answered, or TLS could not be agreed on.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// The answer did not come in time.
    #[error("no answer in time")]
    Late,
    /// The body is longer than was asked for.
    #[error("the answer is longer than any valid one")]
    TooLarge,
    /// Another status than 200.
    #[error("status {0}")]
    Status(u16),
    /// Not the JSON that belongs there. The reason holds no part of the body.
    #[error("not the JSON that was expected")]
    Malformed,
}

/// Sends requests to providers.
///
/// # Security
///
/// An implementation must follow no redirect (the answer would come from somebody that
/// nobody named), must check the certificate of an `https` URL, must stop reading after
/// `limit` bytes, and must give up by itself: ten seconds for everything is a good
/// deadline. One that waits for ever hangs sign-ins; one that follows redirects hands
/// codes and secrets to strangers.
pub trait Fetch: Send + Sync {
    /// Sends `request` and reads at most `limit` bytes of its answer, whatever its status.
    fn fetch(
        &self,
        request: Request<Vec<u8>>,
        limit: usize,
    ) -> impl Future<Output = Result<Response<Vec<u8>>, FetchError>> + Send;
}

impl<F: Fetch + ?Sized> Fetch for &F {
    fn fetch(
        &self,
        request: Request<Vec<u8>>,
        limit: usize,
    ) -> impl Future<Output = Result<Response<Vec<u8>>, FetchError>> + Send {
        (**self).fetch(request, limit)
    }
}

impl<F: Fetch + ?Sized> Fetch for std::sync::Arc<F> {
    fn fetch(
        &self,
        request: Request<Vec<u8>>,
        limit: usize,
    ) -> impl Future<Output = Result<Response<Vec<u8>>, FetchError>> + Send {
        (**self).fetch(request, limit)
    }
}

/// Gets a JSON document. `bearer` becomes the `Authorization` header.
pub(super) async fn get_json<T: DeserializeOwned>(
    http: &impl Fetch,
    url: &str,
    bearer: Option<&str>,
    headers: &[(&str, &str)],
    limit: usize,
) -> Result<T, FetchError> {
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(url)
        .header(header::USER_AGENT, "katachi-auth");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(bearer) = bearer {
        request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
    }
    let request = request
        .body(Vec::new())
        .map_err(|_| FetchError::Unreachable("the URL or the token is malformed".into()))?;
    let response = bounded(http, request, limit).await?;
    if response.status() != 200 {
        return Err(FetchError::Status(response.status().as_u16()));
    }
    serde_json::from_slice(response.body()).map_err(|_| FetchError::Malformed)
}

/// Fetches, and holds the implementation to its limit.
pub(super) async fn bounded(
    http: &impl Fetch,
    request: Request<Vec<u8>>,
    limit: usize,
) -> Result<Response<Vec<u8>>, FetchError> {
    let response = http.fetch(request, limit).await?;
    if response.body().len() > limit {
        return Err(FetchError::TooLarge);
    }
    Ok(response)
}
