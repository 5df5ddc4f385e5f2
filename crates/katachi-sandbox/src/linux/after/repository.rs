//! Repositories that a command made: what would run programs outside is set
//! aside, the rest stays, so that git works.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};

use super::config::sift;
use super::scan::touched;
use crate::plan::Moment;
use crate::platform::sys::{c_string, fd};

/// Largest configuration that is read, in bytes.
const LARGEST: u64 = 1 << 20;
/// Parts of a repository in which something dangerous can be.
const PARTS: &[&str] = &[
    "",
    "config",
    "config.worktree",
    "hooks",
    "info",
    "info/attributes",
    "commondir",
    "rebase-merge",
];

/// A directory that stays the same one whatever its name becomes: another
/// sandbox in the same workspace must not lead us elsewhere by a link.
struct Directory(OwnedFd);

impl Directory {
    /// Opens it, following no link at all.
    fn open(path: &Path) -> io::Result<Self> {
        let root = File::open("/")?;
        let relative = c_string(path.strip_prefix("/").unwrap_or(path))?;
        let opened = fd::open_path(root.as_fd(), &relative)?;
        Ok(Self(opened))
    }

    fn inside(&self, name: &str) -> io::Result<Self> {
        fd::open_path(self.0.as_fd(), &c_string(name)?).map(Self)
    }

    /// A path by which this very directory's entry is reached.
    fn entry(&self, name: impl AsRef<Path>) -> PathBuf {
        Path::new("/proc/self/fd")
            .join(self.0.as_raw_fd().to_string())
            .join(name)
    }

    /// A new directory in it, with a number if the name is taken.
    fn make(&self, name: &str) -> io::Result<(String, Self)> {
        let owner = fs::metadata(self.entry("."))?;
        for number in 1..1000 {
            let name = match number {
                1 => name.to_owned(),
                number => format!("{name}-{number}"),
            };
            match fs::DirBuilder::new().mode(0o700).create(self.entry(&name)) {
                Ok(()) => {
                    let made = self.inside(&name)?;
                    let opened = File::open(made.entry("."))?;
                    fchown(&opened, Some(owner.uid()), Some(owner.gid()))?;
                    return Ok((name, made));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// What was set aside, and where it is now.
pub(super) struct SetAside {
    pub(super) what: Vec<String>,
    pub(super) place: PathBuf,
}

/// Whether the command may have had its hands on what git acts upon.
pub(super) fn is_touched(repository: &Path, since: Moment) -> bool {
    let changed = |path: &Path| {
        path.symlink_metadata()
            .is_ok_and(|metadata| touched(&metadata, since))
    };
    let hooks = fs::read_dir(repository.join("hooks"));
    PARTS.iter().any(|part| changed(&repository.join(part)))
        || hooks.is_ok_and(|list| list.flatten().any(|hook| changed(&hook.path())))
}

/// Sets aside what in a repository runs programs. `None` if there is nothing.
pub(super) fn clean(
    repository: &Path,
    worktree: &dyn Fn(&str) -> bool,
) -> io::Result<Option<SetAside>> {
    let directory = Directory::open(repository)?;
    let mode = fs::metadata(directory.entry("."))?.mode();
    if mode & 0o700 != 0o700 {
        fs::set_permissions(directory.entry("."), Permissions::from_mode(mode | 0o700))?;
    }
    let mut cleaning = Cleaning {
        repository,
        directory,
        aside: None,
        what: Vec::new(),
    };
    cleaning.hooks()?;
    cleaning.attributes()?;
    cleaning.common_directory()?;
    // An unfinished rebase goes on with the programs its list names.
    if cleaning.kind("rebase-merge")?.is_some() {
        cleaning.take("rebase-merge")?;
    }
    for name in ["config", "config.worktree"] {
        cleaning.config(name, worktree)?;
    }
    let what = cleaning.what;
    Ok(cleaning.aside.map(|(name, _)| SetAside {
        what,
        place: repository.join(name),
    }))
}

struct Cleaning<'a> {
    repository: &'a Path,
    directory: Directory,
    aside: Option<(String, Directory)>,
    what: Vec<String>,
}

impl Cleaning<'_> {
    fn kind(&self, name: &str) -> io::Result<Option<fs::Metadata>> {
        match self.directory.entry(name).symlink_metadata() {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn aside(&mut self) -> io::Result<&Directory> {
        if self.aside.is_none() {
            self.aside = Some(self.directory.make("set-aside")?);
        }
        let (_, directory) = self.aside.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(directory)
    }

    fn take(&mut self, name: &str) -> io::Result<()> {
        let from = self.directory.entry(name);
        fs::rename(from, self.aside()?.entry(name))?;
        self.what.push(name.to_owned());
        Ok(())
    }

    fn hooks(&mut self) -> io::Result<()> {
        let Some(metadata) = self.kind("hooks")? else {
            return Ok(());
        };
        if !metadata.is_dir() {
            return self.take("hooks");
        }
        let hooks: Vec<String> = fs::read_dir(self.directory.entry("hooks"))?
            .flatten()
            .map(|hook| hook.file_name().to_string_lossy().into_owned())
            // Git's own examples, which it does not run.
            .filter(|name| !name.ends_with(".sample"))
            .collect();
        if hooks.is_empty() {
            return Ok(());
        }
        self.take("hooks")?;
        self.what.pop();
        self.what
            .extend(hooks.iter().map(|name| format!("hooks/{name}")));
        Ok(())
    }

    /// Attributes choose filters, which the user may have configured.
    fn attributes(&mut self) -> io::Result<()> {
        match self.kind("info")? {
            None => return Ok(()),
            Some(metadata) if !metadata.is_dir() => return self.take("info"),
            Some(_) => {}
        }
        let info = self.directory.inside("info")?;
        if info.entry("attributes").symlink_metadata().is_ok() {
            let to = self.aside()?.entry("attributes");
            fs::rename(info.entry("attributes"), to)?;
            self.what.push("info/attributes".to_owned());
        }
        Ok(())
    }

    /// A linked working tree shares what lies two directories above it;
    /// everything else leads to what was not looked at.
    fn common_directory(&mut self) -> io::Result<()> {
        let Some(metadata) = self.kind("commondir")? else {
            return Ok(());
        };
        let linked = self
            .repository
            .parent()
            .is_some_and(|parent| parent.ends_with("worktrees"));
        let content = match metadata.is_file() && metadata.len() < 64 {
            true => self.read("commondir")?.0,
            false => Vec::new(),
        };
        match linked && content.trim_ascii() == b"../.." {
            true => Ok(()),
            false => self.take("commondir"),
        }
    }

    fn read(&self, name: &str) -> io::Result<(Vec<u8>, fs::Metadata)> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.directory.entry(name))?;
        let metadata = file.metadata()?;
        let mut content = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut content)?;
        Ok((content, metadata))
    }

    fn config(&mut self, name: &str, worktree: &dyn Fn(&str) -> bool) -> io::Result<()> {
        let Some(metadata) = self.kind(name)? else {
            return Ok(());
        };
        if !metadata.is_file() || metadata.len() > LARGEST {
            return self.take(name);
        }
        // What its owner cannot read, git cannot read either, until somebody
        // changes that.
        let Ok((text, metadata)) = self.read(name) else {
            return self.take(name);
        };
        let sifted = sift(&text, worktree);
        // Under another name the command could change it later.
        if sifted.kept.as_bytes() == text && metadata.nlink() == 1 {
            return Ok(());
        }
        match sifted.removed.is_empty() {
            true => fs::remove_file(self.directory.entry(name))?,
            false => {
                self.take(name)?;
                self.what.pop();
                self.what.extend(sifted.removed);
            }
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.directory.entry(name))?;
        file.write_all(sifted.kept.as_bytes())?;
        fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
        file.set_permissions(Permissions::from_mode(metadata.mode() & 0o666))
    }
}

/// Makes git take it for no repository any more.
pub(super) fn disable(repository: &Path) -> io::Result<PathBuf> {
    rename_aside(&repository.join("HEAD"))
}

/// Renames something to a name that nobody acts upon.
pub(super) fn rename_aside(path: &Path) -> io::Result<PathBuf> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = Directory::open(parent)?;
    for number in 1..1000 {
        let mut free = name.to_owned();
        free.push(".set-aside");
        if number > 1 {
            free.push(format!("-{number}"));
        }
        if directory.entry(&free).symlink_metadata().is_err() {
            fs::rename(directory.entry(name), directory.entry(&free))?;
            return Ok(parent.join(free));
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
