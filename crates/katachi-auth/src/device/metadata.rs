//! The authorization server's description of itself (RFC 8414), served as JSON at
//! `/.well-known/oauth-authorization-server`.

use serde::{Deserialize, Serialize};

/// Authorization server metadata for the device flow.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The server's identifier: an `https` URL without query or fragment.
    pub issuer: String,
    /// Where tokens are asked for.
    pub token_endpoint: String,
    /// Where device authorizations are started.
    pub device_authorization_endpoint: String,
    /// Grant types served.
    pub grant_types_supported: Vec<String>,
    /// Response types served: none, since there is no authorization endpoint.
    pub response_types_supported: Vec<String>,
    /// How clients authenticate: not at all; they prove a key.
    pub token_endpoint_auth_methods_supported: Vec<String>,
    /// Signature algorithms of DPoP proofs.
    pub dpop_signing_alg_values_supported: Vec<String>,
}

impl Metadata {
    /// The description of a server at `issuer` with these two paths.
    #[must_use]
    pub fn for_device_flow(issuer: &str, authorization_path: &str, token_path: &str) -> Self {
        let base = issuer.trim_end_matches('/');
        Self {
            issuer: base.to_owned(),
            token_endpoint: format!("{base}{token_path}"),
            device_authorization_endpoint: format!("{base}{authorization_path}"),
            grant_types_supported: vec![super::GRANT_TYPE.to_owned()],
            response_types_supported: Vec::new(),
            token_endpoint_auth_methods_supported: vec!["none".to_owned()],
            dpop_signing_alg_values_supported: vec!["EdDSA".to_owned(), "Ed25519".to_owned()],
        }
    }
}
