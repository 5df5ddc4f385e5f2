//! What lay in the writable directories before, as the look afterwards needs
//! it: by whoever started the command, or by who comes after they were killed.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::codec::{Reader, Writer};
use crate::plan::{Inner, Kind, Moment, NewConfiguration, Snapshot};
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

    pub(in crate::platform) fn write(&self, writer: &mut Writer) {
        writer
            .flag(self.full)
            .flag(self.configuration == NewConfiguration::SetAside);
        for paths in [&self.watched, &self.absent, &self.placeholders] {
            writer.list(paths.iter(), |writer, path| {
                writer.path(path);
            });
        }
        writer.list(self.protected.iter(), |writer, path| {
            writer.path(path);
        });
        writer.list(self.named_links.iter(), |writer, (link, target)| {
            writer.path(link).path(target);
        });
        writer.list(
            self.snapshot.directories.iter(),
            |writer, (path, number)| {
                writer.path(path).number(*number);
            },
        );
    }

    /// Reads it back; `since` is when the plan was made.
    pub(in crate::platform) fn read(reader: &mut Reader<'_>, since: Moment) -> Option<Self> {
        Some(Self {
            full: reader.flag()?,
            configuration: match reader.flag()? {
                true => NewConfiguration::SetAside,
                false => NewConfiguration::Report,
            },
            watched: reader.list(Reader::path)?,
            absent: reader.list(Reader::path)?,
            placeholders: reader.list(Reader::path)?,
            protected: reader.list(Reader::path)?.into_iter().collect(),
            named_links: reader.list(|reader| Some((reader.path()?, reader.path()?)))?,
            snapshot: Snapshot {
                since,
                directories: reader
                    .list(|reader| Some((reader.path()?, reader.number()?)))?
                    .into_iter()
                    .collect(),
            },
        })
    }
}
