//! What a paired device asks about the account's MCP servers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::Response;
use katachi_protocol::agent::ActivityKind;
use katachi_protocol::mcp::{McpCall, McpServers};

use super::service::{Refusal, Service};
use super::work::{MCP, Work, stream};
use crate::mcp;

pub(super) async fn list(State(service): State<Arc<Service>>) -> Result<Json<McpServers>, Refusal> {
    service.record("GET /v1/mcp", String::new(), "answered")?;
    let servers = mcp::listed(&service).await;
    let servers = servers.map_err(|error| Refusal::internal(&error))?;
    Ok(Json(McpServers { servers }))
}

pub(super) async fn call(
    State(service): State<Arc<Service>>,
    body: Result<Json<McpCall>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(call) = body?;
    let named = call.server.len() <= 64 && call.tool.as_ref().is_none_or(|tool| tool.len() <= 128);
    if !named {
        return Err(Refusal::bad("a server or tool has no such name"));
    }
    let tool = call.tool.as_deref().unwrap_or("(its tools)");
    let detail = crate::output::one_line(&format!("{} {tool}", call.server));
    let work = Work {
        call: MCP,
        detail,
        begins: ActivityKind::RunStarted,
    };
    stream(service, work, move |service, events| {
        mcp::once(service, &call, events)
    })
}
