//! Sign-in at a provider: leaving, coming back, and what is linked.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::oauth::{
    BeginError, Callback, Identity, LoginError, Pending, Reqwest, ReturnTo, SignedIn,
};
use katachi_auth::session::{self, TokenDigest};
use katachi_protocol::account::{
    Identities, LinkedIdentity, ProviderOption, SignInOptions, SignInStarted, StartSignIn,
};
use tracing::{info, warn};

use super::App;
use super::accounts::{Peer, Session, begin_session, cookie, read_email, set_cookie};
use super::extract::JsonBody;
use super::notice::notice;
use crate::config::SignUpPolicy;
use crate::connection::network;
use crate::failure::Failure;
use crate::records::identities::{self, Linked, MOST_IDENTITIES, Who};
use crate::records::sign_ins::{self, Held, SignIn};
use crate::records::throttles::Rate;
use crate::records::users::{self, User};
use crate::records::{RecordsError, new_id};
use crate::sign_in::provider::Known;

/// The cookie's name after `__Host-`.
const COOKIE_NAME: &str = "katachi-signin";
/// How long a person has at the provider.
const LIFETIME: Duration = Duration::from_secs(600);
/// For everything that a provider is asked when somebody comes back.
const DEADLINE: Duration = Duration::from_secs(20);

const STARTS: Rate = Rate {
    what: "sign-in",
    burst: 20,
    every: Duration::from_secs(3),
};

/// `GET /api/signin`.
pub(super) async fn options(State(app): State<App>) -> Json<SignInOptions> {
    let providers = app.providers.iter().map(|provider| ProviderOption {
        name: provider.name().to_owned(),
        label: provider.label().to_owned(),
    });
    Json(SignInOptions {
        providers: providers.collect(),
        mail: app.post.is_some(),
        sign_up: app.sign_up == SignUpPolicy::Open,
    })
}

/// `POST /api/signin/{provider}`.
pub(super) async fn start(
    State(app): State<App>,
    Peer(address): Peer,
    session: Result<Session, Failure>,
    Path(name): Path<String>,
    JsonBody(request): JsonBody<StartSignIn>,
) -> Result<Response, Failure> {
    let link_to = match request.link {
        true => Some(session?.user.id),
        false => None,
    };
    let return_to = match request.return_to.as_deref() {
        None => ReturnTo::root(),
        Some(path) => ReturnTo::parse(path).map_err(|e| Failure::BadRequest(e.to_string()))?,
    };
    let (known, http) = app
        .providers
        .find(&name)
        .ok_or(Failure::NotFound("there is no such provider"))?;
    app.throttle(STARTS, network(address).to_string()).await?;
    let provider = known
        .provider(http)
        .await
        .map_err(|_| Failure::Upstream(silent(known.label())))?;
    let (held, now) = (Held::default(), SystemClock.now());
    let begun = provider
        .begin(&held, return_to, now)
        .map_err(|error| match error {
            BeginError::Full => Failure::Unavailable,
            error => Failure::internal(error),
        })?;
    let pending = held
        .into_inner()
        .ok_or_else(|| Failure::internal("a sign-in that was not kept"))?;
    let sign_in = SignIn { pending, link_to };
    let kept = app
        .records
        .write(move |tx| sign_ins::insert(tx, &sign_in, now))
        .await
        .map_err(Failure::internal)?;
    if !kept {
        return Err(Failure::Unavailable);
    }
    let mut response = Json(SignInStarted {
        url: begun.url.clone(),
    })
    .into_response();
    set_cookie(
        &mut response,
        &begun.cookie.set_cookie(COOKIE_NAME, LIFETIME),
    )?;
    Ok(response)
}

/// Why nobody came in: what the person reads.
struct Refused {
    status: StatusCode,
    text: String,
}

impl Refused {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { status, text }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::new(failure.status(), failure.problem().message)
    }
}

impl From<RecordsError> for Refused {
    fn from(error: RecordsError) -> Self {
        Failure::internal(error).into()
    }
}

/// `GET /signin/{provider}`: the browser comes back.
pub(super) async fn back(
    State(app): State<App>,
    Peer(address): Peer,
    session: Result<Session, Failure>,
    headers: HeaderMap,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Failure> {
    let query = query.unwrap_or_default();
    let came = come_back(&app, address, session.ok(), &headers, &name, &query).await;
    let mut response = match came {
        Ok(response) => response,
        Err(refused) => {
            info!(
                provider = name,
                status = refused.status.as_u16(),
                "nobody signed in"
            );
            notice(refused.status, "That did not work", &refused.text)
        }
    };
    set_cookie(&mut response, &session::clear_cookie(COOKIE_NAME))?;
    Ok(response)
}

const NOT_BEGUN: &str = "This sign-in was not begun in this browser, was used already, or took \
    longer than ten minutes. Begin again.";

async fn come_back(
    app: &App,
    address: std::net::IpAddr,
    session: Option<Session>,
    headers: &HeaderMap,
    name: &str,
    query: &str,
) -> Result<Response, Refused> {
    let not_begun = || Refused::new(StatusCode::BAD_REQUEST, NOT_BEGUN);
    let (known, http) = app
        .providers
        .find(name)
        .ok_or(Failure::NotFound("there is no such provider"))?;
    let callback = Callback::parse(query).map_err(|_| not_begun())?;
    let cookie = cookie(headers, COOKIE_NAME).ok_or_else(not_begun)?;
    let state = TokenDigest::of(callback.state());
    let SignIn { pending, link_to } = app
        .records
        .write(move |tx| sign_ins::take(tx, &state))
        .await?
        .ok_or_else(not_begun)?;
    let label = known.label();
    let _place = app.providers.place().ok_or(Failure::Unavailable)?;
    let asked = ask(known, http, pending, &callback, cookie);
    let signed_in = tokio::time::timeout(DEADLINE, asked)
        .await
        .map_err(|_| late(label))??;
    let SignedIn {
        identity,
        return_to,
        ..
    } = signed_in;
    let mut response = StatusCode::SEE_OTHER.into_response();
    let location = HeaderValue::from_str(return_to.as_str()).map_err(Failure::internal)?;
    response.headers_mut().insert(LOCATION, location);
    match link_to {
        Some(account) => {
            let same = session.is_some_and(|session| session.user.id == account);
            if !same {
                return Err(Refused::new(
                    StatusCode::FORBIDDEN,
                    "You are no longer signed in to the account that you wanted to link. Sign in \
                     to it and begin again.",
                ));
            }
            link(app, &account, label, identity).await?;
        }
        None => {
            let user = enter(app, address, label, identity).await?;
            app.audit(&user, None, "signed_in").await;
            let token = begin_session(app, headers, &user).await?;
            set_cookie(&mut response, &app.session_cookie(&token))?;
        }
    }
    Ok(response)
}

/// Asks the provider who came back.
async fn ask(
    known: &Known,
    http: &Reqwest,
    pending: Pending,
    callback: &Callback,
    cookie: &str,
) -> Result<SignedIn, Refused> {
    let label = known.label();
    let provider = known.provider(http).await.map_err(|_| late(label))?;
    let held = Held::new(pending);
    let finished = provider
        .finish(http, &held, callback, cookie, SystemClock.now())
        .await;
    finished.map_err(|error| explain(label, &error))
}

fn late(label: &str) -> Refused {
    Refused::new(StatusCode::BAD_GATEWAY, silent(label))
}

/// The account that the identity opens, or a new one.
async fn enter(
    app: &App,
    address: std::net::IpAddr,
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
async fn link(app: &App, account: &str, label: &str, identity: Identity) -> Result<(), Refused> {
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

fn silent(label: &str) -> String {
    format!("{label} does not answer now. Try again later, or sign in another way.")
}

/// In plain words; the reason goes to the log.
fn explain(label: &str, error: &LoginError) -> Refused {
    warn!(provider = label, %error, "a sign-in failed");
    let text = match error {
        LoginError::State => NOT_BEGUN.to_owned(),
        LoginError::MixedUp => {
            format!("This answer is not from {label}, where you wanted to sign in. Begin again.")
        }
        LoginError::Denied(code) if code == "access_denied" => {
            format!("{label} says that you did not agree. Nothing was changed.")
        }
        LoginError::Denied(code) => format!("{label} refused: {code}."),
        LoginError::Code(_) | LoginError::IdToken(_) => {
            format!("What {label} sent could not be verified. Begin again.")
        }
        LoginError::Answer(_) | LoginError::Fetch(_) => silent(label),
        _ => "The relay cannot do this now. Try again later.".to_owned(),
    };
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    Refused::new(status, text)
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
    Path(id): Path<String>,
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
