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
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::ask::approve;
use super::service::{MAX_RUNS, Refusal, Service};
use crate::audit::AuditLog;
use crate::policy::Rules;
use crate::runner::{self, Finished, Job};

/// Events that wait for a slow reader before the command has to wait too.
const EVENT_BUFFER: usize = 64;
/// Denials of one command that the relay is told of; the log here has all.
const MAX_REPORTED: usize = 16;

const RUN: &str = "POST /v1/run";
const MESSAGE: &str = "POST /v1/message";
pub(super) const MCP: &str = "POST /v1/mcp";

/// The outcome of what begins; the log has another entry for its end.
const RECEIVED: &str = "received";

/// What was under way when the agent was killed.
#[derive(Debug)]
pub(crate) struct Interrupted {
    /// For people.
    pub(crate) commands: Vec<String>,
    /// The same of MCP servers.
    pub(crate) servers: Vec<String>,
    pub(crate) messages: usize,
}

/// Writes an end into `audit` for what was under way when the agent was killed.
///
/// # Errors
///
/// Returns an error if the log cannot be read or written.
pub(crate) fn interrupted(audit: &AuditLog) -> anyhow::Result<Interrupted> {
    let ended = audit.interrupt(&[RUN, MESSAGE, MCP], RECEIVED)?;
    let of = |wanted: &str| {
        let found = ended.iter().filter(|(call, _)| *call == wanted);
        found.map(|(_, about)| about.clone()).collect::<Vec<_>>()
    };
    Ok(Interrupted {
        commands: of(RUN),
        servers: of(MCP),
        messages: of(MESSAGE).len(),
    })
}

impl Interrupted {
    /// What the relay is told of it.
    pub(super) fn activities(&self) -> Vec<Activity> {
        let ends = |kind, count| {
            std::iter::repeat_n(
                Activity {
                    kind,
                    outcome: Some(Outcome::Interrupted),
                    control: None,
                    milliseconds: None,
                },
                count,
            )
        };
        let runs = self.commands.len() + self.servers.len();
        let runs = ends(ended(ActivityKind::RunStarted), runs);
        let messages = ends(ended(ActivityKind::MessageReceived), self.messages);
        runs.chain(messages).collect()
    }
}

pub(super) async fn run(
    State(service): State<Arc<Service>>,
    body: Result<Json<RunRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(request) = body?;
    check_run(&request.argv, request.cwd.as_deref()).map_err(Refusal::bad)?;
    let detail = shown(&request.argv);
    let job = Job {
        argv: request.argv,
        cwd: request.cwd,
        stdin: Vec::new(),
        env: Vec::new(),
        session: None,
        approved: None,
    };
    let rules = service.rules.clone();
    let work = Work {
        call: RUN,
        detail,
        begins: ActivityKind::RunStarted,
    };
    stream(service, work, move |service, events| {
        confined(service, &rules, job, events, &mut |_| {})
    })
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
    let work = Work {
        call: MESSAGE,
        detail,
        begins: ActivityKind::MessageReceived,
    };
    stream(service, work, move |service, events| {
        crate::ai::answer(service, &request, events)
    })
}

/// Plans and runs; the plan is made anew each time, as the workspace may have changed.
pub(crate) fn confined(
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

/// Work that takes its time, as the log and the relay are told of it.
pub(super) struct Work {
    pub(super) call: &'static str,
    pub(super) detail: String,
    pub(super) begins: ActivityKind,
}

/// Writes down that there is work, does it on a thread of its own and streams the
/// events it tells.
pub(super) fn stream(
    service: Arc<Service>,
    work: Work,
    does: impl FnOnce(&Service, &mpsc::Sender<RunEvent>) -> Finished + Send + 'static,
) -> Result<Response, Refusal> {
    let permit = Arc::clone(&service.runs).try_acquire_owned().map_err(|_| {
        Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            codes::RATE_LIMITED,
            format!("{MAX_RUNS} commands run already; wait for one to end"),
        )
        .unwritten()
    })?;
    let Work {
        call,
        detail,
        begins,
    } = work;
    // From here on the log has its end too, from us or from the next start.
    service.record(call, detail.clone(), RECEIVED)?;
    let (events, receiver) = mpsc::channel(EVENT_BUFFER);
    tokio::spawn(async move {
        let _permit = permit;
        service.running.fetch_add(1, Ordering::Relaxed);
        report(&service, begins, None, None, None);
        let (worker, about) = (Arc::clone(&service), detail.clone());
        let done = tokio::task::spawn_blocking(move || {
            let finished = does(&worker, &events);
            worker.record_end(call, &about, &finished);
            finished
        })
        .await;
        service.running.fetch_sub(1, Ordering::Relaxed);
        let Ok(finished) = done else {
            tracing::error!("the thread of a command panicked");
            let finished = Finished::failed("ended by a fault of the agent".to_owned());
            service.record_end(call, &detail, &finished);
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
        let outcome = match &finished {
            finished if finished.cancelled => Outcome::Cancelled,
            finished if finished.success => Outcome::Succeeded,
            finished if !finished.denials.is_empty() => Outcome::Denied,
            _ => Outcome::Failed,
        };
        report(
            &service,
            ended(begins),
            Some(outcome),
            None,
            Some(finished.milliseconds),
        );
    });
    let lines = ReceiverStream::new(receiver)
        .map(|event: RunEvent| Ok::<_, std::io::Error>(event.to_line()));
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response())
}

/// What the end of such work is to the relay.
const fn ended(begins: ActivityKind) -> ActivityKind {
    match begins {
        ActivityKind::MessageReceived => ActivityKind::MessageAnswered,
        _ => ActivityKind::RunFinished,
    }
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

/// Whether this can be run at all, whatever the policy says.
pub(crate) fn check_run(argv: &[String], cwd: Option<&str>) -> Result<(), String> {
    let bytes: usize = argv.iter().map(String::len).sum();
    if argv.first().is_none_or(String::is_empty) {
        return Err("argv names no program".to_owned());
    }
    if argv.len() > RunRequest::MAX_ARGS || bytes > RunRequest::MAX_BYTES {
        return Err(format!(
            "argv has at most {} words and {} bytes",
            RunRequest::MAX_ARGS,
            RunRequest::MAX_BYTES
        ));
    }
    if argv.iter().any(|word| word.contains('\0')) {
        return Err("argv holds a zero byte".to_owned());
    }
    match cwd.is_none_or(is_inside) {
        true => Ok(()),
        false => Err("cwd is a path relative to the workspace, without `..`".to_owned()),
    }
}

fn is_inside(path: &str) -> bool {
    let stays = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    !path.contains('\0') && Path::new(path).components().all(stays)
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

    fn check(argv: &[&str], cwd: Option<&str>) -> Result<(), String> {
        let argv: Vec<_> = argv.iter().map(|word| (*word).to_owned()).collect();
        check_run(&argv, cwd)
    }

    #[test]
    fn a_directory_outside_the_workspace_is_refused() {
        for cwd in ["..", "/etc", "a/../..", "a/..", "a\0b"] {
            assert!(check(&["ls"], Some(cwd)).is_err(), "{cwd}");
        }
        assert!(check(&["ls"], Some("a/b")).is_ok());
    }

    #[test]
    fn empty_huge_and_broken_argument_vectors_are_refused() {
        assert!(check(&[], None).is_err());
        assert!(check(&[""], None).is_err());
        assert!(check(&["ls", "a\0b"], None).is_err());
        let huge = "x".repeat(RunRequest::MAX_BYTES + 1);
        assert!(check(&[&huge], None).is_err());
        let many = vec!["x"; RunRequest::MAX_ARGS + 1];
        assert!(check(&many, None).is_err());
    }

    #[test]
    fn a_log_line_stays_short_and_never_splits_a_character() {
        let long = vec!["ü".repeat(500)];
        assert_eq!(shown(&long).chars().count(), 201);
    }
}
