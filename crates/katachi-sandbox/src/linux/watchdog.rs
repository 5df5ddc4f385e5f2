//! Limits that the kernel does not keep for a whole command, looked at by the
//! first process ten times a second.

use std::fs::File;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::members::Members;
use super::processor::Processor;
use super::spec::Spec;
use super::usage::passed_limit;

/// How often everything is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// What is looked at for one command.
pub(super) struct Watchdog {
    counts: bool,
    processor: Option<Processor>,
    disk: Option<Disk>,
    looked: Instant,
}

impl Watchdog {
    /// With the control group's `cpu.stat`, if there is one.
    pub(super) fn new(spec: &Spec, group: Option<File>) -> Self {
        Self {
            counts: spec.watched_memory().is_some() || spec.watched_processes().is_some(),
            processor: spec.cpu_time_ms.map(|limit| {
                Processor::new(Duration::from_millis(limit), group, Members::of(spec))
            }),
            disk: spec.disk.map(|limit| Disk::new(limit, spec)),
            looked: Instant::now(),
        }
    }

    /// Notes what is used already; the command runs as soon as this returns.
    pub(super) fn begin(&mut self) {
        if let Some(processor) = &mut self.processor {
            processor.begin();
        }
        if let Some(disk) = &mut self.disk {
            disk.begin();
        }
    }

    /// Whether there is anything to look at.
    pub(super) fn watches(&self) -> bool {
        self.counts || self.processor.is_some() || self.disk.is_some()
    }

    /// The limit that is passed, if it is time to look and one is.
    pub(super) fn passed(&mut self, spec: &Spec) -> Option<&'static str> {
        if !self.watches() || self.looked.elapsed() < LOOK {
            return None;
        }
        let passed = self.look(spec);
        self.looked = Instant::now();
        passed
    }

    fn look(&mut self, spec: &Spec) -> Option<&'static str> {
        if self.counts
            && let Some(limit) = passed_limit(spec)
        {
            return Some(limit);
        }
        if self.processor.as_mut().is_some_and(Processor::is_over) {
            return Some("cpu_time");
        }
        let disk = self.disk.as_mut();
        disk.is_some_and(Disk::is_over).then_some("disk")
    }
}
