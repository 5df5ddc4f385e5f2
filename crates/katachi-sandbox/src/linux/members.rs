//! Which processes belong to a sandbox, seen by the first of them.

use super::spec::Spec;

/// How they are told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Members {
    /// In a namespace of their own there are no others.
    Everybody,
    /// By descent from the first process, which adopts all of them.
    Descendants,
}

impl Members {
    pub(super) fn of(spec: &Spec) -> Self {
        match spec.floor {
            None => Self::Everybody,
            Some(_) => Self::Descendants,
        }
    }

    /// Their numbers, without the first; `None` where they cannot be listed.
    pub(super) fn list(self) -> Option<Vec<u32>> {
        match self {
            Self::Everybody => everybody(),
            Self::Descendants => Some(descendants()),
        }
    }
}

fn everybody() -> Option<Vec<u32>> {
    let list = std::fs::read_dir("/proc").ok()?;
    let numbers = list
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number != 1);
    Some(numbers.collect())
}

/// Everything that this process started, or that came to it when it lost its
/// parent.
fn descendants() -> Vec<u32> {
    let mut found = children(std::process::id());
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        found.extend(children(parent));
    }
    found
}

fn children(parent: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{parent}/task"));
    threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            let numbers = list.split_whitespace().filter_map(|word| word.parse().ok());
            numbers.collect::<Vec<u32>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_and_its_child_are_found() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .unwrap();
        let enough = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let found = descendants();
            found.contains(&shell.id()) && !children(shell.id()).is_empty()
        });
        for child in children(shell.id()) {
            std::process::Command::new("kill")
                .arg(child.to_string())
                .status()
                .unwrap();
        }
        shell.wait().unwrap();
        assert!(enough, "the child's child is not found");
    }
}
