//! Providers: how they are configured, and what is known of them while the relay runs.
//!
//! A provider is asked when somebody chooses it, never at the start: one that is down
//! keeps nobody from signing in another way.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use katachi_auth::oauth::{Client, Provider, Reqwest, SetUpError};
use katachi_crypto::SecretString;
use katachi_protocol::{Sensitive, routes};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::warn;

use super::args::secret_file;
use crate::config::PublicUrl;

/// A provider where people have accounts.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    name: String,
    label: String,
    kind: Kind,
    client_id: String,
    secret: Option<Sensitive>,
}

#[derive(Clone, Debug)]
enum Kind {
    OpenId { issuer: String },
    GitHub { host: String },
}

/// What stands behind `--provider` makes no provider. No part of a secret is repeated.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ParseProviderError(String);

const GITHUB: &str = "https://github.com";

impl ProviderConfig {
    /// Reads `NAME,client-id=ID,…`; `variable` looks a secret up that is in no file.
    ///
    /// Keys: `client-id`, `secret-file`, `issuer` (for `type=github` the server's
    /// address), `label` (what the button says) and `type` (`openid` or `github`).
    ///
    /// # Errors
    ///
    /// Returns [`ParseProviderError`], which says what to write.
    pub fn parse(
        text: &str,
        variable: impl FnOnce(&str) -> Option<Sensitive>,
    ) -> Result<Self, ParseProviderError> {
        let wrong = |why: String| ParseProviderError(why);
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 32 || !name.bytes().all(plain) {
            return Err(wrong(format!(
                "`{name}` is no name; write NAME,client-id=ID,… with lower-case letters, digits and `-` in NAME"
            )));
        }
        let (mut client_id, mut secret, mut issuer, mut label, mut kind) =
            (None, None, None, None, None);
        for part in parts {
            let Some((key, value)) = part.split_once('=').filter(|(_, value)| !value.is_empty())
            else {
                return Err(wrong(format!("{name}: write `key=value`, not `{part}`")));
            };
            let place = match key {
                "client-id" => &mut client_id,
                "issuer" => &mut issuer,
                "label" => &mut label,
                "type" => &mut kind,
                "secret-file" => {
                    let read = secret_file(Path::new(value));
                    secret = Some(read.map_err(|error| wrong(format!("{name}: {error}")))?);
                    continue;
                }
                "secret" | "client-secret" => {
                    return Err(wrong(format!(
                        "{name}: other users of this machine see a secret that is an argument; write secret-file=FILE or set {}",
                        variable_of(name)
                    )));
                }
                _ => {
                    return Err(wrong(format!(
                        "{name}: there is no `{key}`; the keys are client-id, secret-file, issuer, label and type"
                    )));
                }
            };
            if place.replace(value.to_owned()).is_some() {
                return Err(wrong(format!("{name}: `{key}` stands there twice")));
            }
        }
        let client_id =
            client_id.ok_or_else(|| wrong(format!("{name}: client-id=ID is missing")))?;
        let secret = secret.or_else(|| variable(&variable_of(name)));
        let kind = match (kind.as_deref(), name) {
            (Some("github"), _) | (None, "github") => Kind::GitHub {
                host: issuer.unwrap_or_else(|| GITHUB.to_owned()),
            },
            (Some("openid") | None, _) => Kind::OpenId {
                issuer: match (issuer, name) {
                    (Some(issuer), _) => issuer,
                    (None, "google") => Provider::GOOGLE.to_owned(),
                    (None, _) => return Err(wrong(format!("{name}: issuer=URL is missing"))),
                },
            },
            (Some(other), _) => {
                return Err(wrong(format!(
                    "{name}: `{other}` is no type; write type=openid or type=github"
                )));
            }
        };
        if matches!(kind, Kind::GitHub { .. }) && secret.is_none() {
            return Err(wrong(format!(
                "{name}: GitHub asks for a secret; write secret-file=FILE or set {}",
                variable_of(name)
            )));
        }
        let label = label.unwrap_or_else(|| match name {
            "github" => "GitHub".to_owned(),
            "google" => "Google".to_owned(),
            _ => name.to_owned(),
        });
        Ok(Self {
            name: name.to_owned(),
            label,
            kind,
            client_id,
            secret,
        })
    }

    /// Its name in paths.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn client(&self, redirect_uri: String) -> Client {
        match &self.secret {
            None => Client::public(self.client_id.as_str(), redirect_uri),
            Some(secret) => {
                let secret = SecretString::new(secret.expose_secret().to_owned());
                Client::confidential(self.client_id.as_str(), secret, redirect_uri)
            }
        }
    }
}

/// Where the secret of a provider is looked for.
fn variable_of(name: &str) -> String {
    let name = name.to_ascii_uppercase().replace('-', "_");
    format!("KATACHI_RELAY_PROVIDER_{name}_SECRET")
}

/// Every provider that this relay knows.
#[derive(Debug, Default)]
pub(crate) struct Providers {
    known: Vec<Known>,
    http: Option<Reqwest>,
    places: Option<Semaphore>,
}

/// Sign-ins that ask a provider at once.
const AT_ONCE: usize = 32;

/// A provider, and what it said of itself.
pub(crate) struct Known {
    config: ProviderConfig,
    redirect_uri: String,
    described: Mutex<Described>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Described {
    provider: Option<(Arc<Provider>, Instant)>,
    failed: Option<Instant>,
}

/// How long a description is good for.
const FRESH: Duration = Duration::from_secs(3600);
/// A provider that did not answer is left alone for this long.
const REST: Duration = Duration::from_secs(10);
/// For a description to arrive.
const DEADLINE: Duration = Duration::from_secs(10);

/// The provider cannot be asked now.
#[derive(Debug)]
pub(crate) struct Down;

impl Providers {
    /// Takes the configuration in, and asks nobody yet.
    pub(crate) fn new(
        configs: Vec<ProviderConfig>,
        public: &PublicUrl,
    ) -> Result<Self, SetUpError> {
        if configs.is_empty() {
            return Ok(Self::default());
        }
        let known = configs.into_iter().map(|config| Known {
            redirect_uri: format!("{public}{}", routes::sign_in_back(&config.name)),
            config,
            described: Mutex::default(),
        });
        Ok(Self {
            known: known.collect(),
            http: Some(Reqwest::new()?),
            places: Some(Semaphore::new(AT_ONCE)),
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.known.iter()
    }

    /// The provider of this name, HTTP to ask it by, and a place among those who do.
    pub(crate) fn find(&self, name: &str) -> Option<(&Known, &Reqwest)> {
        let known = self.known.iter().find(|known| known.config.name == name)?;
        Some((known, self.http.as_ref()?))
    }

    /// A place among those who ask a provider, if there is one.
    pub(crate) fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.as_ref()?.try_acquire().ok()
    }

    /// The name for people of the provider with this issuer.
    pub(crate) fn label_of(&self, issuer: &str) -> Option<&str> {
        let known = self.known.iter().find(|known| known.issuer() == issuer)?;
        Some(known.label())
    }
}

impl Known {
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    pub(crate) fn label(&self) -> &str {
        &self.config.label
    }

    pub(crate) fn issuer(&self) -> &str {
        match &self.config.kind {
            Kind::OpenId { issuer } => issuer,
            Kind::GitHub { host } => host.trim_end_matches('/'),
        }
    }

    /// What is known of it, asked anew where that is old.
    pub(crate) async fn provider(&self, http: &Reqwest) -> Result<Arc<Provider>, Down> {
        let mut described = self.described.lock().await;
        let known = described.provider.clone();
        match (&known, described.failed) {
            (Some((provider, at)), _) if at.elapsed() < FRESH => return Ok(Arc::clone(provider)),
            (_, Some(at)) if at.elapsed() < REST => {}
            _ => match self.describe(http).await {
                Ok(provider) => {
                    let provider = Arc::new(provider);
                    *described = Described {
                        provider: Some((Arc::clone(&provider), Instant::now())),
                        failed: None,
                    };
                    return Ok(provider);
                }
                Err(error) => {
                    warn!(provider = self.name(), error, "a provider cannot be used");
                    described.failed = Some(Instant::now());
                }
            },
        }
        // What it last said is better than nothing.
        known.map(|(provider, _)| provider).ok_or(Down)
    }

    async fn describe(&self, http: &Reqwest) -> Result<Provider, String> {
        let client = self.config.client(self.redirect_uri.clone());
        let described = match &self.config.kind {
            Kind::OpenId { issuer } => {
                let asked = timeout(DEADLINE, Provider::discover(http, issuer, client)).await;
                asked.map_err(|_| "it did not answer in time".to_owned())?
            }
            Kind::GitHub { host } if host == GITHUB => Provider::github(client),
            Kind::GitHub { host } => {
                let api = format!("{}/api/v3", host.trim_end_matches('/'));
                Provider::github_at(host, &api, client)
            }
        };
        described.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ProviderConfig, ParseProviderError> {
        ProviderConfig::parse(text, |name| {
            (name == "KATACHI_RELAY_PROVIDER_GITHUB_SECRET").then(|| Sensitive::new("hidden"))
        })
    }

    #[test]
    fn presets_need_a_name_and_a_client_alone() {
        let github = parse("github,client-id=Iv1.8a61").unwrap();
        assert_eq!(github.label, "GitHub");
        assert_eq!(github.secret.unwrap().expose_secret(), "hidden");
        let google = parse("google,client-id=1.apps.googleusercontent.com").unwrap();
        assert!(matches!(google.kind, Kind::OpenId { issuer } if issuer == Provider::GOOGLE));
        let work = parse("work,issuer=https://id.example,client-id=a,label=Work account").unwrap();
        assert_eq!((work.label.as_str(), work.secret), ("Work account", None));
    }

    #[test]
    fn what_is_no_provider_is_refused_with_what_to_write() {
        for (spec, said) in [
            ("", "is no name"),
            ("Work,client-id=a", "is no name"),
            ("../x,client-id=a", "is no name"),
            ("work,client-id=a", "issuer=URL is missing"),
            ("github", "client-id=ID is missing"),
            ("work,issuer=https://id.example", "client-id=ID is missing"),
            ("github,client-id=a,client-id=b", "twice"),
            ("github,client-id=a,secret=s3cret", "secret-file=FILE"),
            ("github,client-id=a,colour=red", "there is no `colour`"),
            ("github,client-id", "key=value"),
            ("hub,type=github,client-id=a", "asks for a secret"),
            ("hub,type=saml,client-id=a", "is no type"),
            ("github,client-id=a,secret-file=/nonexistent", "cannot read"),
        ] {
            let error = parse(spec).unwrap_err().to_string();
            assert!(error.contains(said), "{spec}: {error}");
            assert!(!error.contains("s3cret"));
        }
    }
}
