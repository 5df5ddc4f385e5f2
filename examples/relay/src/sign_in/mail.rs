//! Mail that proves an address or resets a password: where it goes, what it says, and
//! the thread that writes and sends it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::mail::{
    Address, FileMailer, Links, Mail, MailError, Mailer, Outbox, OutboxFull, ParseAddressError,
    Purpose, Security, SmtpMailer,
};
use katachi_auth::session::Token;
use katachi_crypto::SecretString;
use katachi_protocol::Sensitive;
use tracing::{info, warn};

use crate::config::PublicUrl;
use crate::records::users::{self, User};
use crate::records::{Records, RecordsError, audit, new_id};

/// Who mail is from, and how it goes out.
#[derive(Clone, Debug)]
pub struct MailConfig {
    from: Address,
    route: MailRoute,
}

/// How mail goes out.
#[derive(Clone, Debug)]
pub enum MailRoute {
    /// Into a folder, as files: for use on one machine.
    Folder(PathBuf),
    /// Through an SMTP server, over TLS alone.
    Smtp {
        /// Its name, which its certificate is for.
        host: String,
        /// Its port.
        port: u16,
        /// TLS from the first byte, or by STARTTLS.
        starttls: bool,
        /// User and password, if it asks for them.
        credentials: Option<(String, Sensitive)>,
        /// An authority beside those of the system, in PEM.
        root: Option<String>,
    },
}

impl MailRoute {
    /// Reads `smtps://USER@HOST:PORT` or `smtp://…`, which begins by STARTTLS.
    pub(super) fn parse(
        url: &str,
        password: Option<Sensitive>,
        root: Option<String>,
    ) -> Result<Self, String> {
        let shape = "write smtps://USER@HOST:PORT, or smtp://… for STARTTLS";
        let (starttls, usual, rest) = match url.split_once("://") {
            Some(("smtps", rest)) => (false, 465, rest),
            Some(("smtp", rest)) => (true, 587, rest),
            _ => return Err(shape.to_owned()),
        };
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err("a password does not belong into the URL; write --smtp-password-file FILE or set KATACHI_RELAY_SMTP_PASSWORD".to_owned());
        }
        let place: http::uri::Authority = place
            .trim_end_matches('/')
            .parse()
            .map_err(|_| shape.to_owned())?;
        let credentials = match (user.filter(|user| !user.is_empty()), password) {
            (Some(user), Some(password)) => Some((user.replace("%40", "@"), password)),
            (None, None) => None,
            (Some(_), None) => return Err("the password is missing; write --smtp-password-file FILE or set KATACHI_RELAY_SMTP_PASSWORD".to_owned()),
            (None, Some(_)) => return Err(format!("there is a password and no user; {shape}")),
        };
        Ok(Self::Smtp {
            host: place.host().to_owned(),
            port: place.port_u16().unwrap_or(usual),
            starttls,
            credentials,
            root,
        })
    }
}

impl MailConfig {
    /// Mail from this address.
    ///
    /// # Errors
    ///
    /// Returns an error if it is no address.
    pub fn new(from: &str, route: MailRoute) -> Result<Self, ParseAddressError> {
        Ok(Self {
            from: Address::parse(from)?,
            route,
        })
    }

    /// What sends.
    pub(crate) fn mailer(self) -> Result<Box<dyn Mailer>, MailError> {
        Ok(match self.route {
            MailRoute::Folder(folder) => Box::new(
                FileMailer::new(&folder, self.from)
                    .map_err(|error| MailError::SetUp(format!("{}: {error}", folder.display())))?,
            ),
            MailRoute::Smtp {
                host,
                port,
                starttls,
                credentials,
                root,
            } => {
                let security = if starttls {
                    Security::StartTls
                } else {
                    Security::Tls
                };
                let credentials = credentials.map(|(user, password)| {
                    (user, SecretString::new(password.expose_secret().to_owned()))
                });
                let place = (host.as_str(), port);
                Box::new(SmtpMailer::new(
                    place,
                    security,
                    credentials,
                    root.as_deref(),
                    self.from,
                )?)
            }
        })
    }
}

/// Links that verify an address: good for a day.
const VERIFYING: Links = Links::new(Duration::from_secs(24 * 3600), REST);
/// Links that reset a password: good for half an hour.
const RESETTING: Links = Links::new(Duration::from_secs(1800), REST);
/// An account gets one of each in this time.
const REST: Duration = Duration::from_secs(60);

/// The links of a purpose.
pub(crate) const fn links(purpose: Purpose) -> Links {
    match purpose {
        Purpose::VerifyAddress => VERIFYING,
        Purpose::ResetPassword => RESETTING,
    }
}

/// Most mails that wait.
const MOST_WAITING: usize = 256;

/// What a mail is to be about. Whether there is an account is looked up by the thread
/// that sends, so that nobody learns it from the time of an answer.
#[derive(Debug)]
pub(crate) enum Job {
    /// Opens an account with this Argon2id record, if there is none with the address,
    /// and tells the address.
    Open { email: String, record: Sensitive },
    /// A link that verifies the account's address.
    Verify { account: String },
    /// A link that resets the password of whoever has this address here.
    Reset { email: String },
    /// The password was reset.
    Changed { account: String },
}

/// Takes jobs in, and mails out.
#[derive(Debug)]
pub(crate) struct Post {
    outbox: Option<Outbox<Job>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    closing: AtomicBool,
}

impl Counts {
    fn done(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Post {
    /// Starts the thread.
    pub(crate) fn start(
        mailer: Box<dyn Mailer>,
        records: Records,
        public: PublicUrl,
    ) -> std::io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let (writing, sending) = (Arc::clone(&counts), Arc::clone(&counts));
        let write = move |job: Job| {
            let closing = writing.closing.load(Ordering::Relaxed);
            let mail = match (!closing).then(|| write(&records, &public, &job)) {
                Some(Ok(mail)) => mail,
                Some(Err(error)) => {
                    warn!(%error, "could not write a mail");
                    None
                }
                None => None,
            };
            if mail.is_none() {
                writing.done();
            }
            mail
        };
        let counting = Counting {
            mailer,
            counts: sending,
        };
        let failed = |error| warn!(%error, "could not send a mail");
        let outbox = Outbox::start(counting, MOST_WAITING, write, failed)?;
        Ok(Self {
            outbox: Some(outbox),
            counts,
        })
    }

    /// Hands a job in; the answer tells nothing about the account.
    pub(crate) fn post(&self, job: Job) -> Result<(), OutboxFull> {
        let outbox = self.outbox.as_ref().ok_or(OutboxFull)?;
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        outbox.post(job).inspect_err(|_| self.counts.done())
    }

    /// Waits until everything that was handed in is sent, and not for long.
    pub(crate) async fn drain(&self, within: Duration) {
        let all_sent = async {
            while self.counts.waiting.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(within, all_sent).await.is_err() {
            warn!("stopping with mail that was not sent");
        }
    }
}

impl Drop for Post {
    /// The thread ends by itself; it may be waiting for the runtime that this runs on.
    fn drop(&mut self) {
        self.counts.closing.store(true, Ordering::Relaxed);
        if let Some(outbox) = self.outbox.take() {
            std::thread::spawn(move || drop(outbox));
        }
    }
}

struct Counting {
    mailer: Box<dyn Mailer>,
    counts: Arc<Counts>,
}

impl Mailer for Counting {
    fn send(&self, mail: &Mail) -> Result<(), MailError> {
        let sent = self.mailer.send(mail);
        self.counts.done();
        info!(sent = sent.is_ok(), "mail");
        sent
    }
}

/// What keeps a mail from being written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Store(#[from] katachi_auth::replay::Unavailable),
    #[error(transparent)]
    Mail(#[from] MailError),
}

fn write(records: &Records, public: &PublicUrl, job: &Job) -> Result<Option<Mail>, WriteError> {
    if let Job::Open { email, record } = job {
        open(records, email, record)?;
    }
    let user = records.read_now(|tx| match job {
        Job::Verify { account } | Job::Changed { account } => users::by_id(tx, account),
        Job::Open { email, .. } | Job::Reset { email } => {
            Ok(users::by_email(tx, email)?.map(|known| known.user))
        }
    })?;
    let Some((user, to)) = user.and_then(|user| {
        let to = Address::parse(&user.email).ok()?;
        Some((user, to))
    }) else {
        return Ok(None);
    };
    let purpose = match job {
        Job::Verify { .. } if user.verified => return Ok(None),
        Job::Open { .. } if user.verified => {
            let text = format!(
                "Somebody wanted to open an account at {public} with this address, which has one \
                 already.\n\nIf it was you, sign in there; the same page helps with a forgotten \
                 password. If it was not you, do nothing: whoever it was has not been told that \
                 there is an account.\n"
            );
            let subject = "You have an account already";
            return Ok(Some(Mail::new(to, subject, SecretString::new(text))?));
        }
        Job::Open { .. } | Job::Verify { .. } => Purpose::VerifyAddress,
        Job::Reset { .. } => Purpose::ResetPassword,
        Job::Changed { .. } => {
            let text = format!(
                "The password of your account at {public} was changed, by a link that was sent to \
                 this address.\nEverybody who was signed in is signed out.\n\nIf that was not \
                 you, somebody else reads your mail.\n"
            );
            let subject = "Your password was changed";
            return Ok(Some(Mail::new(to, subject, SecretString::new(text))?));
        }
    };
    let store = records.mail_tokens();
    let issued = links(purpose).issue(&store, purpose, &user.id, &to, SystemClock.now())?;
    issued
        .map(|token| Ok(link(purpose, public, to, &token)?))
        .transpose()
}

/// Opens an account that nobody can sign in to before its address is confirmed.
fn open(records: &Records, email: &str, record: &Sensitive) -> Result<(), WriteError> {
    let user = User {
        id: new_id()?,
        email: email.to_owned(),
        verified: false,
    };
    let now = SystemClock.now().as_unix();
    let event = audit::Event {
        at: now,
        agent_id: None,
        action: "account_created",
        detail: String::new(),
    };
    records.write_now(|tx| {
        let key = records.new_tenant_key(&user.id)?;
        if users::create(tx, &user, Some(record.expose_secret()), &key, now)? {
            audit::append(tx, &records.audit_key(), &user.id, &event)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// The token stands in the fragment, which browsers send to nobody.
fn link(
    purpose: Purpose,
    public: &PublicUrl,
    to: Address,
    token: &Token,
) -> Result<Mail, MailError> {
    let token = token.expose_secret();
    let (subject, text) = match purpose {
        Purpose::VerifyAddress => (
            "Confirm your address",
            format!(
                "Somebody opened an account at {public} with this address.\n\nIf it was you, open \
                 this link and sign in with the password that you chose:\n\n\
                 {public}/#verify/{token}\n\nIt is good for a day, once. If the password is not \
                 taken, somebody else chose it before: set a new one by \"Forgot your \
                 password?\". If it was not you, do nothing, and nobody can use your address \
                 there.\n"
            ),
        ),
        Purpose::ResetPassword => (
            "Reset your password",
            format!(
                "Somebody asked for a new password for your account at {public}.\n\nIf it was \
                 you, open this link:\n\n{public}/#reset/{token}\n\nIt is good for 30 minutes, \
                 once. If it was not you, do nothing: your password stays as it is.\n"
            ),
        ),
    };
    Mail::new(to, subject, SecretString::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, password: Option<&str>) -> Result<MailRoute, String> {
        MailRoute::parse(url, password.map(Sensitive::new), None)
    }

    #[test]
    fn a_mail_server_is_reached_by_tls_alone() {
        let route = parse("smtps://relay%40example.org@mail.example.org", Some("x")).unwrap();
        assert!(
            matches!(route, MailRoute::Smtp { host, port: 465, starttls: false, credentials: Some((user, _)), .. }
                if host == "mail.example.org" && user == "relay@example.org")
        );
        let route = parse("smtp://127.0.0.1:2525", None).unwrap();
        assert!(matches!(
            route,
            MailRoute::Smtp {
                port: 2525,
                starttls: true,
                credentials: None,
                ..
            }
        ));
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        let refused = parse("smtps://ana:s3cret@mail.example", None).unwrap_err();
        assert!(refused.contains("--smtp-password-file") && !refused.contains("s3cret"));
        for (url, password) in [
            ("mail.example", None),
            ("http://mail.example", None),
            ("smtps://", None),
            ("smtps://ana@mail.example", None),
            ("smtps://mail.example", Some("x")),
        ] {
            assert!(parse(url, password).is_err(), "{url}");
        }
    }
}
