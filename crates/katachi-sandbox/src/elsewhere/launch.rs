//! The caller's side of a start.

use std::io::{PipeReader, PipeWriter};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::Network;
use super::running::Running;
use crate::admit::admit;
use crate::child::Child;
use crate::command::{Command, Notes};
use crate::environment::{Proxies, environment, stay_in};
use crate::error::SpawnError;
use crate::feed::Feed;
use crate::helper::MARKER;
use crate::hold::Hold;
use crate::killer::Killer;
use crate::message::Message;
use crate::plan::{Inner, Kind, System};
use crate::policy::{ByteSize, TimeSpan};
use crate::scratch::Scratch;
use crate::supervise::{Confinement, Spec};

pub(crate) fn spawn(mut command: Command) -> Result<Child, SpawnError> {
    let inner = command.plan.0.clone();
    let system = crate::plan::startable(&inner)?;
    crate::helper::check(&inner)?;
    if command.terminal.is_some() || command.notes == Notes::Looks {
        return Err(SpawnError::Request {
            problem: format!(
                "there are no terminals and no monitor mode on {}",
                system.name()
            ),
            next_step: "use pipes, and run without observing".to_owned(),
        });
    }
    let admitted = admit(&command)?;
    check_places(&inner)?;
    let started = Instant::now();
    let scratch = Scratch::make()?;
    let feed = Feed::default();
    let (network, port, proxies) = match listen(&inner, &feed)? {
        Some((network, port, proxies)) => (Some(network), Some(port), Some(proxies)),
        None => (None, None, None),
    };
    let mut environment = environment(&inner, &command.env, proxies.as_ref())?;
    stay_in(scratch.path(), &inner.home, &mut environment);
    let limits = &inner.policy.limits;
    let spec = Spec {
        argv: command.argv.clone(),
        environment,
        directory: admitted.directory,
        wall_time_ms: limits.wall_time.map(TimeSpan::milliseconds),
        cpu_time_ms: limits.cpu_time.map(TimeSpan::milliseconds),
        memory: limits.memory.map(ByteSize::bytes),
        processes: limits.processes.map(u64::from),
        confinement: confinement(&inner, scratch.path(), port)?,
        program: match system {
            // As it was found, so that links and multi-call names keep working.
            System::MacOs => admitted.program,
            System::Windows => admitted.real.clone(),
        },
    };
    let helper = match &inner.helper {
        Some(helper) => helper.path.clone(),
        None => std::env::current_exe()?,
    };
    let (status, status_end) = std::io::pipe()?;
    let (control_end, mut control) = std::io::pipe()?;
    let mut process = std::process::Command::new(helper);
    let [stdin, stdout, stderr] = command.take_streams();
    process
        .arg(MARKER)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr);
    let helper = start_helper(process, control_end, status_end)?;
    // One that is gone already says why, or how it ended.
    let _ = spec.send(&mut control);
    let mut running = Running {
        hold: Hold::new(helper, Killer::new(control), feed, started),
        status,
        scratch: Some(scratch),
        network,
    };
    match Message::receive(&mut running.status)? {
        Some(Message::Started(_)) => {}
        Some(message) => {
            return Err(message.into_error(&admitted.real, |_, _| {
                "nothing was started; `doctor::probe` says what there is".to_owned()
            }));
        }
        None => return Err(SpawnError::Helper(running.hold.helper.wait()?.to_string())),
    }
    let helper = &mut running.hold.helper;
    Ok(Child {
        stdin: helper.stdin.take(),
        stdout: helper.stdout.take(),
        stderr: helper.stderr.take(),
        terminal: None,
        enforcement: command.plan.enforcement(),
        running,
    })
}

/// A directory replaced since the plan was made is another directory.
fn check_places(plan: &Inner) -> Result<(), SpawnError> {
    for entry in &plan.entries {
        let Kind::Host(pin) = &entry.kind else {
            continue;
        };
        let program = plan
            .programs
            .iter()
            .any(|program| program.path == entry.target);
        if !pin.is_at(&entry.target, program) {
            return Err(SpawnError::Replaced {
                path: entry.target.clone(),
                detail: "it is another file, or gone".to_owned(),
            });
        }
    }
    Ok(())
}

/// Starts the proxy of a command that may reach hosts: it with its port, and how
/// the command finds it.
#[cfg(unix)]
fn listen(plan: &Arc<Inner>, feed: &Feed) -> Result<Option<(Network, u16, Proxies)>, SpawnError> {
    match plan.network.rules.allow.is_empty() {
        true => Ok(None),
        false => Ok(Some(Network::on_loopback(plan.clone(), feed.clone())?)),
    }
}

/// Hosts were refused when planned.
#[cfg(not(unix))]
fn listen(_: &Arc<Inner>, _: &Feed) -> Result<Option<(Network, u16, Proxies)>, SpawnError> {
    Ok(None)
}

#[cfg(not(windows))]
fn confinement(
    plan: &Inner,
    scratch: &Path,
    proxy: Option<u16>,
) -> Result<Confinement, SpawnError> {
    let start = crate::plan::seatbelt::Start { scratch, proxy };
    match crate::plan::seatbelt::profile(plan, Some(start)) {
        Ok(text) => Ok(Confinement::Profile(text)),
        Err(error) => Err(SpawnError::Request {
            problem: error.to_string(),
            next_step: "set TMPDIR to a directory with an ordinary name".to_owned(),
        }),
    }
}

#[cfg(windows)]
fn confinement(plan: &Inner, scratch: &Path, _: Option<u16>) -> Result<Confinement, SpawnError> {
    use crate::plan::{Children, system_directories};
    use crate::supervise::windows::acl::edits;

    let known: Vec<_> = system_directories().collect();
    Ok(Confinement::Container {
        name: format!("katachi-sandbox-{:016x}", crate::scratch::unlikely()),
        edits: edits(plan, &known, scratch),
        children: plan.children == Children::Any,
    })
}

#[cfg(unix)]
fn start_helper(
    mut process: std::process::Command,
    control: PipeReader,
    status: PipeWriter,
) -> std::io::Result<std::process::Child> {
    use std::os::fd::AsRawFd as _;

    let fds = [control.as_raw_fd(), status.as_raw_fd()];
    process
        .args(fds.map(|fd| fd.to_string()))
        .env_clear()
        .current_dir("/");
    crate::supervise::pass_on(&mut process, fds.to_vec());
    process.spawn()
}

/// The pipes' ends are not inherited, since every other program that this one
/// starts at the moment would inherit them too: the helper fetches them.
#[cfg(windows)]
fn start_helper(
    mut process: std::process::Command,
    control: PipeReader,
    status: PipeWriter,
) -> std::io::Result<std::process::Child> {
    use std::os::windows::io::{AsHandle as _, AsRawHandle as _};

    use crate::supervise::windows::sys::process::wait;

    let numbers = [
        u64::from(std::process::id()),
        control.as_raw_handle().addr() as u64,
        status.as_raw_handle().addr() as u64,
    ];
    process.args(numbers.map(|number| number.to_string()));
    let child = process.spawn()?;
    let ended = child.as_handle().try_clone_to_owned()?;
    std::thread::spawn(move || {
        wait(&ended);
        // Now the caller sees the end of what the helper said.
        drop((control, status));
    });
    Ok(child)
}

#[cfg(not(any(unix, windows)))]
fn start_helper(
    _: std::process::Command,
    _: PipeReader,
    _: PipeWriter,
) -> std::io::Result<std::process::Child> {
    Err(std::io::ErrorKind::Unsupported.into())
}
