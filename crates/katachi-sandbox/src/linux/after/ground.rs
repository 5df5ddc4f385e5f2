//! What lay in the writable directories before, as the look afterwards needs
//! it: by whoever started the command, or by who comes after they were killed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::plan::{Inner, Kind, Moment, NewConfiguration, Snapshot};
use crate::platform::record::Places;
use crate::policy::GitAccess;

/// Everything of a plan that the look afterwards asks.
#[derive(Debug)]
pub(in crate::platform) struct Ground {
    /// Writable directories.
    pub(super) watched: Vec<PathBuf>,
    pub(super) snapshot: Snapshot,
    /// What mounts protect, which cannot have changed.
    pub(super) protected: HashSet<PathBuf>,
    /// Links with protected names, and where they lead.
    pub(super) named_links: Vec<(PathBuf, PathBuf)>,
    /// Files that git would act upon and that did not exist.
    pub(super) absent: Vec<PathBuf>,
    /// Directories that are made for each run.
    pub(in crate::platform) placeholders: Vec<PathBuf>,
    /// Whether repositories may become what they want.
    pub(super) full: bool,
    /// What becomes of new tool configuration.
    pub(super) configuration: NewConfiguration,
}

impl Ground {
    pub(in crate::platform) fn of(plan: &Inner) -> Self {
        let placeholder = |kind: &Kind| matches!(kind, Kind::Placeholder);
        let entries = || plan.entries.iter();
        Self {
            watched: plan.watched.clone(),
            snapshot: plan.snapshot.clone(),
            protected: entries()
                .filter(|entry| entry.protects)
                .map(|entry| entry.target.clone())
                .collect(),
            named_links: plan.named_links.clone(),
            absent: plan.absent.clone(),
            placeholders: entries()
                .filter(|entry| placeholder(&entry.kind))
                .map(|entry| entry.target.clone())
                .collect(),
            full: plan.policy.filesystem.git == GitAccess::Full,
            configuration: plan.new_configuration,
        }
    }

    pub(in crate::platform) fn since(&self) -> Moment {
        self.snapshot.since
    }

    /// What a record of it says.
    pub(in crate::platform) fn places(&self) -> Places<&Path> {
        Places {
            full: self.full,
            sets_aside: self.configuration == NewConfiguration::SetAside,
            watched: paths(&self.watched),
            absent: paths(&self.absent),
            placeholders: paths(&self.placeholders),
            protected: paths(&self.protected),
            named_links: self
                .named_links
                .iter()
                .map(|(link, target)| (link.as_path(), target.as_path()))
                .collect(),
            directories: self
                .snapshot
                .directories
                .iter()
                .map(|(path, number)| (path.as_path(), *number))
                .collect(),
        }
    }

    /// What a record says that somebody left; `since` is when the plan was made.
    pub(in crate::platform) fn left(places: Places, since: Moment) -> Self {
        Self {
            full: places.full,
            configuration: match places.sets_aside {
                true => NewConfiguration::SetAside,
                false => NewConfiguration::Report,
            },
            watched: places.watched,
            absent: places.absent,
            placeholders: places.placeholders,
            protected: places.protected.into_iter().collect(),
            named_links: places.named_links,
            snapshot: Snapshot {
                since,
                directories: places.directories.into_iter().collect(),
            },
        }
    }
}

fn paths<'a>(all: impl IntoIterator<Item = &'a PathBuf>) -> Vec<&'a Path> {
    all.into_iter().map(PathBuf::as_path).collect()
}
