//! One MCP server, confined, and what it is asked.

use std::time::Duration;

use anyhow::{Context as _, bail};
use katachi_crypto::SecretString;
use katachi_protocol::mcp::AgentMcpConfig;
use katachi_protocol::run::{RunEvent, RunRequest};
use katachi_sandbox::Query;
use rmcp::model::{CallToolRequestParams, ContentBlock, Tool};
use rmcp::service::{RoleClient, RunningService, ServiceExt as _};
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use crate::partner::Partner;
use crate::runner::{self, Finished, Job};
use crate::tunnel::{Question, Service, ask};

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
/// Tools of one server.
const MAX_TOOLS: usize = 128;

/// A server that runs. It ends, with everything it started, when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    /// Of `mcp.ask`, what is about this server.
    asks: Vec<String>,
    client: RunningService<RoleClient, ()>,
    partner: Partner,
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
        let plain = config.env.iter();
        let secret = config.secrets.iter();
        let env = plain
            .map(|(name, value)| (name.clone(), SecretString::new(value.clone())))
            .chain(secret.map(|(name, value)| {
                let value = SecretString::new(value.expose_secret().to_owned());
                (name.clone(), value)
            }));
        let job = Job {
            argv: config.command.clone(),
            cwd: None,
            stdin: Vec::new(),
            env: env.collect(),
            session: None,
            approved: None,
        };
        let name = format!("the MCP server {}", config.name);
        let confined = (service, service.mcp.of(&config.name));
        let (partner, pipes) = Partner::start(confined, name, job, events, finished)?;
        let transport = AsyncRwTransport::new_client(
            ChildStdout::from_std(pipes.output)?,
            ChildStdin::from_std(pipes.input)?,
        )
        .with_max_line_length(MAX_MESSAGE);
        let starting = tokio::time::timeout(STARTING, ().serve(transport));
        let client = Handle::current()
            .block_on(unless_left(events, starting))?
            .with_context(|| format!("the MCP server {} did not answer in time", config.name))?
            .with_context(|| format!("the MCP server {} does not speak MCP", config.name))?;
        partner.tell_started(&config.name, None, events);
        Ok(Self {
            name: config.name.clone(),
            asks: about(&service.config.mcp.ask, &config.name),
            client,
            partner,
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

    /// What of `mcp.ask` names a tool that is not among `tools`.
    pub(super) fn asks_for_nothing(&self, tools: &[Tool]) -> Vec<&str> {
        let names_none = |rule: &&str| {
            let named = rule.split_once('/').map(|(_, tool)| tool);
            named.is_some_and(|named| tools.iter().all(|tool| tool.name != named))
        };
        let rules = self.asks.iter().map(String::as_str);
        rules.filter(names_none).collect()
    }

    /// Calls one of its tools, once a person approved that where `mcp.ask` wants
    /// it. Where it fails and an argument names a path that the sandbox refuses, the
    /// refusal is told too. What nobody approved is not called: then the answer is
    /// empty and an error, and `finished` has the refusal.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not answer, or whoever asked went away.
    pub(crate) fn call(
        &self,
        service: &Service,
        tool: &str,
        arguments: Option<rmcp::model::JsonObject>,
        (events, finished): (&Sender<RunEvent>, &mut Finished),
    ) -> anyhow::Result<Called> {
        if let Some(rule) = rule_for(&self.asks, &self.name, tool) {
            let rule = format!("mcp.ask = {rule:?}");
            let shown = serde_json::to_string(&arguments.clone().unwrap_or_default())?;
            let argv = [self.name.clone(), tool.to_owned(), shown];
            if let Err(why) = self.approved(service, &argv, &rule, events) {
                let denial = runner::unapproved("mcp", &argv, &rule, why, events);
                finished.denials.push(denial);
                return Ok(Called {
                    text: String::new(),
                    is_error: true,
                });
            }
        }
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
                let plan = &self.partner.plan;
                let path = plan.workspace().join(path);
                if let Some(violation) = plan.explain(&Query::Read(path)).violation() {
                    self.partner.deny(&violation, events, finished);
                }
            }
        }
        Ok(Called { text, is_error })
    }

    /// Asks a person about one call, and waits.
    fn approved(
        &self,
        service: &Service,
        argv: &[String],
        rule: &str,
        events: &Sender<RunEvent>,
    ) -> Result<(), &'static str> {
        if argv.iter().map(String::len).sum::<usize>() > RunRequest::MAX_BYTES {
            return Err("it is too long to be shown whole");
        }
        let plan = &self.partner.plan;
        let question = Question {
            argv,
            directory: plan.workspace(),
            rule,
        };
        ask(service, plan, question, events)
    }

    /// Ends it and tells what the sandbox refused to it.
    pub(crate) fn end(mut self, events: &Sender<RunEvent>, finished: &mut Finished) {
        let closing = self.client.close_with_timeout(ENDING);
        if let Err(error) = Handle::current().block_on(closing) {
            tracing::warn!("the MCP server {} did not end well: {error}", self.name);
        }
        self.partner.end(Duration::ZERO, events, finished);
    }
}

/// Of the rules of `mcp.ask`, those about this server.
fn about(rules: &[String], server: &str) -> Vec<String> {
    let named = rules
        .iter()
        .filter(|rule| rule.split('/').next() == Some(server));
    named.cloned().collect()
}

/// The rule that wants a person asked before this tool is called: one that names
/// it, or the whole server.
fn rule_for<'a>(rules: &'a [String], server: &str, tool: &str) -> Option<&'a str> {
    let named = |rule: &&String| match rule.split_once('/') {
        Some((name, wanted)) => name == server && wanted == tool,
        None => *rule == server,
    };
    rules.iter().find(named).map(String::as_str)
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

/// Every absolute path among the texts of an argument.
fn paths(value: &serde_json::Value) -> Vec<&str> {
    match value {
        serde_json::Value::String(text) if text.starts_with('/') => vec![text],
        serde_json::Value::Array(list) => list.iter().flat_map(paths).collect(),
        serde_json::Value::Object(map) => map.values().flat_map(paths).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_asked_about_the_tools_and_servers_that_are_named() {
        let rules = ["files/write_file", "mail"].map(str::to_owned);
        let rule = |server, tool| rule_for(&rules, server, tool);
        assert_eq!(rule("files", "write_file"), Some("files/write_file"));
        assert_eq!(rule("files", "read_file"), None);
        assert_eq!(rule("mail", "send"), Some("mail"));
        // A name with a slash is another tool, and no rule for two.
        assert_eq!(rule("files", "write_file/x"), None);
        assert_eq!(rule("file", "write_file"), None);
        assert_eq!(about(&rules, "mail"), ["mail"]);
    }
}
