//! Starting, serving, stopping.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_auth::replay::{self, MemoryReplay};
use katachi_store::vault::VaultError;
use rustls::ServerConfig;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cloudflare::{Cloudflare, work};
use crate::cluster::{self, Cluster};
use crate::config::{Config, DatabaseSource, PublicUrl, TlsSource};
use crate::connection;
use crate::edge::Hosts;
use crate::http::{self, App, Parts};
use crate::limits::Limits;
use crate::machine;
use crate::metrics;
use crate::records::{Records, RecordsError, postgres};
use crate::replay::Replay;
use crate::sign_in::MailConfig;
use crate::sign_in::provider::Providers;
use crate::tls::{self, TlsError};

/// A relay could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration contradicts itself.
    #[error("{0}")]
    Config(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The state directory cannot be used.
    #[error("cannot use the state directory {path}: {source}")]
    StateDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or directory cannot be read or made.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The vault does not open.
    #[error("the relay's vault does not open: {0}")]
    Vault(#[from] VaultError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The database does not open, or is not what it was.
    #[error("the relay's database cannot be used: {0}")]
    Storage(String),
    /// Another relay was started on the same database.
    #[error("another relay has taken the database over; one serves it at a time")]
    Superseded,
    /// This relay is no more a node of its cluster.
    #[error("this node left its cluster: {0}")]
    Left(String),
    /// Accounts keep their keys; what was said before names them.
    #[error(
        "{accounts} accounts keep their keys, as said above; see to that, and run the same again"
    )]
    NotRotated {
        /// How many.
        accounts: usize,
    },
    /// A task of the relay was ended from outside.
    #[error("the relay was interrupted while starting: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// A relay that listens and does not serve yet.
#[derive(Debug)]
pub struct Relay {
    listener: TcpListener,
    /// For the other nodes.
    nodes: Option<TcpListener>,
    address: SocketAddr,
    public_url: PublicUrl,
    authority: Option<PathBuf>,
    metrics: Option<TcpListener>,
    tls: Arc<ServerConfig>,
    #[cfg(feature = "acme")]
    renewal: Option<crate::acme::Renewal>,
    limits: Arc<Limits>,
    app: App,
}

/// What a parent process wants to know, printed as one line of JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    /// The bound address.
    pub listening: SocketAddr,
    /// PEM file of the authority to trust; absent with a certificate from files.
    pub ca: Option<PathBuf>,
    /// The origin that browsers and agents use.
    pub public_url: String,
}

impl Relay {
    /// Opens the vault and the database, prepares TLS, and listens.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError`], which says what to change.
    pub async fn bind(config: Config) -> Result<Self, ServeError> {
        check(&config)?;
        let listener = listen(config.listen).await?;
        let address = listener.local_addr().map_err(|source| ServeError::Listen {
            address: config.listen,
            source,
        })?;
        let metrics = match config.metrics {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let nodes = match &config.cluster {
            Some(cluster) => Some(listen(cluster.listen).await?),
            None => None,
        };
        let nodes_address = nodes.as_ref().map(|nodes| nodes.local_addr());
        let public_url = config
            .public_url
            .clone()
            .unwrap_or_else(|| PublicUrl::local(address.port()));
        // Opening waits for the disk, and perhaps for a keychain.
        let prepare = tokio::task::spawn_blocking(move || {
            create_state_dir(&config.state_dir)?;
            let vault = machine::open_vault(&config.state_dir, config.keychain)?;
            let identity = tls::prepare(&config, public_url.host(), &vault)?;
            let storage = |error: &dyn std::fmt::Display| ServeError::Storage(error.to_string());
            let cluster = config.cluster.as_ref();
            let records = Records::open(&config.database, cluster, &config.state_dir, vault)
                .map_err(|e| storage(&e))?;
            let replay = match (&config.database, cluster) {
                (DatabaseSource::Postgres(url), Some(_)) => {
                    Replay::Shared(Box::new(postgres::replay(url).map_err(|e| storage(&e))?))
                }
                _ => {
                    let memory = MemoryReplay::new(replay::Limits {
                        entries_per_key: config.limits.nonces_per_agent,
                        ..replay::Limits::default()
                    });
                    Replay::Memory(Box::new(memory.map_err(|e| storage(&e))?))
                }
            };
            let entered = match (cluster, nodes_address) {
                (Some(cluster), Some(Ok(bound))) => {
                    let own = || bound.to_string();
                    let address = cluster.address.clone().unwrap_or_else(own);
                    Cluster::enter(&records, &address).map_err(|e| storage(&e))?
                }
                _ => None,
            };
            let limits = Arc::new(config.limits);
            let providers = Providers::new(config.providers, &public_url)
                .map_err(|error| ServeError::Config(format!("--provider: {error}")))?;
            let mailer = config.mail.map(MailConfig::mailer).transpose();
            let mailer = mailer.map_err(|error| ServeError::Config(error.to_string()))?;
            let cloudflare = config.cloudflare.map(Cloudflare::new).transpose();
            let cloudflare = cloudflare.map_err(ServeError::Config)?;
            let hosts = Arc::new(Hosts::new(public_url.clone(), address));
            let app = App::new(Parts {
                limits: Arc::clone(&limits),
                hosts,
                records,
                cluster: entered,
                replay,
                sign_up: config.sign_up,
                security_contact: config.security_contact,
                cloudflare,
                websocket: config.tunnel_websocket,
                providers,
                mailer,
            })
            .map_err(|e| storage(&e))?;
            Ok::<_, ServeError>((identity, limits, app, public_url))
        });
        let (identity, limits, app, public_url) = prepare.await??;
        Ok(Self {
            listener,
            nodes,
            address,
            public_url,
            authority: identity.authority,
            metrics,
            tls: identity.config,
            #[cfg(feature = "acme")]
            renewal: identity.renewal,
            limits,
            app,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves `/metrics`, if it does.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// The origin that browsers and agents use.
    #[must_use]
    pub fn public_url(&self) -> &PublicUrl {
        &self.public_url
    }

    /// PEM file of the self-made authority that clients have to trust.
    #[must_use]
    pub fn authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }

    /// What a parent process wants to know.
    #[must_use]
    pub fn ready(&self) -> Ready {
        Ready {
            listening: self.address,
            ca: self.authority.clone(),
            public_url: self.public_url.to_string(),
        }
    }

    /// Serves until `shutdown` ends, then lets running requests end.
    ///
    /// # Errors
    ///
    /// Returns [`ServeError::Superseded`] if another relay has taken the
    /// database over, and [`ServeError::Left`] if another process is this node of
    /// the cluster now, or the node was removed.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        info!(address = %self.address, public_url = %self.public_url, "listening");
        let stop = CancellationToken::new();
        let router: Router = http::router(self.app.clone());
        let (tls, limits) = (self.tls, Arc::clone(&self.limits));
        let accepting = connection::accept(
            self.listener,
            || Arc::clone(&tls),
            router,
            Arc::clone(&limits),
            stop.clone(),
        );
        let carrying = carry(self.app.clone(), self.nodes, &limits, stop.clone());
        let sweeping = sweep(self.app.clone(), stop.clone());
        #[cfg(feature = "acme")]
        if let Some(renewal) = self.renewal {
            tokio::spawn(stop.clone().run_until_cancelled_owned(renewal.run()));
        }
        let removing = work::work(self.app.clone(), stop.clone());
        let counting = {
            let (app, stop) = (self.app.clone(), stop.clone());
            async move {
                if let Some(listener) = self.metrics {
                    metrics::serve(listener, app, stop.cancelled_owned()).await;
                }
            }
        };
        let stopping = async {
            let ended = tokio::select! {
                () = shutdown => Ok(()),
                error = until_superseded(&self.app) => Err(error),
            };
            info!("stopping");
            stop.cancel();
            if let Some(cluster) = &self.app.cluster {
                cluster.leave().await;
            }
            self.app.tunnels.drain().await;
            ended
        };
        let (_, _, _, _, _, ended) =
            tokio::join!(accepting, carrying, sweeping, removing, counting, stopping);
        if let Some(post) = &self.app.post {
            post.drain(self.app.limits.drain).await;
        }
        info!("stopped");
        ended
    }
}

/// Binds and serves until `shutdown` ends.
///
/// # Errors
///
/// Returns [`ServeError`] if the relay cannot start.
pub async fn serve(
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    Relay::bind(config).await?.serve(shutdown).await
}

fn check(config: &Config) -> Result<(), ServeError> {
    let loopback = config.listen.ip().is_loopback();
    if config.public_url.is_none() && !loopback {
        return Err(ServeError::Config(format!(
            "{} is reachable by others, and they need a name for it: give --public-url https://HOST",
            config.listen
        )));
    }
    if let Some(address) = config.metrics.filter(|address| !address.ip().is_loopback()) {
        return Err(ServeError::Config(format!(
            "metrics are for this machine alone, and others reach {address}: give --metrics 127.0.0.1:PORT"
        )));
    }
    if config.cluster.is_some() && matches!(config.database, DatabaseSource::Embedded) {
        return Err(ServeError::Config(
            "a cluster shares a PostgreSQL: give --database".to_owned(),
        ));
    }
    let local_name = config.public_url.as_ref().is_none_or(|url| {
        let host = url.host();
        host == "localhost" || host.ends_with(".localhost") || host == "127.0.0.1"
    });
    if config.tls == TlsSource::SelfMade && !local_name {
        return Err(ServeError::Config(
            "a self-made certificate is for names on this computer: give --tls-cert and --tls-key"
                .to_owned(),
        ));
    }
    #[cfg(feature = "acme")]
    if matches!(config.tls, TlsSource::Acme(_)) && local_name {
        return Err(ServeError::Config(
            "no authority certifies names on this computer: give another --public-url, or leave --acme out"
                .to_owned(),
        ));
    }
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })
}

pub(crate) fn create_state_dir(path: &Path) -> Result<(), ServeError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|source| ServeError::StateDir {
        path: path.to_owned(),
        source,
    })
}

/// Serves the other nodes.
async fn carry(app: App, nodes: Option<TcpListener>, limits: &Limits, stop: CancellationToken) {
    let (Some(listener), Some(cluster)) = (nodes, app.cluster.clone()) else {
        return;
    };
    // A node is one address, whoever is behind it.
    let limits = Limits {
        connections_per_address: limits.connections,
        ..limits.clone()
    };
    let newest = Mutex::new(match cluster.links() {
        Ok(links) => links,
        Err(error) => return error!(%error, "other nodes cannot be served"),
    });
    let tls = || {
        let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
        match cluster.links() {
            Ok(links) => *newest = links,
            Err(error) => warn!(%error, "the certificate is the former one"),
        }
        Arc::clone(&newest.server)
    };
    connection::accept(listener, tls, cluster::router(app), Arc::new(limits), stop).await;
}

/// Ends when another relay has taken the database or this node's place over, which
/// no request of this one may outlive for long: the agents connected here have to
/// move.
async fn until_superseded(app: &App) -> ServeError {
    if let Some(cluster) = &app.cluster {
        return ServeError::Left(cluster.run(app).await.to_string());
    }
    let mut every = tokio::time::interval(Duration::from_secs(2));
    loop {
        every.tick().await;
        if let Err(RecordsError::Superseded) = app.records.read(|_| Ok(())).await {
            return ServeError::Superseded;
        }
    }
}

/// Forgets ended sessions, now and every hour.
async fn sweep(app: App, stop: CancellationToken) {
    let mut every = tokio::time::interval(Duration::from_secs(3600));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let sweeper = app.clone();
        let swept = tokio::task::spawn_blocking(move || {
            let (now, lifetimes) = (SystemClock.now(), sweeper.sessions.lifetimes());
            sweeper
                .records
                .sessions()
                .sweep(now.before(lifetimes.idle), now.before(lifetimes.absolute))
        });
        match swept.await {
            Ok(Ok(0)) => {}
            Ok(Ok(sessions)) => info!(sessions, "forgot ended sessions"),
            Ok(Err(error)) => warn!(%error, "could not forget ended sessions"),
            Err(error) => warn!(%error, "could not forget ended sessions"),
        }
    }
}
