//! Terminals of an ACP program: commands that it starts through us and that run
//! in a sandbox of their own while it goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use agent_client_protocol_schema::v1::{
    CreateTerminalRequest, Error, RequestId, TerminalExitStatus, TerminalOutputResponse,
    WaitForTerminalExitResponse,
};
use katachi_crypto::SecretString;
use katachi_protocol::record::Denial;
use katachi_protocol::run::RunEvent;
use tokio::sync::Notify;
use tokio::sync::mpsc::channel;

use super::super::tools::{self, Tools};
use super::wire::Outbox;
use crate::runner::{self, Job};
use crate::tunnel::confined;

/// Terminals that are not released.
const MAX_TERMINALS: usize = 8;
/// Requests that wait for the end of one.
const MAX_WAITING: usize = 8;
/// What is kept of the output of one, in bytes: its end.
const MAX_OUTPUT: usize = 1024 * 1024;

/// The terminals of one program. What still runs ends when this is dropped.
pub(super) struct Terminals<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    tools: &'env Tools<'env>,
    outbox: Outbox,
    open: BTreeMap<String, Arc<Terminal>>,
    created: u64,
    denials: &'env Mutex<Vec<Denial>>,
}

struct Terminal {
    state: Mutex<State>,
    stop: Notify,
}

struct State {
    output: String,
    limit: usize,
    truncated: bool,
    ended: Option<TerminalExitStatus>,
    waiting: Vec<RequestId>,
}

impl<'scope, 'env> Terminals<'scope, 'env> {
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        tools: &'env Tools<'env>,
        outbox: Outbox,
        denials: &'env Mutex<Vec<Denial>>,
    ) -> Self {
        Self {
            scope,
            tools,
            outbox,
            open: BTreeMap::new(),
            created: 0,
            denials,
        }
    }

    /// Starts a command; returns the name of its terminal.
    pub(super) fn create(&mut self, request: CreateTerminalRequest) -> Result<String, Error> {
        if self.open.len() >= MAX_TERMINALS {
            return Err(wrong(format!(
                "{MAX_TERMINALS} terminals are open; release one"
            )));
        }
        let job = self.job(&request)?;
        let limit = request.output_byte_limit.map(usize::try_from);
        let limit = limit.and_then(Result::ok).unwrap_or(MAX_OUTPUT);
        let terminal = Arc::new(Terminal {
            state: Mutex::new(State {
                output: String::new(),
                limit: limit.min(MAX_OUTPUT),
                truncated: false,
                ended: None,
                waiting: Vec::new(),
            }),
            stop: Notify::new(),
        });
        self.created += 1;
        let id = format!("terminal-{}", self.created);
        self.open.insert(id.clone(), Arc::clone(&terminal));
        let (tools, outbox, denials) = (self.tools, self.outbox.clone(), self.denials);
        let runtime = tokio::runtime::Handle::current();
        self.scope.spawn(move || {
            let _inside = runtime.enter();
            let (events, seen) = channel(64);
            let (heard, forward) = (Arc::clone(&terminal), tools.events.clone());
            let gathering = runtime.spawn(async move {
                let take = |event: &RunEvent| heard.hear(event);
                tools::gather(seen, &forward, heard.stop.notified(), take).await;
            });
            let done = confined(tools.service, tools.rules, job, &events, &mut |_| {});
            drop(events);
            if runtime.block_on(gathering).is_err() {
                tracing::error!("the reader of a terminal panicked");
            }
            lock(denials).extend(done.denials);
            terminal.finish(&outbox);
        });
        Ok(id)
    }

    fn job(&self, request: &CreateTerminalRequest) -> Result<Job, Error> {
        let workspace = &self.tools.service.config.workspace;
        let workspace = workspace
            .canonicalize()
            .map_err(|_| wrong("no workspace"))?;
        let cwd = match &request.cwd {
            None => None,
            Some(cwd) => Some(inside(&workspace, cwd)?),
        };
        let mut argv = vec![request.command.clone()];
        argv.extend(request.args.iter().cloned());
        crate::tunnel::check_run(&argv, cwd.as_deref()).map_err(wrong)?;
        if !request.env.is_empty() {
            let plan = self.tools.rules.plan(&self.tools.service.config);
            let plan = plan.map_err(|error| wrong(format!("{error:#}")))?;
            let directory = runner::directory(&workspace, cwd.as_deref());
            // A person is shown the words and not the variables, which can change
            // what those do.
            if directory.is_some_and(|place| plan.needs_approval(&argv, &place).is_some()) {
                return Err(wrong(
                    "a command that a person has to approve takes no variables",
                ));
            }
        }
        let env = request.env.iter();
        Ok(Job {
            argv,
            cwd,
            stdin: Vec::new(),
            env: env
                .map(|pair| (pair.name.clone(), SecretString::new(pair.value.clone())))
                .collect(),
            session: None,
            approved: None,
        })
    }

    /// What it wrote, and whether it ended.
    pub(super) fn output(&self, id: &str) -> Result<TerminalOutputResponse, Error> {
        let terminal = self.find(id)?;
        let state = lock(&terminal.state);
        let response = TerminalOutputResponse::new(state.output.clone(), state.truncated);
        Ok(response.exit_status(state.ended.clone()))
    }

    /// Answers `request` once it ended; returns what to answer if it has.
    pub(super) fn wait(
        &self,
        id: &str,
        request: RequestId,
    ) -> Result<Option<WaitForTerminalExitResponse>, Error> {
        let terminal = self.find(id)?;
        let mut state = lock(&terminal.state);
        if let Some(status) = &state.ended {
            return Ok(Some(WaitForTerminalExitResponse::new(status.clone())));
        }
        if state.waiting.len() >= MAX_WAITING {
            return Err(wrong("too many requests wait for this terminal"));
        }
        state.waiting.push(request);
        Ok(None)
    }

    /// Ends its command; the terminal stays.
    pub(super) fn kill(&self, id: &str) -> Result<(), Error> {
        self.find(id)?.stop.notify_one();
        Ok(())
    }

    /// Ends its command and forgets it.
    pub(super) fn release(&mut self, id: &str) -> Result<(), Error> {
        self.kill(id)?;
        self.open.remove(id);
        Ok(())
    }

    /// Ends every command; the terminals stay.
    pub(super) fn stop(&self) {
        for terminal in self.open.values() {
            terminal.stop.notify_one();
        }
    }

    fn find(&self, id: &str) -> Result<&Arc<Terminal>, Error> {
        self.open
            .get(id)
            .ok_or_else(|| wrong("there is no such terminal"))
    }
}

impl Drop for Terminals<'_, '_> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Terminal {
    fn hear(&self, event: &RunEvent) {
        let mut state = lock(&self.state);
        match event {
            RunEvent::Exit { code, signal, .. } => {
                let code = code.and_then(|code| u32::try_from(code).ok());
                let signal = signal.map(|signal| signal.to_string());
                let status = TerminalExitStatus::new().exit_code(code).signal(signal);
                state.ended = Some(status);
                return;
            }
            RunEvent::Error { .. } => state.ended = Some(TerminalExitStatus::new().exit_code(125)),
            _ => {}
        }
        state.output.push_str(&tools::in_words(event));
        let surplus = state.output.len().saturating_sub(state.limit);
        if surplus > 0 {
            let start = state.output.ceil_char_boundary(surplus);
            state.output.drain(..start);
            state.truncated = true;
        }
    }

    /// Tells everyone who waits.
    fn finish(&self, outbox: &Outbox) {
        let (status, waiting) = {
            let mut state = lock(&self.state);
            // Nobody heard its end: it was killed.
            let killed = || TerminalExitStatus::new().signal("9".to_owned());
            let status = state.ended.get_or_insert_with(killed).clone();
            (status, std::mem::take(&mut state.waiting))
        };
        for request in waiting {
            // A program that is gone needs no answer.
            let _ = outbox.answer(
                request,
                Ok(WaitForTerminalExitResponse::new(status.clone())),
            );
        }
    }
}

/// `path` of the program, relative to the workspace.
fn inside(workspace: &Path, path: &Path) -> Result<String, Error> {
    let relative = path.strip_prefix(workspace).unwrap_or(path);
    let relative = relative.to_str().ok_or_else(|| wrong("cwd is no text"))?;
    Ok(relative.to_owned())
}

pub(super) fn wrong(why: impl Into<String>) -> Error {
    Error::new(-32602, why)
}

pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
