//! What a model can do here: each tool is a program in the sandbox, under the
//! policy of the AI, those for files too.

use std::path::PathBuf;

use genai::chat::{Tool, ToolCall};
use katachi_protocol::run::{OutputStream, RunEvent};
use katachi_sandbox::Query;
use katachi_store::memory::Memory;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc::{Sender, channel};

use crate::policy::Rules;
use crate::runner::{self, Finished, Job};
use crate::tunnel::{Service, confined};

/// What one use of a tool gives back to the model, in bytes.
const MAX_RESULT: usize = 64 * 1024;
/// What `read` reads of a file, in bytes.
const MAX_READ: &str = "65536";
/// Lines that `search` shows of one file.
const MAX_HITS: &str = "50";
/// Entries that `recall` shows.
const MAX_RECALLED: u32 = 20;

/// Where tools work and whom they tell.
#[derive(Debug)]
pub(super) struct Tools<'a> {
    pub(super) service: &'a Service,
    pub(super) rules: &'a Rules,
    pub(super) memory: &'a Memory,
    pub(super) events: &'a Sender<RunEvent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    argv: Vec<String>,
    cwd: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AtPath {
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Write {
    path: String,
    content: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Find {
    pattern: String,
    path: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remember {
    key: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recall {
    words: String,
}

/// What the model is told that it can do.
pub(super) fn described() -> Vec<Tool> {
    let text = || json!({ "type": "string" });
    let tool = |name: &str, about: &str, properties: serde_json::Value, required: &[&str]| {
        Tool::new(name).with_description(about).with_schema(json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        }))
    };
    vec![
        tool(
            "run",
            "Runs one program, without a shell. `cwd` is relative to the workspace.",
            json!({ "argv": { "type": "array", "items": text() }, "cwd": text() }),
            &["argv"],
        ),
        tool(
            "read",
            "Reads a file.",
            json!({ "path": text() }),
            &["path"],
        ),
        tool(
            "write",
            "Writes a whole file, in place of what was there.",
            json!({ "path": text(), "content": text() }),
            &["path", "content"],
        ),
        tool(
            "list",
            "Lists a directory.",
            json!({ "path": text() }),
            &["path"],
        ),
        tool(
            "search",
            "Finds lines that match an extended regular expression, in all files below `path`.",
            json!({ "pattern": text(), "path": text() }),
            &["pattern"],
        ),
        tool(
            "remember",
            "Keeps something about this workspace for later conversations.",
            json!({ "key": text(), "value": text() }),
            &["key", "value"],
        ),
        tool(
            "recall",
            "Finds what was kept about this workspace.",
            json!({ "words": text() }),
            &["words"],
        ),
    ]
}

impl Tools<'_> {
    /// Does what the model asked for; returns what it is told, which is never an
    /// error of ours: a model that asked for something wrong is told so.
    pub(super) fn use_one(&self, call: &ToolCall, finished: &mut Finished) -> String {
        let done = match call.fn_name.as_str() {
            "run" => read(call).and_then(|run: Run| self.run(run, finished)),
            "read" => read(call).and_then(|at: AtPath| {
                let argv = ["head", "-c", MAX_READ, "--", &at.path];
                self.file(Query::Read, &at.path, &argv, Vec::new(), finished)
            }),
            "list" => read(call).and_then(|at: AtPath| {
                let argv = ["ls", "-lA", "--", &at.path];
                self.file(Query::Read, &at.path, &argv, Vec::new(), finished)
            }),
            "search" => read(call).and_then(|find: Find| {
                let path = find.path.as_deref().unwrap_or(".");
                let argv = [
                    "grep",
                    "-rnIE",
                    "-m",
                    MAX_HITS,
                    "-e",
                    &find.pattern,
                    "--",
                    path,
                ];
                self.file(Query::Read, path, &argv, Vec::new(), finished)
            }),
            "write" => read(call).and_then(|write: Write| {
                let argv = ["tee", "--", &write.path];
                let content = write.content.into_bytes();
                self.file(Query::Write, &write.path, &argv, content, finished)
                    .map(|said| match said.as_str() {
                        "" => "written".to_owned(),
                        _ => said,
                    })
            }),
            "remember" => read(call).and_then(|entry: Remember| self.remember(&entry)),
            "recall" => read(call).and_then(|recall: Recall| self.recall(&recall)),
            other => Err(format!("there is no tool {other}")),
        };
        done.unwrap_or_else(|wrong| wrong)
    }

    fn run(&self, run: Run, finished: &mut Finished) -> Result<String, String> {
        crate::tunnel::check_run(&run.argv, run.cwd.as_deref())?;
        let job = Job {
            argv: run.argv,
            cwd: run.cwd,
            stdin: Vec::new(),
            env: Vec::new(),
            session: None,
            approved: None,
        };
        Ok(self.confine(self.rules, job, true, finished))
    }

    /// Does something with a file by `argv`, if the policy lets it.
    fn file(
        &self,
        query: fn(PathBuf) -> Query,
        path: &str,
        argv: &[&str],
        stdin: Vec<u8>,
        finished: &mut Finished,
    ) -> Result<String, String> {
        if path.is_empty() || path.contains('\0') {
            return Err("that is no path".to_owned());
        }
        // The policy's files, and of its programs the one that does this.
        let mut rules = self.rules.clone();
        rules.policy.commands = katachi_sandbox::Policy::default().commands;
        rules.policy.commands.allow = vec![argv[0].into()];
        rules.policy.network = katachi_sandbox::Policy::default().network;
        let plan = rules.plan(&self.service.config);
        let plan = plan.map_err(|error| format!("the sandbox cannot be built: {error:#}"))?;
        let target = plan.workspace().join(path);
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        // Asked first for the words of the refusal; the sandbox holds without it.
        if let Some(violation) = plan.explain(&query(target)).violation() {
            runner::tell(self.events, runner::denied(&violation));
            finished.denials.push(runner::denial(&violation, &argv));
            return Err(refusal(&violation.reason, violation.allow_with.as_deref()));
        }
        let is_read = stdin.is_empty();
        let job = Job {
            argv,
            cwd: None,
            stdin,
            env: Vec::new(),
            session: None,
            approved: None,
        };
        Ok(self.confine(&rules, job, is_read, finished))
    }

    /// Runs `job` to its end and gathers what the model is told of it: its output
    /// if `with_output`, its errors, refusals and how it ended.
    fn confine(
        &self,
        rules: &Rules,
        job: Job,
        with_output: bool,
        finished: &mut Finished,
    ) -> String {
        let (events, mut seen) = channel(64);
        let forward = self.events.clone();
        let runtime = tokio::runtime::Handle::current();
        let gathering = runtime.spawn(async move {
            let mut told = String::new();
            loop {
                let event = tokio::select! {
                    event = seen.recv() => event,
                    // Dropping the receiver ends the command.
                    () = forward.closed() => None,
                };
                let Some(event) = event else { return told };
                let line = match &event {
                    RunEvent::Output {
                        stream: OutputStream::Stdout,
                        ..
                    } if !with_output => continue,
                    RunEvent::Output { data, .. } => data.clone(),
                    RunEvent::Denied {
                        reason, allow_with, ..
                    } => refusal(reason, allow_with.as_deref()) + "\n",
                    RunEvent::Exit { code: Some(0), .. } => String::new(),
                    RunEvent::Exit {
                        code: Some(code), ..
                    } => format!("(exit code {code})\n"),
                    RunEvent::Exit { signal, .. } => {
                        format!("(ended by signal {})\n", signal.unwrap_or_default())
                    }
                    RunEvent::Error { message } => format!("(not run: {message})\n"),
                    _ => String::new(),
                };
                if told.len() < MAX_RESULT {
                    told.push_str(&line);
                    if told.len() > MAX_RESULT {
                        told.truncate(told.floor_char_boundary(MAX_RESULT));
                        told.push_str("… (cut off)\n");
                    }
                }
                if matches!(event, RunEvent::Denied { .. } | RunEvent::Approval(_)) {
                    // Whoever asked may be gone; the next turn of this loop sees it.
                    let _ = forward.send(event).await;
                }
            }
        });
        let done = confined(self.service, rules, job, &events, &mut |_| {});
        drop(events);
        finished.denials.extend(done.denials);
        runtime.block_on(gathering).unwrap_or_default()
    }

    fn remember(&self, entry: &Remember) -> Result<String, String> {
        let namespace = crate::commands::memory::namespace(&self.service.config);
        let kept = self.memory.set(&namespace, &entry.key, &entry.value, &[]);
        match kept {
            Ok(()) => Ok("kept".to_owned()),
            Err(error) => Err(format!("not kept: {error}")),
        }
    }

    fn recall(&self, recall: &Recall) -> Result<String, String> {
        let namespace = crate::commands::memory::namespace(&self.service.config);
        let found = match recall.words.trim() {
            "" => self.memory.list(&namespace, None, MAX_RECALLED, 0),
            words => self.memory.search(Some(&namespace), words, MAX_RECALLED),
        };
        let found = found.map_err(|error| format!("the memory cannot be read: {error}"))?;
        let lines: Vec<_> = found
            .iter()
            .map(|entry| format!("{}: {}", entry.key, entry.value))
            .collect();
        Ok(match lines.is_empty() {
            true => "nothing".to_owned(),
            false => lines.join("\n"),
        })
    }
}

fn read<T: DeserializeOwned>(call: &ToolCall) -> Result<T, String> {
    serde_json::from_value(call.fn_arguments.clone())
        .map_err(|error| format!("the arguments of {} are wrong: {error}", call.fn_name))
}

/// A refusal in words for a model.
pub(super) fn refusal(reason: &str, allow_with: Option<&str>) -> String {
    match allow_with {
        Some(line) => format!(
            "denied by the policy of this machine: {reason}. Its owner could allow it with: {line}"
        ),
        None => format!("denied by the policy of this machine: {reason}"),
    }
}
