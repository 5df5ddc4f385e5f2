//! The account's agents and its audit log, for the browser.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use katachi_protocol::agent::{AgentSummary, Agents};
use katachi_protocol::record::Audit;

use super::App;
use super::accounts::Session;
use super::agent_api::state_of;
use super::extract::PathPart;
use crate::failure::Failure;
use crate::records::{agents, audit, tunnels};

/// `GET /api/agents`.
pub(super) async fn list(
    State(app): State<App>,
    session: Session,
) -> Result<Json<Agents>, Failure> {
    let (user, shared) = (session.user.id, app.cluster.is_some());
    let (rows, online) = app
        .records
        .read(move |tx| {
            let online = match shared {
                true => Some(tunnels::online(tx, &user)?),
                false => None,
            };
            Ok((agents::of_user(tx, &user)?, online))
        })
        .await
        .map_err(Failure::internal)?;
    let agents = rows.into_iter().map(|row| AgentSummary {
        online: match &online {
            Some(online) => online.contains(&row.id),
            None => app.tunnels.is_online(&row.id),
        },
        id: row.id,
        host_name: row.host_name,
        os: row.os,
        version: row.version,
        state: state_of(&row.state),
        last_seen: row.seen_at,
        approved_at: row.approved_at,
        quarantined_at: row.quarantined_at,
    });
    Ok(Json(Agents {
        agents: agents.collect(),
    }))
}

/// `DELETE /api/agents/{id}`.
pub(super) async fn remove(
    State(app): State<App>,
    session: Session,
    PathPart(id): PathPart,
) -> Result<StatusCode, Failure> {
    let (user, agent) = (session.user.id.clone(), id.clone());
    let removed = app
        .records
        .write(move |tx| agents::revoke(tx, &user, &agent))
        .await
        .map_err(Failure::internal)?;
    if !removed {
        return Err(Failure::NotFound("there is no such agent in this account"));
    }
    // Its key stays as revoked, so that its holder can be told and nothing else.
    app.reload_keys_of(&id).await.map_err(Failure::internal)?;
    app.tunnels.close(&id);
    app.cloudflare_work.notify_one();
    app.audit(&session.user.id, Some(&id), "agent_removed")
        .await;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/agents/{id}/release`.
pub(super) async fn release(
    State(app): State<App>,
    session: Session,
    PathPart(id): PathPart,
) -> Result<StatusCode, Failure> {
    let (user, agent) = (session.user.id.clone(), id.clone());
    let released = app
        .records
        .write(move |tx| agents::release(tx, &user, &agent))
        .await
        .map_err(Failure::internal)?;
    if !released {
        return Err(Failure::NotFound("no such agent is kept out"));
    }
    app.reload_keys_of(&id).await.map_err(Failure::internal)?;
    app.audit(&session.user.id, Some(&id), "agent_released")
        .await;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/audit`.
pub(super) async fn audit(
    State(app): State<App>,
    session: Session,
) -> Result<Json<Audit>, Failure> {
    let key = app.records.audit_key();
    let user = session.user.id;
    let (entries, intact) = app
        .records
        .read(move |tx| audit::newest(tx, &key, &user))
        .await
        .map_err(Failure::internal)?;
    Ok(Json(Audit { entries, intact }))
}
