//! Identities elsewhere: the account that one opens, what an account is linked to.
//!
//! An equal e-mail address is no proof of being the same person: only who is signed in
//! to an account links to it.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::oauth::Identity;
use katachi_protocol::account::{Identities, LinkedIdentity};

use super::App;
use super::accounts::{Session, read_email};
use super::extract::PathPart;
use super::oauth::Refused;
use crate::config::SignUpPolicy;
use crate::connection::network;
use crate::failure::Failure;
use crate::records::identities::{self, Linked, MOST_IDENTITIES, Who};
use crate::records::new_id;
use crate::records::users::{self, User};

/// The account that the identity opens, or a new one.
pub(super) async fn enter(
    app: &App,
    address: IpAddr,
    label: &str,
    identity: Identity,
) -> Result<String, Refused> {
    let who = identity.clone();
    let known = app
        .records
        .read(move |tx| identities::account(tx, who_is(&who)))
        .await?;
    if let Some(account) = known {
        return Ok(account);
    }
    let forbidden = |text: String| Refused::new(StatusCode::FORBIDDEN, text);
    if app.sign_up == SignUpPolicy::Closed {
        return Err(forbidden(format!(
            "No account here is linked to this {label} account, and this relay opens no new ones."
        )));
    }
    app.throttles.sign_up.take(network(address)).await?;
    // Nobody else's address: an agent's owner recognises an account by it.
    let vouched = identity.verified_email().map(read_email);
    let Some(Ok(email)) = vouched else {
        return Err(forbidden(format!(
            "{label} does not vouch for an e-mail address of yours, and an account here needs \
             one. Verify your address there, or create an account here by password and link \
             {label} to it."
        )));
    };
    let user = User {
        id: new_id().map_err(Failure::internal)?,
        email,
        verified: true,
    };
    let (records, row, now) = (app.records.clone(), user, SystemClock.now().as_unix());
    let linked = linked(&identity, now)?;
    let entered = app
        .records
        .write(move |tx| {
            // Who comes twice at once gets one account.
            tx.lock("identities")?;
            if let Some(account) = identities::account(tx, who_is(&identity))? {
                return Ok(Some((account, false)));
            }
            let key = records.new_tenant_key(&row.id)?;
            if !users::create(tx, &row, None, &key, now)? {
                return Ok(None);
            }
            identities::link(tx, &row.id, &identity.subject, &linked)?;
            Ok(Some((row.id, true)))
        })
        .await?;
    // An equal address is no proof of being the same person (RFC 9700 and OpenID Connect
    // Core section 5.7): whoever has the account links it from inside.
    let Some((account, new)) = entered else {
        return Err(Refused::new(
            StatusCode::CONFLICT,
            format!(
                "There is an account here with the address that {label} gave. Sign in to it, and \
                 link {label} there."
            ),
        ));
    };
    if new {
        app.audit(&account, None, "account_created").await;
    }
    Ok(account)
}

/// Links an identity to an account whose owner is signed in and asked for it.
pub(super) async fn link(
    app: &App,
    account: &str,
    label: &str,
    identity: Identity,
) -> Result<(), Refused> {
    let linked = linked(&identity, SystemClock.now().as_unix())?;
    let user_id = account.to_owned();
    let outcome = app
        .records
        .write(move |tx| {
            tx.lock(&user_id)?;
            if let Some(owner) = identities::account(tx, who_is(&identity))? {
                return Ok(match owner == user_id {
                    true => Linking::Before,
                    false => Linking::Taken,
                });
            }
            if identities::of(tx, &user_id)?.len() >= MOST_IDENTITIES {
                return Ok(Linking::Full);
            }
            let done = identities::link(tx, &user_id, &identity.subject, &linked)?;
            Ok(if done { Linking::Done } else { Linking::Taken })
        })
        .await?;
    let conflict = |text: String| Err(Refused::new(StatusCode::CONFLICT, text));
    match outcome {
        Linking::Before => Ok(()),
        Linking::Done => {
            app.audit(account, None, "identity_linked").await;
            Ok(())
        }
        Linking::Taken => conflict(format!(
            "This {label} account opens another account here. Unlink it there first."
        )),
        Linking::Full => conflict("This account has as many links as it can have.".to_owned()),
    }
}

enum Linking {
    Done,
    Before,
    Taken,
    Full,
}

fn who_is(identity: &Identity) -> Who<'_> {
    Who {
        issuer: &identity.issuer,
        subject: &identity.subject,
    }
}

fn linked(identity: &Identity, now: u64) -> Result<Linked, Refused> {
    let address = identity.email.as_ref().map(|email| &email.address);
    let label = identity.name.as_ref().or(address);
    Ok(Linked {
        id: new_id()?,
        issuer: identity.issuer.clone(),
        // What a provider sends is shown as text, and not without end.
        label: label
            .unwrap_or(&identity.subject)
            .chars()
            .take(100)
            .collect(),
        linked_at: now,
    })
}

/// `GET /api/identities`.
pub(super) async fn list(
    State(app): State<App>,
    session: Session,
) -> Result<Json<Identities>, Failure> {
    let id = session.user.id;
    let (password, linked) = app
        .records
        .read(move |tx| Ok((users::has_password(tx, &id)?, identities::of(tx, &id)?)))
        .await
        .map_err(Failure::internal)?;
    let shown = linked.into_iter().map(|linked| LinkedIdentity {
        provider: app
            .providers
            .label_of(&linked.issuer)
            .unwrap_or(&linked.issuer)
            .to_owned(),
        id: linked.id,
        label: linked.label,
        linked_at: linked.linked_at,
    });
    Ok(Json(Identities {
        password,
        identities: shown.collect(),
    }))
}

/// `DELETE /api/identities/{id}`.
pub(super) async fn unlink(
    State(app): State<App>,
    session: Session,
    PathPart(id): PathPart,
) -> Result<StatusCode, Failure> {
    let (user_id, asked) = (session.user.id.clone(), app.clone());
    let unlinked = app
        .records
        .write(move |tx| {
            tx.lock(&user_id)?;
            let linked = identities::of(tx, &user_id)?;
            // One whose provider this relay no longer knows opens nothing.
            let another_way = linked
                .iter()
                .any(|other| other.id != id && asked.providers.label_of(&other.issuer).is_some());
            if !another_way && !users::has_password(tx, &user_id)? {
                return Ok(None);
            }
            identities::unlink(tx, &user_id, &id).map(Some)
        })
        .await
        .map_err(Failure::internal)?;
    match unlinked {
        None => Err(Failure::Conflict(
            "this is the only way into your account; link another or set a password first",
        )),
        Some(false) => Err(Failure::NotFound("there is no such link")),
        Some(true) => {
            app.audit(&session.user.id, None, "identity_unlinked").await;
            Ok(StatusCode::NO_CONTENT)
        }
    }
}
