//! `run`: one command from the terminal, confined.

use std::ffi::OsString;
use std::process::{ExitCode, Stdio};

use anyhow::Context as _;
use katachi_crypto::SecretString;
use katachi_sandbox::report::Enforced;
use katachi_sandbox::{Enforcement, Outcome, Plan, SpawnError, Violation};
use serde::Serialize;

use super::learn::Lesson;
use super::place::FilePlace;
use crate::cli;
use crate::config::{self, Config};
use crate::home::Home;
use crate::output::{BAD, WEAK, note, paint, printable};
use crate::policy::Rules;

/// The sandbox could not be built.
pub(crate) const NOT_BUILT: u8 = 125;
/// The policy refused the program.
pub(crate) const DENIED: u8 = 126;

/// Runs the command and returns its exit code.
///
/// # Errors
///
/// Returns an error if the policy, the plan or the sandbox is at fault; the
/// caller exits with [`NOT_BUILT`].
pub(crate) fn run(config: &Config, args: &cli::Run) -> anyhow::Result<ExitCode> {
    let rules = Rules::load(config.policy.as_deref())?;
    let plan = rules.plan(config)?;
    let keys = keys(config, &args.keys)?;
    let place = args.report.as_deref().map(FilePlace::of).transpose()?;
    let lesson = match &args.learn {
        Some(file) => Some(Lesson::begin(file, &rules, &plan, config)?),
        None => None,
    };
    if !args.quiet {
        tell_gaps(&plan.enforcement());
    }

    let mut command = plan
        .command(args.argv.iter().cloned())
        .stdin(Stdio::inherit())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit());
    if lesson.is_some() {
        command = command.observed();
    }
    for (name, value) in &keys {
        command = command.env(name, value.expose_secret());
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(SpawnError::Denied(violation)) => {
            note(format_args!(
                "{} {}",
                paint(BAD, "denied:"),
                printable(&violation.to_string())
            ));
            let report = Report::of(&rules, args, &plan, None, None, Some(violation.to_string()));
            report.write(place.as_ref())?;
            if let Some(lesson) = lesson {
                lesson.end(&[*violation])?;
            }
            return Ok(ExitCode::from(DENIED));
        }
        Err(error) => return Err(error.into()),
    };
    kill_on_interrupt(child.killer());
    let outcome = child.wait()?;
    // Merely looked for is worth a line in a policy, and none here.
    let refused = |violation: &&Violation| violation.operation != "look";
    for violation in outcome.violations.iter().filter(refused) {
        note(format_args!(
            "{} {}",
            paint(BAD, "denied:"),
            printable(&violation.to_string())
        ));
    }
    if let Some(lesson) = lesson {
        lesson.end(&outcome.violations)?;
    }
    let code = u8::try_from(outcome.exit_code()).unwrap_or(u8::MAX);
    let report = Report::of(
        &rules,
        args,
        &plan,
        Some(child.enforcement().clone()),
        Some(outcome),
        None,
    );
    report.write(place.as_ref())?;
    Ok(ExitCode::from(code))
}

/// What was asked, what was enforced, and how it ended.
#[derive(Debug, Serialize)]
struct Report {
    policy: String,
    workspace: String,
    argv: Vec<String>,
    plan_hash: String,
    /// Of the command; of the plan if nothing was started.
    enforcement: Enforcement,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    denied: Option<String>,
}

impl Report {
    fn of(
        rules: &Rules,
        args: &cli::Run,
        plan: &Plan,
        enforcement: Option<Enforcement>,
        outcome: Option<Outcome>,
        denied: Option<String>,
    ) -> Self {
        Self {
            policy: rules.source(),
            workspace: plan.workspace().display().to_string(),
            argv: args
                .argv
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            plan_hash: plan.hash().to_owned(),
            enforcement: enforcement.unwrap_or_else(|| plan.enforcement()),
            outcome,
            denied,
        }
    }

    fn write(&self, place: Option<&FilePlace>) -> anyhow::Result<()> {
        let Some(place) = place else {
            return Ok(());
        };
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        place
            .write(&text)
            .with_context(|| format!("cannot write the report {}", place.path().display()))
    }
}

/// Says in one line what is weaker than asked, before anything starts.
fn tell_gaps(enforcement: &Enforcement) {
    let gaps: Vec<_> = enforcement
        .controls
        .iter()
        .filter(|control| matches!(control.enforced, Enforced::Partial(_)))
        .map(|control| control.id.as_str())
        .collect();
    if !gaps.is_empty() {
        note(format_args!(
            "{} confined, with known gaps in {} (`katachi-agent why` names them)",
            paint(WEAK, "note:"),
            gaps.join(", ")
        ));
    }
}

/// Reads `VARIABLE=NAME` pairs and fetches the named keys.
fn keys(config: &Config, pairs: &[String]) -> anyhow::Result<Vec<(OsString, SecretString)>> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = config::key_pairs(pairs, "--key")?;
    let home = Home::open(config)?;
    let credentials = home.credentials()?;
    let mut found = Vec::new();
    for (variable, name) in wanted {
        let key = home.key(&credentials, &name)?;
        found.push((variable.into(), key));
    }
    Ok(found)
}

/// Control-C ends the command and everything it started; we then report.
fn kill_on_interrupt(killer: katachi_sandbox::child::Killer) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build();
        if let Ok(runtime) = runtime {
            runtime.block_on(async {
                if tokio::signal::ctrl_c().await.is_ok() {
                    killer.kill();
                }
            });
        }
    });
}
