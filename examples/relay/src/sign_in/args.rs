//! The options of `serve` for providers and mail.

use std::path::{Path, PathBuf};

use clap::Args;
use katachi_protocol::Sensitive;

use super::mail::{MailConfig, MailRoute};
use super::provider::ProviderConfig;
use crate::service::ServeError;

/// Other ways in than a password.
#[derive(Args, Clone, Debug)]
pub struct SignIn {
    /// Provider that people sign in at, as NAME,client-id=ID,secret-file=FILE
    ///
    /// `github` and `google` are known by name; any other OpenID provider is found by
    /// its issuer: `work,issuer=https://id.example,client-id=ID`. Without `secret-file`
    /// the secret is taken from KATACHI_RELAY_PROVIDER_NAME_SECRET. At the provider,
    /// register PUBLIC_URL/signin/NAME as the redirect URI. Give the option once for
    /// each; in the variable, `;` stands between them.
    #[arg(
        long = "provider",
        value_name = "SPEC",
        env = "KATACHI_RELAY_PROVIDERS",
        value_delimiter = ';'
    )]
    pub providers: Vec<String>,

    /// Address that mail is sent from; needs --smtp or --mail-dir
    #[arg(long, value_name = "ADDRESS", env = "KATACHI_RELAY_MAIL_FROM")]
    pub mail_from: Option<String>,

    /// Mail server: smtps://USER@HOST (TLS), smtp://USER@HOST (STARTTLS)
    ///
    /// Never without TLS. The password comes from --smtp-password-file or
    /// KATACHI_RELAY_SMTP_PASSWORD.
    #[arg(
        long,
        value_name = "URL",
        env = "KATACHI_RELAY_SMTP",
        requires = "mail_from",
        conflicts_with = "mail_dir"
    )]
    pub smtp: Option<String>,

    /// File with the password for the mail server
    #[arg(
        long,
        value_name = "FILE",
        env = "KATACHI_RELAY_SMTP_PASSWORD_FILE",
        requires = "smtp"
    )]
    pub smtp_password_file: Option<PathBuf>,

    /// Authority of the mail server's certificate in PEM, beside those of the system
    #[arg(
        long,
        value_name = "FILE",
        env = "KATACHI_RELAY_SMTP_CA",
        requires = "smtp"
    )]
    pub smtp_ca: Option<PathBuf>,

    /// Folder to write mail to, as files, for use on one machine
    #[arg(
        long,
        value_name = "DIR",
        env = "KATACHI_RELAY_MAIL_DIR",
        requires = "mail_from"
    )]
    pub mail_dir: Option<PathBuf>,
}

impl SignIn {
    /// Checks the providers, and reads their secrets.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError::Config`] with the option to change.
    pub fn to_providers(&self) -> Result<Vec<ProviderConfig>, ServeError> {
        let wrong =
            |error: &dyn std::fmt::Display| ServeError::Config(format!("--provider: {error}"));
        let specs = self.providers.iter().filter(|spec| !spec.is_empty());
        let mut providers: Vec<ProviderConfig> = Vec::new();
        for spec in specs {
            let provider = ProviderConfig::parse(spec, variable).map_err(|e| wrong(&e))?;
            if providers
                .iter()
                .any(|other| other.name() == provider.name())
            {
                return Err(wrong(&format!("{} is given twice", provider.name())));
            }
            providers.push(provider);
        }
        Ok(providers)
    }

    /// Checks the options for mail, and reads the password.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError::Config`] with the option to change.
    pub fn to_mail(&self) -> Result<Option<MailConfig>, ServeError> {
        let wrong = |text: String| Err(ServeError::Config(text));
        let route = match (&self.smtp, &self.mail_dir) {
            (Some(url), _) => {
                let password = match &self.smtp_password_file {
                    Some(path) => Some(secret_file(path)?),
                    None => variable("KATACHI_RELAY_SMTP_PASSWORD"),
                };
                let root = match &self.smtp_ca {
                    Some(path) => Some(read(path)?),
                    None => None,
                };
                match MailRoute::parse(url, password, root) {
                    Ok(route) => route,
                    Err(why) => return wrong(format!("--smtp: {why}")),
                }
            }
            (None, Some(folder)) => MailRoute::Folder(folder.clone()),
            (None, None) if self.mail_from.is_some() => {
                return wrong("--mail-from: give --smtp URL or --mail-dir DIR too".to_owned());
            }
            (None, None) => return Ok(None),
        };
        let from = self.mail_from.as_deref().unwrap_or_default();
        match MailConfig::new(from, route) {
            Ok(mail) => Ok(Some(mail)),
            Err(error) => wrong(format!("--mail-from: {error}")),
        }
    }
}

/// A secret out of the environment, where other users of this machine do not see it.
fn variable(name: &str) -> Option<Sensitive> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    value.map(Sensitive::new)
}

/// A secret out of a file, without the line break at its end.
pub(super) fn secret_file(path: &Path) -> Result<Sensitive, ServeError> {
    Ok(Sensitive::new(read(path)?.trim_end_matches(['\r', '\n'])))
}

fn read(path: &Path) -> Result<String, ServeError> {
    std::fs::read_to_string(path)
        .map_err(|error| ServeError::Config(format!("cannot read {}: {error}", path.display())))
}
