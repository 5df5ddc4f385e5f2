//! A conversation with a model behind HTTP: it says something, uses tools, is
//! told what came of it, and says more, within bounds.

use std::time::{Duration, Instant};

use anyhow::bail;
use genai::chat::{ChatMessage, Tool, ToolCall, ToolResponse};
use katachi_protocol::run::{OutputStream, RunEvent};
use katachi_store::history::{Role, State};
use katachi_store::memory::Memory;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use super::model::Model;
use super::tools::{self, Tools};
use crate::config::HttpModel;
use crate::mcp::Server;
use crate::policy::Rules;
use crate::runner::Finished;
use crate::tunnel::Service;

/// Turns of the model for one message.
const MAX_TURNS: usize = 32;
/// Tools that it uses in one turn.
const MAX_CALLS: usize = 16;
/// Earlier messages that the model is shown.
const REMEMBERED: u32 = 200;
/// Bytes of earlier messages that the model is shown.
const MAX_HISTORY: usize = 512 * 1024;

/// What the model is shown behind an earlier answer that has no end.
const INTERRUPTED: &str =
    "\n[This answer was interrupted here. What it had begun may be done or not.]";

const SYSTEM: &str = "You work for a person on their own computer, in one directory, the \
workspace. Use the tools to look and to act. Every tool runs in a sandbox under the person's \
policy: what it denies stays denied however you ask, so do not try to get around it; say what \
you would need and which line of the policy would allow it. Some commands wait for the person's \
approval.";

/// Answers the message that `session` ends with. Blocks, on a thread of a tokio
/// runtime; `keep` gets the text of the answer as it comes.
///
/// # Errors
///
/// Returns an error if the model cannot be asked, or a bound is reached.
pub(super) fn answer(
    service: &Service,
    (config, rules, time): (&HttpModel, &Rules, Duration),
    session: &str,
    events: &Sender<RunEvent>,
    finished: &mut Finished,
    keep: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    let until = Instant::now() + time;
    let key = match &config.key {
        None => None,
        Some(name) => Some(service.home.key(&service.home.credentials()?, name)?),
    };
    let model = Model::new(config, key)?;
    let memory = Memory::open(&service.home.database()?)?;
    let _ = events.blocking_send(RunEvent::Started {
        id: config.model.clone(),
        argv: vec![config.model.clone()],
        plan_hash: rules.plan(&service.config)?.hash().to_owned(),
        session: Some(session.to_owned()),
    });
    let mut messages = earlier(service, session)?;
    let mut told = Told { events, keep };
    let servers = Servers::start(service, events, finished);
    let tools = Tools {
        service,
        rules,
        memory: &memory,
        events,
        until,
    };
    let talked = talk(&model, &mut messages, &tools, &servers, &mut told, finished);
    servers.end(events, finished);
    talked.map_err(|error| match Instant::now() < until || events.is_closed() {
        true => error,
        // Whatever it was doing, that is why it went no further.
        false => anyhow::anyhow!(
            "the answer took more than {} (ai.answer_time); ask again to go on, or set a longer \
             ai.answer_time",
            crate::time::span(time)
        ),
    })
}

fn talk(
    model: &Model,
    messages: &mut Vec<ChatMessage>,
    tools: &Tools<'_>,
    servers: &Servers,
    told: &mut Told<'_>,
    finished: &mut Finished,
) -> anyhow::Result<()> {
    let mut described = tools::described();
    described.extend(servers.offered.iter().map(|offer| offer.tool.clone()));
    for _ in 0..MAX_TURNS {
        tools.in_time()?;
        let events = told.events.clone();
        let turn = Handle::current().block_on(async {
            let asked = model.turn(SYSTEM, messages, &described, async |text| {
                told.say(text).await
            });
            tokio::select! {
                turn = tokio::time::timeout_at(tools.until.into(), asked) => turn?,
                () = events.closed() => bail!("whoever asked went away"),
            }
        })?;
        let calls: Vec<ToolCall> = turn.content.tool_calls().into_iter().cloned().collect();
        messages.push(ChatMessage::assistant(turn.content));
        if calls.is_empty() {
            return Ok(());
        }
        for (number, call) in calls.iter().enumerate() {
            tools.in_time()?;
            let result = match number < MAX_CALLS && !events.is_closed() {
                true => {
                    told.tool(call);
                    match servers.call(tools.service, call, &events, finished) {
                        Some(result) => result,
                        None => tools.use_one(call, finished),
                    }
                }
                false => format!("not done: at most {MAX_CALLS} tools at once"),
            };
            messages.push(ToolResponse::from_tool_call(call, result).into());
        }
    }
    bail!("the model used tools {MAX_TURNS} times without an end; ask again to go on")
}

/// Where text of the answer goes.
struct Told<'a> {
    events: &'a Sender<RunEvent>,
    keep: &'a mut dyn FnMut(&str),
}

impl Told<'_> {
    async fn say(&mut self, text: &str) {
        (self.keep)(text);
        let event = RunEvent::Output {
            stream: OutputStream::Stdout,
            data: text.to_owned(),
        };
        // Nobody listens any more: the caller ends the turn.
        let _ = self.events.send(event).await;
    }

    /// Tells which tool is used, in one line.
    fn tool(&mut self, call: &ToolCall) {
        let used = super::tool(&call.fn_name, &call.fn_arguments.to_string());
        let _ = self.events.blocking_send(used);
    }
}

/// The conversation so far, its last message among it.
fn earlier(service: &Service, session: &str) -> anyhow::Result<Vec<ChatMessage>> {
    let mut room = MAX_HISTORY;
    let mut messages = Vec::new();
    for message in service.chat.latest(session, REMEMBERED)?.into_iter().rev() {
        match room.checked_sub(message.text.len()) {
            Some(left) => room = left,
            None => break,
        }
        match message.role {
            Role::User => messages.push(ChatMessage::user(message.text)),
            Role::Assistant if message.state == State::Interrupted => {
                messages.push(ChatMessage::assistant(message.text + INTERRUPTED));
            }
            Role::Assistant if !message.text.is_empty() => {
                messages.push(ChatMessage::assistant(message.text));
            }
            _ => {}
        }
    }
    messages.reverse();
    Ok(messages)
}

/// A tool of an MCP server, by the name under which the model knows it.
struct Offer {
    server: usize,
    name: String,
    tool: Tool,
}

/// The MCP servers that run for this message.
struct Servers {
    running: Vec<Server>,
    offered: Vec<Offer>,
}

impl Servers {
    /// Starts what paired devices signed.
    fn start(service: &Service, events: &Sender<RunEvent>, finished: &mut Finished) -> Self {
        let mut servers = Self {
            running: Vec::new(),
            offered: Vec::new(),
        };
        let configs = match Handle::current().block_on(crate::mcp::startable(service)) {
            Ok(configs) => configs,
            Err(error) => {
                crate::mcp::note(events, &format!("{error:#}"));
                return servers;
            }
        };
        for config in configs {
            if let Some((server, tools)) = crate::mcp::start(service, &config, events, finished) {
                servers.offer(&config.name, server, tools);
            }
        }
        servers
    }

    fn offer(&mut self, server: &str, running: Server, tools: Vec<rmcp::model::Tool>) {
        for tool in tools {
            let name = format!("{server}__{}", tool.name);
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            // Providers accept no others.
            if name.len() > 64 || !name.bytes().all(fits) {
                continue;
            }
            let mut described =
                Tool::new(name).with_schema(tool.input_schema.as_ref().clone().into());
            if let Some(about) = tool.description {
                described = described.with_description(about);
            }
            self.offered.push(Offer {
                server: self.running.len(),
                name: tool.name.into_owned(),
                tool: described,
            });
        }
        self.running.push(running);
    }

    /// Calls the tool, if it is one of theirs.
    fn call(
        &self,
        service: &Service,
        call: &ToolCall,
        events: &Sender<RunEvent>,
        finished: &mut Finished,
    ) -> Option<String> {
        let offer = self
            .offered
            .iter()
            .find(|offer| offer.tool.name.as_str() == call.fn_name)?;
        let arguments = call.fn_arguments.as_object().cloned();
        let denials = finished.denials.len();
        let server = &self.running[offer.server];
        let called = server.call(service, &offer.name, arguments, (events, finished));
        let mut said = match called {
            Ok(called) if called.is_error => format!("(an error) {}", called.text),
            Ok(called) => called.text,
            Err(error) => format!("(failed) {error:#}"),
        };
        for denial in &finished.denials[denials..] {
            said.push_str(&tools::refusal(
                &denial.reason,
                denial.allow_with.as_deref(),
            ));
        }
        Some(said)
    }

    fn end(self, events: &Sender<RunEvent>, finished: &mut Finished) {
        for server in self.running {
            server.end(events, finished);
        }
    }
}
