//! What stays read-only inside writable directories: repositories' own
//! directories, files that make programs outside run code, and files that
//! have another name elsewhere.

use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};

use super::build::Draft;
use super::entry::{Access, Entry, Kind, covering};
use super::files::{pin, sorted};
use super::inner::inner_repositories;
use super::linked::Linked;
use super::options::NewConfiguration;
use super::resolve;
use super::snapshot::Snapshot;
use crate::error::PlanError;
use crate::policy::GitAccess;
use crate::report::Tier;

/// Most entries looked at in all writable directories together.
pub(super) const WALK_LIMIT: usize = 1_000_000;

/// Names that editors, shells, agents and build tools act upon when somebody
/// opens the directory outside the sandbox.
pub(crate) const PROTECTED_NAMES: &[&str] = &[
    // Shells
    ".envrc",
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".bash_aliases",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    ".zlogin",
    ".zlogout",
    ".inputrc",
    // Editors
    ".vscode",
    ".vs",
    ".idea",
    ".zed",
    ".vimrc",
    ".exrc",
    ".nvimrc",
    ".nvim.lua",
    ".dir-locals.el",
    ".devcontainer",
    // Agents
    ".claude",
    ".codex",
    ".cursor",
    ".agents",
    ".gemini",
    ".windsurf",
    ".continue",
    ".kiro",
    ".roo",
    ".opencode",
    ".aider.conf.yml",
    ".mcp.json",
    // Builds and packages
    ".cargo",
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    ".pnpmfile.cjs",
    ".mise.toml",
    "mise.toml",
    // Git
    ".gitmodules",
    ".gitconfig",
    ".husky",
    ".lefthook.yml",
    "lefthook.yml",
    ".pre-commit-config.yaml",
];

/// Parts of a repository's directory that stay as they are when commits can
/// be made: what git executes, and what tells it to.
const FROZEN_IN_GIT: &[(&str, bool)] = &[
    ("hooks", true),
    ("info", true),
    ("modules", true),
    ("worktrees", true),
    ("config", false),
    ("config.worktree", false),
    ("commondir", false),
    ("gitdir", false),
];

/// A look through directories.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Entries seen so far.
    seen: usize,
    /// Places that are hidden already.
    hidden: Vec<PathBuf>,
    /// Directories that do not show what is in them. The command may own them
    /// and open them with a change of mode, so nothing in them may be seen.
    pub(super) closed: Vec<PathBuf>,
    /// Where the directories are noted that are looked into.
    snapshot: Option<Snapshot>,
}

impl Walk {
    /// A look through what is not hidden yet.
    pub(super) fn of(draft: &Draft<'_>) -> Self {
        let hidden = draft.entries.iter().filter(|entry| entry.is_hidden());
        Self {
            hidden: hidden.map(|entry| entry.target.clone()).collect(),
            ..Self::default()
        }
    }

    /// Calls `visit` for everything below `root`, links not followed. A visit
    /// that returns `false` keeps the walk out of that directory. `false` if
    /// [`WALK_LIMIT`] entries were seen first.
    pub(super) fn below(
        &mut self,
        root: &Path,
        visit: &mut dyn FnMut(&Path, FileType) -> bool,
    ) -> bool {
        let mut pending = vec![root.to_owned()];
        while let Some(directory) = pending.pop() {
            // Before it is listed, so that what changes meanwhile is new.
            if let Some(snapshot) = &mut self.snapshot {
                snapshot.note(&directory);
            }
            let list = match searchable(&directory) {
                Ok(list) => list,
                Err(error) if gone(&error) => continue,
                Err(_) => {
                    self.closed.push(directory);
                    continue;
                }
            };
            for entry in list {
                self.seen += 1;
                if self.seen > WALK_LIMIT {
                    return false;
                }
                let kind = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)));
                match kind {
                    Ok((path, kind)) => {
                        if self.hidden.contains(&path) {
                            continue;
                        }
                        if visit(&path, kind) && kind.is_dir() {
                            pending.push(path);
                        }
                    }
                    Err(error) if gone(&error) => {}
                    Err(_) => {
                        self.closed.push(directory.clone());
                        break;
                    }
                }
            }
        }
        true
    }
}

/// Whether something disappeared, or turned into something else, meanwhile.
fn gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Opens a directory whose names can be listed and looked at.
fn searchable(directory: &Path) -> io::Result<std::fs::ReadDir> {
    std::fs::symlink_metadata(directory.join("."))?;
    std::fs::read_dir(directory)
}

#[derive(Default)]
struct Found {
    repositories: Vec<PathBuf>,
    named: Vec<PathBuf>,
    /// Links with the name of either.
    links: Vec<PathBuf>,
    devices: Vec<PathBuf>,
    linked: Linked,
}

/// Protects all that, and returns the files with more than one name, which are for
/// [`linked::guard`](super::linked::guard) once all else has its entries.
pub(super) fn protect(draft: &mut Draft<'_>) -> Result<Linked, PlanError> {
    let git = draft.policy.filesystem.git;
    let mut found = Found::default();
    let mut walk = Walk::of(draft);
    walk.snapshot = Some(Snapshot::new());
    let mut complete = true;
    let writable: Vec<PathBuf> = draft
        .write_roots
        .iter()
        .map(|(root, _)| root.clone())
        .collect();
    for root in &writable {
        complete &= look(root, &mut walk, git, true, &mut found);
    }
    draft.snapshot = walk.snapshot.take().unwrap_or_else(Snapshot::new);
    // A directory that can only be read needs no protection, but what `git`
    // hides is hidden there too.
    if git == GitAccess::Hidden {
        for (root, _) in draft.read_roots.clone() {
            complete &= look(&root, &mut walk, git, false, &mut found);
        }
    }
    // Not a gap: the command could fill a directory with files, so that the
    // next plan does not find what comes after them.
    if !complete {
        return Err(PlanError::NotEnforceable {
            rule: "filesystem.write".to_owned(),
            problem: format!(
                "the writable directories hold more than {WALK_LIMIT} files, among which repositories and protected files could not be found"
            ),
            next_step: "name the directories below them that the command needs, or remove files"
                .to_owned(),
        });
    }
    follow_links(draft, &mut found, git);
    found.repositories.sort();
    found.repositories.dedup();
    for repository in &found.repositories {
        guard_repository(draft, repository, git)?;
    }
    if git != GitAccess::Full {
        for repository in &found.repositories {
            found.named.extend(hooks_of(draft, repository));
        }
    }
    for path in &found.named {
        pin_parents(draft, path)?;
        draft.protect(
            path.clone(),
            Kind::Host(pin(path)?),
            Access::READ,
            "always, because programs outside act upon it",
        );
    }
    // Where a rule points must not change: the next plan follows the name again.
    for (root, _) in draft.read_roots.clone() {
        pin_parents(draft, &root)?;
    }
    // Elsewhere no mount opens devices.
    if draft.tier == Tier::Landlock {
        for device in found.devices {
            draft.protect(
                device,
                Kind::HiddenFile,
                Access::READ,
                "always, because a device leads out of its directory",
            );
        }
    }
    for directory in walk.closed {
        hide_closed(draft, directory)?;
    }
    if draft.tier == Tier::Namespaces {
        hide_pipes(draft);
    }
    if !writable.is_empty() {
        let new = match draft.options.new_configuration {
            NewConfiguration::SetAside => {
                "new names are set aside, or reported where they came with a new repository"
            }
            NewConfiguration::Report => "new names are reported",
        };
        draft.gaps.push((
            "metadata",
            format!("a protected name or a repository that does not exist at the start can be created by the command; when it ends, {new}, and what would run programs is taken out of new repositories; programs outside meet both until then"),
        ));
    }
    draft.watched = writable;
    Ok(found.linked)
}

fn look(root: &Path, walk: &mut Walk, git: GitAccess, writable: bool, found: &mut Found) -> bool {
    walk.below(root, &mut |path, kind| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        let is_name = name == ".git" || (writable && PROTECTED_NAMES.contains(&name));
        if is_name && kind.is_symlink() {
            found.links.push(path.to_owned());
            return false;
        }
        if name == ".git" {
            found.repositories.push(path.to_owned());
            return git == GitAccess::Full || git == GitAccess::Commit;
        }
        if name == "HEAD"
            && let Some(repository) = path.parent().filter(|place| is_bare(place, root))
        {
            found.repositories.push(repository.to_owned());
        }
        if !writable {
            return true;
        }
        if is_name {
            found.named.push(path.to_owned());
            return false;
        }
        if kind.is_file() {
            found.linked.note(path);
        }
        if is_device(kind) {
            found.devices.push(path.to_owned());
        }
        true
    })
}

/// A read-only mount lets pipes be written. Landlock refuses it, but where a
/// directory above can be written, as the private ones, it opens all below.
fn hide_pipes(draft: &mut Draft<'_>) {
    let is_below = |root: &Path, entry: &Entry| {
        entry.access.write && entry.target != root && root.starts_with(&entry.target)
    };
    let mut roots: Vec<PathBuf> = Vec::new();
    for (root, _) in &draft.read_roots {
        if draft.entries.iter().any(|entry| is_below(root, entry)) {
            roots.push(root.clone());
        }
    }
    let mut pipes = Vec::new();
    let mut walk = Walk::of(draft);
    let mut complete = true;
    for root in roots {
        complete &= walk.below(&root, &mut |path, kind| {
            if is_pipe(kind) {
                pipes.push(path.to_owned());
            }
            true
        });
    }
    for pipe in pipes {
        let rule = "always, because a pipe can be written wherever it is seen";
        draft.protect(pipe, Kind::HiddenFile, Access::READ, rule);
    }
    if !complete {
        draft.gaps.push((
            "files",
            format!(
                "the directories for reading hold more than {WALK_LIMIT} files, among which pipes could not be found; the command can write those"
            ),
        ));
    }
}

#[cfg(unix)]
fn is_pipe(kind: FileType) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    kind.is_fifo()
}

#[cfg(not(unix))]
fn is_pipe(_kind: FileType) -> bool {
    false
}

#[cfg(unix)]
fn is_device(kind: FileType) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    kind.is_block_device() || kind.is_char_device()
}

#[cfg(not(unix))]
fn is_device(_kind: FileType) -> bool {
    false
}

/// Whether git takes a directory for a repository although it is not named
/// `.git`. Inside of those that are, what matters is protected with them.
fn is_bare(place: &Path, root: &Path) -> bool {
    let has = |name: &str| place.join(name).symlink_metadata().is_ok();
    place != root
        && ((has("objects") && has("refs")) || has("commondir"))
        && !place
            .strip_prefix(root)
            .is_ok_and(|below| below.iter().any(|name| name == ".git"))
}

/// What a link leads to is protected like the name it stands for. The link
/// itself is no place for a mount.
fn follow_links(draft: &mut Draft<'_>, found: &mut Found, git: GitAccess) {
    for link in std::mem::take(&mut found.links) {
        let repository = link.file_name().is_some_and(|name| name == ".git");
        if repository && git == GitAccess::Full {
            continue;
        }
        draft.gaps.push((
            "metadata",
            format!(
                "{} is a link, which the command can replace; that is reported when it ends",
                link.display()
            ),
        ));
        if let Ok(target) = std::fs::read_link(&link) {
            draft.named_links.push((link.clone(), target));
        }
        let Ok(target) = resolve::follow(&link).map(|resolved| resolved.path) else {
            continue;
        };
        let writable = draft
            .write_roots
            .iter()
            .any(|(root, _)| target != *root && target.starts_with(root));
        match (writable, repository) {
            (true, true) => found.repositories.push(target),
            (true, false) => found.named.push(target),
            (false, _) => {}
        }
    }
    found.named.sort();
    found.named.dedup();
}

/// Directories in the workspace that a repository names for its hooks.
fn hooks_of(draft: &Draft<'_>, repository: &Path) -> Vec<PathBuf> {
    const LARGEST: u64 = 1 << 20;
    let Some(around) = repository.parent() else {
        return Vec::new();
    };
    ["config", "config.worktree"]
        .iter()
        .map(|name| repository.join(name))
        .filter(|file| {
            file.metadata()
                .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= LARGEST)
        })
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .flat_map(|text| hook_paths(&text))
        .filter_map(|path| resolve::absolute(&path, around, draft.home.as_deref()))
        .filter_map(|path| resolve::follow(&path).ok())
        .map(|resolved| resolved.path)
        .filter(|path| {
            draft
                .write_roots
                .iter()
                .any(|(root, _)| path != root && path.starts_with(root))
        })
        .collect()
}

/// Values of `hooksPath` in a git configuration, whatever section they are in.
fn hook_paths(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.rsplit(']').next()?.split_once('='))
        .filter(|(key, _)| key.trim().eq_ignore_ascii_case("hookspath"))
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
        .filter(|value| !value.is_empty())
        .collect()
}

/// Hides a directory that cannot be searched.
pub(super) fn hide_closed(draft: &mut Draft<'_>, directory: PathBuf) -> Result<(), PlanError> {
    let mut roots = draft.read_roots.iter().chain(&draft.write_roots);
    if roots.any(|(root, _)| *root == directory) {
        return Err(PlanError::Unreadable {
            path: directory,
            source: io::ErrorKind::PermissionDenied.into(),
        });
    }
    draft.protect(
        directory,
        Kind::HiddenDirectory,
        Access::READ,
        "always, because it cannot be searched for what must be hidden or protected",
    );
    Ok(())
}

fn guard_repository(draft: &mut Draft<'_>, path: &Path, git: GitAccess) -> Result<(), PlanError> {
    let rule = format!("filesystem.git = {:?}", format!("{git:?}").to_lowercase());
    let is_directory = path.is_dir();
    let linked = FROZEN_IN_GIT
        .iter()
        .map(|(name, _)| path.join(name))
        .find(|part| part.is_symlink());
    let git = match linked {
        Some(part) if git == GitAccess::Commit => {
            draft.gaps.push((
                "metadata",
                format!(
                    "{} is read-only, because {} is a link, which could not be kept from being replaced",
                    path.display(),
                    part.display()
                ),
            ));
            GitAccess::Read
        }
        _ => git,
    };
    match git {
        GitAccess::Full => {}
        GitAccess::Hidden => {
            pin_parents(draft, path)?;
            let kind = if is_directory {
                Kind::HiddenDirectory
            } else {
                Kind::HiddenFile
            };
            draft.protect(path.to_owned(), kind, Access::READ, &rule);
        }
        // A file points to a directory elsewhere, and stays as it is.
        GitAccess::Read | GitAccess::Commit if git == GitAccess::Read || !is_directory => {
            pin_parents(draft, path)?;
            draft.protect(path.to_owned(), Kind::Host(pin(path)?), Access::READ, &rule);
        }
        GitAccess::Read | GitAccess::Commit => {
            pin_parents(draft, path)?;
            draft.protect(
                path.to_owned(),
                Kind::Host(pin(path)?),
                Access::WRITE,
                &rule,
            );
            for (name, directory) in FROZEN_IN_GIT {
                let part = path.join(name);
                if part
                    .symlink_metadata()
                    .is_ok_and(|metadata| !metadata.is_symlink())
                {
                    let pin = pin(&part)?;
                    draft.protect(part, Kind::Host(pin), Access::READ, &rule);
                } else if *directory {
                    draft.protect(part, Kind::Placeholder, Access::READ, &rule);
                } else {
                    draft.absent.push(part);
                }
            }
            for inner in inner_repositories(path) {
                guard_repository(draft, &inner, git)?;
            }
            draft.gaps.push((
                "metadata",
                format!(
                    "{}: files that redirect git (commondir, gitdir, config) can be created where there are none; they are set aside and reported when the command ends, and git outside acts upon them until then",
                    path.display()
                ),
            ));
        }
    }
    Ok(())
}

/// Makes each directory between a writable root and `path` a mount, so that
/// none of them can be renamed away and replaced.
pub(super) fn pin_parents(draft: &mut Draft<'_>, path: &Path) -> Result<(), PlanError> {
    let below_a_root = |parent: &Path| {
        draft
            .write_roots
            .iter()
            .any(|(root, _)| parent != root && parent.starts_with(root))
    };
    let mut parents: Vec<PathBuf> = path
        .ancestors()
        .skip(1)
        .take_while(|parent| below_a_root(parent))
        .map(Path::to_owned)
        .collect();
    parents.reverse();
    let entries = sorted(&draft.entries);
    for parent in parents {
        let Some(above) = covering(&entries, &parent) else {
            continue;
        };
        // A mount of its own already, which no rule above it repeats.
        if above.target == parent && (above.protects || !above.access.write) {
            continue;
        }
        let (access, rule) = (above.access, above.rule.clone());
        let pin = pin(&parent)?;
        draft.protect(parent, Kind::Host(pin), access, &rule);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::hook_paths;

    #[test]
    fn hook_paths_are_found_as_git_writes_them() {
        let text = "[core]\n\tbare = false\n\thooksPath = .githooks\n[core] HOOKSPATH=\"a b\"\n";
        assert_eq!(hook_paths(text), [".githooks", "a b"]);
        assert!(hook_paths("hooksPath =\n[hooks]\npath = x\n").is_empty());
    }
}
