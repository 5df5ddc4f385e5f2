//! One answer of an ACP program, from the handshake to its stop: what it says is
//! told, what it asks is done, within bounds.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Scope;
use std::time::{Duration, Instant};

use agent_client_protocol_schema::ProtocolVersion;
use agent_client_protocol_schema::v1::{
    AGENT_METHOD_NAMES, CLIENT_METHOD_NAMES, CancelNotification, ClientCapabilities, ContentBlock,
    ContentChunk, CreateTerminalResponse, Error, FileSystemCapabilities, Implementation,
    InitializeRequest, InitializeResponse, KillTerminalRequest, KillTerminalResponse,
    LoadSessionRequest, McpServer, NewSessionRequest, NewSessionResponse, PlanEntryStatus,
    PromptRequest, PromptResponse, ReadTextFileRequest, ReadTextFileResponse,
    ReleaseTerminalRequest, ReleaseTerminalResponse, RequestId, RequestPermissionOutcome,
    RequestPermissionRequest, RequestPermissionResponse, SessionNotification, SessionUpdate,
    TerminalOutputRequest, TextContent, ToolCallStatus, WaitForTerminalExitRequest,
    WriteTextFileRequest, WriteTextFileResponse,
};
use anyhow::bail;
use katachi_protocol::record::Denial;
use katachi_protocol::run::{OutputStream, RunEvent};
use katachi_sandbox::Plan;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::super::lend::Open;
use super::super::tools::{self, Tools};
use super::session::Sessions;
use super::terminal::{Terminals, lock, wrong};
use super::wire::{Fault, Message, Peer};
use super::{permission, remark, stopped};
use crate::config::AiTimes;
use crate::runner::Finished;
use crate::time::span;

/// Time for it to stop once it is told to.
const CANCELLING: Duration = Duration::from_secs(3);
/// How often it is looked whether anybody still listens.
const GLANCE: Duration = Duration::from_millis(100);
/// Longest text of one answer, in bytes.
const MAX_TEXT: usize = 4 * 1024 * 1024;
/// Largest file that it can have through us, in bytes.
const MAX_FILE: usize = 1024 * 1024;
/// Longest name of a file that it can ask for, in bytes.
const MAX_PATH: usize = 4096;
/// Permissions that it waits for at once.
const MAX_QUESTIONS: usize = 8;
/// Things that may be refused to it in one answer; each is kept.
const MAX_DENIALS: usize = 1000;
/// What is shown of its own words in an error, in characters.
const SHOWN: usize = 300;

/// Why the program was told to stop before its answer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stop {
    /// Whoever asked went away.
    Left,
    /// The time is over.
    Late,
}

pub(super) struct Talk<'scope, 'env> {
    pub(super) scope: &'scope Scope<'scope, 'env>,
    pub(super) tools: &'env Tools<'env>,
    pub(super) plan: &'env Plan,
    pub(super) denials: &'env Mutex<Vec<Denial>>,
    pub(super) terminals: Terminals<'scope, 'env>,
    pub(super) peer: Peer,
    /// Where MCP servers are called for it.
    pub(super) desks: Option<Open>,
    /// How it reaches MCP servers.
    pub(super) servers: Vec<McpServer>,
    pub(super) keep: &'env mut dyn FnMut(&str),
    pub(super) finished: &'env mut Finished,
    /// Requests so far; the last one's number.
    pub(super) sent: i64,
    /// Bytes of text so far.
    pub(super) said: usize,
    /// Whether the program repeats an earlier conversation.
    pub(super) is_loading: bool,
    /// Permissions that it waits for.
    pub(super) questions: Arc<AtomicUsize>,
    pub(super) times: AiTimes,
    /// When what goes on has to be done.
    pub(super) until: Instant,
    /// Becomes true once nobody waits for an answer any more: with the end of this at
    /// the latest.
    pub(super) over: tokio::sync::watch::Sender<bool>,
    pub(super) stopping: Option<Stop>,
}

impl<'env> Talk<'_, 'env> {
    /// Has `text` answered in the session that goes on, or a new one.
    pub(super) fn answer(&mut self, sessions: &Sessions<'_>, text: &str) -> anyhow::Result<()> {
        self.peer.outbox.close_at(self.until);
        let session = self.start(sessions)?;
        sessions.keep(&session, true)?;
        self.until = Instant::now() + self.times.answer;
        self.peer.outbox.close_at(self.until);
        let prompt = vec![ContentBlock::Text(TextContent::new(text))];
        let prompt = PromptRequest::new(session.clone(), prompt);
        let method = AGENT_METHOD_NAMES.session_prompt;
        let done = self.call::<PromptResponse>(method, &prompt, Some(&session));
        if done.is_ok() {
            sessions.keep(&session, false)?;
        }
        match self.stopping {
            None => stopped(done?.stop_reason),
            Some(why) => Err(self.given_up(why, &done)),
        }
    }

    /// Brings the program to the session that goes on, or a new one.
    fn start(&mut self, sessions: &Sessions<'_>) -> anyhow::Result<String> {
        let files = FileSystemCapabilities::new()
            .read_text_file(true)
            .write_text_file(true);
        let capabilities = ClientCapabilities::new().fs(files).terminal(true);
        let hello = InitializeRequest::new(ProtocolVersion::V1)
            .client_capabilities(capabilities)
            .client_info(Implementation::new(
                "katachi-agent",
                env!("CARGO_PKG_VERSION"),
            ));
        let program: InitializeResponse = self.call(AGENT_METHOD_NAMES.initialize, &hello, None)?;
        if program.protocol_version != ProtocolVersion::V1 {
            bail!(
                "the program speaks version {} of the Agent Client Protocol, and this agent \
                 version 1; take a version of either that fits the other",
                program.protocol_version
            );
        }
        self.session(sessions, &program)
    }

    /// The session that goes on; what becomes of an earlier one is told.
    fn session(
        &mut self,
        sessions: &Sessions<'_>,
        program: &InitializeResponse,
    ) -> anyhow::Result<String> {
        let workspace = self.plan.workspace();
        if let Some(last) = sessions.last()? {
            let was = match last.is_interrupted {
                true => "Its last answer was interrupted. ",
                false => "",
            };
            if program.agent_capabilities.load_session {
                let load = LoadSessionRequest::new(last.id.clone(), workspace)
                    .mcp_servers(self.servers.clone());
                self.is_loading = true;
                let method = AGENT_METHOD_NAMES.session_load;
                let loaded = self.call::<serde::de::IgnoredAny>(method, &load, None);
                self.is_loading = false;
                match loaded {
                    Ok(_) => {
                        if last.is_interrupted {
                            self.note(&format!("{was}The program goes on from there."));
                        }
                        return Ok(last.id);
                    }
                    Err(error) if self.stopping == Some(Stop::Left) => return Err(error),
                    Err(error) if error.is::<Fault>() || self.stopping.is_some() => {
                        // It might do so each time.
                        sessions.forget()?;
                        self.note(&format!(
                            "{was}The program did not load the conversation; the next message \
                             begins anew."
                        ));
                        return Err(error);
                    }
                    Err(error) => self.note(&format!(
                        "{was}The program could not load the conversation, and begins anew: {error:#}"
                    )),
                }
            } else {
                self.note(&format!(
                    "{was}The program cannot load conversations, and begins anew."
                ));
            }
        }
        let method = AGENT_METHOD_NAMES.session_new;
        let new = NewSessionRequest::new(workspace).mcp_servers(self.servers.clone());
        let made: NewSessionResponse = self.call(method, &new, None)?;
        Ok(made.session_id.to_string())
    }

    /// Asks for one thing, and serves the program until its answer is there. With
    /// `session`, that is told to stop once nobody listens any more or the time is over.
    fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &impl Serialize,
        session: Option<&str>,
    ) -> anyhow::Result<T> {
        self.sent += 1;
        let asked = RequestId::Number(self.sent);
        self.peer.outbox.call(Some(asked.clone()), method, params)?;
        loop {
            let is_late = Instant::now() >= self.until;
            match self.stopping {
                None if self.tools.events.is_closed() => self.stop(Stop::Left, method, session)?,
                None if is_late => self.stop(Stop::Late, method, session)?,
                Some(_) if is_late => bail!("the program did not stop"),
                None | Some(_) => {}
            }
            if self.finished.denials.len() + lock(self.denials).len() > MAX_DENIALS {
                bail!("the program was ended: more than {MAX_DENIALS} things were refused to it");
            }
            match self.peer.next(GLANCE)? {
                None => {}
                Some(Message::Answer { id, result }) if id == asked => {
                    let result = result.map_err(|error| refused(method, &error))?;
                    return serde_json::from_str(result.get()).map_err(|error| {
                        let error = shown(&error.to_string());
                        anyhow::anyhow!("the program's answer to {method} is not one: {error}")
                    });
                }
                Some(Message::Answer { .. }) => {
                    bail!("the program answered a request that it was not asked")
                }
                Some(Message::Notification { method, params }) => self.hear(&method, &params)?,
                Some(Message::Request { id, method, params }) => {
                    self.serve(id, &method, &params)?
                }
            }
        }
    }

    /// Ends everything that was begun for the program, and has it cancel what it does in
    /// `session`; without one there is nothing to cancel.
    fn stop(&mut self, why: Stop, method: &str, session: Option<&str>) -> anyhow::Result<()> {
        self.stopping = Some(why);
        self.over.send_replace(true);
        self.terminals.stop();
        self.desks = None;
        let Some(session) = session else {
            match why {
                Stop::Left => bail!("whoever asked went away"),
                Stop::Late => bail!(
                    "the program was not ready within {} (ai.start_time): it did not answer \
                     {method}, and was ended; start it in a terminal to see what it waits for, or \
                     set a longer ai.start_time",
                    span(self.times.start)
                ),
            }
        };
        self.until = Instant::now() + CANCELLING;
        self.peer.outbox.close_at(self.until);
        let cancel = CancelNotification::new(session.to_owned());
        let method = AGENT_METHOD_NAMES.session_cancel;
        Ok(self.peer.outbox.call(None, method, &cancel)?)
    }

    /// What to say of an answer that was stopped, and of what the program did then.
    fn given_up<T>(&self, why: Stop, done: &anyhow::Result<T>) -> anyhow::Error {
        let ended = [Some(&Fault::Ended), Some(&Fault::CutOff)];
        let how = match done {
            Ok(_) => "was told to cancel, and did",
            Err(error) if ended.contains(&error.downcast_ref()) => "ended when told to cancel",
            Err(_) => "was told to cancel, did not, and was ended",
        };
        match why {
            Stop::Left => anyhow::anyhow!("whoever asked went away; the program {how}"),
            Stop::Late => anyhow::anyhow!(
                "the answer took more than {} (ai.answer_time); the program {how}; send another \
                 message to go on, or set a longer ai.answer_time",
                span(self.times.answer)
            ),
        }
    }

    /// Tells what the program says.
    fn hear(&mut self, method: &str, params: &RawValue) -> anyhow::Result<()> {
        // What is unknown may be ignored, says JSON-RPC; what is repeated is known.
        if method != CLIENT_METHOD_NAMES.session_update || self.is_loading {
            return Ok(());
        }
        let update = match serde_json::from_str::<SessionNotification>(params.get()) {
            Ok(notification) => notification.update,
            Err(error) => {
                tracing::debug!("an update of the program is not one that is known: {error}");
                return Ok(());
            }
        };
        match update {
            SessionUpdate::AgentMessageChunk(chunk) => self.say(OutputStream::Stdout, chunk)?,
            SessionUpdate::AgentThoughtChunk(chunk) => self.say(OutputStream::Stderr, chunk)?,
            SessionUpdate::ToolCall(call) => {
                let kind = serde_json::to_value(call.kind).unwrap_or_default();
                let input = call.raw_input.map(|input| input.to_string());
                let detail = format!("{} {}", call.title, input.unwrap_or_default());
                self.tell(super::super::tool(kind.as_str().unwrap_or("tool"), &detail));
            }
            SessionUpdate::ToolCallUpdate(update)
                if update.fields.status == Some(ToolCallStatus::Failed) =>
            {
                let title = update.fields.title.unwrap_or_default();
                self.tell(super::super::tool("failed", &title));
            }
            SessionUpdate::Plan(plan) => {
                let step = |entry: &agent_client_protocol_schema::v1::PlanEntry| {
                    let mark = match entry.status {
                        PlanEntryStatus::Completed => "[x]",
                        PlanEntryStatus::InProgress => "[>]",
                        _ => "[ ]",
                    };
                    format!("{mark} {}", entry.content)
                };
                let steps: Vec<_> = plan.entries.iter().map(step).collect();
                self.tell(super::super::tool("plan", &steps.join("; ")));
            }
            _ => {}
        }
        Ok(())
    }

    fn say(&mut self, stream: OutputStream, chunk: ContentChunk) -> anyhow::Result<()> {
        let data = match chunk.content {
            ContentBlock::Text(text) => text.text,
            _ => "(something that is not text)\n".to_owned(),
        };
        self.said += data.len();
        if self.said > MAX_TEXT {
            bail!("the program said more than {MAX_TEXT} bytes for one answer");
        }
        if stream == OutputStream::Stdout {
            (self.keep)(&data);
        }
        self.tell(RunEvent::Output { stream, data });
        Ok(())
    }

    fn tell(&self, event: RunEvent) {
        // Somebody who reads slowly does not keep the program beyond its time, and who
        // is gone is noticed where the next message is waited for.
        let sent = self.tools.events.send(event);
        let sent = tokio::time::timeout_at(self.until.into(), sent);
        let _ = tokio::runtime::Handle::current().block_on(sent);
    }

    fn note(&self, text: &str) {
        self.tell(remark(text));
    }

    /// Does what the program asks of us.
    fn serve(&mut self, id: RequestId, method: &str, params: &RawValue) -> Result<(), Fault> {
        let names = CLIENT_METHOD_NAMES;
        let begins = [
            names.fs_read_text_file,
            names.fs_write_text_file,
            names.terminal_create,
        ];
        let is_stopping = self.stopping.is_some();
        let done = if is_stopping && begins.contains(&method) {
            Err(wrong("the answer is over"))
        } else if is_stopping && method == names.session_request_permission {
            let cancelled = RequestPermissionOutcome::Cancelled;
            value(&RequestPermissionResponse::new(cancelled))
        } else if method == names.fs_read_text_file {
            read(params).and_then(|asked| self.read_file(&asked))
        } else if method == names.fs_write_text_file {
            read(params).and_then(|asked| self.write_file(asked))
        } else if method == names.session_request_permission {
            match read(params).and_then(|asked| self.ask(id.clone(), asked)) {
                Ok(()) => return Ok(()), // Answered when a person has.
                Err(error) => Err(error),
            }
        } else if method == names.terminal_create {
            let created = read(params).and_then(|asked| self.terminals.create(asked));
            created.and_then(|id| value(&CreateTerminalResponse::new(id)))
        } else if method == names.terminal_output {
            let asked = read(params);
            let output = asked.and_then(|asked: TerminalOutputRequest| {
                self.terminals.output(&asked.terminal_id.0)
            });
            output.and_then(|output| value(&output))
        } else if method == names.terminal_wait_for_exit {
            let asked = read(params);
            let waited = asked.and_then(|asked: WaitForTerminalExitRequest| {
                self.terminals.wait(&asked.terminal_id.0, id.clone())
            });
            match waited {
                Ok(None) => return Ok(()), // Answered when it ends.
                Ok(Some(status)) => value(&status),
                Err(error) => Err(error),
            }
        } else if method == names.terminal_kill {
            let asked = read(params);
            let killed = asked
                .and_then(|asked: KillTerminalRequest| self.terminals.kill(&asked.terminal_id.0));
            killed.and_then(|()| value(&KillTerminalResponse::new()))
        } else if method == names.terminal_release {
            let asked = read(params);
            let released = asked.and_then(|asked: ReleaseTerminalRequest| {
                self.terminals.release(&asked.terminal_id.0)
            });
            released.and_then(|()| value(&ReleaseTerminalResponse::new()))
        } else {
            Err(Error::method_not_found())
        };
        self.peer.outbox.answer(id, done)
    }

    fn read_file(&mut self, asked: &ReadTextFileRequest) -> Result<serde_json::Value, Error> {
        let path = name(&asked.path)?;
        self.tell(super::super::tool("read", path));
        let used = self.tools().read(path, MAX_FILE + 1, self.finished);
        let used = used.map_err(wrong)?;
        if !used.done {
            return Err(wrong(used.told));
        }
        if used.output.len() > MAX_FILE {
            return Err(wrong(format!("the file has more than {MAX_FILE} bytes")));
        }
        let first = asked.line.unwrap_or(1).saturating_sub(1) as usize;
        let count = asked.limit.map_or(usize::MAX, |limit| limit as usize);
        let lines = used.output.split_inclusive('\n').skip(first).take(count);
        value(&ReadTextFileResponse::new(lines.collect::<String>()))
    }

    fn write_file(&mut self, asked: WriteTextFileRequest) -> Result<serde_json::Value, Error> {
        let path = name(&asked.path)?;
        self.tell(super::super::tool("write", path));
        let used = self.tools().write(path, asked.content, self.finished);
        let used = used.map_err(wrong)?;
        match used.done {
            true => value(&WriteTextFileResponse::new()),
            false => Err(wrong(used.told)),
        }
    }

    /// The tools, for as long as there is time.
    fn tools(&self) -> Tools<'env> {
        Tools {
            until: self.until,
            ..*self.tools
        }
    }

    /// Asks a person, on a thread that answers the program.
    fn ask(&mut self, id: RequestId, asked: RequestPermissionRequest) -> Result<(), Error> {
        if self.questions.fetch_add(1, Ordering::Relaxed) >= MAX_QUESTIONS {
            self.questions.fetch_sub(1, Ordering::Relaxed);
            return Err(wrong("too many permissions wait for an answer"));
        }
        let (tools, plan, denials) = (self.tools, self.plan, self.denials);
        let (outbox, questions) = (self.peer.outbox.clone(), Arc::clone(&self.questions));
        let mut over = self.over.subscribe();
        let runtime = tokio::runtime::Handle::current();
        self.scope.spawn(move || {
            let (events, seen) = tokio::sync::mpsc::channel(4);
            let forward = tools.events.clone();
            let telling = runtime.spawn(async move {
                let stop = async {
                    // What is dropped is over too.
                    let _ = over.wait_for(|over| *over).await;
                };
                tools::gather(seen, &forward, stop, |_| {}).await;
            });
            let place = (plan, plan.workspace());
            let (outcome, denied) = permission::decide(tools.service, place, &asked, &events);
            drop(events);
            if runtime.block_on(telling).is_err() {
                tracing::error!("the teller of a permission panicked");
            }
            lock(denials).extend(denied);
            questions.fetch_sub(1, Ordering::Relaxed);
            // A program that is gone needs no answer.
            let _ = outbox.answer(id, Ok(RequestPermissionResponse::new(outcome)));
        });
        Ok(())
    }
}

/// A path that a program names.
fn name(path: &Path) -> Result<&str, Error> {
    match path.to_str() {
        None => Err(wrong("path is no text")),
        Some(path) if path.len() > MAX_PATH => Err(wrong("path is too long")),
        Some(path) => Ok(path),
    }
}

fn read<T: DeserializeOwned>(params: &RawValue) -> Result<T, Error> {
    serde_json::from_str(params.get()).map_err(|error| wrong(error.to_string()))
}

fn value(response: &impl Serialize) -> Result<serde_json::Value, Error> {
    serde_json::to_value(response).map_err(Error::into_internal_error)
}

/// The beginning of what a program wrote, on one line.
fn shown(text: &str) -> String {
    let line = crate::output::one_line(text);
    line.chars().take(SHOWN).collect()
}

/// The program's refusal, in words.
fn refused(method: &str, error: &Error) -> anyhow::Error {
    let said = shown(&error.message);
    let next = match error.code == Error::auth_required().code {
        true => {
            "; it wants to be signed in: give it a key with ai.keys, or sign in once where its policy lets it keep that"
        }
        false => "",
    };
    anyhow::anyhow!("the program refused {method}: {said}{next}")
}
