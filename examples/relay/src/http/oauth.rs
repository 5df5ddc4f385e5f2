//! Sign-in at a provider: leaving and coming back.

use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::oauth::{BeginError, Callback, LoginError, Pending, Reqwest, ReturnTo, SignedIn};
use katachi_auth::session::{self, TokenDigest};
use katachi_protocol::account::{ProviderOption, SignInOptions, SignInStarted, StartSignIn};
use tracing::{info, warn};

use super::App;
use super::accounts::{Peer, Session, begin_session, cookie, set_cookie};
use super::extract::{JsonBody, PathPart};
use super::identities::{enter, link};
use super::notice::notice;
use crate::config::SignUpPolicy;
use crate::connection::network;
use crate::failure::Failure;
use crate::records::RecordsError;
use crate::records::sign_ins::{self, Held, SignIn};
use crate::records::throttles::Rate;
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
    PathPart(name): PathPart,
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
pub(super) struct Refused {
    status: StatusCode,
    text: String,
}

impl Refused {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
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
    PathPart(name): PathPart,
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
    address: IpAddr,
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
