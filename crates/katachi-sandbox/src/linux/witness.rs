//! Finds out by trying.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::advice;
use super::attempts::{Attempts, WITNESS};
use super::launch::plan_spec;
use super::published::Servers;
use super::running::Traces;
use super::strain;
use super::sys::fd;
use super::{kernel, landlock_version};
use crate::doctor::{Capabilities, Check};
use crate::environment::environment;
use crate::error::SpawnError;
use crate::guard::{Place, Ruling};
use crate::plan::{Inner, Plan, PlanOptions};
use crate::policy::Policy;
use crate::report::{Control, Enforced, Enforcement, Tier};

/// Starts `true` in a full sandbox.
pub(crate) fn probe() -> Result<Capabilities, SpawnError> {
    let version = landlock_version();
    let mut checks = vec![advice::landlock_check(version)];
    let tried = try_once(None);
    if matches!(tried, Err(SpawnError::HelperNotInstalled)) {
        return Err(SpawnError::HelperNotInstalled);
    }
    checks.push(Check {
        name: "a command in the full sandbox".to_owned(),
        works: tried.is_ok(),
        detail: match &tried {
            Ok(None) => "started and ended".to_owned(),
            Ok(Some(gap)) => format!("started and ended; {gap}"),
            Err(error) => error.to_string(),
        },
    });
    Ok(Capabilities {
        tier: if tried.is_ok() {
            Tier::Namespaces
        } else {
            Tier::None
        },
        kernel: format!("Linux {}", kernel()),
        landlock_abi: version,
        checks,
    })
}

/// What is missing of the privileges' control, if anything, once it started.
pub(super) fn try_once(helper: Option<&Path>) -> Result<Option<String>, SpawnError> {
    let request = |error: crate::error::PlanError| SpawnError::Request {
        problem: error.to_string(),
        next_step: "the probe needs the program `true`".to_owned(),
    };
    let mut options = PlanOptions::new("/");
    if let Some(helper) = helper {
        options = options.helper(helper);
    }
    let plan = Policy::default()
        .read("@system")
        .allow("true")
        .plan(&options)
        .map_err(request)?;
    let mut child = plan.command(["true"]).spawn()?;
    let gap = match child.enforcement().control("privileges") {
        Some(Control {
            enforced: Enforced::Partial(gap),
            ..
        }) => Some(gap.clone()),
        _ => None,
    };
    let outcome = child.wait()?;
    if outcome.success() {
        Ok(gap)
    } else {
        Err(SpawnError::Helper(format!(
            "`true` ended with {:?}",
            outcome.ending
        )))
    }
}

/// Starts the self-test under the plan, after showing that each attempt works
/// outside.
pub(crate) fn witness(plan: &Plan) -> Result<Enforcement, SpawnError> {
    crate::helper::check(&plan.0)?;
    let mut traces = Traces::default();
    let mut spec = plan_spec(&plan.0, None, &mut traces)?;
    let outside = Outside::new()?;
    let servers = match plan.0.network.publish.as_slice() {
        [] => None,
        ports => Some(Servers::new(ports, unique() as u64)?),
    };
    let protected = plan
        .0
        .entries
        .iter()
        .find(|entry| entry.protects && !entry.access.write && !entry.is_hidden());
    spec.attempts = Some(Attempts {
        secret: outside.secret.clone(),
        outside: outside.directory.join("written"),
        protected: protected.map(|entry| match entry.is_directory() {
            true => entry.target.join(WITNESS),
            false => entry.target.clone(),
        }),
        unlisted: outside.program.clone(),
        listed: spec.programs.first().map(|(path, _)| path.clone()),
        port: outside.listener.local_addr()?.port(),
        unix_sockets: spec.unix_sockets,
        proxy: spec.doors.as_ref().is_some_and(|doors| doors.proxy),
        caller: std::process::id(),
        variables: unpassed(&plan.0),
        descriptor: outside.inherited.as_raw_fd().cast_unsigned(),
        refused: refused(&plan.0),
        servers: servers.clone(),
        strain: None,
    });
    spec.environment = environment(&plan.0, &BTreeMap::new(), None)?;
    spec.guards = plan.0.guards.clone();
    spec.directory = "/".into();
    let command = plan
        .command(["witness"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let child = super::launch::start(command, &spec, traces, Path::new("witness"))?;
    let mut enforcement = child.enforcement().clone();
    let ended = AtomicBool::new(false);
    let (output, heard) = thread::scope(|scope| {
        let visitor = servers
            .as_ref()
            .map(|servers| scope.spawn(|| servers.visit(&ended)));
        let output = child.wait_with_output();
        ended.store(true, Ordering::Release);
        (output, visitor.map(thread::ScopedJoinHandle::join))
    });
    let panicked = |_| SpawnError::Helper("the self-test panicked".to_owned());
    let heard = heard.transpose().map_err(panicked)?.unwrap_or_default();
    let output = output?;
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut tried: BTreeMap<&str, bool> = BTreeMap::new();
    for (control, verdict) in seen.lines().filter_map(|line| line.split_once(' ')) {
        *tried.entry(control).or_insert(true) &= verdict == "refused";
    }
    if outside.directory.join("written").exists() {
        tried.insert("files", false);
    }
    let strained = strain::limits(plan)?;
    if let Some(limits) = enforcement
        .controls
        .iter_mut()
        .find(|control| control.id == "limits")
    {
        limits.witnessed = strained.tried > 0 && strained.untried.is_empty();
        if !strained.passed.is_empty() {
            limits.witnessed = false;
            limits.enforced = Enforced::Off(format!(
                "the self-test passed limits.{}",
                strained.passed.join(" and limits.")
            ));
        }
    }
    for port in &heard.missed {
        // Then it says nothing that it was not reached elsewhere either.
        if tried.get("network") == Some(&true) {
            tried.remove("network");
        }
        enforcement.residual.push(format!(
            "the self-test did not reach its server behind network.publish = {port}"
        ));
    }
    if heard.elsewhere {
        tried.insert("network", false);
    }
    for untried in &strained.untried {
        enforcement
            .residual
            .push(format!("the self-test does not try limits.{untried}"));
    }
    for control in &mut enforcement.controls {
        match tried.get(control.id.as_str()) {
            Some(true) => control.witnessed = true,
            Some(false) => {
                control.enforced = Enforced::Off(
                    "the self-test did what it should not have been able to".to_owned(),
                );
            }
            None => {}
        }
    }
    Ok(enforcement)
}

/// Variables of this process that a command has no business to know.
fn unpassed(plan: &Inner) -> Vec<OsString> {
    let env = &plan.policy.env;
    let known = |name: &OsString| {
        let mut known = env.pass.iter().chain(env.set.keys());
        ["PATH", "HOME", "TMPDIR", "LANG"]
            .iter()
            .any(|own| name == own)
            || known.any(|known| name == known.as_str())
    };
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| !known(name)).collect()
}

/// A program with arguments that a rule about them does not allow.
fn refused(plan: &Inner) -> Option<(PathBuf, Vec<OsString>)> {
    let guards = plan.guards.as_ref()?;
    plan.programs.iter().find_map(|program| {
        let number = (program.pin.device, program.pin.inode);
        let mut known = guards.0.iter();
        known.find(|known| known.file == number && known.guarded)?;
        let argv = vec![program.path.file_name()?.to_owned(), WITNESS.into()];
        match guards.rule_on(number, &argv, Place::Elsewhere) {
            Ruling::Allow => None,
            // There is nobody to ask.
            Ruling::Ask(_) | Ruling::Deny(_) => Some((program.path.clone(), argv)),
        }
    })
}

/// What the self-test tries to reach, shown to work from here.
struct Outside {
    directory: PathBuf,
    secret: PathBuf,
    program: PathBuf,
    listener: TcpListener,
    /// Of the secret.
    inherited: File,
}

impl Outside {
    fn new() -> std::io::Result<Self> {
        let mut directory = std::env::temp_dir();
        directory.push(format!(
            "katachi-witness-{}-{:x}",
            std::process::id(),
            unique()
        ));
        std::fs::create_dir(&directory)?;
        let secret = directory.join("secret");
        std::fs::write(&secret, "readable from outside")?;
        std::fs::read(&secret)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        TcpStream::connect(listener.local_addr()?)?;
        let program = std::env::current_exe()?;
        let inherited = File::open(&secret)?;
        fd::let_inherit(inherited.as_fd())?;
        Ok(Self {
            directory,
            secret,
            program,
            listener,
            inherited,
        })
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // Left behind, it would be an empty directory and a test text.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn unique() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos())
}
