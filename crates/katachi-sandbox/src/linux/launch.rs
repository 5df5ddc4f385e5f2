//! The caller's side of a start.

use std::fs::{File, TryLockError};
use std::io::PipeReader;
use std::io::{Seek as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::advice::next_step;
use super::cgroup::Leaf;
use super::floor;
use super::init::check_identity;
use super::inside::PROXY_PORT;
use super::listen::{Heard, Listener, Waiting};
use super::missed::Refusals;
use super::prepared::Prepared;
use super::record::{self, Record};
use super::running::{Placeholder, Running, Traces};
use super::spec::{Doors, ExecTree, Identity, Joined, Mount, Place, Source, Spec};
use super::sys::{c_string, fd, net};
use super::{advice, landlock_version};
use crate::admit::{Admitted, admit};
use crate::child::Child;
use crate::command::Command;
use crate::environment::{Proxies, environment, stay_in};
use crate::error::SpawnError;
use crate::feed::Feed;
use crate::helper::MARKER;
use crate::hold::Hold;
use crate::killer::Killer;
use crate::message::Message;
use crate::network::host::Host;
use crate::network::names::GATEWAY;
use crate::plan::{Cgroup, Gate, Inner, Kind, Opened, Pin};
use crate::policy::Limits;
use crate::proxy::{self, Network};
use crate::terminal::Terminal;

/// Addresses that exist inside so that programs without a proxy reach them;
/// further ones are reached by the proxy only.
const MOST_ADDRESSES: usize = 64;

pub(crate) fn spawn(command: Command) -> Result<Child, SpawnError> {
    let inner = command.plan.0.clone();
    crate::helper::check(&inner)?;
    advice::landlock(landlock_version())?;
    let Admitted {
        directory,
        program,
        real,
        rule,
        approved,
    } = admit(&command)?;
    let environment = environment(&inner, &command.env, proxies(&inner).as_ref())?;
    let prepared = match &command.pool {
        Some(pool) if command.can_use_pool() && Prepared::fits(&inner) => pool.take(),
        _ => None,
    };
    // One whose directories were replaced since is ended, and the start that
    // follows finds out what to say.
    if let Some(prepared) = prepared.filter(|prepared| prepared.is_current(&inner)) {
        let start = Spec {
            program,
            real_program: real.clone(),
            argv: command.argv.clone(),
            environment,
            directory,
            approved,
            asks: command.approver.is_some(),
            notes: command.notes,
            ..Spec::default()
        };
        let pool = command.pool.clone();
        let started = prepared.start(command, &start, &real);
        // After the start, whose time it would take.
        if let Some(pool) = pool {
            pool.build_next();
        }
        return started;
    }
    let mut traces = Traces::default();
    look_around(&inner, &mut traces);
    let mut spec = plan_spec(&inner, rule, &mut traces)?;
    spec.program = program;
    spec.real_program = real.clone();
    spec.argv = command.argv.clone();
    spec.environment = environment;
    if let Some(scratch) = &traces.scratch {
        stay_in(scratch.path(), &inner.home, &mut spec.environment);
    }
    spec.directory = directory;
    spec.guards = inner.guards.clone();
    spec.terminal = command.terminal.map(|size| (size.rows, size.columns));
    spec.approved = approved;
    spec.asks = command.approver.is_some();
    spec.notes = command.notes;
    start(command, &spec, traces, &real)
}

/// Notes what is there before a command runs, once what others left is set
/// aside.
pub(super) fn look_around(plan: &Inner, traces: &mut Traces) {
    if plan.watched.is_empty() {
        return;
    }
    traces.recovered = record::recover().unwrap_or_default();
    let (run, unrecorded) = Record::of(plan).begin();
    traces.run = Some(run);
    traces.unrecorded = unrecorded;
}

/// A helper at work, and the ways to talk to it.
pub(super) struct Helper {
    pub(super) process: std::process::Child,
    status: PipeReader,
    killer: Killer,
    pub(super) channel: Option<OwnedFd>,
}

/// Starts the helper with a finished specification.
pub(super) fn start(
    mut command: Command,
    spec: &Spec,
    traces: Traces,
    program: &Path,
) -> Result<Child, SpawnError> {
    let started = Instant::now();
    // Ports that somebody else holds are found out before anything starts.
    let published = published(spec, &command)?;
    let streams = match spec.terminal {
        Some(_) => [Stdio::null(), Stdio::null(), Stdio::null()],
        None => command.take_streams(),
    };
    let ends = Ends {
        listener: Listener::prepare()?,
        published,
        network: network(spec)?,
        started,
    };
    let helper = start_helper(&command.plan.0, spec, streams)?;
    finish(helper, command, spec, traces, ends, program)
}

/// Takes the ports that the plan publishes.
pub(super) fn published(
    spec: &Spec,
    command: &Command,
) -> Result<Vec<(u16, TcpListener)>, SpawnError> {
    match &spec.doors {
        Some(_) => proxy::bind(&command.plan.0.network.publish),
        None => Ok(Vec::new()),
    }
}

/// Has a thread ready for the network of a command, before anything of it runs.
pub(super) fn network(spec: &Spec) -> Result<Option<proxy::Waiting>, SpawnError> {
    if spec.doors.is_none() {
        return Ok(None);
    }
    let waiting = Network::prepare().map_err(|error| SpawnError::Machine {
        step: "start the thread of the proxy".to_owned(),
        detail: error.to_string(),
        next_step: "let the calling process have more threads and memory".to_owned(),
    })?;
    Ok(Some(waiting))
}

/// The specification in memory that nobody can change any more.
pub(super) fn in_memory(spec: &Spec) -> std::io::Result<File> {
    let mut plan = File::from(fd::memory_file(c"katachi-sandbox-plan")?);
    plan.write_all(&spec.encode())?;
    plan.rewind()?;
    fd::seal(plan.as_fd())?;
    Ok(plan)
}

/// Opens the helper that the plan pinned, to be executed by descriptor: what
/// was compared is what runs.
fn open_helper(plan: &Inner) -> Result<Option<File>, SpawnError> {
    let Some(helper) = &plan.helper else {
        return Ok(None);
    };
    let replaced = |detail: String| SpawnError::Replaced {
        path: helper.path.clone(),
        detail,
    };
    let path = c_string(&helper.path).map_err(|error| replaced(error.to_string()))?;
    let root = File::open("/")?;
    let opened = fd::open_path(root.as_fd(), &path).map_err(|error| replaced(error.to_string()))?;
    match check_identity(opened, &identity(&helper.pin), &helper.path) {
        Ok(opened) => Ok(Some(opened.into())),
        Err(failure) => Err(failure.0.into_error(&helper.path, next_step)),
    }
}

pub(super) fn start_helper(
    inner: &Inner,
    spec: &Spec,
    [stdin, stdout, stderr]: [Stdio; 3],
) -> Result<Helper, SpawnError> {
    let own = open_helper(inner)?;
    let program = match &own {
        Some(file) => format!("/proc/self/fd/{}", file.as_raw_fd()),
        None => "/proc/self/exe".to_owned(),
    };
    let plan = in_memory(spec)?;
    let channel = match spec.doors.is_some() || spec.terminal.is_some() || spec.waits {
        true => Some(net::pair()?),
        false => None,
    };
    let (status, status_end) = std::io::pipe()?;
    let (control_end, control) = std::io::pipe()?;
    let mut fds = vec![
        plan.as_raw_fd(),
        status_end.as_raw_fd(),
        control_end.as_raw_fd(),
    ];
    // What is not there has no number.
    let none = -1;
    let alive = match inner.watched.is_empty() {
        true => None,
        false => Record::of(inner).alive(),
    };
    fds.push(channel.as_ref().map_or(none, |(_, end)| end.as_raw_fd()));
    fds.push(alive.map_or(none, |alive| alive.as_raw_fd()));
    let mut helper = std::process::Command::new(program);
    helper
        .arg0(MARKER)
        .args(fds.iter().map(ToString::to_string))
        .env_clear()
        .current_dir("/")
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr);
    fds.retain(|fd| *fd != none);
    fd::pass_on(&mut helper, fds);
    Ok(Helper {
        process: helper.spawn()?,
        status,
        killer: Killer::new(control),
        channel: channel.map(|(channel, _)| channel),
    })
}

impl Helper {
    /// The first thing it says. If that is no `Started` and no `Prepared`, it
    /// ends, and so does everything it made.
    pub(super) fn answer(&mut self, program: &Path) -> Result<Message, SpawnError> {
        let answer = Message::receive(&mut self.status);
        if let Ok(Some(message @ (Message::Started(_) | Message::Prepared(_)))) = answer {
            return Ok(message);
        }
        let ended = self.end();
        Err(match answer {
            Ok(Some(message)) => message.into_error(program, next_step),
            Ok(None) => SpawnError::Helper(
                ended.map_or_else(|error| error.to_string(), |status| status.to_string()),
            ),
            Err(error) => SpawnError::Io(error),
        })
    }

    pub(super) fn end(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.killer.kill();
        self.process.wait()
    }
}

/// What the caller has to have before anything runs.
pub(super) struct Ends {
    pub(super) listener: Waiting,
    /// Ports that are published.
    pub(super) published: Vec<(u16, TcpListener)>,
    /// Who serves them, and the proxy.
    pub(super) network: Option<proxy::Waiting>,
    pub(super) started: Instant,
}

/// Waits until the command runs, and puts together what the caller gets.
pub(super) fn finish(
    mut helper: Helper,
    command: Command,
    spec: &Spec,
    mut traces: Traces,
    ends: Ends,
    program: &Path,
) -> Result<Child, SpawnError> {
    let Ends {
        listener,
        published,
        network,
        started,
    } = ends;
    let gaps = match helper.answer(program)? {
        Message::Started(gaps) => gaps,
        _ => {
            let _ = helper.end();
            return Err(out_of_order());
        }
    };
    let feed = Feed::default();
    traces
        .recovered
        .drain(..)
        .for_each(|violation| feed.add(violation));
    let served = network.map(|network| (network, published));
    let connected = connect(&mut helper, &command, spec, served, &feed);
    let (terminal, network) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            let _ = helper.end();
            return Err(SpawnError::Io(error));
        }
    };
    let Helper {
        mut process,
        status,
        killer,
        ..
    } = helper;
    let heard = listener.begin(Heard {
        status,
        killer: killer.clone(),
        approver: command.approver,
        refusals: Refusals::new(feed.clone(), command.plan.clone(), command.notes),
    });
    let mut enforcement = command.plan.enforcement();
    for (control, reason) in &gaps {
        enforcement.add_gap(control, reason);
    }
    if let Some(problem) = traces.unrecorded.take() {
        enforcement.add_gap(
            "metadata",
            &format!("if the calling process is killed, what the command made is not looked at, because that it runs could not be noted: {problem}"),
        );
    }
    Ok(Child {
        stdin: process.stdin.take(),
        stdout: process.stdout.take(),
        stderr: process.stderr.take(),
        terminal,
        enforcement,
        running: Running {
            hold: Hold::new(process, killer, feed, started),
            heard: Some(heard),
            traces,
            network,
        },
    })
}

/// Takes over what the first process made for the caller.
fn connect(
    helper: &mut Helper,
    command: &Command,
    spec: &Spec,
    served: Option<(proxy::Waiting, Vec<(u16, TcpListener)>)>,
    feed: &Feed,
) -> std::io::Result<(Option<Terminal>, Option<Network>)> {
    let Some(channel) = helper.channel.take() else {
        return Ok((None, None));
    };
    let terminal = match spec.terminal {
        Some(_) => Some(take_terminal(&channel)?),
        None => None,
    };
    let network = match served {
        Some((waiting, published)) => {
            let plan = command.plan.0.clone();
            Some(waiting.begin(plan, channel, published, feed.clone())?)
        }
        None => None,
    };
    Ok((terminal, network))
}

/// The end of the terminal that the first process handed out.
fn take_terminal(channel: &OwnedFd) -> std::io::Result<Terminal> {
    let (_, fds) = net::receive(channel.as_fd(), &mut [0; 8])?;
    match fds.into_iter().next() {
        Some(fd) => Ok(Terminal(fd.into())),
        None => Err(std::io::Error::other("no terminal was handed out")),
    }
}

/// Where programs inside find the proxy, if the policy allows hosts.
fn proxies(plan: &Inner) -> Option<Proxies> {
    let address = || format!("http://{GATEWAY}:{PROXY_PORT}");
    let allowed = !plan.network.rules.allow.is_empty();
    allowed.then(|| Proxies {
        http: address(),
        all: address(),
    })
}

fn identity(pin: &Pin) -> Identity {
    Identity {
        device: pin.device,
        inode: pin.inode,
        directory: pin.directory,
        stamp: pin.stamp,
    }
}

/// Everything that comes from the plan, for a start under `rule`.
pub(super) fn plan_spec(
    plan: &Inner,
    rule: Option<usize>,
    traces: &mut Traces,
) -> Result<Spec, SpawnError> {
    plan_spec_within(plan, rule, &plan.policy.limits, traces)
}

/// The same with other limits.
pub(super) fn plan_spec_within(
    plan: &Inner,
    rule: Option<usize>,
    limits: &Limits,
    traces: &mut Traces,
) -> Result<Spec, SpawnError> {
    let opens = |gate: &Gate| match rule {
        Some(rule) => gate.opens_for(rule),
        None => !matches!(gate, Gate::Rules(_)),
    };
    let (open, closed): (Vec<_>, Vec<_>) = plan
        .programs
        .iter()
        .partition(|program| opens(&program.gate));
    let mut mounts = Vec::with_capacity(plan.entries.len());
    let built = match plan.floor {
        None => plan.entries.as_slice(),
        Some(_) => &[],
    };
    for entry in built {
        if closed.iter().any(|program| program.path == entry.target) {
            continue;
        }
        let source = match &entry.kind {
            Kind::Host(pin) => {
                let mut identity = identity(pin);
                // Only programs are pinned to their content; other files may
                // be rewritten between planning and starting.
                if !plan
                    .programs
                    .iter()
                    .any(|program| program.path == entry.target)
                {
                    identity.stamp = [0; 3];
                }
                Source::Host(identity)
            }
            Kind::Placeholder => Source::Host(placeholder(&entry.target, traces)?),
            Kind::Private => Source::Private,
            Kind::HiddenDirectory => Source::HiddenDirectory,
            Kind::HiddenFile => Source::HiddenFile,
        };
        mounts.push(Mount {
            target: entry.target.clone(),
            source,
            write: entry.access.write,
            load: entry.access.load,
            protects: entry.protects,
        });
    }
    let cgroup = match &plan.cgroup {
        Some(place) => Some(control_group(place, limits, traces)?),
        None => None,
    };
    let floor = match &plan.floor {
        None => None,
        Some(opened) => Some(places(opened, plan, traces)?),
    };
    Ok(Spec {
        floor,
        cgroup,
        mounts,
        late: plan.late.clone(),
        links: plan
            .links
            .iter()
            .map(|(place, target)| (place.clone(), target.clone()))
            .collect(),
        programs: open
            .into_iter()
            .map(|program| (program.path.clone(), identity(&program.pin)))
            .collect(),
        exec_trees: plan
            .exec_trees
            .iter()
            .map(|(tree, _)| ExecTree {
                path: tree.clone(),
                fixed: plan.is_fixed(tree),
            })
            .collect(),
        home: plan.home.clone(),
        owner: owner(plan),
        unix_sockets: !plan.sockets.is_empty(),
        doors: doors(plan),
        memory: limits.memory.map(crate::policy::ByteSize::bytes),
        processes: limits.processes.map(u64::from),
        disk: limits.disk.map(crate::policy::ByteSize::bytes),
        wall_time_ms: limits.wall_time.map(crate::policy::TimeSpan::milliseconds),
        cpu_time_ms: limits.cpu_time.map(crate::policy::TimeSpan::milliseconds),
        ..Spec::default()
    })
}

/// What Landlock opens by itself: the plan's places, and a directory for
/// temporary files.
fn places(opened: &[Opened], plan: &Inner, traces: &mut Traces) -> Result<Vec<Place>, SpawnError> {
    let scratch = floor::scratch(owner(plan))?;
    let place = |opened: &Opened| Place {
        path: opened.path.clone(),
        identity: opened.pin.as_ref().map(|pin| Identity {
            stamp: [0; 3],
            ..identity(pin)
        }),
        reach: opened.reach,
    };
    let mut places: Vec<Place> = opened.iter().map(place).collect();
    places.push(floor::place(&scratch)?);
    traces.scratch = Some(scratch);
    Ok(places)
}

/// Makes the command's control group.
fn control_group(
    place: &Cgroup,
    limits: &Limits,
    traces: &mut Traces,
) -> Result<Joined, SpawnError> {
    let leaf = Leaf::make(place, limits).map_err(|error| SpawnError::Machine {
        step: format!("make a control group in {}", place.parent.display()),
        detail: error.to_string(),
        next_step: "make the plan again, which then finds out who can hold the limits".to_owned(),
    })?;
    let path = leaf.path().to_owned();
    traces.leaf = Some(leaf);
    Ok(Joined {
        path,
        memory: place.memory,
        processes: place.processes,
    })
}

/// What has to be made in the network namespace; nothing without network.
pub(super) fn doors(plan: &Inner) -> Option<Doors> {
    let rules = &plan.network.rules;
    let proxy = !rules.allow.is_empty();
    if !proxy && plan.network.publish.is_empty() {
        return None;
    }
    let mut doors = Doors {
        proxy,
        ports: rules.ports(),
        ..Doors::default()
    };
    for rule in &rules.allow {
        match (rule.host(), rule.port()) {
            (Some(Host::Address(IpAddr::V4(address))), _) if !address.is_loopback() => {
                doors.addresses.push(*address);
            }
            (Some(Host::Address(IpAddr::V6(address))), Some(port)) if address.is_loopback() => {
                doors.ports_v6.push(port);
            }
            _ => {}
        }
    }
    doors.addresses.sort_unstable();
    doors.addresses.dedup();
    doors.addresses.truncate(MOST_ADDRESSES);
    doors.ports_v6.sort_unstable();
    doors.ports_v6.dedup();
    Some(doors)
}

/// Makes the empty directory that keeps the command from making one.
///
/// Every sandbox that counts on it holds a shared lock, and it is removed only
/// by who can lock it alone: the kernel takes the mount off a directory that is
/// removed, in every namespace.
fn placeholder(path: &Path, traces: &mut Traces) -> Result<Identity, SpawnError> {
    for _ in 0..100 {
        let made = match std::fs::create_dir(path) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(SpawnError::Io(error)),
        };
        let held = match File::open(path) {
            Ok(held) => held,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(SpawnError::Io(error)),
        };
        match held.try_lock_shared() {
            Ok(()) => {}
            // Somebody is about to remove it.
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            Err(TryLockError::Error(error)) => return Err(SpawnError::Io(error)),
        }
        let pin = Pin::new(path)?;
        let seen = held.metadata()?;
        if (pin.device, pin.inode) == (seen.dev(), seen.ino()) {
            traces.placeholders.push(Placeholder {
                path: path.to_owned(),
                held,
                made,
            });
            return Ok(identity(&pin));
        }
    }
    Err(SpawnError::Io(std::io::Error::other(format!(
        "{} is locked by another program",
        path.display()
    ))))
}

/// Who owns the workspace: a command started by root works as them.
fn owner(plan: &Inner) -> (u32, u32) {
    let root = plan.watched.first().unwrap_or(&plan.workspace);
    std::fs::metadata(root).map_or((0, 0), |metadata| (metadata.uid(), metadata.gid()))
}

fn out_of_order() -> SpawnError {
    SpawnError::Helper("it answered out of order".to_owned())
}
