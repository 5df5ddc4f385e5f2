//! Chapter 6: commands that arrive through the tunnel and run in the sandbox.
//!
//! Each refusal is preceded by its control: the same thing done outside, so
//! that a refusal inside means something.

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context as _, bail};
use katachi_protocol::record::Denials;
use katachi_protocol::routes::tunnel;
use katachi_protocol::run::{OutputStream, RunEvent};
use katachi_sandbox::report::Enforced;
use katachi_sandbox::{Plan, PlanOptions, Policy, Query};

use super::browser::Browser;
use super::paired::Paired;
use super::{MARKER, Story};
use crate::output::printable;
use crate::policy::{Rules, is_installed};

/// What a command said and how it ended.
#[derive(Debug, Default)]
struct Run {
    stdout: String,
    stderr: String,
    denied: Vec<String>,
    code: Option<i32>,
    error: Option<String>,
}

pub(super) async fn confine(story: &mut Story) -> anyhow::Result<()> {
    let found = katachi_sandbox::doctor::probe()?;
    if found.tier == katachi_sandbox::report::Tier::None {
        let why = found.checks.iter().find(|check| !check.works).map_or_else(
            || "no tier of the sandbox works".to_owned(),
            |check| format!("{}: {}", check.name, check.detail),
        );
        for id in [12, 13, 14] {
            story.ledger.unavailable(
                id,
                format!("this machine cannot confine commands, so none is started ({why})"),
            );
        }
        story
            .progress
            .detail(format_args!("this machine cannot confine commands: {why}"));
        return Ok(());
    }
    if found.tier == katachi_sandbox::report::Tier::Unwitnessed {
        for id in [12, 13, 14] {
            story.ledger.unwitnessed(
                id,
                format!(
                    "nobody has seen commands confined on {}, so none is started unless --accept-tier unwitnessed says so",
                    found.kernel
                ),
            );
        }
        return Ok(());
    }
    let plan = Rules::load(None)?.plan(&story.config)?;
    let browser = story.browser.take().context("there is no browser")?;
    let device = story.device.take().context("no device was paired")?;
    let result = attempts(story, &browser, &device, &plan).await;
    story.browser = Some(browser);
    story.device = Some(device);
    result?;
    self_test(story, &plan)?;
    allowed_host(story)?;
    arguments(story)?;
    gaps(story, &plan);
    Ok(())
}

async fn attempts(
    story: &mut Story,
    browser: &Browser,
    device: &Paired,
    plan: &Plan,
) -> anyhow::Result<()> {
    let asked = std::cell::Cell::new(0);
    let run = async |argv: &[&str]| {
        asked.set(asked.get() + 1);
        anyhow::Ok(Run::of(device.run(browser, argv).await?))
    };

    std::fs::write(story.config.workspace.join("plums.txt"), "two plums\n")?;
    let allowed = run(&["sh", "-c", "cat plums.txt; echo three plums > more.txt"]).await?;
    if let Some(error) = allowed.error {
        bail!("the sandbox did not start the allowed command: {error}");
    }
    let written =
        std::fs::read_to_string(story.config.workspace.join("more.txt")).unwrap_or_default();
    story.check(
        12,
        allowed.code == Some(0) && allowed.stdout == "two plums\n" && written == "three plums\n",
        "an allowed command reads and writes the workspace, its output streamed back to the browser",
    );

    let program =
        forbidden_program().context("this machine has no program outside the policy to try")?;
    let direct = run(&[&program, "--version"]).await?;
    let inner = run(&["sh", "-c", &format!("{program} --version")]).await?;
    let why = reason(plan, &Query::Exec(vec![program.clone().into()]));
    story.check(
        12,
        direct.code == Some(126) && !direct.denied.is_empty() && inner.failed(),
        format!("`{program}` is refused, as a command and from a shell inside ({why})"),
    );

    let listed: Denials = device.get(browser, tunnel::DENIALS).await?;
    story.check(
        12,
        listed
            .denials
            .iter()
            .any(|denial| denial.argv.first() == Some(&program)),
        "the browser's list of refused actions names it",
    );

    files(story, &run, plan).await?;
    network(story, &run, plan).await?;
    story.asked.commands += asked.get();
    Ok(())
}

async fn files<F>(story: &mut Story, run: &F, plan: &Plan) -> anyhow::Result<()>
where
    F: AsyncFn(&[&str]) -> anyhow::Result<Run>,
{
    let secret = story.outside.join("secret.txt");
    std::fs::write(&secret, MARKER)?;
    let read = run(&["cat", text(&secret)?]).await?;
    let around = run(&[
        "sh",
        "-c",
        &format!("ln -s {} link && cat link", text(&secret)?),
    ])
    .await?;
    let control = std::fs::read_to_string(&secret)? == MARKER;
    let hidden =
        |run: &Run| run.failed() && !run.stdout.contains(MARKER) && !run.stderr.contains(MARKER);
    let why = reason(plan, &Query::Read(secret.clone()));
    story.check(
        13,
        control && hidden(&read) && hidden(&around),
        format!("a file outside the workspace cannot be read, nor through a link ({why})"),
    );

    let target = story.outside.join("written.txt");
    let control = std::fs::write(&target, "x").is_ok() && std::fs::remove_file(&target).is_ok();
    let write = run(&["sh", "-c", &format!("echo broken > {}", text(&target)?)]).await?;
    let why = reason(plan, &Query::Write(target.clone()));
    story.check(
        13,
        control && write.failed() && !target.exists(),
        format!("a file outside the workspace cannot be written ({why})"),
    );
    let shadow = run(&["cat", "/etc/shadow"]).await?;
    story.check(
        13,
        shadow.failed() && shadow.stdout.is_empty(),
        "/etc/shadow is not there",
    );
    Ok(())
}

/// A listener of ours on loopback stands for any host: reached from outside
/// the sandbox, and not from inside.
async fn network<F>(story: &mut Story, run: &F, plan: &Plan) -> anyhow::Result<()>
where
    F: AsyncFn(&[&str]) -> anyhow::Result<Run>,
{
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let knock = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached");
    let outside = std::process::Command::new("bash")
        .args(["-c", &knock])
        .output();
    let control = match outside {
        Ok(output) => output.stdout == b"reached\n",
        // Without bash the attempt below fails for that reason and shows nothing.
        Err(_) => false,
    };
    if !control {
        story
            .ledger
            .unavailable(14, "there is no bash here to knock with");
        return Ok(());
    }
    let inside = run(&["bash", "-c", &knock]).await?;
    let why = reason(plan, &Query::Connect("example.com:443".to_owned()));
    story.check(
        14,
        inside.failed() && !inside.stdout.contains("reached"),
        format!("a connection that works outside fails inside ({why})"),
    );
    Ok(())
}

/// The sandbox's own attempts to break out, made from inside.
fn self_test(story: &mut Story, plan: &Plan) -> anyhow::Result<()> {
    let seen = katachi_sandbox::doctor::witness(plan)?;
    for (id, control) in [(12, "exec"), (13, "files"), (14, "network")] {
        let witnessed = seen
            .control(control)
            .is_some_and(|control| control.witnessed);
        story.check(
            id,
            witnessed,
            format!("a self-test inside saw the {control} control refuse"),
        );
    }
    Ok(())
}

/// A policy that allows one of two hosts: a program that knows no proxy reaches
/// that one alone.
fn allowed_host(story: &mut Story) -> anyhow::Result<()> {
    if !is_installed("bash") {
        return Ok(());
    }
    let (named, other) = (
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    );
    let (named, other) = (named.local_addr()?, other.local_addr()?);
    let plan = Policy::default()
        .read("@system")
        .read(".")
        .allow("bash")
        .allow_host(named.to_string())
        .plan(&PlanOptions::new(&story.config.workspace))?;
    let knock = |port: u16| {
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached");
        plan.command(["bash", "-c", &script]).output()
    };
    let (allowed, refused) = (knock(named.port())?, knock(other.port())?);
    story.check(
        14,
        allowed.stdout == b"reached\n" && refused.stdout.is_empty(),
        "under a policy that names one host, that host is reached and another is not",
    );
    Ok(())
}

/// A policy that allows a program with some arguments: a shell that starts it
/// with others sees it killed.
fn arguments(story: &mut Story) -> anyhow::Result<()> {
    let plan = Policy::default()
        .read("@system")
        .read(".")
        .allow("sh")
        .allow(["ls", "-1"])
        .plan(&PlanOptions::new(&story.config.workspace))?;
    let list = |arguments: &str| {
        let script = format!("ls {arguments} && echo listed");
        plan.command(["sh", "-c", &script]).output()
    };
    let (allowed, refused) = (list("-1")?, list("-a")?);
    story.check(
        12,
        allowed.stdout.ends_with(b"listed\n")
            && refused.stdout.is_empty()
            && refused
                .outcome
                .violations
                .iter()
                .any(|violation| violation.control == "argv"),
        "under a policy that allows `ls -1`, a shell that starts `ls -a` sees it killed",
    );
    Ok(())
}

/// What the plan itself says is weaker than asked.
fn gaps(story: &mut Story, plan: &Plan) {
    for control in plan.enforcement().controls {
        let Enforced::Partial(reason) = control.enforced else {
            continue;
        };
        let id = match control.id.as_str() {
            "exec" | "commands" => 12,
            "network" => 14,
            _ => 13,
        };
        story.ledger.weaker(id, format!("{}: {reason}", control.id));
    }
}

/// A program that is installed and that the default policy does not name.
fn forbidden_program() -> Option<String> {
    ["curl", "python3", "perl", "cargo", "ssh", "openssl", "wget"]
        .into_iter()
        .find(|name| is_installed(name))
        .map(str::to_owned)
}

fn reason(plan: &Plan, query: &Query) -> String {
    printable(&plan.explain(query).rule)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .context("the temporary home has a name that is not text")
}

impl Run {
    fn of(events: Vec<RunEvent>) -> Self {
        let mut run = Self::default();
        for event in events {
            match event {
                RunEvent::Output {
                    stream: OutputStream::Stdout,
                    data,
                } => run.stdout.push_str(&data),
                RunEvent::Output {
                    stream: OutputStream::Stderr,
                    data,
                } => run.stderr.push_str(&data),
                RunEvent::Denied { reason, .. } => run.denied.push(reason),
                RunEvent::Exit { code, .. } => run.code = code,
                RunEvent::Error { message } => run.error = Some(message),
                RunEvent::Approval(_) | RunEvent::Started { .. } | RunEvent::Tool { .. } => {}
            }
        }
        run
    }

    /// It was started and did not succeed, or was refused by the policy. A
    /// sandbox that could not be built is neither.
    fn failed(&self) -> bool {
        self.error.is_none() && self.code != Some(0)
    }
}
