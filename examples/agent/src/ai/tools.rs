//! What a model can do here: each tool is a program in the sandbox, under the
//! policy of the AI, those for files too.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use genai::chat::{Tool, ToolCall};
use katachi_protocol::run::{OutputStream, RunEvent};
use katachi_sandbox::Query;
use katachi_sandbox::policy::TimeSpan;
use katachi_store::memory::Memory;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::policy::Rules;
use crate::runner::{self, Finished, Job};
use crate::tunnel::{Service, confined};

/// What one use of a tool gives back to the model, in bytes.
const MAX_RESULT: usize = 64 * 1024;
/// Lines that `search` shows of one file.
const MAX_HITS: &str = "50";
/// Entries that `recall` shows.
const MAX_RECALLED: u32 = 20;

/// Time for one use of a file.
const FILE_TIME: Duration = Duration::from_secs(60);

/// Where tools work and whom they tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tools<'a> {
    pub(super) service: &'a Service,
    pub(super) rules: &'a Rules,
    pub(super) memory: &'a Memory,
    pub(super) events: &'a Sender<RunEvent>,
    /// No use of a tool goes on after that.
    pub(super) until: Instant,
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
    /// Fails where the time for the answer is over. A timer that is late would let the
    /// model go on.
    pub(super) fn in_time(&self) -> anyhow::Result<()> {
        match Instant::now() < self.until {
            true => Ok(()),
            false => bail!("no time is left"),
        }
    }

    /// Does what the model asked for; returns what it is told, which is never an
    /// error of ours: a model that asked for something wrong is told so.
    pub(super) fn use_one(&self, call: &ToolCall, finished: &mut Finished) -> String {
        let done = match call.fn_name.as_str() {
            "run" => read(call).and_then(|run: Run| self.run(run, finished)),
            "read" => read(call)
                .and_then(|at: AtPath| self.read(&at.path, MAX_RESULT, finished))
                .map(|used| used.told),
            "list" => read(call).and_then(|at: AtPath| {
                let argv = ["ls", "-lA", "--", &at.path];
                self.file(
                    (Query::Read, &at.path),
                    &argv,
                    Vec::new(),
                    MAX_RESULT,
                    finished,
                )
                .map(|used| used.told)
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
                self.file((Query::Read, path), &argv, Vec::new(), MAX_RESULT, finished)
                    .map(|used| used.told)
            }),
            "write" => read(call).and_then(|write: Write| {
                let used = self.write(&write.path, write.content, finished)?;
                Ok(match used.done {
                    true => "written".to_owned(),
                    false => used.told,
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
        Ok(self.confine(self.rules, job, MAX_RESULT, finished).told)
    }

    /// The first `limit` bytes of a file.
    pub(super) fn read(
        &self,
        path: &str,
        limit: usize,
        finished: &mut Finished,
    ) -> Result<Used, String> {
        let bytes = limit.to_string();
        let argv = ["head", "-c", &bytes, "--", path];
        self.file((Query::Read, path), &argv, Vec::new(), limit, finished)
    }

    /// Writes a whole file.
    pub(super) fn write(
        &self,
        path: &str,
        content: String,
        finished: &mut Finished,
    ) -> Result<Used, String> {
        let argv = ["tee", "--", path];
        // `tee` repeats what it writes; nobody needs to be told that.
        self.file(
            (Query::Write, path),
            &argv,
            content.into_bytes(),
            0,
            finished,
        )
    }

    /// Does something with a file by `argv`, if the policy lets it.
    fn file(
        &self,
        (query, path): (fn(PathBuf) -> Query, &str),
        argv: &[&str],
        stdin: Vec<u8>,
        limit: usize,
        finished: &mut Finished,
    ) -> Result<Used, String> {
        if path.is_empty() || path.contains('\0') {
            return Err("that is no path".to_owned());
        }
        // The policy's files, and of its programs the one that does this.
        let mut rules = self.rules.clone();
        rules.policy.commands = katachi_sandbox::Policy::default().commands;
        rules.policy.commands.allow = vec![argv[0].into()];
        rules.policy.network = katachi_sandbox::Policy::default().network;
        let longest = TimeSpan::new(FILE_TIME);
        let wall_time = &mut rules.policy.limits.wall_time;
        *wall_time = Some(wall_time.map_or(longest, |time| time.min(longest)));
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
        let job = Job {
            argv,
            cwd: None,
            stdin,
            env: Vec::new(),
            session: None,
            approved: None,
        };
        Ok(self.confine(&rules, job, limit, finished))
    }

    /// Runs `job` to its end and gathers at most `limit` bytes of its output, its
    /// errors, refusals and how it ended.
    fn confine(&self, rules: &Rules, job: Job, limit: usize, finished: &mut Finished) -> Used {
        let (events, seen) = channel(64);
        let (forward, until) = (self.events.clone(), self.until);
        let runtime = tokio::runtime::Handle::current();
        let gathering = runtime.spawn(async move {
            let mut used = Used::default();
            let take = |event: &RunEvent| used.take(event, limit);
            let late = tokio::time::sleep_until(until.into());
            gather(seen, &forward, late, take).await;
            used
        });
        let done = confined(self.service, rules, job, &events, &mut |_| {});
        drop(events);
        finished.denials.extend(done.denials);
        let mut used = runtime.block_on(gathering).unwrap_or_default();
        used.done = done.success;
        used
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

/// What came of one use of a program.
#[derive(Debug, Default)]
pub(super) struct Used {
    /// Its output alone.
    pub(super) output: String,
    /// Its output and errors as they came, refusals, and how it ended.
    pub(super) told: String,
    /// Whether it ended by itself with code zero.
    pub(super) done: bool,
}

impl Used {
    fn take(&mut self, event: &RunEvent, limit: usize) {
        if let RunEvent::Output {
            stream: OutputStream::Stdout,
            data,
        } = event
        {
            if limit == 0 {
                return;
            }
            append(&mut self.output, data, limit);
        }
        append(&mut self.told, &in_words(event), limit.max(MAX_RESULT));
    }
}

fn append(text: &mut String, more: &str, limit: usize) {
    if text.len() < limit {
        text.push_str(more);
        if text.len() > limit {
            text.truncate(text.floor_char_boundary(limit));
            text.push_str("… (cut off)\n");
        }
    }
}

/// Gives each event of a command to `take` until it ends, or `stop` or whoever
/// hears `forward` does: dropping the receiver ends the command. Refusals and
/// questions go on to `forward`.
pub(super) async fn gather(
    mut seen: Receiver<RunEvent>,
    forward: &Sender<RunEvent>,
    stop: impl Future<Output = ()>,
    mut take: impl FnMut(&RunEvent),
) {
    let mut stop = std::pin::pin!(stop);
    loop {
        let event = tokio::select! {
            event = seen.recv() => event,
            () = forward.closed() => None,
            () = &mut stop => None,
        };
        let Some(event) = event else { return };
        take(&event);
        if matches!(event, RunEvent::Denied { .. } | RunEvent::Approval(_)) {
            // Whoever asked may be gone; the next turn of this loop sees it.
            let _ = forward.send(event).await;
        }
    }
}

/// What an event is in the words of a terminal, for who asked for the command.
pub(super) fn in_words(event: &RunEvent) -> String {
    match event {
        RunEvent::Output { data, .. } => data.clone(),
        // It would say which files there are outside; a person sees it.
        RunEvent::Denied { control, .. } if control == "files" => String::new(),
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
