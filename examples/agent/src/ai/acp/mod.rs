//! Programs that speak the [Agent Client Protocol](https://agentclientprotocol.com),
//! version 1, over their standard input and output.
//!
//! The program runs in the sandbox under the policy of the AI. What it asks of us
//! runs there too: files and terminals by the [tools](super::tools) that models
//! behind HTTP are given, and a permission is a question to a paired browser,
//! answered by its signature. Whatever was answered, the sandbox stays as it is.
//!
//! It is started for each message and asked to load its earlier session where it
//! can. MCP servers of the account run in sandboxes of their own, and the program is
//! [lent](super::lend) a way to their tools.

mod permission;
mod session;
mod talk;
mod terminal;
mod wire;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use katachi_protocol::run::{MessageRequest, OutputStream, RunEvent};
use katachi_sandbox::child::Ending;
use katachi_store::memory::Memory;
use tokio::sync::mpsc::Sender;

use super::lend::Lent;
use super::tools::Tools;
use crate::config::Ai;
use crate::partner::Partner;
use crate::policy::Rules;
use crate::runner::{self, Finished, Job};
use crate::tunnel::Service;
use session::Sessions;
use talk::Talk;
use terminal::{Terminals, lock};
use wire::{Fault, Peer};

/// Time for a program to end once its output did.
const ENDING: Duration = Duration::from_secs(2);

/// Has the program of `job` answer `request`, the message that the conversation
/// of `job` ends with. Blocks, on a thread of a tokio runtime; `keep` gets the text
/// of the answer as it comes.
///
/// # Errors
///
/// Returns an error if the program may not start, does not speak the protocol,
/// ends, says too much or takes too long, or if it stopped for another reason than
/// that it was done.
pub(super) fn answer(
    service: &Service,
    (ai, rules): (&Ai, &Rules),
    (job, request): (Job, &MessageRequest),
    events: &Sender<RunEvent>,
    finished: &mut Finished,
    keep: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    let memory = Memory::open(&service.home.database()?)?;
    let session = job.session.clone().unwrap_or_default();
    let argv = job.argv.clone();
    let sessions = Sessions::new(&memory, &session, &argv);
    let name = format!("the program {}", job.argv[0]);
    let lent = Lent::start((service, rules), events, finished);
    let own = lent.as_ref().map_or(rules, Lent::rules);
    let (partner, pipes) = Partner::start((service, own), name.clone(), job, events, finished)?;
    let until = Instant::now() + ai.times.start;
    partner.tell_started(&name, Some(&session), events);

    let tools = Tools {
        service,
        rules,
        memory: &memory,
        events,
        until,
    };
    let denials = Mutex::new(Vec::new());
    // Commands of its terminals, and questions to a person, have threads of their
    // own; none outlives this.
    let talked = std::thread::scope(|scope| {
        let peer = Peer::new(pipes);
        let outbox = peer.outbox.clone();
        let desks = lent
            .as_ref()
            .map(|lent| lent.open(scope, service, events, &denials));
        let terminals = Terminals::new(scope, &tools, outbox.clone(), &denials);
        let mut talk = Talk {
            scope,
            tools: &tools,
            plan: &partner.plan,
            denials: &denials,
            terminals,
            peer,
            desks,
            servers: lent.as_ref().map(Lent::entries).unwrap_or_default(),
            keep,
            finished: &mut *finished,
            sent: 0,
            said: 0,
            is_loading: false,
            questions: std::sync::Arc::default(),
            times: ai.times,
            until,
            over: tokio::sync::watch::Sender::new(false),
            stopping: None,
        };
        let talked = talk.answer(&sessions, &request.text);
        // Questions and commands end now, and nobody waits for the program to read of it.
        outbox.close_at(Instant::now());
        talked
    });
    finished.denials.extend(lock(&denials).drain(..));
    // Its output ends a moment before it does.
    let is_ending = talked.as_ref().is_err_and(|error| {
        let fault = error.downcast_ref();
        matches!(fault, Some(Fault::Ended | Fault::CutOff))
    });
    let time = match is_ending {
        true => ENDING,
        false => Duration::ZERO,
    };
    let ending = partner.end(time, events, finished);
    if let Some(lent) = lent {
        lent.end(events, finished);
    }
    talked.map_err(|error| match error.downcast_ref::<Fault>() {
        Some(Fault::Ended) => ended(&name, "before its answer did", ending.as_ref()),
        Some(Fault::CutOff) => ended(&name, "in the middle of a message", ending.as_ref()),
        Some(fault) => anyhow!("{name} was ended: {fault}"),
        None => error,
    })
}

fn ended(name: &str, when: &str, ending: Option<&Ending>) -> anyhow::Error {
    let how = match ending {
        // It closed its output and lived on.
        None | Some(Ending::Killed) => "it closed its output".to_owned(),
        Some(ending) => runner::words(ending),
    };
    anyhow!("{name} ended {when} ({how}); what it was doing is interrupted")
}

/// Something about the conversation that is not of the answer.
fn remark(text: &str) -> RunEvent {
    RunEvent::Output {
        stream: OutputStream::Stderr,
        data: format!("{text}\n"),
    }
}

/// Why a program stopped, where that is not the end of its answer.
fn stopped(reason: agent_client_protocol_schema::v1::StopReason) -> anyhow::Result<()> {
    use agent_client_protocol_schema::v1::StopReason;
    match reason {
        StopReason::EndTurn => Ok(()),
        StopReason::MaxTokens => {
            bail!("the program stopped: its model's limit of tokens is reached")
        }
        StopReason::MaxTurnRequests => {
            bail!("the program stopped: it asked its model too often; ask again to go on")
        }
        StopReason::Refusal => bail!("the program refuses to answer this"),
        StopReason::Cancelled => bail!("the program was cancelled"),
        _ => bail!("the program stopped for a reason that this version does not know"),
    }
}
