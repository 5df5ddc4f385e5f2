//! Fake machines, for your tests and for ours.
//!
//! A machine is written down as text: a small file system tree for Linux, and
//! for macOS and Windows what the system answers under the names by which it is
//! asked. Change a line of it and you have the same machine after a repair.
//!
//! ```
//! use katachi_fingerprint::testing::Machine;
//! use katachi_fingerprint::{Component, Enrollment};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # if cfg!(windows) { return Ok(()) } // Symbolic links are not for everybody.
//! let (secret, enrollment) = Enrollment::enroll(&Machine::laptop().look()?)?;
//! let repaired = Machine::laptop().replacing("20XWCTO1WW", "21CBCTO1WW");
//! let recovery = enrollment.recover(&repaired.look()?, |guess| *guess == secret)?;
//! assert_eq!(recovery.drift[0].component, Component::Board);
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::native::{Answer, Answers, mac, windows};
use crate::{Observation, Probe as _, SystemProbe};

pub mod laws;

/// A fake machine: files and symbolic links by absolute path.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Machine {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Entry {
    File(String),
    Link(String),
}

impl Machine {
    /// A laptop on its dock: encrypted NVMe volume, wired and wireless
    /// interface, Thunderbolt and USB interfaces, containers, bridge and VPN.
    #[must_use]
    pub fn laptop() -> Self {
        Self::parse(include_str!("../../testdata/machines/laptop.tree"))
    }

    /// A server: two bonded interfaces in a bridge, virtual functions, two
    /// SATA drives in an array under a logical volume.
    #[must_use]
    pub fn server() -> Self {
        Self::parse(include_str!("../../testdata/machines/server.tree"))
    }

    /// A container: no machine id, overlay file system, one virtual interface.
    #[must_use]
    pub fn container() -> Self {
        Self::parse(include_str!("../../testdata/machines/container.tree"))
    }

    /// A cloud machine with a network drive and software-made addresses.
    #[must_use]
    pub fn cloud() -> Self {
        Self::parse(include_str!("../../testdata/machines/cloud.tree"))
    }

    /// A microVM without firmware tables.
    #[must_use]
    pub fn microvm() -> Self {
        Self::parse(include_str!("../../testdata/machines/microvm.tree"))
    }

    /// A single-board computer with a device tree and a memory card.
    #[must_use]
    pub fn single_board() -> Self {
        Self::parse(include_str!("../../testdata/machines/single-board.tree"))
    }

    /// A portable Mac: private addresses on its Thunderbolt ports, an adapter on
    /// USB, an APFS volume.
    #[must_use]
    pub fn mac() -> Self {
        Self::parse(include_str!("../../testdata/machines/mac.tree"))
    }

    /// A home-built Windows computer: placeholders for serial numbers, a virtual
    /// switch, adapters that a hypervisor added, one on USB and one in a dock.
    #[must_use]
    pub fn windows_desktop() -> Self {
        Self::parse(include_str!("../../testdata/machines/windows-desktop.tree"))
    }

    /// A Windows laptop of a company: whole firmware tables, wireless only.
    #[must_use]
    pub fn windows_laptop() -> Self {
        Self::parse(include_str!("../../testdata/machines/windows-laptop.tree"))
    }

    /// All of them, by name.
    #[must_use]
    pub fn all() -> Vec<(&'static str, Self)> {
        vec![
            ("laptop", Self::laptop()),
            ("server", Self::server()),
            ("single board", Self::single_board()),
            ("cloud", Self::cloud()),
            ("microVM", Self::microvm()),
            ("container", Self::container()),
            ("Mac", Self::mac()),
            ("Windows desktop", Self::windows_desktop()),
            ("Windows laptop", Self::windows_laptop()),
        ]
    }

    /// What a probe sees on this machine.
    ///
    /// # Errors
    ///
    /// Returns what [`write_to`](Self::write_to) does, for a Linux machine.
    pub fn look(&self) -> io::Result<Observation> {
        let begins = |start: &str| self.entries.keys().any(|path| path.starts_with(start));
        if begins("/IOPlatformExpertDevice/") {
            return Ok(mac::observation(&self.answers()));
        }
        if begins("/HKLM/") {
            return Ok(windows::observation(&self.answers()));
        }
        let directory = tempfile::tempdir()?;
        self.write_to(directory.path())?;
        Ok(SystemProbe::with_root(directory.path()).observe())
    }

    /// The machine as a system that is asked.
    fn answers(&self) -> Answers {
        let mut answers = Answers::default();
        for (path, entry) in &self.entries {
            if let Entry::File(text) = entry {
                answers.insert(path.trim_start_matches('/'), answer(text));
            }
        }
        answers
    }

    /// Reads a description: a line that begins with `/` names a file, or a
    /// link if it goes on with ` -> target`; the lines after it that begin with
    /// four blanks are the file's content; `#` begins a comment.
    ///
    /// # Panics
    ///
    /// Panics at a line that is none of these.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut machine = Self::default();
        let mut current = None;
        for line in text.lines() {
            if let Some(content) = line.strip_prefix("    ") {
                match current
                    .as_ref()
                    .and_then(|path| machine.entries.get_mut(path))
                {
                    Some(Entry::File(text)) => {
                        text.push_str(content);
                        text.push('\n');
                    }
                    _ => panic!("content without a file: {line}"),
                }
            } else if line.starts_with('/') {
                let (path, entry) = match line.split_once(" -> ") {
                    Some((path, target)) => (path, Entry::Link(target.to_owned())),
                    None => (line, Entry::File(String::new())),
                };
                machine.entries.insert(path.to_owned(), entry);
                current = Some(path.to_owned());
            } else {
                assert!(
                    line.is_empty() || line.starts_with('#'),
                    "not understood: {line}"
                );
            }
        }
        machine
    }

    /// Writes a file, in place of what was there. Links on the way are
    /// followed when the tree is written.
    #[must_use]
    pub fn file(mut self, path: &str, content: &str) -> Self {
        let entry = Entry::File(content.to_owned());
        self.entries.insert(path.to_owned(), entry);
        self
    }

    /// Makes a symbolic link, in place of what was there.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        let entry = Entry::Link(target.to_owned());
        self.entries.insert(path.to_owned(), entry);
        self
    }

    /// Removes a file, a link, or everything below a directory.
    #[must_use]
    pub fn without(mut self, path: &str) -> Self {
        let below = format!("{path}/");
        self.entries
            .retain(|entry, _| entry != path && !entry.starts_with(&below));
        self
    }

    /// Replaces text in every file and link.
    ///
    /// # Panics
    ///
    /// Panics if the text is nowhere, since the test would then test nothing.
    #[must_use]
    pub fn replacing(mut self, from: &str, to: &str) -> Self {
        let mut places = 0;
        for entry in self.entries.values_mut() {
            let (Entry::File(text) | Entry::Link(text)) = entry;
            places += text.matches(from).count();
            *text = text.replace(from, to);
        }
        assert!(places > 0, "{from} is nowhere on this machine");
        self
    }

    /// Replaces text in every path and link, as when the kernel names a device
    /// otherwise.
    ///
    /// # Panics
    ///
    /// Panics if the text is in no path, since the test would then test nothing.
    #[must_use]
    pub fn replacing_names(self, from: &str, to: &str) -> Self {
        let mut places = 0;
        let entries = self.entries.into_iter().map(|(path, entry)| {
            places += path.matches(from).count();
            let entry = match entry {
                Entry::Link(target) => Entry::Link(target.replace(from, to)),
                file @ Entry::File(_) => file,
            };
            (path.replace(from, to), entry)
        });
        let entries = entries.collect();
        assert!(places > 0, "{from} is in no path of this machine");
        Self { entries }
    }

    /// Writes the tree below `root`.
    ///
    /// # Errors
    ///
    /// Returns what the system says if a file or link cannot be made, and
    /// [`io::ErrorKind::Unsupported`] where symbolic links are not for everybody.
    pub fn write_to(&self, root: &Path) -> io::Result<()> {
        // Links first: a file may be named by a path through one.
        let links = self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::Link(target) => Some((path, target)),
            Entry::File(_) => None,
        });
        for (path, target) in links {
            let place = root.join(path.trim_start_matches('/'));
            let parent = place.parent().unwrap_or(root);
            std::fs::create_dir_all(parent)?;
            // Where the link leads has to be there before files go through it.
            // A target with a suffix is a device node or the like, a name only.
            if target.starts_with("../../devices/") {
                std::fs::create_dir_all(parent.join(target))?;
            }
            link(target, &place)?;
        }
        for (path, entry) in &self.entries {
            if let Entry::File(text) = entry {
                let place = root.join(path.trim_start_matches('/'));
                std::fs::create_dir_all(place.parent().unwrap_or(root))?;
                std::fs::write(place, text)?;
            }
        }
        Ok(())
    }
}

/// Reads an answer as macOS's `ioreg` prints it: text in quotation marks, bytes
/// as hexadecimal digits in angle brackets, `Yes` and `No`, and numbers.
fn answer(text: &str) -> Option<Answer> {
    let text = text.trim();
    let within = |open, close| text.strip_prefix(open)?.strip_suffix(close);
    if let Some(text) = within('"', '"') {
        return Some(Answer::Text(text.to_owned()));
    }
    if let Some(text) = within('<', '>') {
        let digits: Vec<char> = text.chars().filter(|sign| !sign.is_whitespace()).collect();
        let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).ok();
        return digits
            .chunks(2)
            .map(byte)
            .collect::<Option<_>>()
            .map(Answer::Bytes);
    }
    match text {
        "Yes" => Some(Answer::Flag(true)),
        "No" => Some(Answer::Flag(false)),
        _ => text.parse().ok().map(Answer::Number),
    }
}

#[cfg(unix)]
fn link(target: &str, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, place)
}

#[cfg(not(unix))]
fn link(_: &str, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
