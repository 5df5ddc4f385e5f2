//! MCP servers of the account: tool servers that a paired device configured.
//!
//! The relay keeps their configurations and cannot make one. Before a server
//! starts, its program, arguments and variables are [compared](signed) with what
//! a device of this machine's own list signed. Then it runs [in a sandbox of its
//! own](server), under a policy of this machine, for as long as one message or one
//! call lasts.
//!
//! A program that runs in a sandbox itself uses servers by a socket: it starts the
//! [bridge] to that, and is heard at a [desk], from where calls go the same way as
//! all others.

#[cfg(unix)]
pub(crate) mod bridge;
#[cfg(unix)]
pub(crate) mod desk;
mod server;
mod signed;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use katachi_protocol::mcp::{AgentMcpConfig, McpCall, McpServer};
use katachi_protocol::run::{OutputStream, RunEvent};
use rmcp::model::Tool;
use tokio::sync::mpsc::Sender;

use crate::config;
use crate::policy::Rules;
use crate::runner::Finished;
use crate::tunnel::Service;

pub(crate) use server::Server;
pub(crate) use signed::Signed;

/// Which policy confines which server.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    default: Rules,
    own: BTreeMap<String, Rules>,
}

impl Policies {
    /// Reads the policy files that `config` names; `sandbox` is the policy of
    /// servers for which it names none.
    ///
    /// # Errors
    ///
    /// Returns an error if one of them cannot be read.
    pub(crate) fn load(config: &config::Mcp, sandbox: &Rules) -> anyhow::Result<Self> {
        let read = |file: &PathBuf| Rules::load(Some(Path::new(file)));
        let own = config.policies.iter();
        Ok(Self {
            default: match &config.policy {
                Some(file) => read(file)?,
                None => sandbox.clone(),
            },
            own: own
                .map(|(name, file)| Ok((name.clone(), read(file)?)))
                .collect::<anyhow::Result<_>>()?,
        })
    }

    fn of(&self, name: &str) -> &Rules {
        self.own.get(name).unwrap_or(&self.default)
    }
}

/// Every configuration of the account, and whether this machine would start it.
///
/// # Errors
///
/// Returns an error if the relay does not answer or our own lists cannot be read.
pub(crate) async fn listed(service: &Service) -> anyhow::Result<Vec<McpServer>> {
    let configs = service.client().mcp().await?.configs;
    let judge = service.signed.judge(service)?;
    let shown = |config: AgentMcpConfig| McpServer {
        refused: judge.judge(&config).err().map(|why| why.to_string()),
        name: config.name,
        command: config.command,
    };
    Ok(configs.into_iter().map(shown).collect())
}

/// The configurations that a paired device signed for this machine.
///
/// # Errors
///
/// Those of [`listed`].
pub(crate) async fn startable(service: &Service) -> anyhow::Result<Vec<AgentMcpConfig>> {
    let configs = service.client().mcp().await?.configs;
    let judge = service.signed.judge(service)?;
    Ok(configs
        .into_iter()
        .filter(|config| judge.judge(config).is_ok())
        .collect())
}

/// Starts one server for a message, with what it can do. Where it does not start
/// that is told, and the message is answered without it.
pub(crate) fn start(
    service: &Service,
    config: &AgentMcpConfig,
    events: &Sender<RunEvent>,
    finished: &mut Finished,
) -> Option<(Server, Vec<Tool>)> {
    let started = service
        .signed
        .take(service, config)
        .and_then(|()| Server::start(service, config, events, finished))
        .and_then(|server| {
            let listed = server.tools();
            Ok((server, listed?))
        });
    match started {
        Ok((server, tools)) => {
            for rule in server.asks_for_nothing(&tools) {
                let text =
                    format!("mcp.ask = {rule:?} names a tool that this server does not have");
                note(events, &text);
            }
            Some((server, tools))
        }
        Err(error) => {
            note(events, &format!("{error:#}"));
            None
        }
    }
}

/// Tells the person something that is not of an answer.
pub(crate) fn note(events: &Sender<RunEvent>, text: &str) {
    crate::runner::tell(
        events,
        RunEvent::Output {
            stream: OutputStream::Stderr,
            data: format!("{text}\n"),
        },
    );
}

/// Starts one server, asks it one thing, and ends it. Blocks, on a thread of a
/// tokio runtime.
pub(crate) fn once(service: &Service, call: &McpCall, events: &Sender<RunEvent>) -> Finished {
    let began = std::time::Instant::now();
    let mut finished = Finished::failed(String::new());
    let asked = ask(service, call, events, &mut finished);
    finished.cancelled = events.is_closed();
    finished.milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let last = match asked {
        Ok(success) => {
            finished.success = success;
            finished.outcome = (if success {
                "answered"
            } else {
                "answered with an error"
            })
            .into();
            RunEvent::Exit {
                code: Some(i32::from(!success)),
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
    // The receiver may be gone; then there is nobody to tell.
    let _ = events.blocking_send(last);
    finished
}

fn ask(
    service: &Service,
    call: &McpCall,
    events: &Sender<RunEvent>,
    finished: &mut Finished,
) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Handle::current();
    let configs = runtime.block_on(service.client().mcp())?.configs;
    let config = configs
        .into_iter()
        .find(|config| config.name == call.server)
        .with_context(|| {
            format!(
                "the account has no MCP configuration named {}",
                crate::output::printable(&call.server)
            )
        })?;
    service.signed.take(service, &config)?;
    let server = Server::start(service, &config, events, finished)?;
    let asked = match &call.tool {
        None => server.tools().map(|tools| (list(&tools), true)),
        Some(tool) => server
            .call(service, tool, call.arguments.clone(), (events, finished))
            .map(|called| (called.text, !called.is_error)),
    };
    server.end(events, finished);
    let (data, success) = asked?;
    let _ = events.blocking_send(RunEvent::Output {
        stream: OutputStream::Stdout,
        data,
    });
    Ok(success)
}

/// One line for each tool.
fn list(tools: &[Tool]) -> String {
    let line = |tool: &Tool| {
        let about = tool.description.as_deref().unwrap_or_default();
        let about = about.lines().next().unwrap_or_default();
        format!("{}: {about}\n", tool.name)
    };
    tools.iter().map(line).collect()
}
