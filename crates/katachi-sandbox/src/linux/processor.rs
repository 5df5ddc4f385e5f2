//! Processor time of a command and all it started.
//!
//! A control group counts it exactly. Without one there are two sums, and the
//! larger counts:
//!
//! - of those that run, their own time and that of their children they waited
//!   for, and of those that the first process collected. Children that a
//!   parent does not wait for (it ignores their end) are missing in it.
//! - of what the looks saw each process use. What ran between two looks is
//!   missing in it.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use super::members::Members;
use super::sys::process;

pub(super) struct Processor {
    limit: Duration,
    /// Used before the command ran.
    before: Duration,
    source: Source,
}

enum Source {
    /// The group's `cpu.stat`.
    Group(File),
    Processes {
        members: Members,
        /// By number and start, the time each process was last seen to have.
        seen: HashMap<(u32, u64), Duration>,
        /// Of processes that are gone.
        gone: Duration,
    },
}

impl Processor {
    pub(super) fn new(limit: Duration, group: Option<File>, members: Members) -> Self {
        let source = group.map_or_else(
            || Source::Processes {
                members,
                seen: HashMap::new(),
                gone: Duration::ZERO,
            },
            Source::Group,
        );
        Self {
            limit,
            before: Duration::ZERO,
            source,
        }
    }

    pub(super) fn begin(&mut self) {
        self.before = self.used().unwrap_or_default();
    }

    /// What cannot be counted is over.
    pub(super) fn is_over(&mut self) -> bool {
        let (limit, before) = (self.limit, self.before);
        self.used()
            .is_none_or(|used| used.saturating_sub(before) > limit)
    }

    fn used(&mut self) -> Option<Duration> {
        match &mut self.source {
            Source::Group(file) => group_time(file),
            Source::Processes {
                members,
                seen,
                gone,
            } => processes_time(*members, seen, gone),
        }
    }
}

fn group_time(file: &File) -> Option<Duration> {
    let mut bytes = [0; 1024];
    let length = file.read_at(&mut bytes, 0).ok()?;
    let text = std::str::from_utf8(&bytes[..length]).ok()?;
    let micros = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    Some(Duration::from_micros(micros.trim().parse().ok()?))
}

fn processes_time(
    members: Members,
    seen: &mut HashMap<(u32, u64), Duration>,
    gone: &mut Duration,
) -> Option<Duration> {
    let mut waited_for = process::children_time().ok()?;
    let mut now = HashMap::with_capacity(seen.len());
    for number in members.list()? {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        // Gone in between, and then counted by who waited for it.
        let Some(times) = Times::read(&stat) else {
            continue;
        };
        waited_for += times.own + times.children;
        now.insert((number, times.started), times.own);
    }
    let ended = seen.iter().filter(|(key, _)| !now.contains_key(key));
    *gone += ended.map(|(_, time)| *time).sum::<Duration>();
    *seen = now;
    let looked_at = *gone + seen.values().sum::<Duration>();
    Some(waited_for.max(looked_at))
}

/// What one process used.
#[derive(Debug, PartialEq, Eq)]
struct Times {
    own: Duration,
    /// Of children it waited for, and theirs.
    children: Duration,
    started: u64,
}

impl Times {
    /// From `/proc/PID/stat`, proc_pid_stat(5).
    fn read(stat: &str) -> Option<Self> {
        const USER: usize = 14 - 3;
        const STARTED: usize = 22 - 3;
        // The second field is a name, which may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // The kernel shows hundredths of a second, whatever it counts in.
        let time = |index: usize| {
            let ticks = number(index)?.checked_add(number(index + 1)?)?;
            Some(Duration::from_millis(ticks.saturating_mul(10)))
        };
        Some(Self {
            own: time(USER)?,
            children: time(USER + 2)?,
            started: number(STARTED)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_shifts_nothing() {
        let stat = "7 (a) R 1) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 99 1 0";
        assert_eq!(
            Times::read(stat),
            Some(Times {
                own: Duration::from_millis(110),
                children: Duration::from_millis(150),
                started: 4242,
            })
        );
        assert_eq!(Times::read("7 (a) S 1"), None);
    }

    #[test]
    fn counts_the_work_of_this_process() {
        let read = || {
            let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
            Times::read(&stat).unwrap().own
        };
        let before = read();
        let started = std::time::Instant::now();
        while read() < before + Duration::from_millis(50) {
            assert!(started.elapsed() < Duration::from_secs(30));
        }
    }
}
