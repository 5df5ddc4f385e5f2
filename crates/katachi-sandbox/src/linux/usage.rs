//! What the processes of a sandbox use together, seen by the first of them.
//!
//! The sum over processes counts what several of them share several times. It
//! is quick, and what passes it is counted again exactly.

use super::members::Members;
use super::spec::Spec;

/// Memory in bytes, and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    memory: u64,
    threads: u64,
}

/// The limit that is passed, if one is. What cannot be counted has passed it.
pub(super) fn passed_limit(spec: &Spec) -> Option<&'static str> {
    let Some(processes) = Members::of(spec).list() else {
        return Some(if spec.watched_memory().is_some() {
            "memory"
        } else {
            "processes"
        });
    };
    let processes: Vec<String> = processes.iter().map(u32::to_string).collect();
    // Without namespaces they are the host's, and the command can make none.
    let segments = match spec.floor {
        None => unmapped_segments(),
        Some(_) => 0,
    };
    let mut sum = Usage {
        memory: segments,
        threads: 0,
    };
    for process in &processes {
        let usage = usage(process);
        sum.memory += usage.memory;
        sum.threads += usage.threads;
    }
    if spec
        .watched_processes()
        .is_some_and(|limit| sum.threads > limit)
    {
        return Some("processes");
    }
    let limit = spec.watched_memory().filter(|limit| sum.memory > *limit)?;
    let exact: u64 = processes
        .iter()
        .map(|process| proportional(process).unwrap_or_else(|| usage(process).memory))
        .sum();
    (exact + segments > limit).then_some("memory")
}

/// A process's own and shared memory, swapped or not, and its threads.
fn usage(process: &str) -> Usage {
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let mut status = read(format!("/proc/{process}/status"));
    let threads = field(&status, "Threads:").unwrap_or(1);
    if field(&status, "RssAnon:").is_none() && threads > 1 {
        // Its first thread ended before the others, and the memory is theirs.
        let list = std::fs::read_dir(format!("/proc/{process}/task"));
        status = list
            .into_iter()
            .flatten()
            .flatten()
            .map(|thread| read(format!("{}/status", thread.path().display())))
            .find(|status| field(status, "RssAnon:").is_some())
            .unwrap_or_default();
    }
    let memory = ["RssAnon:", "RssShmem:", "VmSwap:"]
        .into_iter()
        .filter_map(|name| field(&status, name))
        .sum::<u64>();
    Usage {
        memory: memory * 1024,
        threads,
    }
}

/// A process's memory with what it shares divided by those who share it.
/// `None` where the kernel does not say.
fn proportional(process: &str) -> Option<u64> {
    let sums = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let parts = ["Pss_Anon:", "Pss_Shmem:", "SwapPss:"].map(|name| field(&sums, name));
    let [anonymous, shared, swapped] = parts;
    Some((anonymous? + shared? + swapped?) * 1024)
}

/// Bytes in segments of shared memory that no process maps.
fn unmapped_segments() -> u64 {
    const ATTACHED: usize = 6;
    const RESIDENT: usize = 14;
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<u64> = line
                .split_whitespace()
                .map(|field| field.parse().unwrap_or(0))
                .collect();
            let unmapped = *fields.get(ATTACHED)? == 0;
            unmapped.then(|| fields.iter().skip(RESIDENT).sum::<u64>())
        })
        .sum()
}

/// A number behind its name. Names stand at the beginning of a line, where a
/// program's own name, which may be anything, never stands.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_this_process() {
        let held = vec![1_u8; 8 << 20];
        let usage = usage("self");
        assert!(usage.memory > held.len() as u64, "{usage:?}");
        assert!(usage.threads >= 1);
        assert!(proportional("self").is_none_or(|memory| memory > held.len() as u64));
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "Name:\tThreads: 9\nRssAnon:\t     120 kB\nThreads:\t3\n";
        assert_eq!(field(status, "Threads:"), Some(3));
        assert_eq!(field(status, "RssAnon:"), Some(120));
        assert_eq!(field(status, "RssShmem:"), None);
    }
}
