//! Accounts: sign up, sign in, sign out, and the session of a request.

use std::net::IpAddr;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use http::header::{COOKIE, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::password::Verdict;
use katachi_auth::session::{self, SessionStore as _, Token, TokenDigest};
use katachi_protocol::Sensitive;
use katachi_protocol::account::{LogIn, Me, SessionState, SignUp};

use super::App;
use super::extract::JsonBody;
use crate::config::SignUpPolicy;
use crate::connection::{Connection, network};
use crate::failure::Failure;
use crate::records::new_id;
use crate::records::users::{self, User};
use crate::sign_in::mail::Job;

/// The cookie's name after `__Host-`.
const COOKIE_NAME: &str = "katachi";
const MIN_PASSWORD: usize = 10;
const MAX_PASSWORD: usize = 1024;

/// The address of the connection, whatever headers say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let connection = parts.extensions.get::<Connection>();
        connection
            .map(|connection| Self(connection.peer.ip()))
            .ok_or_else(|| Failure::internal("a request without its connection"))
    }
}

/// The signed-in person behind a request.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) user: User,
    /// Names the session, and opens nothing.
    pub(super) digest: TokenDigest,
    expires: u64,
}

impl FromRequestParts<App> for Session {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let token = cookie(&parts.headers, COOKIE_NAME)
            .ok_or(Failure::Unauthorized)?
            .to_owned();
        let checker = app.clone();
        let found = tokio::task::spawn_blocking(move || {
            let now = SystemClock.now();
            checker
                .sessions
                .check(&checker.records.sessions(), &token, now)
        });
        let live = found
            .await
            .map_err(Failure::internal)?
            .map_err(Failure::internal)?;
        let live = live.ok_or(Failure::Unauthorized)?;
        let account = live.account.clone();
        let user = app
            .records
            .read(move |tx| users::by_id(tx, &account))
            .await
            .map_err(Failure::internal)?;
        Ok(Self {
            user: user.ok_or(Failure::Unauthorized)?,
            digest: live.digest,
            expires: SystemClock
                .now()
                .after(app.sessions.lifetimes().idle)
                .as_unix(),
        })
    }
}

/// `POST /api/signup`.
pub(super) async fn sign_up(
    State(app): State<App>,
    Peer(address): Peer,
    headers: HeaderMap,
    JsonBody(request): JsonBody<SignUp>,
) -> Result<Response, Failure> {
    if app.sign_up == SignUpPolicy::Closed {
        return Err(Failure::Forbidden("this relay opens no new accounts"));
    }
    app.throttles.sign_up.take(network(address)).await?;
    let email = read_email(&request.email)?;
    check_password(&request.password)?;
    if app.post.is_some() {
        app.throttle_mail_to(&email).await?;
    }
    let record = app.passwords.hash(request.password).await?;
    if let Some(post) = &app.post {
        // Whether the address has an account is looked up later, on the thread that
        // sends: its owner alone hears it.
        let record = Sensitive::new(record);
        post.post(Job::Open { email, record })
            .map_err(|_| Failure::Unavailable)?;
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    let user = User {
        id: new_id().map_err(Failure::internal)?,
        email,
        verified: false,
    };
    let (records, row, now) = (
        app.records.clone(),
        user.clone(),
        SystemClock.now().as_unix(),
    );
    let created = app
        .records
        .write(move |tx| {
            let key = records.new_tenant_key(&row.id)?;
            users::create(tx, &row, Some(&record), &key, now)
        })
        .await
        .map_err(Failure::internal)?;
    if !created {
        return Err(Failure::Conflict(
            "there is an account with this e-mail address; sign in instead",
        ));
    }
    app.audit(&user.id, None, "account_created").await;
    begin(&app, &headers, user, StatusCode::CREATED).await
}

/// `POST /api/login`.
pub(super) async fn log_in(
    State(app): State<App>,
    Peer(address): Peer,
    headers: HeaderMap,
    JsonBody(request): JsonBody<LogIn>,
) -> Result<Response, Failure> {
    app.throttles.log_in.take(network(address)).await?;
    let email = read_email(&request.email).map_err(|_| Failure::WrongCredentials)?;
    app.throttles.account.take(email.clone()).await?;
    if request.password.expose_secret().len() > MAX_PASSWORD {
        return Err(Failure::TooLarge);
    }
    let known = app
        .records
        .read(move |tx| users::by_email(tx, &email))
        .await
        .map_err(Failure::internal)?;
    let (user, record) = known.map_or((None, None), |known| (Some(known.user), known.password));
    // Without an account the work is the same.
    let verdict = app.passwords.verify(request.password, record).await?;
    let (Some(user), Verdict::Right { replace }) = (user, verdict) else {
        return Err(Failure::WrongCredentials);
    };
    let user = app.confirmed(user, request.token).await?;
    if let Some(record) = replace.map(|record| record.to_string()) {
        let id = user.id.clone();
        app.records
            .write(move |tx| users::set_password(tx, &id, &record))
            .await
            .map_err(Failure::internal)?;
    }
    app.audit(&user.id, None, "signed_in").await;
    begin(&app, &headers, user, StatusCode::OK).await
}

/// `POST /api/logout`.
pub(super) async fn log_out(
    State(app): State<App>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    end(&app, &headers).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    set_cookie(&mut response, &session::clear_cookie(COOKIE_NAME))?;
    Ok(response)
}

/// `GET /api/me`.
pub(super) async fn me(session: Session) -> Json<Me> {
    Json(Me {
        id: session.user.id,
        email: session.user.email,
        verified: session.user.verified,
        session_expires: session.expires,
    })
}

/// `GET /api/session`.
pub(super) async fn session(
    session: Result<Session, Failure>,
) -> Result<Json<SessionState>, Failure> {
    match session {
        Ok(session) => {
            let Json(me) = me(session).await;
            Ok(Json(SessionState { me: Some(me) }))
        }
        Err(Failure::Unauthorized) => Ok(Json(SessionState { me: None })),
        Err(failure) => Err(failure),
    }
}

impl App {
    /// What keeps a session in a browser.
    pub(super) fn session_cookie(&self, token: &Token) -> String {
        token.set_cookie(COOKIE_NAME, self.sessions.lifetimes().absolute)
    }

    /// Whether the session is still there and not too old. It does not count as
    /// being used.
    pub(super) async fn session_lives(&self, digest: TokenDigest) -> bool {
        let app = self.clone();
        let found = tokio::task::spawn_blocking(move || app.records.sessions().find(&digest)).await;
        let lifetimes = self.sessions.lifetimes();
        // Unsure is over: the browser only has to open another channel.
        matches!(found, Ok(Ok(Some(session))) if !lifetimes.ended(&session, SystemClock.now()))
    }
}

/// Ends the session that the browser has, if it has one.
async fn end(app: &App, headers: &HeaderMap) -> Result<(), Failure> {
    let Some(token) = cookie(headers, COOKIE_NAME).map(str::to_owned) else {
        return Ok(());
    };
    let ender = app.clone();
    let ended =
        tokio::task::spawn_blocking(move || ender.sessions.end(&ender.records.sessions(), &token));
    ended
        .await
        .map_err(Failure::internal)?
        .map_err(Failure::internal)
}

/// Begins a session for who signed in, and tells them who they are.
async fn begin(
    app: &App,
    headers: &HeaderMap,
    user: User,
    status: StatusCode,
) -> Result<Response, Failure> {
    let token = begin_session(app, headers, &user.id).await?;
    let idle = app.sessions.lifetimes().idle;
    let me = Me {
        id: user.id,
        email: user.email,
        verified: user.verified,
        session_expires: SystemClock.now().after(idle).as_unix(),
    };
    let mut response = (status, Json(me)).into_response();
    set_cookie(&mut response, &app.session_cookie(&token))?;
    Ok(response)
}

/// Begins a session, with a token that was never used before, in place of the
/// one that the browser had.
pub(super) async fn begin_session(
    app: &App,
    headers: &HeaderMap,
    account: &str,
) -> Result<Token, Failure> {
    end(app, headers).await?;
    let (beginner, account, now) = (app.clone(), account.to_owned(), SystemClock.now());
    let begun = tokio::task::spawn_blocking(move || -> Result<Token, _> {
        beginner
            .sessions
            .begin(&beginner.records.sessions(), &account, now)
    });
    begun
        .await
        .map_err(Failure::internal)?
        .map_err(Failure::internal)
}

pub(super) fn set_cookie(response: &mut Response, cookie: &str) -> Result<(), Failure> {
    let mut value = HeaderValue::from_str(cookie).map_err(Failure::internal)?;
    value.set_sensitive(true);
    response.headers_mut().append(SET_COOKIE, value);
    Ok(())
}

/// Refuses a password that is too short to keep, or too long to hash.
pub(super) fn check_password(password: &Sensitive) -> Result<(), Failure> {
    match password.expose_secret().len() {
        ..MIN_PASSWORD => Err(Failure::BadRequest(
            "a password has at least 10 bytes".to_owned(),
        )),
        MIN_PASSWORD..=MAX_PASSWORD => Ok(()),
        _ => Err(Failure::TooLarge),
    }
}

/// The value of a cookie of ours; HTTP/2 may split cookies over several headers.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut found = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| session::cookie(value.to_str().ok()?, name));
    let first = found.next();
    if found.next().is_some() { None } else { first }
}

/// Lower case, with something on both sides of one `@`. Whether mail arrives
/// there is another question.
///
/// ASCII alone: an agent's owner recognises the account that approved it by
/// its address, so that no two of them may look alike.
pub(super) fn read_email(text: &str) -> Result<String, Failure> {
    let wrong = || {
        Failure::BadRequest("this is not an e-mail address; it has ASCII characters alone, and other domains are written as xn--"
            .to_owned())
    };
    let email = text.trim().to_lowercase();
    let (local, domain) = email.split_once('@').ok_or_else(wrong)?;
    let fits = email.len() <= 254
        && !local.is_empty()
        && !domain.is_empty()
        && !domain.contains('@')
        && email.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(email) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::read_email;

    #[test]
    fn an_address_is_one_whatever_its_case() {
        assert_eq!(read_email(" Ana@Example.ORG ").unwrap(), "ana@example.org");
        for wrong in [
            "",
            "ana",
            "@example.org",
            "ana@",
            "a@b@c",
            "a b@c.d",
            "a\n@c.d",
            "an\u{430}@c.d",
            "a@c.d\u{200b}",
        ] {
            assert!(read_email(wrong).is_err(), "{wrong:?}");
        }
        assert!(read_email(&format!("{}@example.org", "a".repeat(250))).is_err());
    }
}
