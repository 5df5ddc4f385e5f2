//! From the rules of `filesystem` to entries.

use std::path::{Path, PathBuf};

use super::build::Draft;
use super::entry::{Access, Entry, Kind, Late, covering, depth};
use super::options::LateMatches;
use super::pin::Pin;
use super::protect::{self, WALK_LIMIT, Walk};
use super::resolve;
use crate::bundle::{self, Bundle};
use crate::error::PlanError;
use crate::glob::Glob;
use crate::suggest::closest;

/// Directories nothing may be read from as a whole: they hold other people's
/// secrets, sockets or the kernel's own interfaces.
const NEVER_READ: &[&str] = &[
    "/", "/etc", "/var", "/run", "/tmp", "/home", "/mnt", "/media", "/var/run", "/var/tmp",
    "/var/lib",
];
/// Trees that belong to the kernel or to the sandbox itself.
const KERNEL: &[&str] = &["/proc", "/sys", "/dev"];
/// Trees in which nothing may be written: programs and libraries are trusted
/// by path.
const NEVER_WRITE: &[&str] = &[
    "/usr", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/boot", "/run",
    "/nix", "/gnu",
];

/// What holds of names that nothing has yet.
pub(super) const LATE: &str = "what appears later under a matching name is hidden as soon as the kernel tells of it; until then, for milliseconds, and longer on a busy machine, the command can read it";

impl Draft<'_> {
    pub(super) fn add(&mut self, target: PathBuf, kind: Kind, access: Access, rule: &str) {
        self.entries.push(Entry {
            target,
            kind,
            access,
            protects: false,
            rule: rule.to_owned(),
        });
    }

    pub(super) fn protect(&mut self, target: PathBuf, kind: Kind, access: Access, rule: &str) {
        self.entries.push(Entry {
            target,
            kind,
            access,
            protects: true,
            rule: rule.to_owned(),
        });
    }

    pub(super) fn absolute(&self, text: &str, rule: &str) -> Result<PathBuf, PlanError> {
        resolve::absolute(text, &self.workspace, self.home.as_deref()).ok_or_else(|| {
            PlanError::Malformed {
                rule: rule.to_owned(),
                problem: "`~` needs a home directory and there is none".to_owned(),
                next_step: "write an absolute path, or set HOME".to_owned(),
            }
        })
    }

    /// Opens an existing path and the links that lead to it. `false` if there
    /// is none.
    pub(super) fn open(
        &mut self,
        path: &Path,
        access: Access,
        rule: &str,
    ) -> Result<bool, PlanError> {
        let Ok(resolved) = resolve::follow(path) else {
            return Ok(false);
        };
        let pin = pin(&resolved.path)?;
        self.links.extend(resolved.links);
        self.add(resolved.path, Kind::Host(pin), access, rule);
        Ok(true)
    }

    /// Opens what a bundle names, as far as it exists.
    pub(super) fn open_bundle(&mut self, bundle: &Bundle, rule: &str) -> Result<(), PlanError> {
        let lists = [
            (bundle.read, Access::READ),
            (bundle.libraries, Access::LOAD),
            (bundle.execute, Access::LOAD),
        ];
        for (paths, access) in lists {
            for text in paths {
                let Some(path) = resolve::absolute(text, &self.workspace, self.home.as_deref())
                else {
                    continue;
                };
                self.open(&path, access, rule)?;
            }
        }
        for text in bundle.execute {
            let path = resolve::absolute(text, &self.workspace, self.home.as_deref());
            if let Some(resolved) = path.and_then(|path| resolve::follow(&path).ok()) {
                self.exec_trees.push((resolved.path, rule.to_owned()));
            }
        }
        Ok(())
    }

    fn refuse_too_wide(&self, path: &Path, rule: &str, write: bool) -> Result<(), PlanError> {
        let too_wide = |problem: String, next_step: &str| {
            Err(PlanError::TooWide {
                rule: rule.to_owned(),
                problem,
                next_step: next_step.to_owned(),
            })
        };
        let shown = path.display();
        let below = |trees: &[&str]| trees.iter().any(|tree| path.starts_with(tree));
        if below(KERNEL) {
            return too_wide(
                format!("{shown} belongs to the kernel"),
                "remove it; the command gets a /proc and /dev of its own",
            );
        }
        if path == Path::new("/tmp") {
            return too_wide(
                "/tmp holds other programs' files".to_owned(),
                "remove it; the command gets a /tmp of its own",
            );
        }
        let whole = path.parent().is_none();
        if whole || NEVER_READ.iter().any(|wide| path == Path::new(wide)) {
            return too_wide(
                format!("{shown} holds far more than one command needs"),
                "name the directories below it that are needed, or use \"@system\"",
            );
        }
        if self
            .home
            .as_deref()
            .is_some_and(|home| home.starts_with(path))
        {
            return too_wide(
                format!("{shown} is, or contains, the home directory with its keys and settings"),
                "name a directory inside it",
            );
        }
        #[cfg(windows)]
        let of_the_system = system_directories().any(|directory| path.starts_with(directory));
        #[cfg(not(windows))]
        let of_the_system = below(NEVER_WRITE);
        if write && of_the_system {
            return too_wide(
                format!("{shown} holds programs or settings that run outside the sandbox"),
                "name a directory of your own",
            );
        }
        Ok(())
    }

    fn named_root(&mut self, text: &str, key: &str, write: bool) -> Result<(), PlanError> {
        let rule = format!("{key} = {text:?}");
        if Glob::is_pattern(text) {
            return Err(PlanError::Malformed {
                rule,
                problem: "patterns are for filesystem.deny".to_owned(),
                next_step: "name the directory".to_owned(),
            });
        }
        let path = self.absolute(text, &rule)?;
        let Ok(resolved) = resolve::follow(&path) else {
            return Err(missing(&rule, &path));
        };
        self.refuse_too_wide(&resolved.path, &rule, write)?;
        let access = if write { Access::WRITE } else { Access::READ };
        let roots = if write {
            &mut self.write_roots
        } else {
            &mut self.read_roots
        };
        roots.push((resolved.path, rule.clone()));
        self.open(&path, access, &rule)?;
        Ok(())
    }
}

/// Where Windows and installed programs lie, for every user alike.
#[cfg(windows)]
pub(crate) fn system_directories() -> impl Iterator<Item = PathBuf> {
    [
        "SystemRoot",
        "ProgramFiles",
        "ProgramFiles(x86)",
        "ProgramData",
    ]
    .into_iter()
    .filter_map(std::env::var_os)
    .filter_map(|path| resolve::follow(Path::new(&path)).ok())
    .map(|resolved| resolved.path)
}

fn missing(rule: &str, path: &Path) -> PlanError {
    let shown = path.display();
    let near = path
        .parent()
        .and_then(|parent| std::fs::read_dir(parent).ok())
        .and_then(|list| {
            let names: Vec<String> = list
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect();
            let name = path.file_name()?.to_str()?;
            closest(name, names.iter().map(String::as_str)).map(str::to_owned)
        });
    PlanError::Missing {
        rule: rule.to_owned(),
        problem: format!("{shown} does not exist"),
        next_step: near.map_or_else(
            || format!("create it (mkdir -p {shown}) or remove the rule"),
            |near| {
                format!(
                    "write {:?}, create it, or remove the rule",
                    path.with_file_name(near)
                )
            },
        ),
    }
}

pub(super) fn pin(path: &Path) -> Result<Pin, PlanError> {
    Pin::new(path).map_err(|source| PlanError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

/// Private directories every command gets.
pub(super) fn private(draft: &mut Draft<'_>) {
    draft.add("/tmp".into(), Kind::Private, Access::WRITE, "always");
    if let Some(home) = draft.home.clone().filter(|home| home != Path::new("/tmp")) {
        draft.add(home, Kind::Private, Access::WRITE, "always");
    }
    draft.links.insert("/var/tmp".into(), "../tmp".into());
    // Programs name each other by either spelling.
    for place in ["/bin", "/sbin"] {
        if let Ok(target) = std::fs::read_link(place) {
            draft.links.insert(place.into(), target);
        }
    }
}

pub(super) fn readable(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    for text in &draft.policy.filesystem.read {
        if text.starts_with('@') {
            let rule = format!("filesystem.read = {text:?}");
            let bundle = find_bundle(text, &rule)?;
            draft.open_bundle(bundle, &rule)?;
        } else {
            draft.named_root(text, "filesystem.read", false)?;
        }
    }
    Ok(())
}

pub(super) fn find_bundle(name: &str, rule: &str) -> Result<&'static Bundle, PlanError> {
    bundle::find(name).ok_or_else(|| {
        let names = bundle::BUNDLES.iter().map(|bundle| bundle.name);
        let next_step = match closest(name, names.clone()) {
            Some(right) => format!("write {right:?}"),
            None => format!("known: {}", names.collect::<Vec<_>>().join(", ")),
        };
        PlanError::Malformed {
            rule: rule.to_owned(),
            problem: "there is no such bundle".to_owned(),
            next_step,
        }
    })
}

pub(super) fn writable(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    for text in &draft.policy.filesystem.write {
        if text.starts_with('@') {
            return Err(PlanError::TooWide {
                rule: format!("filesystem.write = {text:?}"),
                problem: "a bundle holds programs that run outside the sandbox too".to_owned(),
                next_step: "put it under filesystem.read or commands.allow".to_owned(),
            });
        }
        draft.named_root(text, "filesystem.write", true)?;
    }
    Ok(())
}

pub(super) fn executable(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    for text in &draft.policy.filesystem.exec_from {
        let rule = format!("filesystem.exec_from = {text:?}");
        let path = draft.absolute(text, &rule)?;
        let place = resolve::follow_existing(&path);
        let Some(above) = covering(&sorted(&draft.entries), &place).cloned() else {
            return Err(PlanError::Contradiction {
                rule,
                other: "filesystem.read and filesystem.write".to_owned(),
                problem: format!("{} is not inside a directory they name", place.display()),
                next_step: "add the directory to one of them".to_owned(),
            });
        };
        if !matches!(above.kind, Kind::Host(_)) {
            return Err(PlanError::Contradiction {
                rule,
                other: above.rule,
                problem: format!("{} is private memory and never executable", place.display()),
                next_step: "name a directory inside the workspace".to_owned(),
            });
        }
        if !place.exists() {
            if !above.access.write {
                return Err(missing(&rule, &place));
            }
            std::fs::create_dir_all(&place).map_err(|source| PlanError::Unreadable {
                path: place.clone(),
                source,
            })?;
        }
        let access = Access {
            write: above.access.write,
            load: true,
        };
        draft.open(&path, access, &rule)?;
        draft.exec_trees.push((place, rule));
    }
    Ok(())
}

pub(super) fn sockets(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    for text in &draft.policy.network.unix {
        let rule = format!("network.unix = {text:?}");
        let path = draft.absolute(text, &rule)?;
        let Ok(resolved) = resolve::follow(&path) else {
            return Err(missing(&rule, &path));
        };
        draft.sockets.push(resolved.path);
        draft.open(&path, Access::WRITE, &rule)?;
    }
    Ok(())
}

/// Without a list of resolvers, programs ask the one on their own loopback,
/// which answers from the policy. The host's list would lead nowhere.
pub(super) fn host_resolver(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    let place = PathBuf::from("/etc/resolv.conf");
    if draft.policy.network.allow.is_empty() || place.symlink_metadata().is_err() {
        return Ok(());
    }
    hide(draft, place, "network.allow")
}

/// Hides what `filesystem.deny` names.
pub(super) fn denied(draft: &mut Draft<'_>) -> Result<(), PlanError> {
    for text in &draft.policy.filesystem.deny {
        let rule = format!("filesystem.deny = {text:?}");
        if Glob::is_pattern(text) {
            deny_matches(draft, text, &rule)?;
            continue;
        }
        let place = resolve::follow_existing(&draft.absolute(text, &rule)?);
        refuse_to_hide(draft, &place, &rule)?;
        if std::fs::symlink_metadata(&place).is_ok() {
            protect::pin_parents(draft, &place)?;
        }
        // What a bundle opens in it, where the place itself is not open.
        let opened: Vec<PathBuf> = draft
            .entries
            .iter()
            .filter(|entry| entry.target.starts_with(&place))
            .map(|entry| entry.target.clone())
            .collect();
        for path in opened.into_iter().chain([place]) {
            hide(draft, path, &rule)?;
        }
    }
    Ok(())
}

/// A denial that covers all of what another rule names is a mistake.
pub(super) fn refuse_to_hide(draft: &Draft<'_>, place: &Path, rule: &str) -> Result<(), PlanError> {
    let roots = draft.read_roots.iter().chain(&draft.write_roots);
    let opened = roots
        .chain(&draft.exec_trees)
        .find(|(root, _)| root.starts_with(place));
    match opened {
        Some((root, other)) => Err(PlanError::Contradiction {
            rule: rule.to_owned(),
            other: other.clone(),
            problem: format!("{} lies in what is denied", root.display()),
            next_step: "remove one of the two".to_owned(),
        }),
        None => Ok(()),
    }
}

pub(super) fn hide(draft: &mut Draft<'_>, place: PathBuf, rule: &str) -> Result<(), PlanError> {
    let entries = sorted(&draft.entries);
    let Some(above) = covering(&entries, &place).filter(|above| !above.is_hidden()) else {
        return Ok(());
    };
    if !matches!(above.kind, Kind::Host(_)) {
        return Ok(());
    }
    if let Some(program) = draft
        .programs
        .iter()
        .find(|program| program.path.starts_with(&place))
    {
        return Err(PlanError::Contradiction {
            rule: rule.to_owned(),
            other: program.rule.clone(),
            problem: format!("{} lies in what is denied", program.path.display()),
            next_step: "remove one of the two".to_owned(),
        });
    }
    match std::fs::symlink_metadata(&place) {
        // A link is a name for something else, and that is what is hidden.
        Ok(metadata) if metadata.is_symlink() => match resolve::follow(&place) {
            Ok(resolved) => return hide(draft, resolved.path, rule),
            Err(_) => return Ok(()),
        },
        Ok(metadata) if metadata.is_dir() => {
            draft.protect(place, Kind::HiddenDirectory, Access::READ, rule);
        }
        Ok(_) => draft.protect(place, Kind::HiddenFile, Access::READ, rule),
        Err(_) => {
            admit_late(
                draft,
                rule,
                "make it before the plan, deny the directory that it will lie in",
            )?;
            draft.gaps.push((
                "files",
                format!("{rule}: {} does not exist; {LATE}", place.display()),
            ));
            // A name with a star in it would be a pattern for more.
            if let Some(text) = place.to_str() {
                draft.late.push(Late {
                    pattern: text.to_owned(),
                    roots: vec![above.target.clone()],
                });
            }
        }
    }
    Ok(())
}

fn deny_matches(draft: &mut Draft<'_>, text: &str, rule: &str) -> Result<(), PlanError> {
    let absolute = draft.absolute(text, rule)?;
    let Some(pattern) = absolute.to_str() else {
        return Err(PlanError::NotEnforceable {
            rule: rule.to_owned(),
            problem: format!("{} is no valid text, as patterns are", absolute.display()),
            next_step: "deny single paths, or rename the directory".to_owned(),
        });
    };
    let glob = Glob::new(pattern);
    let start = Path::new("/").join(glob.fixed_prefix());
    let start = resolve::follow_existing(&start);
    if let Some(below) = start.is_dir().then(|| start.join("*")) {
        // The matches are found again for each plan, but only below this.
        protect::pin_parents(draft, &below)?;
    }
    let opened: Vec<Entry> = draft
        .entries
        .iter()
        .filter(|entry| matches!(entry.kind, Kind::Host(_)) && !entry.protects)
        .cloned()
        .collect();
    let mut matches = Vec::new();
    let mut roots: Vec<PathBuf> = Vec::new();
    for entry in &opened {
        if entry.target.ancestors().any(|place| glob.matches(place)) {
            refuse_to_hide(draft, &entry.target, rule)?;
            matches.push(entry.target.clone());
        } else if entry.target.starts_with(&start) {
            roots.push(entry.target.clone());
        } else if start.starts_with(&entry.target) {
            roots.push(start.clone());
        }
    }
    roots.sort();
    roots.dedup();
    let mut walk = Walk::of(draft);
    let mut walked: Option<&PathBuf> = None;
    for root in roots.iter().filter(|root| root.is_dir()) {
        // Sorted, what lies in another comes after it.
        if walked.is_some_and(|above| root.starts_with(above)) {
            continue;
        }
        walked = Some(root);
        let complete = walk.below(root, &mut |path, _| {
            if glob.matches(path) {
                matches.push(path.to_owned());
                return false;
            }
            true
        });
        if !complete {
            return Err(PlanError::NotEnforceable {
                rule: rule.to_owned(),
                problem: format!("more than {WALK_LIMIT} files would have to be looked at"),
                next_step: "start the pattern with a directory, such as \"config/**/.env\""
                    .to_owned(),
            });
        }
    }
    for directory in walk.closed {
        protect::hide_closed(draft, directory)?;
    }
    matches.sort();
    matches.dedup();
    for place in matches {
        hide(draft, place, rule)?;
    }
    if roots.is_empty() {
        return Ok(());
    }
    admit_late(
        draft,
        rule,
        "deny the directory that the files lie in, which hides all that appears in it",
    )?;
    draft.gaps.push(("files", format!("{rule}: {LATE}")));
    draft.late.push(Late {
        pattern: pattern.to_owned(),
        roots,
    });
    Ok(())
}

/// Refuses a rule for names that may appear later, unless the plan accepts that
/// those can be read for a moment. On macOS the profile holds for all names,
/// whenever they appear.
fn admit_late(draft: &Draft<'_>, rule: &str, instead: &str) -> Result<(), PlanError> {
    if cfg!(target_os = "macos") || draft.options.late_matches == LateMatches::Watch {
        return Ok(());
    }
    Err(PlanError::NotEnforceable {
        rule: rule.to_owned(),
        problem: "a file that appears later under such a name could be read for a moment"
            .to_owned(),
        next_step: format!("{instead}, or accept that moment with LateMatches::Watch"),
    })
}

pub(super) fn sorted(entries: &[Entry]) -> Vec<Entry> {
    let mut entries = entries.to_vec();
    entries.sort_by_key(|entry| depth(&entry.target));
    entries
}
