//! One confined command, told as a stream of events.

use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use katachi_crypto::SecretString;
use katachi_protocol::record::Denial;
use katachi_protocol::run::{OutputStream, RunEvent};
use katachi_sandbox::child::{Ending, Killer};
use katachi_sandbox::{Child, Command, Plan, SpawnError, Violation};
use tokio::sync::mpsc::Sender;

/// Argument vector of a denied command that is kept in records, in bytes.
const MAX_RECORDED: usize = 512;

/// What to run.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) argv: Vec<String>,
    /// Relative to the workspace.
    pub(crate) cwd: Option<String>,
    /// What the command reads.
    pub(crate) stdin: Vec<u8>,
    /// Variables beyond the policy's, such as API keys.
    pub(crate) env: Vec<(String, SecretString)>,
    /// The conversation that it belongs to.
    pub(crate) session: Option<String>,
    /// The directory in which a person approved this start.
    pub(crate) approved: Option<PathBuf>,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Finished {
    /// One line for the audit log.
    pub(crate) outcome: String,
    /// Whether it ended by itself with code zero.
    pub(crate) success: bool,
    /// Whether the other side went away before it ended.
    pub(crate) cancelled: bool,
    pub(crate) denials: Vec<Denial>,
    pub(crate) milliseconds: u64,
}

impl Finished {
    /// Nothing was run.
    pub(crate) fn failed(outcome: String) -> Self {
        Self {
            outcome,
            success: false,
            cancelled: false,
            denials: Vec::new(),
            milliseconds: 0,
        }
    }
}

/// Runs `job` under `plan` and tells `events` what happens; `hear` gets the
/// standard output as it comes.
///
/// Blocks until the command ended, on a thread of a tokio runtime. If the receiver goes away, the command and
/// everything it started is killed.
pub(crate) fn run(
    plan: &Plan,
    job: &Job,
    events: &Sender<RunEvent>,
    hear: &mut dyn FnMut(&str),
) -> Finished {
    let began = Instant::now();
    let mut finished = Finished::failed(String::new());
    let Some(directory) = directory(plan.workspace(), job.cwd.as_deref()) else {
        return refused(&began, NO_DIRECTORY, events);
    };
    if job
        .approved
        .as_ref()
        .is_some_and(|place| *place != directory)
    {
        return refused(&began, "the directory is another than was approved", events);
    }
    let last = match start(plan, job, &directory) {
        Ok(child) => follow(child, plan, job, events, hear, &mut finished),
        Err(SpawnError::Denied(violation)) => {
            tell(events, denied(&violation));
            finished.denials.push(denial(&violation, &job.argv));
            finished.outcome = format!("denied: {violation}");
            RunEvent::Exit {
                code: Some(126),
                signal: None,
                seconds: began.elapsed().as_secs_f64(),
            }
        }
        Err(error) => {
            finished.outcome = format!("not started: {error}");
            RunEvent::Error {
                message: error.to_string(),
            }
        }
    };
    finished.milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    finished.cancelled |= events.is_closed();
    tell(events, last);
    finished
}

/// What is said of every directory that a command cannot start in, so that
/// nobody learns from it what exists outside.
const NO_DIRECTORY: &str = "cwd is not a directory in the workspace";

/// The directory to start in, if it lies in the workspace with all links followed.
pub(crate) fn directory(workspace: &Path, cwd: Option<&str>) -> Option<PathBuf> {
    let wanted = workspace.join(cwd.unwrap_or_default());
    let found = wanted.canonicalize().ok()?;
    (found.is_dir() && found.starts_with(workspace)).then_some(found)
}

fn refused(began: &Instant, why: &str, events: &Sender<RunEvent>) -> Finished {
    let mut finished = Finished::failed(format!("not started: {why}"));
    finished.milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tell(
        events,
        RunEvent::Error {
            message: why.to_owned(),
        },
    );
    finished
}

/// Tells that nobody approved `job`, for the reason that `why` gives.
pub(crate) fn not_approved(
    job: &Job,
    rule: &str,
    why: &str,
    events: &Sender<RunEvent>,
) -> Finished {
    let denial = unapproved("exec", &job.argv, rule, why, events);
    let mut finished = Finished::failed(format!("denied: {}", denial.reason));
    finished.cancelled = events.is_closed();
    tell(
        events,
        RunEvent::Exit {
            code: Some(126),
            signal: None,
            seconds: 0.0,
        },
    );
    finished.denials.push(denial);
    finished
}

/// Tells that nobody approved what `argv` says, which `control` asked about.
pub(crate) fn unapproved(
    control: &str,
    argv: &[String],
    rule: &str,
    why: &str,
    events: &Sender<RunEvent>,
) -> Denial {
    let denial = Denial {
        at: crate::audit::now(),
        argv: shortened(argv),
        control: control.to_owned(),
        operation: control.to_owned(),
        target: shortened(argv).join(" "),
        reason: format!("{rule}: {why}"),
        allow_with: None,
    };
    tell(
        events,
        RunEvent::Denied {
            control: denial.control.clone(),
            operation: denial.operation.clone(),
            target: denial.target.clone(),
            reason: denial.reason.clone(),
            allow_with: None,
        },
    );
    denial
}

fn start(plan: &Plan, job: &Job, directory: &Path) -> Result<Child, SpawnError> {
    let mut command = command(plan, job).stdin(match job.stdin.is_empty() {
        true => Stdio::null(),
        false => Stdio::piped(),
    });
    if job.cwd.is_some() {
        command = command.current_dir(directory);
    }
    command.spawn()
}

/// `job` as a command with piped outputs, without its directory and input.
pub(crate) fn command(plan: &Plan, job: &Job) -> Command {
    let mut command = plan
        .command(&job.argv)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in &job.env {
        command = command.env(name, value.expose_secret());
    }
    match job.approved {
        Some(_) => command.approved(),
        None => command,
    }
}

fn follow(
    mut child: Child,
    plan: &Plan,
    job: &Job,
    events: &Sender<RunEvent>,
    hear: &mut dyn FnMut(&str),
    finished: &mut Finished,
) -> RunEvent {
    tell(
        events,
        RunEvent::Started {
            id: run_id(),
            argv: job.argv.clone(),
            plan_hash: plan.hash().to_owned(),
            session: job.session.clone(),
        },
    );
    let (ends, watched) = (Ends(child.killer()), events.clone());
    let watch = tokio::spawn(async move {
        watched.closed().await;
        drop(ends);
    });
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let result = std::thread::scope(|scope| {
        if let Some(mut pipe) = stdin {
            // A command that does not read its input is free not to.
            scope.spawn(move || drop(pipe.write_all(&job.stdin)));
        }
        let errors = stderr
            .map(|pipe| scope.spawn(|| pump(pipe, OutputStream::Stderr, events, &mut |_| {})));
        if let Some(pipe) = stdout {
            pump(pipe, OutputStream::Stdout, events, hear);
        }
        if let Some(errors) = errors {
            // The reader does not panic; if it did, the output so far was sent.
            let _ = errors.join();
        }
        child.wait()
    });
    watch.abort();
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(error) => {
            finished.outcome = format!("lost: {error}");
            return RunEvent::Error {
                message: format!("the command could not be followed to its end: {error}"),
            };
        }
    };
    for violation in &outcome.violations {
        tell(events, denied(violation));
        finished.denials.push(denial(violation, &job.argv));
    }
    finished.success = outcome.success();
    finished.cancelled = outcome.ending == Ending::Killed;
    finished.outcome = words(&outcome.ending);
    let (code, signal) = match outcome.ending {
        Ending::Code(code) => (Some(code), None),
        Ending::Signal(signal) => (None, Some(signal)),
        _ => (Some(outcome.exit_code()), None),
    };
    RunEvent::Exit {
        code,
        signal,
        seconds: outcome.time.as_secs_f64(),
    }
}

/// Ends a command when it goes: also with the runtime that was to watch for its
/// reader, which waits for the thread that follows the command.
struct Ends(Killer);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// Forwards a pipe as text until it ends.
pub(crate) fn pump(
    mut pipe: impl Read,
    stream: OutputStream,
    events: &Sender<RunEvent>,
    hear: &mut dyn FnMut(&str),
) {
    let mut decoder = Decoder::default();
    let mut buffer = [0; 8192];
    loop {
        let count = match pipe.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        let data = match count {
            0 => decoder.finish(),
            count => decoder.push(&buffer[..count]),
        };
        if !data.is_empty() {
            hear(&data);
            tell(events, RunEvent::Output { stream, data });
        }
        if count == 0 {
            return;
        }
    }
}

pub(crate) fn tell(events: &Sender<RunEvent>, event: RunEvent) {
    // Nobody listens any more: the watch above ends the command.
    let _ = events.blocking_send(event);
}

/// Turns bytes into text where pieces may end in the middle of a character.
#[derive(Debug, Default)]
struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let complete = match std::str::from_utf8(&self.pending) {
            Ok(_) => self.pending.len(),
            // Only an unfinished character at the very end waits for its rest.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => {
                let tail = unfinished(&self.pending);
                self.pending.len() - tail
            }
        };
        let rest = self.pending.split_off(complete);
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }

    fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// How many bytes at the end of `bytes` begin a character that is not finished.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let tail = &bytes[bytes.len() - back..];
        match std::str::from_utf8(tail) {
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => return back,
            _ => {}
        }
    }
    0
}

pub(crate) fn denied(violation: &Violation) -> RunEvent {
    RunEvent::Denied {
        control: violation.control.clone(),
        operation: violation.operation.clone(),
        target: violation.target.clone(),
        reason: violation.reason.clone(),
        allow_with: violation.allow_with.clone(),
    }
}

pub(crate) fn denial(violation: &Violation, argv: &[String]) -> Denial {
    Denial {
        at: crate::audit::now(),
        argv: shortened(argv),
        control: violation.control.clone(),
        operation: violation.operation.clone(),
        target: violation.target.clone(),
        reason: violation.reason.clone(),
        allow_with: violation.allow_with.clone(),
    }
}

/// As much of an argument vector as a record needs: one that is sent over and
/// over must not push the rest out of the log.
fn shortened(argv: &[String]) -> Vec<String> {
    let mut room = MAX_RECORDED;
    let mut kept = Vec::new();
    for word in argv {
        if word.len() > room {
            let end = word.floor_char_boundary(room);
            kept.push(format!("{}…", &word[..end]));
            break;
        }
        room -= word.len();
        kept.push(word.clone());
    }
    kept
}

/// How a command ended, for people.
pub(crate) fn words(ending: &Ending) -> String {
    match ending {
        Ending::Code(code) => format!("exit {code}"),
        Ending::Signal(signal) => format!("signal {signal}"),
        Ending::TimedOut => "ended by limits.wall_time".to_owned(),
        Ending::LimitExceeded(limit) => format!("ended by {limit}"),
        Ending::Killed => "cancelled".to_owned(),
        other => format!("{other:?}"),
    }
}

fn run_id() -> String {
    match katachi_crypto::random::bytes::<8>() {
        Ok(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        // An identifier for display; without randomness it is merely empty.
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, MAX_RECORDED, directory, shortened};

    #[cfg(unix)]
    #[test]
    fn a_directory_outside_looks_like_none() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let workspace = base.join("workspace");
        std::fs::create_dir_all(workspace.join("sub")).unwrap();
        std::fs::create_dir(base.join("outside")).unwrap();
        std::fs::write(workspace.join("file"), "").unwrap();
        for (link, target) in [
            ("there", "../outside"),
            ("nowhere", "../none"),
            ("near", "sub"),
        ] {
            std::os::unix::fs::symlink(target, workspace.join(link)).unwrap();
        }
        for inside in ["sub", "near", ".", ""] {
            assert!(directory(&workspace, Some(inside)).is_some(), "{inside}");
        }
        for other in ["there", "nowhere", "file", "none", "sub\0", "there/."] {
            assert_eq!(directory(&workspace, Some(other)), None, "{other:?}");
        }
    }

    #[test]
    fn a_record_of_a_denial_stays_short() {
        let short = ["curl", "https://example.com"].map(str::to_owned);
        assert_eq!(shortened(&short), short);
        let long = ["curl".to_owned(), "ü".repeat(5000), "rest".to_owned()];
        let kept = shortened(&long);
        assert_eq!((kept.len(), kept[0].as_str()), (2, "curl"));
        assert!(kept[1].len() <= MAX_RECORDED && kept[1].ends_with('…'));
    }

    #[test]
    fn a_character_split_between_reads_arrives_whole() {
        let text = "aü€🦀";
        for cut in 0..text.len() {
            let mut decoder = Decoder::default();
            let (a, b) = text.as_bytes().split_at(cut);
            let mut seen = decoder.push(a);
            seen.push_str(&decoder.push(b));
            seen.push_str(&decoder.finish());
            assert_eq!(seen, text, "cut at {cut}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_nothing_is_lost_around_them() {
        let mut decoder = Decoder::default();
        let mut seen = decoder.push(b"a\xffb\xe2\x82");
        seen.push_str(&decoder.push(b"\xac!"));
        seen.push_str(&decoder.push(b"\xe2"));
        seen.push_str(&decoder.finish());
        assert_eq!(seen, "a\u{fffd}b€!\u{fffd}");
    }
}
