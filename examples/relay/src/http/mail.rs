//! Links in mail: an address is verified, a password is reset.
//!
//! What is asked without a session is answered alike whether or not there is an account.

use std::time::Duration;

use axum::extract::State;
use http::StatusCode;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::mail::{Confirmed, Purpose};
use katachi_protocol::Sensitive;
use katachi_protocol::account::{ForgotPassword, ResetPassword, VerifyAddress};

use super::App;
use super::accounts::{Peer, Session, check_password, read_email};
use super::extract::JsonBody;
use crate::connection::network;
use crate::failure::Failure;
use crate::records::throttles::Rate;
use crate::records::users::{self, User};
use crate::records::{MailTokens, SessionRows, identities};
use crate::sign_in::mail::{Job, Post, links};

/// Mail to one address, whoever asks.
const TO_ADDRESS: Rate = Rate {
    what: "mail to",
    burst: 5,
    every: Duration::from_secs(600),
};
/// Mail that one client asks for, to whomever.
const BY_CLIENT: Rate = Rate {
    what: "mail by",
    burst: 10,
    every: Duration::from_secs(60),
};
/// Tokens that one client tries.
const TRIES: Rate = Rate {
    what: "mail token",
    burst: 10,
    every: Duration::from_secs(10),
};

const USED_UP: &str = "this link was used already, is too old, or is not for this account";

impl App {
    fn post(&self) -> Result<&Post, Failure> {
        let none = Failure::NotFound("this relay sends no mail; ask whoever runs it");
        self.post.as_ref().ok_or(none)
    }

    /// Counts a mail to `address`, whoever asks for it.
    pub(super) async fn throttle_mail_to(&self, address: &str) -> Result<(), Failure> {
        self.throttle(TO_ADDRESS, address.to_owned()).await
    }

    /// Where the relay can tell whose an address is, a password alone opens no account
    /// whose address nobody confirmed, and is answered as if there were none: otherwise
    /// whoever signs up and then in would learn whether there was one. The link that
    /// was mailed confirms it; without one another is sent.
    pub(super) async fn confirmed(
        &self,
        user: User,
        token: Option<Sensitive>,
    ) -> Result<User, Failure> {
        let Some(post) = self.post.as_ref().filter(|_| !user.verified) else {
            return Ok(user);
        };
        let Some(token) = token else {
            let account = user.id;
            // It can be asked for again.
            let _ = post.post(Job::Verify { account });
            return Err(Failure::WrongCredentials);
        };
        match self.confirm(&user, token).await {
            Ok(()) => Ok(User {
                verified: true,
                ..user
            }),
            Err(Failure::BadRequest(_)) => Err(Failure::WrongCredentials),
            Err(failure) => Err(failure),
        }
    }

    /// Uses a link up that was sent to the account's address.
    async fn confirm(&self, user: &User, token: Sensitive) -> Result<(), Failure> {
        let tokens = self.records.mail_tokens().of(&user.id);
        let confirmed = redeem(tokens, Purpose::VerifyAddress, token).await?;
        if confirmed.address.key() != user.email {
            return Err(Failure::BadRequest(USED_UP.to_owned()));
        }
        let (id, now) = (user.id.clone(), SystemClock.now().as_unix());
        self.records
            .write(move |tx| users::set_verified(tx, &id, now))
            .await
            .map_err(Failure::internal)?;
        self.audit(&user.id, None, "address_verified").await;
        Ok(())
    }

    /// Where the relay can tell whose an address is, only its owner can lend it to an
    /// agent: the agent's terminal shows it as who approved.
    pub(super) fn require_verified(&self, user: &User) -> Result<(), Failure> {
        if self.post.is_none() || user.verified {
            return Ok(());
        }
        Err(Failure::Forbidden(
            "confirm your e-mail address first: open the link that was sent to it",
        ))
    }
}

/// `POST /api/verify/send`.
pub(super) async fn send_verification(
    State(app): State<App>,
    session: Session,
    Peer(address): Peer,
) -> Result<StatusCode, Failure> {
    let post = app.post()?;
    app.throttle(BY_CLIENT, network(address).to_string())
        .await?;
    app.throttle_mail_to(&session.user.email).await?;
    let account = session.user.id;
    post.post(Job::Verify { account })
        .map_err(|_| Failure::Unavailable)?;
    Ok(StatusCode::ACCEPTED)
}

/// `POST /api/verify`.
///
/// Only for who is signed in to the account: a person who opens a link that somebody
/// else's sign-up sent them must not make that account look like theirs.
pub(super) async fn verify(
    State(app): State<App>,
    session: Session,
    Peer(address): Peer,
    JsonBody(body): JsonBody<VerifyAddress>,
) -> Result<StatusCode, Failure> {
    app.post()?;
    app.throttle(TRIES, network(address).to_string()).await?;
    app.confirm(&session.user, body.token).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/password/forgot`.
pub(super) async fn forgot(
    State(app): State<App>,
    Peer(address): Peer,
    JsonBody(body): JsonBody<ForgotPassword>,
) -> Result<StatusCode, Failure> {
    let post = app.post()?;
    app.throttle(BY_CLIENT, network(address).to_string())
        .await?;
    let email = read_email(&body.email)?;
    app.throttle_mail_to(&email).await?;
    // The account is looked up later, on the thread that sends.
    post.post(Job::Reset { email })
        .map_err(|_| Failure::Unavailable)?;
    Ok(StatusCode::ACCEPTED)
}

/// `POST /api/password/reset`.
pub(super) async fn reset(
    State(app): State<App>,
    Peer(address): Peer,
    JsonBody(body): JsonBody<ResetPassword>,
) -> Result<StatusCode, Failure> {
    let post = app.post()?;
    app.throttle(TRIES, network(address).to_string()).await?;
    check_password(&body.password)?;
    // First, as this may be refused for want of memory, and the link is good once.
    let record = app.passwords.hash(body.password).await?;
    let tokens = app.records.mail_tokens();
    let Confirmed { account, address } = redeem(tokens, Purpose::ResetPassword, body.token).await?;
    let (id, now) = (account.clone(), SystemClock.now().as_unix());
    let ended = app
        .records
        .write(move |tx| {
            tx.lock(&id)?;
            let Some(user) = users::by_id(tx, &id)?.filter(|user| user.email == address.key())
            else {
                return Ok(None);
            };
            if !user.verified {
                // Whoever opened the account may not have been who reads this mail, and
                // must keep no way in.
                identities::unlink_all(tx, &id)?;
                users::set_verified(tx, &id, now)?;
            }
            users::set_password(tx, &id, &record)?;
            // In the same step: whoever was in by the old password is out.
            SessionRows::remove_all_in(tx, &id).map(Some)
        })
        .await
        .map_err(Failure::internal)?;
    let ended = ended.ok_or_else(|| Failure::BadRequest(USED_UP.to_owned()))?;
    app.records.sessions().tell(ended);
    app.audit(&account, None, "password_reset").await;
    // The new password is in force; a notice that is not sent changes nothing.
    let _ = post.post(Job::Changed { account });
    Ok(StatusCode::NO_CONTENT)
}

async fn redeem(
    tokens: MailTokens,
    purpose: Purpose,
    token: Sensitive,
) -> Result<Confirmed, Failure> {
    let redeemed = tokio::task::spawn_blocking(move || {
        links(purpose).redeem(&tokens, purpose, token.expose_secret(), SystemClock.now())
    });
    redeemed
        .await
        .map_err(Failure::internal)?
        .map_err(Failure::internal)?
        .ok_or_else(|| Failure::BadRequest(USED_UP.to_owned()))
}
