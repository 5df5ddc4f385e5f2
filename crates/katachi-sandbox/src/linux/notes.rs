//! Notes what is refused to a command, at the moment it asks.
//!
//! The first process hears of the calls that start programs and, if that is
//! wanted, of those that open or change files. It looks at what is named, has
//! the kernel go on, and tells the caller what the plan does not open. It decides
//! nothing: what it reads may be another thread's lie, which changes what is
//! noted and nothing else. How the call ended is not known here, so this looks
//! at the places that the sandbox was built of, and the caller asks its plan
//! before it calls something a refusal.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::hash::BuildHasher as _;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::observe::named;
use super::spec::{Source, Spec};
use super::sys::notify::{self, Call};
use crate::command::Notes;
use crate::message::{Message, Want};
use crate::plan::Reach;

/// The most different things that are told of one program. One that does
/// nothing but ask is not looked at any more, and hides nobody else.
const MOST: usize = 2000;
/// How many interpreters lead from one to the next; the kernel takes five.
const MOST_INTERPRETERS: usize = 5;
/// What the kernel reads of a script's first line.
const FIRST_LINE: u64 = 256;

/// What lies at a place, for the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cover {
    Hidden,
    Read,
    Write,
    /// Its own, so that the host's is not seen.
    Private,
    /// A few devices.
    Devices,
}

/// What a call names, and the sandbox does not open.
#[derive(Debug)]
struct Note {
    want: Want,
    path: PathBuf,
    /// Whether it is there.
    there: bool,
}

/// Looks at calls, and remembers what was told.
pub(super) struct Recorder<'a> {
    spec: &'a Spec,
    root: File,
    /// Files that can be executed.
    programs: HashSet<(u64, u64)>,
    /// Those of them that are no scripts.
    plain: HashSet<(u64, u64)>,
    covers: HashMap<PathBuf, Cover>,
    /// Where programs are looked up.
    searched: Vec<PathBuf>,
    /// By program, what was told, as hashes; programs of `exec_from` count as
    /// one.
    told: HashMap<PathBuf, HashSet<u64>>,
    hasher: RandomState,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(spec: &'a Spec) -> io::Result<Self> {
        let known = spec.programs.iter();
        let mut recorder = Self {
            spec,
            root: File::options()
                .read(true)
                .custom_flags(libc::O_PATH)
                .open("/")?,
            programs: known.map(|(_, file)| (file.device, file.inode)).collect(),
            plain: HashSet::new(),
            covers: HashMap::new(),
            searched: Vec::new(),
            told: HashMap::new(),
            hasher: RandomState::new(),
        };
        if spec.notes == Notes::Files {
            recorder.covers = covers(spec);
            let path = spec.environment.iter().find_map(|variable| {
                let value = variable.as_bytes().strip_prefix(b"PATH=")?;
                Some(OsStr::from_bytes(value))
            });
            recorder.searched = path.map_or_else(Vec::new, |path| {
                std::env::split_paths(path).collect::<Vec<_>>()
            });
        }
        Ok(recorder)
    }

    /// Has the kernel go on with a call, and tells what it asks for in vain.
    pub(super) fn attend(
        &mut self,
        listener: std::os::fd::BorrowedFd<'_>,
        call: &Call,
        status: &File,
    ) {
        let pid = call.caller.cast_signed();
        let note = self.look(pid, call);
        // As long as the call waits, this is who makes it.
        let program = note
            .as_ref()
            .and_then(|_| std::fs::read_link(format!("/proc/{pid}/exe")).ok());
        let waits = notify::waits(listener, call);
        notify::go_on(listener, call);
        if let (Some(note), Some(program), true) = (note, program, waits) {
            self.tell(note, program, status);
        }
    }

    fn look(&mut self, pid: libc::pid_t, call: &Call) -> Option<Note> {
        let (want, path) = named(pid, call.number.cast_unsigned(), call.arguments)?;
        match want {
            Want::Execute => self.start(pid, path, MOST_INTERPRETERS),
            Want::Look => {
                let looked_up = self
                    .searched
                    .iter()
                    .any(|known| path.parent() == Some(known));
                let absent = looked_up && self.open(pid, &path).is_err();
                absent.then_some(Note {
                    want,
                    path,
                    there: false,
                })
            }
            // Without namespaces every directory can be entered.
            Want::Read if call.number == libc::SYS_chdir && self.spec.floor.is_some() => None,
            Want::Read | Want::Write => {
                let refused = self.is_refused(pid, want, &path, makes(call.number));
                refused.then_some(Note {
                    want,
                    path,
                    there: true,
                })
            }
        }
    }

    /// A file that the kernel does not start, or whose interpreter it does not.
    fn start(&mut self, pid: libc::pid_t, path: PathBuf, interpreters: usize) -> Option<Note> {
        let note = |path, there| {
            Some(Note {
                want: Want::Execute,
                path,
                there,
            })
        };
        let file = match self.open(pid, &path) {
            Ok(file) => file,
            // A link of the kernel's, which means something else to everybody.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return None,
            Err(_) => return note(path, false),
        };
        let metadata = file.metadata().ok()?;
        let number = (metadata.dev(), metadata.ino());
        if self.plain.contains(&number) {
            return None;
        }
        let lies = real(&file)?;
        if self.hides(&lies) {
            return note(path, false);
        }
        if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
            return None;
        }
        let listed = self.programs.contains(&number);
        let mut trees = self.spec.exec_trees.iter();
        if !listed && !trees.any(|tree| lies.starts_with(&tree.path)) {
            let by_number = path.starts_with("/proc");
            return note(if by_number { lies } else { path }, true);
        }
        match interpreter(&file) {
            Some(next) if interpreters > 0 => {
                let next = from_its_directory(pid, next)?;
                self.start(pid, next, interpreters - 1)
            }
            Some(_) => None,
            None => {
                if listed {
                    self.plain.insert(number);
                }
                None
            }
        }
    }

    /// Whether an empty file or directory hides what lies there.
    fn hides(&self, place: &Path) -> bool {
        let mut mounts = self.spec.mounts.iter();
        mounts.any(|mount| {
            matches!(mount.source, Source::HiddenFile | Source::HiddenDirectory)
                && mount.target == place
        })
    }

    /// Whether the places of the sandbox do not open it, as far as they tell.
    fn is_refused(&self, pid: libc::pid_t, want: Want, path: &Path, makes: bool) -> bool {
        if let Ok(file) = self.open(pid, path) {
            let real = real(&file);
            // Pipes and the like lie nowhere.
            let nowhere = real.as_deref().is_some_and(Path::is_relative);
            let cover = real.and_then(|real| self.cover(&real));
            return match (want, cover) {
                // It is there already.
                _ if makes || nowhere => false,
                (_, Some(Cover::Hidden) | None) => true,
                (Want::Write, Some(Cover::Read)) => true,
                _ => false,
            };
        }
        // What is not there for the command can be there for others, unless
        // the directory in which it is missing is theirs as well.
        let mut missing = path;
        while let Some(above) = missing.parent() {
            let Ok(directory) = self.open(pid, above) else {
                missing = above;
                continue;
            };
            let Some(directory) = real(&directory) else {
                return false;
            };
            let name = missing.file_name().map(|name| directory.join(name));
            if name.is_some_and(|name| name.symlink_metadata().is_ok()) {
                return true;
            }
            let last = missing == path;
            return match (want, self.cover(&directory)) {
                (Want::Write, Some(Cover::Write | Cover::Private)) if last => false,
                (Want::Write, Some(Cover::Read)) if last => true,
                (_, Some(Cover::Read | Cover::Write)) => false,
                _ => true,
            };
        }
        false
    }

    fn cover(&self, real: &Path) -> Option<Cover> {
        let mut above = real.ancestors();
        above.find_map(|place| self.covers.get(place).copied())
    }

    /// Opens what the caller would, by name alone.
    fn open(&self, pid: libc::pid_t, path: &Path) -> io::Result<File> {
        let own = [
            ("/proc/self", ""),
            ("/proc/thread-self", ""),
            ("/dev/fd", "fd"),
        ];
        // What these lead to depends on who asks.
        let own = own.iter().find_map(|(own, below)| {
            let rest = path.strip_prefix(own).ok()?;
            Some(PathBuf::from(format!("/proc/{pid}/{below}")).join(rest))
        });
        if let Some(own) = own.or_else(|| path.starts_with("/proc").then(|| path.to_owned())) {
            return File::options()
                .read(true)
                .custom_flags(libc::O_PATH)
                .open(own);
        }
        let path = CString::new(path.as_os_str().as_bytes())?;
        notify::open_path_at(self.root.as_fd(), &path, true).map(File::from)
    }

    fn tell(&mut self, note: Note, program: PathBuf, status: &File) {
        let key = (note.want, &note.path);
        let hash = self.hasher.hash_one(key);
        let name = program
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut listed = self.spec.programs.iter();
        let of = match listed.any(|(known, _)| *known == program) {
            true => program,
            false => PathBuf::new(),
        };
        let told = self.told.entry(of).or_default();
        if told.len() > MOST || !told.insert(hash) {
            return;
        }
        let message = if told.len() > MOST {
            Message::Flood { program: name }
        } else if note.want == Want::Execute {
            Message::NotStarted {
                path: note.path.into_os_string(),
                there: note.there,
                program: name,
            }
        } else {
            Message::Missed {
                want: note.want,
                path: note.path.into_os_string(),
                program: name,
            }
        };
        // If the caller is gone there is nobody left to tell.
        let _ = message.send(&mut &*status);
    }
}

/// What the sandbox was built of, by place.
fn covers(spec: &Spec) -> HashMap<PathBuf, Cover> {
    let kernel = [
        ("/proc", Cover::Read),
        ("/dev", Cover::Devices),
        ("/dev/shm", Cover::Private),
        ("/dev/pts", Cover::Write),
    ];
    let mut covers: HashMap<PathBuf, Cover> = kernel
        .into_iter()
        .map(|(place, cover)| (place.into(), cover))
        .collect();
    covers.extend(spec.mounts.iter().map(|mount| {
        let cover = match mount.source {
            Source::HiddenDirectory | Source::HiddenFile => Cover::Hidden,
            Source::Private => Cover::Private,
            Source::Host(_) if mount.write => Cover::Write,
            Source::Host(_) => Cover::Read,
        };
        (mount.target.clone(), cover)
    }));
    let places = spec.floor.iter().flatten();
    covers.extend(places.filter_map(|place| {
        let cover = match place.reach {
            // Nothing below is opened with it.
            Reach::List => return None,
            Reach::Read => Cover::Read,
            Reach::Write => Cover::Write,
        };
        Some((place.path.clone(), cover))
    }));
    covers
}

/// Whether the call fails where its path exists, policy or not.
fn makes(call: libc::c_long) -> bool {
    #[cfg(target_arch = "x86_64")]
    let old = [libc::SYS_mkdir, libc::SYS_link, libc::SYS_symlink].contains(&call);
    #[cfg(not(target_arch = "x86_64"))]
    let old = false;
    old || [libc::SYS_mkdirat, libc::SYS_linkat, libc::SYS_symlinkat].contains(&call)
}

/// Where an opened file lies.
fn real(file: &File) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// The program that a script names in its first line.
fn interpreter(file: &File) -> Option<PathBuf> {
    let mut line = Vec::new();
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .ok()?
        .take(FIRST_LINE)
        .read_to_end(&mut line)
        .ok()?;
    let line = line
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t'));
    let name = words.find(|word| !word.is_empty())?;
    Some(OsStr::from_bytes(name).into())
}

/// An interpreter's path, which may start from the caller's directory.
fn from_its_directory(pid: libc::pid_t, path: PathBuf) -> Option<PathBuf> {
    if path.is_absolute() {
        return Some(path);
    }
    let from = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    Some(from.join(path))
}
