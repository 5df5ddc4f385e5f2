//! The self-test of limits: each is made small and passed, all at one time.
//!
//! What holds a limit does not depend on its size, and a limit of gigabytes and
//! hours is not reached within a second.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::attempts::Attempts;
use super::launch::{self, plan_spec_within};
use super::running::Traces;
use super::sys::process::{self, Fork};
use crate::child::{Ending, Output};
use crate::error::SpawnError;
use crate::plan::{Plan, PlanOptions};
use crate::policy::{ByteSize, Limits, Policy, TimeSpan};

const MEMORY: u64 = 64 << 20;
const PROCESSES: u32 = 16;
const DISK: u64 = 1 << 20;
const NETWORK: u64 = 64 << 10;
const WALL_TIME: Duration = Duration::from_millis(200);
const CPU_TIME: Duration = Duration::from_millis(100);
/// How long an attempt goes on that nothing ends.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strain {
    Memory,
    Processes,
    Disk,
    Network,
    WallTime,
    CpuTime,
}

impl Strain {
    pub(super) const ALL: [Self; 6] = [
        Self::Memory,
        Self::Processes,
        Self::Disk,
        Self::Network,
        Self::WallTime,
        Self::CpuTime,
    ];

    /// As the policy calls the limit.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processes => "processes",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::WallTime => "wall_time",
            Self::CpuTime => "cpu_time",
        }
    }

    pub(super) fn number(self) -> u64 {
        self as u64
    }

    pub(super) fn of(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.number() == number)
    }

    /// This limit alone, made small; `None` if the policy does not set it.
    fn limits(self, set: &Limits) -> Option<Limits> {
        let mut small = Limits::default();
        match self {
            Self::Memory => {
                set.memory?;
                small.memory = Some(ByteSize::new(MEMORY));
            }
            Self::Processes => {
                set.processes?;
                small.processes = Some(PROCESSES);
            }
            Self::Disk => {
                set.disk?;
                small.disk = Some(ByteSize::new(DISK));
            }
            Self::Network => {
                set.network?;
                small.network = Some(ByteSize::new(NETWORK));
            }
            Self::WallTime => {
                set.wall_time?;
                small.wall_time = Some(TimeSpan::new(WALL_TIME));
            }
            Self::CpuTime => {
                set.cpu_time?;
                small.cpu_time = Some(TimeSpan::new(CPU_TIME));
            }
        }
        Some(small)
    }

    /// Goes past the limit, in the place of the command. Says `refused` if it
    /// could not and lives. Who takes bytes listens at the port.
    pub(super) fn run(self, port: u16) {
        let refused = match self {
            Self::Memory => !fill_memory(4 * MEMORY),
            Self::Processes => !fork(4 * PROCESSES),
            Self::Disk => std::fs::write("/tmp/witness", vec![1; 4 * DISK as usize]).is_err(),
            Self::Network => send(port, 4 * NETWORK as usize).is_err(),
            Self::WallTime => {
                thread::sleep(PATIENCE);
                false
            }
            Self::CpuTime => {
                let began = std::time::Instant::now();
                while began.elapsed() < PATIENCE {
                    std::hint::spin_loop();
                }
                false
            }
        };
        if refused {
            // Nobody reads it if this fails, and then the limit did not hold.
            let _ = writeln!(std::io::stdout(), "refused");
        }
    }

    /// Whether the limit holds in a sandbox of the plan that has it alone.
    fn try_under(self, plan: &Plan, limits: &Limits) -> Result<bool, SpawnError> {
        let attempts = Attempts {
            strain: Some(self),
            ..Attempts::default()
        };
        match self {
            Self::Network => try_network(plan, limits),
            _ => Ok(self.held(&attempt(plan, None, limits, attempts)?)),
        }
    }

    /// Whether that is how it ends where the limit holds.
    fn held(self, output: &Output) -> bool {
        let refused = output.stdout == b"refused\n";
        match &output.outcome.ending {
            Ending::TimedOut => self == Self::WallTime,
            Ending::LimitExceeded(limit) => limit == self.name(),
            Ending::Signal(libc::SIGXFSZ) => self == Self::Disk,
            Ending::Code(0) => refused,
            _ => false,
        }
    }
}

/// What became of the limits of a plan.
#[derive(Debug, Default)]
pub(super) struct Strained {
    /// Those that did not hold.
    pub(super) passed: Vec<&'static str>,
    /// Those that were not tried.
    pub(super) untried: Vec<&'static str>,
    pub(super) tried: usize,
}

/// Tries every limit that the policy sets and that can be reached in a moment.
pub(super) fn limits(plan: &Plan) -> Result<Strained, SpawnError> {
    let set = &plan.0.policy.limits;
    let mut strained = Strained::default();
    // A share shows over time alone.
    strained.untried.extend(set.cpus.map(|_| "cpus"));
    let results: Vec<(Strain, Result<bool, SpawnError>)> = thread::scope(|scope| {
        let started: Vec<_> = Strain::ALL
            .into_iter()
            .filter_map(|strain| Some((strain, strain.limits(set)?)))
            .map(|(strain, limits)| (strain, scope.spawn(move || strain.try_under(plan, &limits))))
            .collect();
        let join = |(strain, started): (Strain, thread::ScopedJoinHandle<'_, _>)| {
            let panicked = |_| Err(SpawnError::Helper("the self-test panicked".to_owned()));
            (strain, started.join().unwrap_or_else(panicked))
        };
        started.into_iter().map(join).collect()
    });
    for (strain, held) in results {
        strained.tried += 1;
        if !held? {
            strained.passed.push(strain.name());
        }
    }
    Ok(strained)
}

/// Makes the attempt in a sandbox of `plan` with these limits, which has the
/// network of another plan, or none.
fn attempt(
    plan: &Plan,
    network: Option<&Plan>,
    limits: &Limits,
    attempts: Attempts,
) -> Result<Output, SpawnError> {
    let mut traces = Traces::default();
    let mut spec = plan_spec_within(&plan.0, None, limits, &mut traces)?;
    spec.attempts = Some(attempts);
    spec.directory = "/".into();
    // All limits are tried at one time, and a port can be published but once.
    spec.doors = network.and_then(|network| launch::doors(&network.0));
    let command = network
        .unwrap_or(plan)
        .command(["witness"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let child = launch::start(command, &spec, traces, Path::new("witness"))?;
    Ok(child.wait_with_output()?)
}

/// Whether no more than the limit comes to a host that is allowed.
fn try_network(plan: &Plan, limits: &Limits) -> Result<bool, SpawnError> {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    server.set_nonblocking(true)?;
    let port = server.local_addr()?.port();
    let attempts = Attempts {
        strain: Some(Strain::Network),
        port,
        ..Attempts::default()
    };
    // Without namespaces there is no proxy, and nothing is to come.
    let network = match plan.0.floor {
        None => Some(plan_to(port, plan, limits)?),
        Some(_) => None,
    };
    let ended = AtomicBool::new(false);
    let (output, came) = thread::scope(|scope| {
        let taker = scope.spawn(|| take(&server, &ended));
        let output = attempt(plan, network.as_ref(), limits, attempts);
        ended.store(true, Ordering::Release);
        (output, taker.join())
    });
    let held = Strain::Network.held(&output?);
    let came = came.map_err(|_| SpawnError::Helper("the self-test panicked".to_owned()))?;
    Ok(held && came <= NETWORK && (came > 0 || network.is_none()))
}

/// A plan for the proxy alone: one host, and the limits.
fn plan_to(port: u16, plan: &Plan, limits: &Limits) -> Result<Plan, SpawnError> {
    let mut options = PlanOptions::new("/");
    if let Some(helper) = &plan.0.helper {
        options = options.helper(&helper.path);
    }
    Policy::default()
        .allow_host(format!("127.0.0.1:{port}"))
        .limits(limits.clone())
        .plan(&options)
        .map_err(|error| SpawnError::Request {
            problem: error.to_string(),
            next_step: "the self-test of limits.network needs a proxy of its own".to_owned(),
        })
}

/// Takes bytes until the command has ended: how many.
fn take(server: &TcpListener, ended: &AtomicBool) -> u64 {
    let mut came = 0;
    loop {
        // Before looking: what was sent by then is there.
        let last = ended.load(Ordering::Acquire);
        match server.accept() {
            Ok((stream, _)) => came += take_all(stream),
            Err(_) if last => return came,
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Answers the first bytes, so that not all are sent at one time, and the end.
fn take_all(mut stream: TcpStream) -> u64 {
    let (mut came, mut part) = (0, vec![0; NETWORK as usize]);
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
    while ready.is_ok() {
        let Ok(count) = stream.read(&mut part) else {
            break;
        };
        let answered = match (came, count) {
            (0, _) | (_, 0) => stream.write_all(b"x").is_ok(),
            _ => true,
        };
        came += count as u64;
        if count == 0 || !answered {
            break;
        }
    }
    came
}

/// Sends one byte, and as many as these once it is answered.
fn send(port: u16, bytes: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    stream.write_all(&vec![1; bytes])?;
    stream.shutdown(Shutdown::Write)?;
    // A connection that is cut has an end as well, and no answer.
    stream.read_exact(&mut [0])
}

/// Whether this much could be had and used.
fn fill_memory(bytes: u64) -> bool {
    const PART: usize = 1 << 20;
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for _ in 0..bytes / PART as u64 {
        let mut part = Vec::new();
        if part.try_reserve_exact(PART).is_err() {
            return false;
        }
        part.resize(PART, 1);
        parts.push(part);
    }
    // What is never looked at might never be there.
    let sum: u64 = parts.iter().map(|part| u64::from(part[PART / 2])).sum();
    // Whoever looks ten times a second gets to see it.
    thread::sleep(Duration::from_secs(1));
    sum > 0
}

/// Whether this many could be made and lived at one time.
fn fork(count: u32) -> bool {
    for _ in 0..count {
        match process::fork() {
            Ok(Fork::Child) => {
                thread::sleep(PATIENCE);
                process::exit(0)
            }
            Ok(Fork::Parent(_)) => {}
            Err(_) => return false,
        }
    }
    thread::sleep(Duration::from_secs(1));
    true
}
