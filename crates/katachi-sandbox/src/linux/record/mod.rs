//! What is known about running commands should their caller be killed.
//!
//! The look at what a command left is taken by its caller. A caller that is
//! killed takes none, so before the first command of a plan starts, what the
//! look needs is written to a file outside of every sandbox, and each start and
//! each end is added to it. Whoever comes next and finds a file that nobody
//! holds takes the look instead ([`recover`]).
//!
//! ```text
//! NAME.record   what lay there before, and the marks ([`written`]). Locked by
//!               the caller while it lives.
//! NAME.alive    empty; locked by every process of its sandboxes.
//! ```
//!
//! A process that is killed loses no mark, since the kernel has it already.
//! When the power is cut, the last marks can be missing, so marks of another
//! boot are read as the beginning of the story: what came after the last of them
//! may have been a start. The file itself is sent to the disk while the sandbox
//! is being built, and not waited for.

mod recover;
mod state;
mod written;

pub(crate) use recover::recover;
pub(crate) use state::directory as state_directory;
pub(super) use written::Places;

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::after::{After, Ground};
use super::sys::process;
use crate::codec::Writer;
use crate::plan::{Inner, Moment};
use crate::report::Violation;
use crate::scratch::unlikely;
use written::{Kind, Mark, Written};

/// From this length on, marks of ended commands are dropped.
const LONGEST: u64 = 1 << 20;

/// What the commands of one plan have in common.
#[derive(Debug)]
pub(crate) struct Record {
    ground: Arc<Ground>,
    kept: Result<Kept, String>,
}

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    /// Locked shared, and handed to every sandbox.
    alive: File,
    marks: Mutex<Marks>,
}

#[derive(Debug)]
struct Marks {
    file: File,
    /// Where the marks begin, and where the next one goes.
    start: u64,
    end: u64,
    next: u64,
    running: usize,
}

impl Record {
    /// The record of a plan, made when it is first asked for.
    pub(super) fn of(plan: &Inner) -> &Arc<Self> {
        plan.record.get_or_init(|| {
            let ground = Arc::new(Ground::of(plan));
            let kept = state::directory()
                .and_then(|place| place.ok_or_else(|| io::Error::other("there is no place for it")))
                .and_then(|place| Kept::make(&place, &ground))
                .map_err(|error| error.to_string());
            Arc::new(Self { ground, kept })
        })
    }

    /// What shows that a sandbox still exists, for its processes to hold.
    pub(super) fn alive(&self) -> Option<BorrowedFd<'_>> {
        self.kept.as_ref().ok().map(|kept| kept.alive.as_fd())
    }

    /// Notes that a command is about to start, and why that could not be noted.
    pub(super) fn begin(self: &Arc<Self>) -> (Run, Option<String>) {
        let after = After::new(self.ground.clone());
        let number = match &self.kept {
            Ok(kept) => kept
                .marks()
                .begin(after.started())
                .map_err(|error| error.to_string()),
            Err(problem) => Err(problem.clone()),
        };
        let problem = number.as_ref().err().cloned();
        let run = Run {
            record: self.clone(),
            number: number.ok(),
            after,
        };
        (run, problem)
    }
}

/// A command that runs, and the look that is due when it ended.
#[derive(Debug)]
pub(super) struct Run {
    record: Arc<Record>,
    number: Option<u64>,
    after: After,
}

impl Run {
    /// After all of the command is gone.
    pub(super) fn settle(self) -> Vec<Violation> {
        let found = self.after.settle();
        if let (Some(number), Ok(kept)) = (self.number, &self.record.kept) {
            // Without the mark the next start looks again, and finds the same.
            let _ = kept.marks().end(number);
        }
        found
    }
}

impl Kept {
    fn make(place: &Path, ground: &Ground) -> io::Result<Self> {
        let name = format!("{:016x}", unlikely());
        let content = Written {
            boot: boot()?,
            planned: mark(Kind::Planned, 0, ground.since()),
            places: ground.places(),
            marks: Vec::new(),
        }
        .write();

        let make = |ending: &str| {
            let path = place.join(&name).with_extension(ending);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            file.map(|file| (path, file))
        };
        let (_, alive) = make("alive")?;
        alive.lock_shared()?;
        let (new, mut file) = make("new")?;
        file.lock()?;
        file.write_all(&content)?;
        let path = new.with_extension("record");
        std::fs::rename(&new, &path)?;
        let (to_disk, place) = (file.try_clone()?, place.to_owned());
        // Only a cut of the power before that is done loses it.
        let _ = std::thread::Builder::new().spawn(move || {
            let _ = to_disk.sync_all();
            let _ = File::open(place).and_then(|place| place.sync_all());
        });
        let start = content.len() as u64;
        Ok(Self {
            path,
            alive,
            marks: Mutex::new(Marks {
                file,
                start,
                end: start,
                next: 0,
                running: 0,
            }),
        })
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Every run held the record, so all of them are settled.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(self.path.with_extension("alive"));
    }
}

impl Marks {
    fn begin(&mut self, started: Moment) -> io::Result<u64> {
        if self.running == 0 && self.end - self.start > LONGEST {
            self.file.set_len(self.start)?;
            self.end = self.start;
        }
        self.next += 1;
        self.add(mark(Kind::Started, self.next, started))?;
        self.running += 1;
        Ok(self.next)
    }

    fn end(&mut self, number: u64) -> io::Result<()> {
        self.running = self.running.saturating_sub(1);
        self.add(mark(Kind::Settled, number, Moment::now()))
    }

    fn add(&mut self, mark: Mark) -> io::Result<()> {
        let mut writer = Writer::default();
        mark.write(&mut writer);
        let bytes = writer.finish();
        // A part of one is written over by the next.
        self.file.write_all_at(&bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

/// What happens now, and since when it matters.
fn mark(kind: Kind, number: u64, moment: Moment) -> Mark {
    Mark {
        kind,
        number,
        wall: moment.wall(),
        boot: since_boot(),
    }
}

fn moment(mark: Mark, same_boot: bool) -> Moment {
    let ago = match same_boot {
        true => since_boot().saturating_sub(mark.boot),
        // No clock ran through; the one of files has to do.
        false => 0,
    };
    Moment::noted(mark.wall, Duration::from_nanos(ago))
}

/// Which boot this is.
fn boot() -> io::Result<Vec<u8>> {
    std::fs::read("/proc/sys/kernel/random/boot_id")
}

fn since_boot() -> u64 {
    u64::try_from(process::since_boot().as_nanos()).unwrap_or(u64::MAX)
}

/// A record as somebody else left it.
#[derive(Debug)]
struct Left {
    ground: Ground,
    /// Since when its commands may have done something that was not looked at.
    since: Option<Moment>,
}

impl Left {
    fn read(content: &[u8], boot: &[u8]) -> Option<Self> {
        let written = Written::read(content)?;
        let same_boot = written.boot == boot;
        let since = written.unfinished(same_boot);
        let planned = moment(written.planned, same_boot);
        Some(Self {
            ground: Ground::left(written.places, planned),
            since: since.map(|mark| moment(mark, same_boot)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PlanOptions, Policy};

    fn marks(text: &[(Kind, u64, u64)]) -> Vec<u8> {
        let mut writer = Writer::default();
        for (kind, number, wall) in text {
            let mark = Mark {
                kind: *kind,
                number: *number,
                wall: *wall,
                boot: since_boot(),
            };
            mark.write(&mut writer);
        }
        writer.finish()
    }

    fn header(boot: &[u8]) -> Vec<u8> {
        let work = tempfile::tempdir().unwrap();
        std::fs::create_dir(work.path().join("below")).unwrap();
        let options = PlanOptions::new(work.path());
        let plan = Policy::default().write(".").plan(&options).unwrap();
        Written {
            boot: boot.to_vec(),
            planned: mark(Kind::Planned, 0, plan.0.snapshot.since),
            places: Ground::of(&plan.0).places(),
            marks: Vec::new(),
        }
        .write()
    }

    #[test]
    fn what_is_unfinished_is_looked_at_since_it_started() {
        use Kind::{Settled, Started};
        let header = header(b"here");
        let since = |text: &[(Kind, u64, u64)], boot: &[u8]| {
            let content = [header.clone(), marks(text)].concat();
            let left = Left::read(&content, boot).unwrap();
            left.since.map(Moment::wall)
        };
        let both = [(Started, 1, 50), (Started, 2, 60), (Settled, 1, 70)];
        assert_eq!(since(&both, b"here"), Some(60));
        let done = [(Started, 1, 50), (Settled, 1, 70)];
        assert_eq!(since(&done, b"here"), None);
        assert_eq!(since(&[], b"here"), None);
        // After a cut of the power, more may have started since.
        assert_eq!(since(&done, b"another"), Some(70));
        assert_eq!(since(&both, b"another"), Some(60));
        assert!(since(&[], b"another").is_some());
    }

    #[test]
    fn a_cut_record_never_forgets_a_start() {
        use Kind::{Settled, Started};
        let header = header(b"here");
        let story = [(Started, 1, 50), (Settled, 1, 60), (Started, 2, 70)];
        let whole = [header.clone(), marks(&story)].concat();
        for length in 0..whole.len() {
            // What is missing may be gone, or there and empty.
            for rest in [0, 40] {
                let cut = [&whole[..length], &vec![0; rest]].concat();
                let left = Left::read(&cut, b"another");
                if length >= header.len() {
                    let since = left.unwrap().since.map(Moment::wall).unwrap();
                    let told = (length - header.len()) / 32;
                    // The first start that is not settled in what is left; of
                    // the next mark, the part that matters may be there.
                    let next = rest > 0 && told == 1;
                    let latest = if next {
                        60
                    } else {
                        [50, 70, 70][told.max(1) - 1]
                    };
                    assert!(told < 1 || since <= latest, "{length}");
                } else {
                    assert!(rest > 0 || left.is_none(), "{length}");
                }
            }
        }
    }
}
