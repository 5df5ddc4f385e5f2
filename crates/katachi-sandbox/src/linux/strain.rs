//! The self-test of limits: each is made small and passed, all at one time.
//!
//! What holds a limit does not depend on its size, and a limit of gigabytes and
//! hours is not reached within a second.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use super::attempts::Attempts;
use super::launch::{self, plan_spec_within};
use super::running::Traces;
use super::sys::process::{self, Fork};
use crate::child::{Ending, Output};
use crate::error::SpawnError;
use crate::plan::Plan;
use crate::policy::{ByteSize, Limits, TimeSpan};

const MEMORY: u64 = 64 << 20;
const PROCESSES: u32 = 16;
const DISK: u64 = 1 << 20;
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
    WallTime,
    CpuTime,
}

impl Strain {
    pub(super) const ALL: [Self; 5] = [
        Self::Memory,
        Self::Processes,
        Self::Disk,
        Self::WallTime,
        Self::CpuTime,
    ];

    /// As the policy calls the limit.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processes => "processes",
            Self::Disk => "disk",
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
    /// could not and lives.
    pub(super) fn run(self) {
        let refused = match self {
            Self::Memory => !fill_memory(4 * MEMORY),
            Self::Processes => !fork(4 * PROCESSES),
            Self::Disk => std::fs::write("/tmp/witness", vec![1; 4 * DISK as usize]).is_err(),
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
    // A share shows over time alone, and bytes need somebody to send them to.
    strained.untried.extend(set.cpus.map(|_| "cpus"));
    strained.untried.extend(set.network.map(|_| "network"));
    let results: Vec<(Strain, Result<bool, SpawnError>)> = thread::scope(|scope| {
        let started: Vec<_> = Strain::ALL
            .into_iter()
            .filter_map(|strain| Some((strain, strain.limits(set)?)))
            .map(|(strain, limits)| (strain, scope.spawn(move || try_one(plan, strain, &limits))))
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

fn try_one(plan: &Plan, strain: Strain, limits: &Limits) -> Result<bool, SpawnError> {
    let mut traces = Traces::default();
    let mut spec = plan_spec_within(&plan.0, None, limits, &mut traces)?;
    spec.attempts = Some(Attempts {
        strain: Some(strain),
        ..Attempts::default()
    });
    spec.directory = "/".into();
    let command = plan
        .command(["witness"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let child = launch::start(command, &spec, traces, Path::new("witness"))?;
    Ok(strain.held(&child.wait_with_output()?))
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
