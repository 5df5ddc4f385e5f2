//! The AI that answers messages: a program in the sandbox that reads a message
//! and writes an answer, one that speaks the Agent Client Protocol, or a model
//! behind HTTP that is given tools which run there.

mod acp;
mod http;
mod kept;
#[cfg(unix)]
mod lend;
#[cfg(not(unix))]
#[path = "lend/none.rs"]
mod lend;
mod model;
#[cfg(unix)]
mod place;
mod tools;

use std::time::Instant;

use katachi_protocol::run::{MessageRequest, RunEvent};
use tokio::sync::mpsc::Sender;

use kept::Kept;
#[cfg(unix)]
pub(crate) use place::remove_left;

use crate::config::{Ai, Mind};
use crate::runner::{Finished, Job};
use crate::tunnel::{Service, confined};

/// What is kept of how an answer failed, in characters.
const MAX_NOTE: usize = 1000;

/// Has the AI answer a message and keeps both in the history. Blocks, on a thread
/// of a tokio runtime.
pub(crate) fn answer(
    service: &Service,
    request: &MessageRequest,
    events: &Sender<RunEvent>,
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
    let kept = match service.chat.answer(&session) {
        Ok(stream) => Kept::new(stream),
        Err(error) => return fail(format!("the answer could not be kept: {error:#}")),
    };
    let mut keep = |text: &str| kept.push(text);
    let (finished, last) = match &ai.mind {
        Mind::Command(argv) => match job(service, ai, argv, request, &session) {
            Ok(job) => (confined(service, rules, job, events, &mut keep), None),
            Err(error) => (fail(format!("{error:#}")), None),
        },
        Mind::Acp(argv) => told(events, |finished| {
            let job = job(service, ai, argv, request, &session)?;
            let ai = (ai, rules);
            acp::answer(service, ai, (job, request), events, finished, &mut keep)
        }),
        Mind::Http(model) => told(events, |finished| {
            http::answer(
                service,
                (model, rules, ai.times.answer),
                &session,
                events,
                finished,
                &mut keep,
            )
        }),
    };
    if finished.success {
        kept.finish();
    } else {
        // What is not ended is kept as interrupted.
        drop(kept);
        let how = finished.outcome.trim_start_matches("failed: ");
        let how: String = how.chars().take(MAX_NOTE).collect();
        let note = format!("Not answered to its end: {how}");
        if let Err(error) = service.chat.note(&session, &note) {
            tracing::error!("how the answer ended is not kept: {error:#}");
        }
    }
    if let Some(last) = last {
        // The receiver may be gone; then there is nobody to tell.
        let _ = events.blocking_send(last);
    }
    finished
}

/// The program of `ai`, with the message to read and its keys.
fn job(
    service: &Service,
    ai: &Ai,
    argv: &[String],
    request: &MessageRequest,
    session: &str,
) -> anyhow::Result<Job> {
    let mut env = Vec::new();
    for (variable, name) in &ai.keys {
        let key = service.home.key(&service.home.credentials()?, name)?;
        env.push((variable.clone(), key));
    }
    Ok(Job {
        argv: argv.to_vec(),
        cwd: None,
        stdin: request.text.clone().into_bytes(),
        env,
        session: Some(session.to_owned()),
        approved: None,
    })
}

/// Which tool is used on what, in one line.
fn tool(name: &str, detail: &str) -> RunEvent {
    let detail = crate::output::one_line(detail);
    RunEvent::Tool {
        name: name.to_owned(),
        detail: detail.chars().take(500).collect(),
    }
}

/// Does `work`; returns how it ended, and what to tell of that.
fn told(
    events: &Sender<RunEvent>,
    work: impl FnOnce(&mut Finished) -> anyhow::Result<()>,
) -> (Finished, Option<RunEvent>) {
    let began = Instant::now();
    let mut finished = Finished::failed(String::new());
    let last = match work(&mut finished) {
        Ok(()) => {
            finished.success = true;
            finished.outcome = "answered".to_owned();
            RunEvent::Exit {
                code: Some(0),
                signal: None,
                seconds: began.elapsed().as_secs_f64(),
            }
        }
        Err(error) => {
            finished.outcome = format!("failed: {error:#}");
            RunEvent::Error {
                message: format!("{error:#}"),
            }
        }
    };
    finished.cancelled = events.is_closed();
    finished.milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    (finished, Some(last))
}
