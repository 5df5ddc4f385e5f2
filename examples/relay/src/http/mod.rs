//! The routes: who may call them, and what they do.

mod access;
pub(crate) mod accounts;
mod agent_api;
mod agents;
mod channel;
mod cloudflare;
mod console;
mod csrf;
mod devices;
mod extract;
mod identities;
mod mail;
mod mcp;
mod notice;
mod oauth;
mod oauth_failure;
mod passwords;
mod proof;
mod public;
mod signed;

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post};
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::device::{Config as DeviceConfig, GuessLimits, Guesses, Server as DeviceServer};
use katachi_auth::mail::Mailer;
use katachi_auth::replay;
use katachi_auth::session::Sessions;
use katachi_auth::signature::KeyId;
use katachi_protocol::routes;
use tokio::sync::Notify;
use tracing::warn;

use crate::cloudflare::Cloudflare;
use crate::cluster::Cluster;
use crate::config::SignUpPolicy;
use crate::edge::{self, Hosts};
use crate::failure::Failure;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::records::throttles::{self, Rate};
use crate::records::tunnels::Claim;
use crate::records::{Records, RecordsError, agents as rows, audit};
use crate::replay::Replay;
use crate::sign_in::mail::Post;
use crate::sign_in::provider::Providers;
use crate::throttle::{Limiter, Throttle};
use crate::tunnel::Tunnels;
pub(crate) use console::SCRIPT_SOURCES;
use passwords::Passwords;
use signed::{AgentKeys, Gate};

/// Everything that handlers share. Clones are handles to the same.
#[derive(Clone, Debug)]
pub(crate) struct App(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Arc<Limits>,
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) records: Records,
    pub(crate) tunnels: Tunnels,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) sessions: Sessions,
    pub(crate) metrics: Metrics,
    /// The account at Cloudflare in which agents get tunnels, if there is one.
    pub(crate) cloudflare: Option<Cloudflare>,
    /// Whether agents may open tunnels inside of a WebSocket.
    websocket: bool,
    /// Something at Cloudflare may have to be removed.
    pub(crate) cloudflare_work: Notify,
    sign_up: SignUpPolicy,
    security_contact: String,
    providers: Providers,
    /// Sends mail, if the relay does.
    pub(crate) post: Option<Post>,
    replay: Replay,
    gate: Gate,
    device: DeviceServer,
    guesses: Guesses,
    passwords: Passwords,
    throttles: Throttles,
}

/// How often one can do what costs us something.
#[derive(Debug)]
struct Throttles {
    sign_up: Limiter<IpAddr>,
    log_in: Limiter<IpAddr>,
    /// Sign-ins to one account, from wherever.
    account: Limiter<String>,
    device: Limiter<IpAddr>,
    token: Limiter<IpAddr>,
    /// Proofs of strangers that are remembered, of all of them.
    proofs: Limiter<&'static str>,
    activity: Limiter<String>,
}

impl Throttles {
    fn new(shared: Option<&Records>) -> Self {
        let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
        Self {
            sign_up: Limiter::new("sign_up", Throttle::new(10, seconds(60)), shared),
            log_in: Limiter::new("log_in", Throttle::new(20, seconds(3)), shared),
            account: Limiter::new("account", Throttle::new(10, seconds(30)), shared),
            device: Limiter::new("device", Throttle::new(20, seconds(5)), shared),
            token: Limiter::new("token", Throttle::new(240, millis(500)), shared),
            proofs: Limiter::new("proofs", Throttle::new(512, millis(100)), shared),
            activity: Limiter::new("activity", Throttle::new(600, millis(100)), shared),
        }
    }
}

/// What the service is put together from.
pub(crate) struct Parts {
    pub(crate) limits: Arc<Limits>,
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) records: Records,
    /// This relay as one of several, if there are.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) replay: Replay,
    pub(crate) sign_up: SignUpPolicy,
    pub(crate) security_contact: String,
    pub(crate) cloudflare: Option<Cloudflare>,
    /// Whether agents may open tunnels inside of a WebSocket.
    pub(crate) websocket: bool,
    pub(crate) providers: Providers,
    pub(crate) mailer: Option<Box<dyn Mailer>>,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What keeps the service from being put together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Replay(#[from] replay::Unavailable),
    #[error("cannot start the thread that sends mail: {0}")]
    Mail(#[from] std::io::Error),
    #[error("a stored key has an identifier that is none: {0}")]
    KeyId(#[from] katachi_auth::signature::ParseKeyIdError),
}

impl App {
    /// Puts the service together. It waits for the disk.
    pub(crate) fn new(parts: Parts) -> Result<Self, StartError> {
        let Parts {
            limits,
            hosts,
            records,
            cluster,
            replay,
            sign_up,
            security_contact,
            cloudflare,
            websocket,
            providers,
            mailer,
        } = parts;
        let post =
            mailer.map(|mailer| Post::start(mailer, records.clone(), hosts.public().clone()));
        let pepper = records.derive("katachi-relay/user-codes");
        let device = DeviceConfig {
            interval: limits.device_interval,
            ..DeviceConfig::new(format!("{}{}", hosts.public(), routes::DEVICE_PAGE))
        };
        let app = Self(Arc::new(Shared {
            tunnels: Tunnels::new(Arc::clone(&limits)),
            sessions: Sessions::default(),
            metrics: Metrics::default(),
            cloudflare,
            websocket,
            cloudflare_work: Notify::new(),
            sign_up,
            security_contact,
            providers,
            post: post.transpose()?,
            replay,
            gate: Gate::new(&hosts.accepted()),
            device: DeviceServer::new(device, &pepper),
            guesses: Guesses::new(GuessLimits::default()),
            passwords: Passwords::new(limits.password),
            throttles: Throttles::new(cluster.as_ref().map(|_| &records)),
            cluster: cluster.map(Arc::new),
            limits,
            hosts,
            records,
        }));
        app.load_keys(None)?;
        Ok(app)
    }

    /// Derives the keys of one agent, or of all.
    fn load_keys(&self, agent_id: Option<&str>) -> Result<(), StartError> {
        let records = self.records.clone();
        let opened = records.read_now(|tx| {
            let rows = match agent_id {
                Some(id) => rows::keys_of(tx, id)?,
                None => rows::keys(tx)?,
            };
            rows.into_iter()
                .map(|row| Ok((records.open_agent_key(tx, &row)?, row)))
                .collect::<Result<Vec<_>, RecordsError>>()
        })?;
        for (secret, row) in opened {
            let key_id = KeyId::parse(&row.id)?;
            let keys = AgentKeys::derive(&key_id, &row, &secret);
            self.gate.keys.insert(&row.id, keys);
        }
        Ok(())
    }

    /// Asks `agent` through its tunnel, wherever that is.
    pub(crate) async fn ask(
        &self,
        agent: &str,
        request: http::Request<axum::body::Body>,
    ) -> Result<axum::response::Response, Failure> {
        match &self.cluster {
            None => self.tunnels.ask(agent, None, request).await,
            Some(cluster) => cluster.ask(self, agent, request).await,
        }
    }

    /// Lets a tunnel of `agent` begin, if nothing newer is there.
    async fn claim(&self, agent: &str) -> Option<Claim> {
        let Some(cluster) = &self.cluster else {
            return Some(self.tunnels.next());
        };
        match cluster.claim(agent).await {
            Ok(claim) => claim,
            Err(error) => {
                warn!(agent, %error, "a tunnel could not be claimed");
                None
            }
        }
    }

    /// Follows the rows with the key of this name, where other nodes write them too.
    async fn refresh_key(&self, key_id: &str) -> Result<(), Failure> {
        if self.cluster.is_none() {
            return Ok(());
        }
        let (records, id) = (self.records.clone(), key_id.to_owned());
        let app = self.clone();
        let read = self.records.read(move |tx| {
            let Some(row) = rows::key(tx, &id)? else {
                return Ok(None);
            };
            let secret = match app.gate.keys.is_current(&row) {
                true => None,
                false => Some(records.open_agent_key(tx, &row)?),
            };
            Ok(Some((row, secret)))
        });
        match read.await.map_err(Failure::internal)? {
            None => self.gate.keys.remove(key_id),
            Some((_, None)) => {}
            Some((row, Some(secret))) => {
                let id = KeyId::parse(&row.id).map_err(Failure::internal)?;
                let keys = AgentKeys::derive(&id, &row, &secret);
                self.gate.keys.insert(&row.id, keys);
            }
        }
        Ok(())
    }

    /// Takes up what the database now says about the keys of one agent.
    async fn reload_keys_of(&self, agent_id: &str) -> Result<(), StartError> {
        self.gate.keys.remove_agent(agent_id);
        let (app, agent) = (self.clone(), agent_id.to_owned());
        match tokio::task::spawn_blocking(move || app.load_keys(Some(&agent))).await {
            Ok(loaded) => loaded,
            Err(error) => Err(RecordsError::from(error).into()),
        }
    }

    /// Refuses what comes too often, counted by all relays of the database.
    async fn throttle(&self, rate: Rate, who: String) -> Result<(), Failure> {
        self.records
            .write(move |tx| throttles::take(tx, rate, &who))
            .await
            .map_err(Failure::internal)?
            .map_err(Failure::wait)
    }

    /// Writes to an account's audit log what must not fail because of it.
    async fn audit(&self, user_id: &str, agent_id: Option<&str>, action: &'static str) {
        let event = audit::Event {
            at: SystemClock.now().as_unix(),
            agent_id: agent_id.map(str::to_owned),
            action,
            detail: String::new(),
        };
        if let Err(error) = self.records.audit(user_id, event).await {
            warn!(%error, action, "could not write to the audit log");
        }
    }
}

/// All routes, inside the layers that hold for all of them.
pub(crate) fn router(app: App) -> Router {
    let (hosts, log) = (Arc::clone(&app.hosts), app.clone());
    Router::new()
        .merge(open())
        .merge(browser(&app))
        .merge(agent(&app))
        .fallback(|| async { Failure::NotFound("there is nothing here") })
        .method_not_allowed_fallback(|| async { Failure::MethodNotAllowed })
        .with_state(app)
        .layer(from_fn_with_state(hosts, edge::guard))
        .layer(from_fn_with_state(log, edge::log))
        .layer(from_fn(edge::to_the_end))
}

/// For everyone.
fn open() -> Router<App> {
    Router::new()
        .route(routes::CONSOLE, get(console::page))
        .route(routes::DEVICE_PAGE, get(console::page))
        .route("/assets/{name}", get(console::asset))
        .route(routes::HEALTH, get(public::health))
        .route(routes::READY, get(public::ready))
        .route(routes::SECURITY_TXT, get(public::security_txt))
        .route(routes::OAUTH_METADATA, get(public::metadata))
        .route(routes::EPOCH, get(public::epoch))
        .route(routes::DEVICE_AUTHORIZATION, post(devices::authorize))
        .route(routes::TOKEN, post(devices::token))
        .route(routes::TOKEN_OWNER, get(access::owner))
}

/// For our own pages, mostly with a session.
fn browser(app: &App) -> Router<App> {
    Router::new()
        .route(routes::SIGN_UP, post(accounts::sign_up))
        .route(routes::LOG_IN, post(accounts::log_in))
        .route(routes::LOG_OUT, post(accounts::log_out))
        .route(routes::ME, get(accounts::me))
        .route(routes::SESSION, get(accounts::session))
        .route(routes::SIGN_IN, get(oauth::options))
        .route(routes::SIGN_IN_START, post(oauth::start))
        .route(routes::SIGN_IN_BACK, get(oauth::back))
        .route(routes::IDENTITIES, get(identities::list))
        .route(routes::IDENTITY, delete(identities::unlink))
        .route(routes::VERIFY_SEND, post(mail::send_verification))
        .route(routes::VERIFY, post(mail::verify))
        .route(routes::PASSWORD_FORGOT, post(mail::forgot))
        .route(routes::PASSWORD_RESET, post(mail::reset))
        .route(routes::DEVICE, get(devices::info))
        .route(routes::DEVICE_APPROVE, post(devices::approve))
        .route(routes::DEVICE_DENY, post(devices::deny))
        .route(routes::AGENTS, get(agents::list))
        .route(routes::AGENT, delete(agents::remove))
        .route(routes::AGENT_RELEASE, post(agents::release))
        .route(routes::AGENT_CHANNEL, get(channel::open))
        .route(routes::MCP, get(mcp::list))
        .route(
            routes::MCP_ONE,
            get(mcp::one).put(mcp::put).delete(mcp::remove),
        )
        .route(routes::MCP_SEALED, get(mcp::sealed))
        .route(routes::AUDIT, get(agents::audit))
        .route_layer(from_fn_with_state(app.clone(), csrf::layer))
}

/// For agents that sign.
fn agent(app: &App) -> Router<App> {
    let signed = Router::new()
        .route(routes::HEARTBEAT, post(agent_api::heartbeat))
        .route(routes::ACTIVITY, post(agent_api::activity))
        .route(routes::AGENT_MCP, get(agent_api::mcp))
        .route(routes::UNREGISTER, delete(agent_api::unregister))
        .route(routes::CLOUDFLARE, post(cloudflare::provide))
        .route(routes::CLOUDFLARE_DIAL, post(cloudflare::dial))
        .route_layer(from_fn_with_state(app.clone(), signed::layer));
    signed
        .route(routes::TUNNEL, get(agent_api::tunnel))
        .route(routes::TUNNEL_WEBSOCKET, get(agent_api::tunnel_websocket))
}
