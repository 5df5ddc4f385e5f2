//! Mail through an SMTP server, by the `lettre` crate.

use std::fmt;
use std::time::Duration;

use katachi_crypto::SecretString;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{SmtpTransport, Transport as _};

use super::{Address, Mail, MailError, Mailer};

/// How the connection to the server is protected. There is no way without, and none that
/// depends on what the server offers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Security {
    /// TLS from the first byte (RFC 8314); usually port 465.
    Tls,
    /// TLS by STARTTLS before anything else; usually port 587. A server that does not
    /// offer it gets no mail.
    StartTls,
}

/// Sends through one SMTP server.
pub struct SmtpMailer {
    transport: SmtpTransport,
    from: Address,
}

/// For each step of the conversation.
const DEADLINE: Duration = Duration::from_secs(20);

impl SmtpMailer {
    /// Sends from `from` through the server at `host` and `port`, whose certificate must
    /// be for `host` and trusted by the platform, or by `root` (PEM) if given.
    ///
    /// # Errors
    ///
    /// Returns [`MailError::SetUp`] if the certificate or the host's name is none.
    pub fn new(
        (host, port): (&str, u16),
        security: Security,
        credentials: Option<(String, SecretString)>,
        root: Option<&str>,
        from: Address,
    ) -> Result<Self, MailError> {
        let refused = |error: lettre::transport::smtp::Error| MailError::SetUp(error.to_string());
        let mut tls = TlsParameters::builder(host.to_owned());
        if let Some(pem) = root {
            let certificate = Certificate::from_pem(pem.as_bytes()).map_err(refused)?;
            tls = tls.add_root_certificate(certificate);
        }
        let tls = tls.build_rustls().map_err(refused)?;
        let mut builder = SmtpTransport::builder_dangerous(host)
            .port(port)
            .timeout(Some(DEADLINE))
            .tls(match security {
                Security::Tls => Tls::Wrapper(tls),
                Security::StartTls => Tls::Required(tls),
            });
        if let Some((user, password)) = credentials {
            let password = password.expose_secret().to_owned();
            builder = builder.credentials(Credentials::new(user, password));
        }
        Ok(Self {
            transport: builder.build(),
            from,
        })
    }
}

impl Mailer for SmtpMailer {
    fn send(&self, mail: &Mail) -> Result<(), MailError> {
        let message = mail.message(&self.from)?;
        self.transport
            .send(&message)
            .map(drop)
            .map_err(|error| MailError::Refused(error.to_string()))
    }
}

impl fmt::Debug for SmtpMailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpMailer")
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}
