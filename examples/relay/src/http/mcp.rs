//! MCP configurations, for the browser. Secrets go in; what comes out is
//! their names, or their ciphertext.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use katachi_auth::clock::{Clock as _, SystemClock};
use katachi_protocol::Sensitive;
use katachi_protocol::mcp::{McpConfig, McpConfigs, PutMcp, SealedMcp};
use serde::Serialize;

use super::App;
use super::accounts::Session;
use super::extract::{JsonBody, PathPart};
use crate::failure::Failure;
use crate::records::mcp::{self, ConfigRow, SecretRow};

const NOT_FOUND: Failure = Failure::NotFound("there is no such configuration in this account");

/// `GET /api/mcp`.
pub(super) async fn list(
    State(app): State<App>,
    session: Session,
) -> Result<Json<McpConfigs>, Failure> {
    let user = session.user.id;
    let (rows, secrets) = app
        .records
        .read(move |tx| Ok((mcp::configs(tx, &user)?, mcp::secrets(tx, &user)?)))
        .await
        .map_err(Failure::internal)?;
    let configs = rows
        .into_iter()
        .map(|row| shown(row, &secrets))
        .collect::<Result<Vec<_>, Failure>>()?;
    Ok(Json(McpConfigs { configs }))
}

/// `GET /api/mcp/{name}`.
pub(super) async fn one(
    State(app): State<App>,
    session: Session,
    PathPart(name): PathPart,
) -> Result<Json<McpConfig>, Failure> {
    let Json(McpConfigs { configs }) = list(State(app), session).await?;
    configs
        .into_iter()
        .find(|config| config.name == name)
        .map(Json)
        .ok_or(NOT_FOUND)
}

/// `PUT /api/mcp/{name}`.
pub(super) async fn put(
    State(app): State<App>,
    session: Session,
    PathPart(name): PathPart,
    JsonBody(put): JsonBody<PutMcp>,
) -> Result<Json<McpConfig>, Failure> {
    check(&name, &put)?;
    let (user, at) = (session.user.id.clone(), SystemClock.now().as_unix());
    let records = app.records.clone();
    let written = app
        .records
        .write(move |tx| {
            tx.lock(&user)?;
            let former = mcp::version(tx, &user, &name)?;
            if former.is_none() && mcp::count(tx, &user)? >= mcp::MOST_CONFIGS {
                return Ok(None);
            }
            let version = former.unwrap_or(0) + 1;
            let row = |secret: String| SecretRow {
                config: name.clone(),
                name: secret,
                version,
                sealed: Vec::new(),
            };
            let signatures = put.signatures.iter().map(|(agent, signature)| {
                (mcp::signature_of(agent), Sensitive::new(json(signature)))
            });
            let mut plain: Vec<_> = put
                .secrets
                .into_iter()
                .chain(signatures)
                .map(|(secret, value)| (row(secret), value))
                .collect();
            records.seal_mcp(tx, &user, &mut plain)?;
            let secrets: Vec<SecretRow> = plain.into_iter().map(|(row, _)| row).collect();
            let config = ConfigRow {
                command: json(&put.command),
                env: json(&put.env),
                released_to: json(&put.released_to),
                name,
                version,
                updated_at: at,
            };
            mcp::put(tx, &user, &config, &secrets)?;
            Ok(Some((config, secrets)))
        })
        .await
        .map_err(Failure::internal)?;
    let (config, secrets) = written.ok_or(Failure::Conflict(
        "this account has as many configurations as it may",
    ))?;
    app.audit(&session.user.id, None, "mcp_changed").await;
    shown(config, &secrets).map(Json)
}

/// `DELETE /api/mcp/{name}`.
pub(super) async fn remove(
    State(app): State<App>,
    session: Session,
    PathPart(name): PathPart,
) -> Result<StatusCode, Failure> {
    let user = session.user.id.clone();
    let removed = app
        .records
        .write(move |tx| mcp::remove(tx, &user, &name))
        .await
        .map_err(Failure::internal)?;
    if !removed {
        return Err(NOT_FOUND);
    }
    app.audit(&session.user.id, None, "mcp_removed").await;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/mcp/{name}/sealed`: the ciphertext, exactly as the database holds it.
pub(super) async fn sealed(
    State(app): State<App>,
    session: Session,
    PathPart(name): PathPart,
) -> Result<Json<SealedMcp>, Failure> {
    let (user, config) = (session.user.id.clone(), name.clone());
    let (exists, rows) = app
        .records
        .read(move |tx| {
            Ok((
                mcp::version(tx, &user, &config)?,
                mcp::secrets_of(tx, &user, &config)?,
            ))
        })
        .await
        .map_err(Failure::internal)?;
    exists.ok_or(NOT_FOUND)?;
    let cells = rows
        .iter()
        .map(|row| crate::records::describe_mcp(&session.user.id, row))
        .collect();
    Ok(Json(SealedMcp { name, cells }))
}

fn shown(row: ConfigRow, secrets: &[SecretRow]) -> Result<McpConfig, Failure> {
    let own = || secrets.iter().filter(|secret| secret.config == row.name);
    let variables = own().filter(|secret| secret.signed_for().is_none());
    let signatures = own().filter_map(SecretRow::signed_for);
    Ok(McpConfig {
        secret_names: variables.map(|secret| secret.name.clone()).collect(),
        signed_for: signatures.map(str::to_owned).collect(),
        command: serde_json::from_str(&row.command).map_err(Failure::internal)?,
        env: serde_json::from_str(&row.env).map_err(Failure::internal)?,
        released_to: serde_json::from_str(&row.released_to).map_err(Failure::internal)?,
        name: row.name,
        version: row.version,
        updated_at: row.updated_at,
    })
}

fn check(name: &str, put: &PutMcp) -> Result<(), Failure> {
    let wrong = |what: &str| Err(Failure::BadRequest(what.to_owned()));
    let name_fits = (1..=64).contains(&name.len())
        && !name.starts_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !name_fits {
        return wrong(
            "a name is 1 to 64 small letters, digits and hyphens, and does not begin with a hyphen",
        );
    }
    if put.command.first().is_none_or(String::is_empty) || put.command.len() > 64 {
        return wrong("`command` has a program and at most 63 arguments");
    }
    let variables = put.env.keys().chain(put.secrets.keys());
    if !variables.clone().all(|name| is_variable(name)) {
        return wrong(
            "names in `env` and `secrets` are letters, digits and `_`, and do not begin with a digit",
        );
    }
    if variables.count() > 64 || put.released_to.len() > 256 {
        return wrong("at most 64 variables and 256 agents");
    }
    if put.env.keys().any(|name| put.secrets.contains_key(name)) {
        return wrong("a name stands in `env` and in `secrets`");
    }
    // Identifiers are hexadecimal; whatever else was written names no agent.
    let named = |agent: &String| {
        (1..=64).contains(&agent.len())
            && agent
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if !put.released_to.iter().all(named) {
        return wrong("`released_to` has identifiers of agents");
    }
    let signatures_fit = put.signatures.iter().all(|(agent, made)| {
        put.released_to.contains(agent)
            && is_base64url(&made.device, 43)
            && is_base64url(&made.signature, 86)
    });
    if !signatures_fit {
        return wrong(
            "a signature names an agent of `released_to`, a device and its Ed25519 bytes",
        );
    }
    let texts = put
        .command
        .iter()
        .chain(put.env.values())
        .map(String::as_str);
    let texts = texts.chain(put.secrets.values().map(|secret| secret.expose_secret()));
    if texts
        .clone()
        .any(|value| value.len() > 8192 || value.contains('\0'))
    {
        return wrong("a value has more than 8,192 bytes, or a zero byte");
    }
    // All of an account's together then fit into one answer to an agent.
    if texts.map(str::len).sum::<usize>() > 32 * 1024 {
        return Err(Failure::TooLarge);
    }
    Ok(())
}

fn is_base64url(text: &str, length: usize) -> bool {
    text.len() == length
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

fn is_variable(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Lists and maps of strings have no failing serialisation.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
