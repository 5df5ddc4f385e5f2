//! Conversations as a paired device reads, continues and forgets them.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use katachi_protocol::problem::codes;
use katachi_protocol::record::{Conversation, Said, SessionEntry, Sessions};
use katachi_store::history::{HistoryError, Message, State as Progress};

use super::service::{MAX_RECORDS, Refusal, Service};
use crate::chat::{Chat, seconds};

/// Most messages of a conversation in one answer.
const MAX_MESSAGES: u32 = 200;
/// Most bytes of text in one answer; the newest message is there whatever its size.
const MAX_TEXT: usize = 1024 * 1024;

/// `GET /v1/sessions`.
pub(super) async fn list(State(service): State<Arc<Service>>) -> Result<Json<Sessions>, Refusal> {
    service.record("GET /v1/sessions", String::new(), "answered")?;
    let found = read(&service, |chat| chat.sessions(MAX_RECORDS)).await?;
    let sessions = found.into_iter().map(|session| SessionEntry {
        session: session.id.to_string(),
        title: session.title,
        messages: session.messages,
        interrupted: session.interrupted,
        at: seconds(session.updated_ms),
    });
    Ok(Json(Sessions {
        sessions: sessions.collect(),
    }))
}

/// `GET /v1/sessions/{id}`.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Conversation>, Refusal> {
    let Path(id) = id?;
    service.record("GET /v1/sessions/{id}", detail(&id), "answered")?;
    let (session, messages) = read(&service, move |chat| {
        Ok((chat.session(&id)?, chat.latest(&id, MAX_MESSAGES)?))
    })
    .await?;
    let messages = newest(messages);
    Ok(Json(Conversation {
        session: session.id.to_string(),
        title: session.title,
        more: (messages.len() as u64) < session.messages,
        messages,
    }))
}

/// `DELETE /v1/sessions/{id}`.
pub(super) async fn forget(
    State(service): State<Arc<Service>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    let Path(id) = id?;
    service.record("DELETE /v1/sessions/{id}", detail(&id), "answered")?;
    read(&service, move |chat| chat.forget(&id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the log says of an identifier; whoever asks does not choose what stands there.
fn detail(id: &str) -> String {
    match id.parse::<u64>() {
        Ok(number) => format!("session {number}"),
        Err(_) => "no number".to_owned(),
    }
}

/// The newest of them that fit into one answer, oldest first.
fn newest(messages: Vec<Message>) -> Vec<Said> {
    let mut room = MAX_TEXT;
    let fits = messages
        .iter()
        .rev()
        .enumerate()
        .take_while(|(place, message)| {
            let had = room;
            room = room.saturating_sub(message.text.len());
            *place == 0 || message.text.len() <= had
        });
    let count = fits.count();
    let first = messages.len() - count;
    let said = messages.into_iter().skip(first).map(|message| Said {
        role: message.role.to_string(),
        state: match message.state {
            Progress::Streaming => "streaming",
            Progress::Complete => "complete",
            Progress::Interrupted => "interrupted",
        }
        .to_owned(),
        text: message.text,
        at: seconds(message.created_ms),
    });
    said.collect()
}

async fn read<T: Send + 'static>(
    service: &Arc<Service>,
    work: impl FnOnce(&Chat) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let worker = Arc::clone(service);
    let done = tokio::task::spawn_blocking(move || work(&worker.chat)).await;
    done.map_err(|error| Refusal::internal(&error.into()))?
        .map_err(|error| match error.downcast_ref() {
            Some(HistoryError::Database(_)) => Refusal::internal(&error),
            _ => Refusal::new(
                StatusCode::NOT_FOUND,
                codes::NOT_FOUND,
                "there is no such conversation about this workspace",
            ),
        })
}
