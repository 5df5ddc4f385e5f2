//! The order in which a plan is made, and what each step hands to the next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::elsewhere::{self, System};
use super::entry::{Entry, Late, depth};
use super::options::PlanOptions;
use super::snapshot::Snapshot;
use super::{
    Inner, files, floor, helper, limits, linked, mounts, network, programs, protect, resolve,
};
use crate::codec::Writer;
use crate::error::PlanError;
use crate::policy::Policy;
use crate::report::Tier;

/// What the steps fill in.
pub(super) struct Draft<'a> {
    pub(super) policy: &'a Policy,
    pub(super) options: &'a PlanOptions,
    pub(super) tier: Tier,
    pub(super) workspace: PathBuf,
    /// The caller's home, if it has a usable one.
    pub(super) home: Option<PathBuf>,
    pub(super) entries: Vec<Entry>,
    pub(super) links: BTreeMap<PathBuf, PathBuf>,
    pub(super) programs: Vec<programs::Program>,
    pub(super) exec_trees: Vec<(PathBuf, String)>,
    pub(super) rules: Vec<programs::Rule>,
    pub(super) search_path: Vec<PathBuf>,
    pub(super) sockets: Vec<PathBuf>,
    pub(super) gaps: Vec<(&'static str, String)>,
    pub(super) cgroup: Option<super::Cgroup>,
    pub(super) watched: Vec<PathBuf>,
    pub(super) snapshot: Snapshot,
    pub(super) late: Vec<Late>,
    pub(super) named_links: Vec<(PathBuf, PathBuf)>,
    /// Files that git would act upon and that do not exist.
    pub(super) absent: Vec<PathBuf>,
    /// Canonical roots that `filesystem.write` names, with their rules.
    pub(super) write_roots: Vec<(PathBuf, String)>,
    /// The same for `filesystem.read`, bundles left out.
    pub(super) read_roots: Vec<(PathBuf, String)>,
}

pub(super) fn build(policy: &Policy, options: &PlanOptions) -> Result<Inner, PlanError> {
    let workspace = workspace(options)?;
    let home = options
        .home
        .as_deref()
        .filter(|home| home.is_absolute())
        .and_then(|home| resolve::follow(home).ok())
        .map(|resolved| resolved.path)
        .filter(|home| home.is_dir() && depth(home) > 1);
    let system = System::here();
    if let Some(system) = system {
        elsewhere::refuse(system, policy, options)?;
    }
    let tier = match system {
        None => floor::tier(policy, options)?,
        Some(_) => Tier::Unwitnessed,
    };
    let network = network::network(policy, options)?;
    let cgroup = limits::cgroup(&policy.limits)?;
    let mut draft = Draft {
        policy,
        options,
        tier,
        workspace,
        home,
        entries: Vec::new(),
        links: BTreeMap::new(),
        programs: Vec::new(),
        exec_trees: Vec::new(),
        rules: Vec::new(),
        search_path: search_path(options),
        sockets: Vec::new(),
        gaps: Vec::new(),
        cgroup,
        watched: Vec::new(),
        snapshot: Snapshot::new(),
        late: Vec::new(),
        named_links: Vec::new(),
        absent: Vec::new(),
        write_roots: Vec::new(),
        read_roots: Vec::new(),
    };
    check_environment(policy)?;
    if tier == Tier::Namespaces {
        files::private(&mut draft);
    }
    files::readable(&mut draft)?;
    files::writable(&mut draft)?;
    files::executable(&mut draft)?;
    programs::resolve(&mut draft)?;
    files::sockets(&mut draft)?;
    mounts::hide_kernel(&mut draft);
    let linked = protect::protect(&mut draft)?;
    files::denied(&mut draft)?;
    linked::guard(&mut draft, &linked)?;
    programs::check_loaders(&mut draft)?;
    files::host_resolver(&mut draft)?;
    let guards = programs::guards(&mut draft, tier)?;
    let guards = match tier {
        Tier::Namespaces => guards,
        // Nothing looks at what is started in turn.
        Tier::Unwitnessed => None,
        // Without noexec mounts, only a look at each start keeps copies from
        // running.
        _ => Some(guards.unwrap_or_else(|| programs::known(&draft))),
    };
    let helper = helper::helper(&draft)?;
    let mut inner = finish(draft, network, guards, helper);
    inner.system = system;
    if system == Some(System::MacOs) {
        // Names that a profile cannot hold are told now.
        super::seatbelt::profile(&inner, None)?;
    }
    if tier == Tier::Landlock {
        inner.floor = Some(floor::open(&mut inner)?);
    }
    check_state(&mut inner)?;
    inner.hash = hash(&inner);
    Ok(inner)
}

/// A record that a command can write could make the next start rename whatever
/// it says.
fn check_state(inner: &mut Inner) -> Result<(), PlanError> {
    if inner.watched.is_empty() {
        return Ok(());
    }
    let place = match crate::platform::state_directory() {
        Ok(Some(place)) => place,
        Ok(None) => return Ok(()),
        Err(error) => {
            inner.gaps.push((
                "metadata",
                format!("if the calling process is killed, what the command made is not looked at, because no record of it can be kept: {error}"),
            ));
            return Ok(());
        }
    };
    let written = super::entry::covering(&inner.entries, &place)
        .filter(|entry| matches!(entry.kind, super::entry::Kind::Host(_)) && entry.access.write);
    match written {
        None => Ok(()),
        Some(entry) => Err(PlanError::Contradiction {
            rule: entry.rule.clone(),
            other: place.display().to_string(),
            problem:
                "the command could write what the next start acts upon if this program is killed"
                    .to_owned(),
            next_step: "open a narrower directory, or set XDG_STATE_HOME to one outside".to_owned(),
        }),
    }
}

fn workspace(options: &PlanOptions) -> Result<PathBuf, PlanError> {
    let path = std::path::absolute(&options.workspace).map_err(|source| PlanError::Unreadable {
        path: options.workspace.clone(),
        source,
    })?;
    let resolved = resolve::follow(&path).map_err(|source| PlanError::Unreadable {
        path: path.clone(),
        source,
    })?;
    if !resolved.path.is_dir() {
        return Err(PlanError::Missing {
            rule: "workspace".to_owned(),
            problem: format!("{} is not a directory", path.display()),
            next_step: "name the directory the command works in".to_owned(),
        });
    }
    Ok(resolved.path)
}

/// Directories of the search path that exist, once each. Directories of
/// version managers' shims are left out: a shim is a script that looks for
/// another program by rules of its own.
fn search_path(options: &PlanOptions) -> Vec<PathBuf> {
    let given = options.search_path.clone().unwrap_or_else(|| {
        std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).collect())
            .unwrap_or_else(|| vec!["/usr/local/bin".into(), "/usr/bin".into(), "/bin".into()])
    });
    let mut directories: Vec<PathBuf> = Vec::new();
    for directory in given {
        let usable = directory.is_absolute()
            && directory.file_name().is_some_and(|name| name != "shims")
            && directory.is_dir();
        if usable && !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories
}

fn check_environment(policy: &Policy) -> Result<(), PlanError> {
    let names = policy.env.pass.iter().map(|name| ("env.pass", name));
    for (key, name) in names.chain(policy.env.set.keys().map(|name| ("env.set", name))) {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(PlanError::Malformed {
                rule: format!("{key} = {name:?}"),
                problem: "is not the name of a variable".to_owned(),
                next_step: "write a name such as \"LANG\"".to_owned(),
            });
        }
    }
    Ok(())
}

fn finish(
    draft: Draft<'_>,
    network: network::Network,
    guards: Option<crate::guard::Guards>,
    helper: Option<helper::Helper>,
) -> Inner {
    let home = draft.home.clone().unwrap_or_else(|| PathBuf::from("/tmp"));
    let entries = settle(draft.entries);
    let visible = |path: &Path| {
        path.parent()
            .and_then(|parent| super::entry::covering(&entries, parent))
            .is_some_and(|entry| matches!(entry.kind, super::entry::Kind::Host(_)))
    };
    let links = draft
        .links
        .into_iter()
        .filter(|(place, _)| !visible(place))
        .collect();
    let searched = draft.search_path.clone();
    let search_path = draft
        .search_path
        .into_iter()
        .filter(|directory| {
            let used = |rule: &programs::Rule| {
                rule.files
                    .iter()
                    .any(|file| file.found.parent() == Some(directory))
            };
            draft.rules.iter().any(used)
        })
        .collect();
    Inner {
        guards,
        policy: draft.policy.clone(),
        workspace: draft.workspace,
        home,
        entries,
        links,
        programs: draft.programs,
        exec_trees: draft.exec_trees,
        rules: draft.rules,
        search_path,
        searched,
        network,
        sockets: draft.sockets,
        gaps: draft.gaps,
        watched: draft.watched,
        snapshot: draft.snapshot,
        late: draft.late,
        new_configuration: draft.options.new_configuration,
        named_links: draft.named_links,
        absent: draft.absent,
        floor: None,
        helper,
        cgroup: draft.cgroup,
        system: None,
        accepts_unwitnessed: draft.options.accept <= Tier::Unwitnessed,
        children: draft.options.children,
        records: draft.options.records,
        recovered: Vec::new(),
        #[cfg(target_os = "linux")]
        record: std::sync::OnceLock::new(),
        hash: String::new(),
    }
}

/// Sorts by depth, merges entries of one target, and drops those that repeat
/// what already covers them.
fn settle(entries: Vec<Entry>) -> Vec<Entry> {
    let mut merged: Vec<Entry> = Vec::new();
    for entry in entries {
        match merged.iter_mut().find(|known| known.target == entry.target) {
            // A denial or protection for the same place comes later and wins.
            Some(known) if entry.is_hidden() || entry.protects => *known = entry,
            Some(known) if known.is_hidden() || known.protects => {}
            Some(known) if matches!(known.kind, super::entry::Kind::Private) => *known = entry,
            Some(known) => {
                known.access.write |= entry.access.write;
                known.access.load |= entry.access.load;
            }
            None => merged.push(entry),
        }
    }
    merged.sort_by_key(|entry| depth(&entry.target));
    let mut kept: Vec<Entry> = Vec::new();
    for entry in merged {
        let above = super::entry::covering(&kept, &entry.target);
        let repeats = !entry.protects
            && matches!(entry.kind, super::entry::Kind::Host(_))
            && above.is_some_and(|above| {
                matches!(above.kind, super::entry::Kind::Host(_)) && above.access == entry.access
            });
        // Nothing reappears below what a rule hides.
        let hidden_above = above.is_some_and(Entry::is_hidden);
        if !repeats && !hidden_above {
            kept.push(entry);
        }
    }
    kept
}

fn hash(inner: &Inner) -> String {
    let mut writer = Writer::default();
    writer
        .bytes(b"katachi-sandbox plan 1")
        .text(inner.policy.to_toml().as_ref());
    writer.path(&inner.workspace).path(&inner.home);
    writer.list(inner.entries.iter(), |writer, entry| {
        writer
            .path(&entry.target)
            .text(format!("{:?}", std::mem::discriminant(&entry.kind)).as_ref());
        writer
            .flag(entry.access.write)
            .flag(entry.access.load)
            .flag(entry.protects);
        if let super::entry::Kind::Host(pin) = &entry.kind {
            writer.number(pin.device).number(pin.inode);
        }
    });
    writer.list(inner.late.iter(), |writer, late| {
        writer.bytes(late.pattern.as_bytes());
        writer.list(late.roots.iter(), |writer, root| {
            writer.path(root);
        });
    });
    writer.list(inner.links.iter(), |writer, (place, target)| {
        writer.path(place).path(target);
    });
    writer.list(inner.programs.iter(), |writer, program| {
        writer
            .path(&program.path)
            .number(program.pin.device)
            .number(program.pin.inode);
        writer.list(program.pin.stamp.iter(), |writer, part| {
            writer.number(part.cast_unsigned());
        });
    });
    writer.list(inner.exec_trees.iter(), |writer, (path, _)| {
        writer.path(path);
    });
    let opened = inner.floor.as_deref().unwrap_or_default();
    writer.list(opened.iter(), |writer, opened| {
        writer
            .path(&opened.path)
            .text(format!("{:?}", opened.reach).as_ref());
    });
    writer.list(inner.system.iter(), |writer, system| {
        writer.text(format!("{system:?} {:?}", inner.children).as_ref());
    });
    let options = (inner.new_configuration, inner.records);
    writer.text(format!("{options:?}").as_ref());
    writer.list(inner.guards.iter(), |writer, guards| guards.write(writer));
    writer.list(inner.search_path.iter(), |writer, path| {
        writer.path(path);
    });
    crate::digest::hex(&writer.finish())
}
