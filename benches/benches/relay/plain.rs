//! The peer: an axum route that reads an account's configurations from an
//! encrypted database and answers, for whoever asks.

use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use katachi_protocol::mcp::AgentMcp;
use katachi_protocol::routes;
use katachi_store::database::{
    Database, DatabaseError, DatabaseKey, Migration, Options, RowResult,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::server::Failure;

/// As the relay keeps them.
const MIGRATIONS: &[Migration] = &[Migration::sql(
    "CREATE TABLE mcp_configs (
        user_id     TEXT NOT NULL,
        name        TEXT NOT NULL,
        command     TEXT NOT NULL,
        env         TEXT NOT NULL,
        released_to TEXT NOT NULL,
        version     INTEGER NOT NULL,
        updated_at  INTEGER NOT NULL,
        PRIMARY KEY (user_id, name)
    ) STRICT, WITHOUT ROWID;",
)];

/// Serves it over TLS.
pub(super) async fn serve(state: &Path) -> Result<(), Failure> {
    let router = router(state)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls()?));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("https://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            answer(stream, router).await
        });
    }
}

/// Serves it without TLS, for a proxy that ends it.
pub(super) async fn serve_origin(state: &Path) -> Result<(), Failure> {
    let router = router(state)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(stream, router.clone()));
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
) -> std::io::Result<()> {
    Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
        .map_err(std::io::Error::other)
}

fn router(state: &Path) -> Result<Router, Failure> {
    std::fs::create_dir_all(state)?;
    let options = Options::new().migrations(MIGRATIONS);
    let database = Database::open(state.join("plain.db"), &DatabaseKey::generate()?, options)?;
    Ok(Router::new()
        .route(routes::AGENT_MCP, get(configs))
        .with_state(database))
}

async fn configs(State(database): State<Database>) -> Result<Json<AgentMcp>, String> {
    let read = move || {
        database.read(|tx| -> Result<_, DatabaseError> {
            tx.query(
                "SELECT name, command, env, released_to, version, updated_at FROM mcp_configs
                 WHERE user_id = ?1 ORDER BY name",
                ["nobody"],
                |row| -> RowResult<String> { row.get(0) },
            )
        })
    };
    let rows = tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    assert!(rows.is_empty(), "nobody has configurations");
    Ok(Json(AgentMcp {
        configs: Vec::new(),
    }))
}

fn tls() -> Result<rustls::ServerConfig, Failure> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let mut config =
        rustls::ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// One call of it.
pub(super) async fn call(http: &reqwest::Client, url: &str) -> Result<(), Failure> {
    let answer = http
        .get(format!("{url}{}", routes::AGENT_MCP))
        .send()
        .await?;
    answer.error_for_status()?.bytes().await?;
    Ok(())
}
