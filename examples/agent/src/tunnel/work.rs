//! Work that the relay asks for: commands and messages, streamed as they go.

use std::path::{Component, Path};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use katachi_protocol::NDJSON;
use katachi_protocol::agent::{Activity, ActivityKind, Control, Outcome};
use katachi_protocol::problem::codes;
use katachi_protocol::run::{MessageRequest, RunEvent, RunRequest};
use katachi_store::history::Stream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::ask::approve;
use super::service::{MAX_RUNS, Refusal, Service};
use crate::policy::Rules;
use crate::runner::{self, Finished, Job};

/// Events that wait for a slow reader before the command has to wait too.
const EVENT_BUFFER: usize = 64;
/// Denials of one command that the relay is told of; the log here has all.
const MAX_REPORTED: usize = 16;

pub(super) async fn run(
    State(service): State<Arc<Service>>,
    body: Result<Json<RunRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(request) = body?;
    check_run(&request)?;
    let detail = shown(&request.argv);
    service.record("POST /v1/run", detail.clone(), "received")?;
    let job = Job {
        argv: request.argv,
        cwd: request.cwd,
        stdin: Vec::new(),
        env: Vec::new(),
        session: None,
        approved: None,
    };
    let rules = service.rules.clone();
    stream(
        service,
        "POST /v1/run",
        detail,
        ActivityKind::RunStarted,
        move |service, events| confined(service, &rules, job, events, &mut |_| {}),
    )
}

pub(super) async fn message(
    State(service): State<Arc<Service>>,
    body: Result<Json<MessageRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(request) = body?;
    if request.text.len() > MessageRequest::MAX_BYTES {
        return Err(Refusal::bad(format!(
            "a message has at most {} bytes",
            MessageRequest::MAX_BYTES
        )));
    }
    let detail = format!("{} bytes of text", request.text.len());
    service.record("POST /v1/message", detail.clone(), "received")?;
    stream(
        service,
        "POST /v1/message",
        detail,
        ActivityKind::MessageReceived,
        move |service, events| answer(service, &request, events),
    )
}

/// Has the AI answer a message and keeps both in the history.
fn answer(
    service: &Service,
    request: &MessageRequest,
    events: &mpsc::Sender<RunEvent>,
) -> Finished {
    let fail = |message: String| {
        let outcome = format!("failed: {message}");
        // The receiver may be gone; then there is nobody to tell.
        let _ = events.blocking_send(RunEvent::Error { message });
        Finished::failed(outcome)
    };
    let session = match service.chat.hear(request.session.as_deref(), &request.text) {
        Ok(session) => session,
        Err(error) => return fail(format!("the message could not be kept: {error:#}")),
    };
    let Some((ai, rules)) = &service.ai else {
        return fail(
            "no AI is configured on this machine; set ai.command in config.toml, for instance \
             command = [\"claude\", \"-p\"], and allow the program in its policy"
                .to_owned(),
        );
    };
    let mut env = Vec::new();
    for (variable, name) in &ai.keys {
        let key = service
            .home
            .credentials()
            .and_then(|credentials| service.home.key(&credentials, name));
        match key {
            Ok(key) => env.push((variable.clone(), key)),
            Err(error) => return fail(format!("{error:#}")),
        }
    }
    let job = Job {
        argv: ai.command.clone(),
        cwd: None,
        stdin: request.text.clone().into_bytes(),
        env,
        session: Some(session.clone()),
        approved: None,
    };
    let mut kept = match service.chat.answer(&session) {
        Ok(kept) => Some(kept),
        Err(error) => return fail(format!("the answer could not be kept: {error:#}")),
    };
    let finished = confined(service, rules, job, events, &mut |text| {
        // An answer that cannot be kept to its end still reaches the person.
        if let Some(Err(error)) = kept.as_mut().map(|kept| kept.push(text)) {
            tracing::error!("the answer is kept only in part: {error}");
            kept = None;
        }
    });
    if let Some(Err(error)) = kept.map(Stream::finish) {
        tracing::error!("the answer is kept only in part: {error}");
    }
    finished
}

/// Plans and runs; the plan is made anew each time, as the workspace may have changed.
fn confined(
    service: &Service,
    rules: &Rules,
    mut job: Job,
    events: &mpsc::Sender<RunEvent>,
    hear: &mut dyn FnMut(&str),
) -> Finished {
    match rules.plan(&service.config) {
        Ok(plan) => {
            if let Err(finished) = approve(service, &plan, &mut job, events) {
                return finished;
            }
            runner::run(&plan, &job, events, hear)
        }
        Err(error) => {
            let message = format!("{error:#}");
            let outcome = format!("not started: {message}");
            let _ = events.blocking_send(RunEvent::Error { message });
            Finished::failed(outcome)
        }
    }
}

/// Does `work` on a thread of its own and streams the events it tells.
pub(super) fn stream(
    service: Arc<Service>,
    call: &'static str,
    detail: String,
    begins: ActivityKind,
    work: impl FnOnce(&Service, &mpsc::Sender<RunEvent>) -> Finished + Send + 'static,
) -> Result<Response, Refusal> {
    let permit = Arc::clone(&service.runs).try_acquire_owned().map_err(|_| {
        Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            codes::RATE_LIMITED,
            format!("{MAX_RUNS} commands run already; wait for one to end"),
        )
    })?;
    let (events, receiver) = mpsc::channel(EVENT_BUFFER);
    tokio::spawn(async move {
        let _permit = permit;
        service.running.fetch_add(1, Ordering::Relaxed);
        report(&service, begins, None, None, None);
        let worker = Arc::clone(&service);
        let done = tokio::task::spawn_blocking(move || {
            let finished = work(&worker, &events);
            worker.record_end(call, &detail, &finished);
            finished
        })
        .await;
        service.running.fetch_sub(1, Ordering::Relaxed);
        let Ok(finished) = done else {
            tracing::error!("the thread of a command panicked");
            return;
        };
        for denial in finished.denials.iter().take(MAX_REPORTED) {
            let control = Some(control(&denial.control));
            report(
                &service,
                ActivityKind::ActionDenied,
                Some(Outcome::Denied),
                control,
                None,
            );
        }
        let ends = match begins {
            ActivityKind::MessageReceived => ActivityKind::MessageAnswered,
            _ => ActivityKind::RunFinished,
        };
        let outcome = match &finished {
            finished if finished.cancelled => Outcome::Cancelled,
            finished if finished.success => Outcome::Succeeded,
            finished if !finished.denials.is_empty() => Outcome::Denied,
            _ => Outcome::Failed,
        };
        report(
            &service,
            ends,
            Some(outcome),
            None,
            Some(finished.milliseconds),
        );
    });
    let lines = ReceiverStream::new(receiver)
        .map(|event: RunEvent| Ok::<_, std::io::Error>(event.to_line()));
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response())
}

/// Tells the relay what happened, in closed words, without waiting for it.
fn report(
    service: &Arc<Service>,
    kind: ActivityKind,
    outcome: Option<Outcome>,
    control: Option<Control>,
    milliseconds: Option<u64>,
) {
    let service = Arc::clone(service);
    tokio::spawn(async move {
        let activity = Activity {
            kind,
            outcome,
            control,
            milliseconds,
        };
        if let Err(error) = service.client.activity(&activity).await {
            tracing::warn!("the relay was not told of {kind:?}: {error:#}");
        }
    });
}

fn check_run(request: &RunRequest) -> Result<(), Refusal> {
    let bytes: usize = request.argv.iter().map(String::len).sum();
    if request.argv.first().is_none_or(String::is_empty) {
        return Err(Refusal::bad("argv names no program"));
    }
    if request.argv.len() > RunRequest::MAX_ARGS || bytes > RunRequest::MAX_BYTES {
        return Err(Refusal::bad(format!(
            "argv has at most {} words and {} bytes",
            RunRequest::MAX_ARGS,
            RunRequest::MAX_BYTES
        )));
    }
    if request.argv.iter().any(|word| word.contains('\0')) {
        return Err(Refusal::bad("argv holds a zero byte"));
    }
    match request.cwd.as_deref().is_none_or(is_inside) {
        true => Ok(()),
        false => Err(Refusal::bad(
            "cwd is a path relative to the workspace, without `..`",
        )),
    }
}

fn is_inside(path: &str) -> bool {
    Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// An argument vector for the log, shortened.
fn shown(argv: &[String]) -> String {
    let text = argv.join(" ");
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The closed word for a control of the sandbox.
fn control(id: &str) -> Control {
    match id {
        "exec" | "commands" | "command" => Control::Command,
        "read" | "files" => Control::Read,
        "write" => Control::Write,
        "network" | "connect" => Control::Network,
        "limits" | "memory" | "processes" | "disk" | "wall_time" => Control::Limit,
        _ => Control::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(argv: &[&str], cwd: Option<&str>) -> RunRequest {
        RunRequest {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            cwd: cwd.map(str::to_owned),
        }
    }

    #[test]
    fn a_directory_outside_the_workspace_is_refused() {
        for cwd in ["..", "/etc", "a/../..", "a/.."] {
            assert!(check_run(&request(&["ls"], Some(cwd))).is_err(), "{cwd}");
        }
        assert!(check_run(&request(&["ls"], Some("a/b"))).is_ok());
    }

    #[test]
    fn empty_huge_and_broken_argument_vectors_are_refused() {
        assert!(check_run(&request(&[], None)).is_err());
        assert!(check_run(&request(&[""], None)).is_err());
        assert!(check_run(&request(&["ls", "a\0b"], None)).is_err());
        let huge = "x".repeat(RunRequest::MAX_BYTES + 1);
        assert!(check_run(&request(&[&huge], None)).is_err());
        let many = vec!["x"; RunRequest::MAX_ARGS + 1];
        assert!(check_run(&request(&many, None)).is_err());
    }

    #[test]
    fn a_log_line_stays_short_and_never_splits_a_character() {
        let long = vec!["ü".repeat(500)];
        assert_eq!(shown(&long).chars().count(), 201);
    }
}
