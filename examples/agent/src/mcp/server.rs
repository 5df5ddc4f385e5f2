//! One MCP server, confined, and what it is asked.

use std::io::Read as _;
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use katachi_crypto::SecretString;
use katachi_protocol::mcp::AgentMcpConfig;
use katachi_protocol::run::{OutputStream, RunEvent};
use katachi_sandbox::{Child, Plan, Query, SpawnError, Violation};
use rmcp::model::{CallToolRequestParams, ContentBlock, Tool};
use rmcp::service::{RoleClient, RunningService, ServiceExt as _};
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use crate::runner::{self, Finished, Job};
use crate::tunnel::{Service, approve};

/// Time for a server to say what it can do.
const STARTING: Duration = Duration::from_secs(30);
/// Time for one answer.
const ANSWERING: Duration = Duration::from_secs(120);
/// Time for a server to end by itself once its input is closed.
const ENDING: Duration = Duration::from_secs(2);
/// Longest message of a server, in bytes.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// What is kept of one answer, in bytes.
const MAX_ANSWER: usize = 256 * 1024;
/// What is shown of a server's standard error, in bytes.
const MAX_ERRORS: usize = 64 * 1024;
/// Tools of one server.
const MAX_TOOLS: usize = 128;

/// A server that runs. It ends, with everything it started, when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    argv: Vec<String>,
    plan: Plan,
    client: RunningService<RoleClient, ()>,
    child: Child,
    errors: Option<JoinHandle<()>>,
}

/// What a tool answered.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) text: String,
    pub(crate) is_error: bool,
}

impl Server {
    /// Starts what `config` says in a sandbox of its own. Its environment is that
    /// of the policy and the variables of `config`, nothing else.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not allowed or does not speak MCP.
    pub(crate) fn start(
        service: &Service,
        config: &AgentMcpConfig,
        events: &Sender<RunEvent>,
        finished: &mut Finished,
    ) -> anyhow::Result<Self> {
        let plan = service.mcp.of(&config.name).plan(&service.config)?;
        let plain = config.env.iter();
        let secret = config.secrets.iter();
        let env = plain
            .map(|(name, value)| (name.clone(), SecretString::new(value.clone())))
            .chain(secret.map(|(name, value)| {
                let value = SecretString::new(value.expose_secret().to_owned());
                (name.clone(), value)
            }));
        let mut job = Job {
            argv: config.command.clone(),
            cwd: None,
            stdin: Vec::new(),
            env: env.collect(),
            session: None,
            approved: None,
        };
        if let Err(refused) = approve(service, &plan, &mut job, events) {
            finished.denials.extend(refused.denials);
            bail!("the MCP server {} was not approved", config.name);
        }
        let mut child = match spawn(&plan, &job) {
            Ok(child) => child,
            Err(SpawnError::Denied(violation)) => {
                deny(&violation, &job.argv, events, finished);
                bail!("the MCP server {} was refused: {violation}", config.name);
            }
            Err(error) => return Err(error.into()),
        };
        let errors = child.stderr.take();
        let shown = events.clone();
        let errors = errors.map(|pipe| {
            let pipe = pipe.take(MAX_ERRORS as u64);
            std::thread::spawn(move || {
                runner::pump(pipe, OutputStream::Stderr, &shown, &mut |_| {});
            })
        });
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the sandbox gave the MCP server no pipes");
        };
        let transport = AsyncRwTransport::new_client(
            ChildStdout::from_std(output)?,
            ChildStdin::from_std(input)?,
        )
        .with_max_line_length(MAX_MESSAGE);
        let starting = tokio::time::timeout(STARTING, ().serve(transport));
        let client = Handle::current()
            .block_on(unless_left(events, starting))?
            .with_context(|| format!("the MCP server {} did not answer in time", config.name))?
            .with_context(|| format!("the MCP server {} does not speak MCP", config.name))?;
        let _ = events.blocking_send(RunEvent::Started {
            id: config.name.clone(),
            argv: job.argv.clone(),
            plan_hash: plan.hash().to_owned(),
            session: None,
        });
        Ok(Self {
            name: config.name.clone(),
            argv: job.argv,
            plan,
            client,
            child,
            errors,
        })
    }

    /// What it can do.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not answer.
    pub(crate) fn tools(&self) -> anyhow::Result<Vec<Tool>> {
        let asked = tokio::time::timeout(STARTING, self.client.list_all_tools());
        let asked = Handle::current().block_on(asked);
        let mut tools = asked
            .with_context(|| format!("the MCP server {} did not answer in time", self.name))?
            .with_context(|| format!("the MCP server {} does not list its tools", self.name))?;
        tools.truncate(MAX_TOOLS);
        Ok(tools)
    }

    /// Calls one of its tools. Where that fails and an argument names a path that
    /// the sandbox refuses, the refusal is told too.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not answer, or whoever asked went away.
    pub(crate) fn call(
        &self,
        tool: &str,
        arguments: Option<rmcp::model::JsonObject>,
        events: &Sender<RunEvent>,
        finished: &mut Finished,
    ) -> anyhow::Result<Called> {
        let mut call = CallToolRequestParams::new(tool.to_owned());
        call.arguments.clone_from(&arguments);
        let asked = tokio::time::timeout(ANSWERING, self.client.call_tool(call));
        let answer = Handle::current()
            .block_on(unless_left(events, asked))?
            .with_context(|| format!("the MCP server {} did not answer in time", self.name))?
            .with_context(|| format!("{tool} of the MCP server {} failed", self.name))?;
        let mut text = String::new();
        for block in &answer.content {
            match block {
                ContentBlock::Text(block) => text.push_str(&block.text),
                _ => text.push_str("(something that is not text)"),
            }
            text.push('\n');
        }
        if text.len() > MAX_ANSWER {
            text.truncate(text.floor_char_boundary(MAX_ANSWER));
            text.push_str("… (cut off)\n");
        }
        let is_error = answer.is_error.unwrap_or_default();
        if is_error {
            for path in arguments
                .iter()
                .flat_map(|map| map.values())
                .flat_map(paths)
            {
                let path = self.plan.workspace().join(path);
                if let Some(violation) = self.plan.explain(&Query::Read(path)).violation() {
                    deny(&violation, &self.argv, events, finished);
                }
            }
        }
        Ok(Called { text, is_error })
    }

    /// Ends it and tells what the sandbox refused to it.
    pub(crate) fn end(mut self, events: &Sender<RunEvent>, finished: &mut Finished) {
        let closing = self.client.close_with_timeout(ENDING);
        if let Err(error) = Handle::current().block_on(closing) {
            tracing::warn!("the MCP server {} did not end well: {error}", self.name);
        }
        self.child.kill();
        match self.child.wait() {
            Ok(outcome) => {
                for violation in &outcome.violations {
                    deny(violation, &self.argv, events, finished);
                }
            }
            Err(error) => tracing::warn!("the MCP server {}: {error}", self.name),
        }
        if let Some(errors) = self.errors.take() {
            // The reader does not panic; if it did, the output so far was sent.
            let _ = errors.join();
        }
    }
}

fn spawn(plan: &Plan, job: &Job) -> Result<Child, SpawnError> {
    runner::command(plan, job).stdin(Stdio::piped()).spawn()
}

/// Waits for `work`, but not for longer than whoever asked does.
async fn unless_left<T>(
    events: &Sender<RunEvent>,
    work: impl Future<Output = T>,
) -> anyhow::Result<T> {
    tokio::select! {
        done = work => Ok(done),
        () = events.closed() => bail!("whoever asked went away"),
    }
}

fn deny(
    violation: &Violation,
    argv: &[String],
    events: &Sender<RunEvent>,
    finished: &mut Finished,
) {
    runner::tell(events, runner::denied(violation));
    finished.denials.push(runner::denial(violation, argv));
}

/// Every absolute path among the texts of an argument.
fn paths(value: &serde_json::Value) -> Vec<&str> {
    match value {
        serde_json::Value::String(text) if text.starts_with('/') => vec![text],
        serde_json::Value::Array(list) => list.iter().flat_map(paths).collect(),
        serde_json::Value::Object(map) => map.values().flat_map(paths).collect(),
        _ => Vec::new(),
    }
}
