//! The first process of the sandbox.
//!
//! It builds the root directory, starts the command, collects every process
//! that loses its parent, and watches the limits. When the command ends, when
//! a limit is passed, or when the caller lets go of the control pipe, it
//! ends, and the kernel kills whatever is left in its namespace.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::confine;
use super::floor;
use super::heard::{Calls, Heard};
use super::helper::{self, Failure, Identities, Step as _, Trees};
use super::inside::{self, Inside};
use super::root;
use super::spec::{Identity, Spec};
use super::sys::process::{Change, Ended, Fork};
use super::sys::trace::Stop;
use super::sys::{caps, fd, namespace, net, process, terminal, trace};
use super::tracer::Tracer;
use super::watchdog::{LOOK, Watchdog};
use super::watcher::Watcher;
use crate::message::{End, Message, Order};

/// How many ends and stops are dealt with between two looks at everything
/// else.
const MOST_CHANGES: usize = 64;

pub(super) enum Never {}

/// The caller's hold on the sandbox.
pub(super) struct Ends {
    /// Closed when everything is to end.
    pub(super) control: OwnedFd,
    /// For sockets, where the plan has any.
    pub(super) channel: Option<OwnedFd>,
    /// What the command's control group used of the processor.
    pub(super) processor: Option<File>,
}

/// Builds everything and stays until the end.
pub(super) fn run(
    spec: &Spec,
    trees: Trees,
    who: Identities,
    mut gaps: Vec<(String, String)>,
    status: &File,
    ends: Ends,
) -> Result<Never, Failure> {
    process::die_with_parent().step("tie the sandbox to the helper")?;
    let umask = process::set_umask(0o022);
    let nothing = root::build(spec, &trees, who, &mut gaps)?;
    // A caller who keeps files from others keeps them so inside.
    process::set_umask(umask | 0o022);
    drop(trees);
    if !who.apart {
        // They are those of the machine.
        caps::keep_for_the_first().step("give up capabilities")?;
    }
    let watching = Watcher::new(spec, nothing);
    let problem = match &watching {
        Ok(watcher) => watcher.as_ref().and_then(Watcher::problem),
        Err(error) => Some(error.to_string()),
    };
    if let Some(problem) = problem {
        let reason =
            format!("not all that is replaced or appears during the run is seen: {problem}");
        gaps.push(("files".to_owned(), reason.clone()));
        gaps.push(("metadata".to_owned(), reason));
    }
    let watcher = watching.ok().flatten();
    namespace::loopback_up().step("start the loopback device")?;
    namespace::set_host_name("sandbox").step("set the host name")?;
    attend(spec, who, gaps, status, ends, watcher)
}

/// Starts the command and stays until the end.
pub(super) fn attend(
    spec: &Spec,
    who: Identities,
    mut gaps: Vec<(String, String)>,
    status: &File,
    ends: Ends,
    mut watcher: Option<Watcher>,
) -> Result<Never, Failure> {
    let terminal = match spec.terminal {
        Some(size) => Some(open_terminal(spec, size, who, ends.channel.as_ref())?),
        None => None,
    };
    let (inside, channel) = match &spec.doors {
        Some(doors) => (Some(inside::open(doors, ends.channel)?), None),
        None => (None, ends.channel),
    };
    let control = ends.control;
    let mut watchdog = Watchdog::new(spec, ends.processor);
    // Its memory is that of a program from outside, so even this process needs
    // it open to trace its child. Nothing of the command runs until then.
    process::open_memory(spec.is_traced()).step("hide the first process")?;
    let signals = process::child_signals().step("watch child processes")?;

    let (mut running, mut ready) = io::pipe().step("create a pipe")?;
    let (go, begin) = net::pair().step("create a pair of sockets")?;
    let command = match process::fork().step("fork the command")? {
        Fork::Child => {
            drop((running, control, inside, channel, signals, begin));
            let failure = match command(spec, who, terminal, go) {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            let _ = failure.0.send(&mut &*status);
            let _ = ready.write_all(b"x");
            process::exit(125)
        }
        Fork::Parent(pid) => pid,
    };
    drop((ready, go, terminal));
    if spec.is_traced() {
        trace::seize(command).step("trace the command")?;
        trace::try_hold(command).step("stop the command and let it go on")?;
        // So are programs refused that it starts.
        process::can_kill(command).step("signal the command")?;
    }
    process::open_memory(false).step("hide the first process")?;
    if !spec.waits {
        watchdog.begin();
    }
    net::send(begin.as_fd(), b"t", &[]).step("let the command go on")?;
    let null = File::open("/dev/null").step("open /dev/null")?;
    fd::silence(null.as_fd()).step("let go of the command's pipes")?;
    let later;
    let spec = if spec.waits {
        Message::Prepared(std::mem::take(&mut gaps))
            .send(&mut &*status)
            .step("report that everything is ready")?;
        let channel = match (&inside, &channel) {
            (Some(inside), _) => Ok(inside.channel()),
            (None, Some(channel)) => Ok(channel.as_fd()),
            (None, None) => Err(io::Error::other("the caller gave no channel")),
        };
        let channel = channel.step("wait for a command")?;
        let mut watching = Watching {
            watchdog: &mut watchdog,
            watcher: watcher.as_mut(),
        };
        later = wait_for_command(spec, &control, channel, &begin, &mut watching)?;
        &later
    } else {
        spec
    };
    drop(channel);
    let mut calls = None;
    if spec.hears() {
        let heard = Calls::take(spec, who.user, begin.as_fd(), control.as_fd());
        match heard.step("hear of calls")? {
            Heard::Calls(heard) => calls = Some(heard),
            Heard::TakenBefore => gaps.push((
                "exec".to_owned(),
                "programs that are started in vain are not noted: somebody who confines the calling process hears of all its calls already"
                    .to_owned(),
            )),
            Heard::Nothing => {}
        }
    }
    drop(begin);
    let started = Instant::now();
    let tracer = spec.is_traced().then(|| Tracer::new(spec, command));

    if spec.observes() {
        pass_first_call(command).step("let the command begin")?;
    }
    wait_for_start(&running, &control, calls.as_mut(), status).step("wait for the command")?;
    // The pipe closes when the command is executed, and has a byte in it when
    // that failed, in which case the reason is already on its way.
    if running.read(&mut [0; 1]).step("wait for the command")? > 0 {
        process::exit(125);
    }
    drop(running);
    if let Some(calls) = &mut calls {
        calls.begin().step("take notes")?;
    }
    Message::Started(gaps)
        .send(&mut &*status)
        .step("report the start")?;
    let watched = Watched {
        command,
        tracer,
        watchdog,
        watcher,
        status,
        calls,
    };
    let end = watch(spec, watched, started, (control, inside), signals);
    if spec.floor.is_some() {
        floor::end_all();
    }
    if let Some(end) = end {
        let _ = Message::Ended(end).send(&mut &*status);
    }
    process::exit(0)
}

/// The process that becomes the command, once the first one says so.
fn command(
    spec: &Spec,
    who: Identities,
    terminal: Option<OwnedFd>,
    go: OwnedFd,
) -> Result<confine::Never, Failure> {
    // The first process has to trace this one before it goes on.
    let told = |(count, fds): (usize, Vec<OwnedFd>)| match count {
        // It is gone, and this process is about to be.
        0 => process::exit(125),
        _ => fds,
    };
    let receive = || net::receive(go.as_fd(), &mut [0; 1]).step("wait for the command");
    told(receive()?);
    process::open_memory(false).step("hide the command")?;
    confine::prepare(spec, who)?;
    if !spec.waits {
        let first = spec.hears().then_some(go);
        return confine::become_command(spec, terminal, first);
    }
    let mut fds = told(receive()?).into_iter();
    let plan = fds.next().ok_or_else(|| io::Error::other("there is none"));
    let spec = spec.with_start(helper::read_spec(plan.step("read the command")?)?);
    let streams: Vec<OwnedFd> = fds.collect();
    fd::take_standard(&streams).step("take over the standard descriptors")?;
    drop(streams);
    let first = spec.hears().then_some(go);
    confine::become_command(&spec, None, first)
}

/// Waits until the command is executed or has failed to be, and not for a caller
/// that is gone.
fn wait_for_start(
    running: &io::PipeReader,
    control: &OwnedFd,
    mut calls: Option<&mut Calls<'_>>,
    status: &File,
) -> io::Result<()> {
    loop {
        // Without calls, the end of the control pipe is asked for twice.
        let source = calls
            .as_deref()
            .map_or(control.as_fd(), |calls| calls.source());
        let polled = [running.as_fd(), control.as_fd(), source];
        let [command, caller, call] = fd::poll(polled, -1)?;
        if command.readable || command.closed {
            return Ok(());
        }
        if caller.closed {
            process::exit(0);
        }
        if let Some(calls) = calls.as_deref_mut().filter(|_| call.readable) {
            calls.attend(status);
        }
    }
}

/// What has been going on since before the command.
struct Watching<'a> {
    watchdog: &'a mut Watchdog,
    watcher: Option<&'a mut Watcher>,
}

/// Waits for a command that comes later and passes it on.
fn wait_for_command(
    spec: &Spec,
    control: &OwnedFd,
    channel: BorrowedFd<'_>,
    begin: &OwnedFd,
    watching: &mut Watching<'_>,
) -> Result<Spec, Failure> {
    loop {
        let [caller, command] =
            fd::poll([control.as_fd(), channel], -1).step("wait for a command")?;
        if caller.closed || caller.readable {
            process::exit(0);
        }
        if command.readable || command.closed {
            break;
        }
    }
    let (count, mut fds) = net::receive(channel, &mut [0; 1]).step("receive a command")?;
    if count == 0 || fds.is_empty() {
        process::exit(0);
    }
    if let Some(watcher) = &mut watching.watcher {
        watcher.react(None);
    }
    watching.watchdog.begin();
    let passed: Vec<BorrowedFd<'_>> = fds.iter().map(OwnedFd::as_fd).collect();
    net::send(begin.as_fd(), b"g", &passed).step("pass the command on")?;
    Ok(spec.with_start(helper::read_spec(fds.swap_remove(0))?))
}

/// Lets the command go past the first call that is looked at, which executes
/// it.
fn pass_first_call(command: libc::pid_t) -> io::Result<()> {
    loop {
        match process::wait_for_change(command)? {
            Change::Stopped(Stop::Signal(signal)) => trace::resume(command, signal),
            Change::Stopped(Stop::Group) => trace::leave_stopped(command),
            Change::Stopped(Stop::Called | Stop::Executed) => {
                trace::resume(command, 0);
                return Ok(());
            }
            // It said why.
            Change::Ended(_) => return Ok(()),
        }
    }
}

/// Makes a terminal and hands one end to the caller.
fn open_terminal(
    spec: &Spec,
    (rows, columns): (u16, u16),
    who: Identities,
    channel: Option<&OwnedFd>,
) -> Result<OwnedFd, Failure> {
    let channel = channel
        .ok_or_else(|| io::Error::other("the caller gave no channel"))
        .step("hand out the terminal")?;
    let master = File::options()
        .read(true)
        .write(true)
        .open(match spec.floor {
            None => "/dev/pts/ptmx",
            Some(_) => "/dev/ptmx",
        })
        .step("open a terminal")?;
    let open = || -> io::Result<OwnedFd> {
        let end = terminal::other_end(master.as_fd())?;
        terminal::resize(end.as_fd(), rows, columns)?;
        terminal::give(end.as_fd(), who.user, who.group)?;
        Ok(end)
    };
    let end = open().step("open the command's end of a terminal")?;
    net::send(channel.as_fd(), b"t", &[master.as_fd()]).step("hand out the terminal")?;
    Ok(end)
}

/// What is waited for.
struct Watched<'a> {
    command: libc::pid_t,
    tracer: Option<Tracer<'a>>,
    watchdog: Watchdog,
    watcher: Option<Watcher>,
    status: &'a File,
    calls: Option<Calls<'a>>,
}

/// Waits for the end. `None` if the caller let go.
fn watch(
    spec: &Spec,
    mut watched: Watched<'_>,
    started: Instant,
    (control, mut inside): (OwnedFd, Option<Inside>),
    signals: OwnedFd,
) -> Option<End> {
    let control = File::from(control);
    let deadline = spec
        .wall_time_ms
        .map(|time| started + Duration::from_millis(time));
    let mut busy = false;
    let counted = watched.watchdog.watches();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let sleep = match (left, counted) {
            (Some(left), true) => Some(left.min(LOOK)),
            (Some(left), false) => Some(left),
            (None, true) => Some(LOOK),
            (None, false) => None,
        };
        let sleep = if busy { Some(Duration::ZERO) } else { sleep };
        let timeout = sleep.map_or(-1, |sleep| {
            i32::try_from(sleep.as_millis() + 1).unwrap_or(i32::MAX)
        });
        // Without a channel, the end of the control pipe is asked for twice.
        let channel = inside.as_ref().map_or(control.as_fd(), Inside::channel);
        let watcher = watched.watcher.as_ref();
        let source = watcher.map_or(control.as_fd(), Watcher::source);
        let calls = watched.calls.as_ref();
        let calls = calls.map_or(control.as_fd(), Calls::source);
        let polled = [control.as_fd(), signals.as_fd(), channel, source, calls];
        let Ok([caller, child, channel, source, calls]) = fd::poll(polled, timeout) else {
            return None;
        };
        // First, because somebody may be trying to be quicker.
        if let Some(watcher) = watched.watcher.as_mut().filter(|_| source.readable) {
            watcher.react(Some(watched.status));
        }
        if caller.closed {
            return None;
        }
        if caller.readable {
            match (Order::receive(&mut &control)?, &mut watched.tracer) {
                (Order::Signal(signal), _) => process::signal_group(watched.command, signal),
                (Order::Answer(number, yes), Some(tracer)) => {
                    tracer.answered(number, yes, watched.status);
                }
                (Order::Answer(..), None) => return None,
            }
        }
        if let Some(heard) = watched.calls.as_mut().filter(|_| calls.readable) {
            heard.attend(watched.status);
        }
        // Nobody is left who could call.
        if calls.closed {
            watched.calls = None;
        }
        if channel.readable || channel.closed {
            inside = inside.filter(Inside::answer);
        }
        if child.readable || busy {
            process::drain(signals.as_fd());
            // A command that keeps this loop going is still watched.
            busy = true;
            for _ in 0..MOST_CHANGES {
                let Some((pid, change)) = process::reap() else {
                    busy = false;
                    break;
                };
                let ended = match change {
                    Change::Ended(ended) => ended,
                    Change::Stopped(stop) => {
                        if let Some(tracer) = &mut watched.tracer {
                            tracer.stopped(pid, stop, watched.status);
                        }
                        continue;
                    }
                };
                if let Some(tracer) = &mut watched.tracer {
                    tracer.ended(pid);
                }
                if pid == watched.command {
                    return Some(match ended {
                        Ended::Code(code) => End::Code(code),
                        Ended::Signal(signal) => End::Signal(signal),
                    });
                }
            }
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Some(End::TimedOut);
        }
        if let Some(limit) = watched.watchdog.passed(spec) {
            return Some(End::Limit(limit.to_owned()));
        }
    }
}

/// Compares an opened file or directory with what the plan pinned.
pub(super) fn check_identity(
    opened: OwnedFd,
    pinned: &Identity,
    path: &Path,
) -> Result<OwnedFd, Failure> {
    let replaced = |detail: &str| {
        Failure(Message::Replaced {
            path: path.display().to_string(),
            detail: detail.to_owned(),
        })
    };
    let file = File::from(opened);
    let metadata = file
        .metadata()
        .step(&format!("look at {}", path.display()))?;
    if (metadata.dev(), metadata.ino()) != (pinned.device, pinned.inode) {
        return Err(replaced("another file or directory lies there"));
    }
    let stamp = [
        i64::try_from(metadata.size()).unwrap_or(i64::MAX),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ];
    if !pinned.directory && pinned.stamp != [0; 3] && pinned.stamp != stamp {
        return Err(replaced("its content changed"));
    }
    Ok(file.into())
}
