//! What a record says, and how it is written.
//!
//! ```text
//! length │ version, boot, when the plan was made, what lay there before
//! marks, 32 bytes each: kind, number, both clocks
//! ```
//!
//! Reading gives back what was written, to the byte. It ends at the first mark
//! that makes no sense: the rest of one whose writing was cut off.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::codec::{Reader, Writer};

const VERSION: &[u8] = b"katachi-sandbox record 1";

/// All of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written<P = PathBuf> {
    /// Which boot it was made in.
    pub(crate) boot: Vec<u8>,
    pub(crate) planned: Mark,
    pub(crate) places: Places<P>,
    pub(crate) marks: Vec<Mark>,
}

/// What the look afterwards needs to know of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places<P = PathBuf> {
    pub(crate) full: bool,
    pub(crate) sets_aside: bool,
    pub(crate) watched: Vec<P>,
    pub(crate) absent: Vec<P>,
    pub(crate) placeholders: Vec<P>,
    pub(crate) protected: Vec<P>,
    /// Links, and where they lead.
    pub(crate) named_links: Vec<(P, P)>,
    /// Directories that were looked into, and their numbers.
    pub(crate) directories: Vec<(P, u64)>,
}

/// What a mark is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Planned = 1,
    Started = 2,
    Settled = 3,
}

/// What happened, and when: by the clock of files, and by the time since boot,
/// both in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) kind: Kind,
    /// Of the command.
    pub(crate) number: u64,
    pub(crate) wall: u64,
    pub(crate) boot: u64,
}

impl<P: AsRef<Path>> Written<P> {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut head = Writer::default();
        head.bytes(VERSION).bytes(&self.boot);
        self.planned.write(&mut head);
        self.places.write(&mut head);
        let mut whole = Writer::default();
        whole.bytes(&head.finish());
        for mark in &self.marks {
            mark.write(&mut whole);
        }
        whole.finish()
    }
}

impl Written {
    /// `None` if it is no record, or not all of the head is there.
    pub(crate) fn read(content: &[u8]) -> Option<Self> {
        let mut whole = Reader::new(content);
        let mut head = Reader::new(whole.bytes()?);
        if head.bytes()? != VERSION {
            return None;
        }
        let boot = head.bytes()?.to_vec();
        let planned = Mark::read(&mut head)?;
        let places = Places::read(&mut head)?;
        if !head.at_end() {
            return None;
        }
        Some(Self {
            boot,
            planned,
            places,
            marks: std::iter::from_fn(|| Mark::read(&mut whole)).collect(),
        })
    }

    /// The first start whose command may have done something that was not
    /// looked at.
    pub(crate) fn unfinished(&self, same_boot: bool) -> Option<Mark> {
        let mut running: BTreeMap<u64, Mark> = BTreeMap::new();
        for mark in &self.marks {
            match mark.kind {
                Kind::Started => {
                    let first = running.entry(mark.number).or_insert(*mark);
                    if mark.wall < first.wall {
                        *first = *mark;
                    }
                }
                Kind::Planned | Kind::Settled => {
                    running.remove(&mark.number);
                }
            }
        }
        let earliest = running.into_values().min_by_key(|mark| mark.wall);
        // Of another boot, the marks that followed may be lost.
        let last = || *self.marks.last().unwrap_or(&self.planned);
        earliest.or_else(|| (!same_boot).then(last))
    }
}

impl<P: AsRef<Path>> Places<P> {
    fn write(&self, writer: &mut Writer) {
        writer.flag(self.full).flag(self.sets_aside);
        for paths in [
            &self.watched,
            &self.absent,
            &self.placeholders,
            &self.protected,
        ] {
            writer.list(paths.iter(), |writer, path| {
                writer.path(path.as_ref());
            });
        }
        writer.list(self.named_links.iter(), |writer, (link, target)| {
            writer.path(link.as_ref()).path(target.as_ref());
        });
        writer.list(self.directories.iter(), |writer, (path, number)| {
            writer.path(path.as_ref()).number(*number);
        });
    }
}

impl Places {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            full: reader.flag()?,
            sets_aside: reader.flag()?,
            watched: reader.list(Reader::path)?,
            absent: reader.list(Reader::path)?,
            placeholders: reader.list(Reader::path)?,
            protected: reader.list(Reader::path)?,
            named_links: reader.list(|reader| Some((reader.path()?, reader.path()?)))?,
            directories: reader.list(|reader| Some((reader.path()?, reader.number()?)))?,
        })
    }
}

impl Mark {
    pub(crate) fn write(self, writer: &mut Writer) {
        writer
            .number(self.kind as u64)
            .number(self.number)
            .number(self.wall)
            .number(self.boot);
    }

    /// The next one; `None` at the end, or where nothing sensible follows.
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let kind = match reader.number()? {
            1 => Kind::Planned,
            2 => Kind::Started,
            3 => Kind::Settled,
            _ => return None,
        };
        Some(Self {
            kind,
            number: reader.number()?,
            wall: reader.number()?,
            boot: reader.number()?,
        })
    }
}
