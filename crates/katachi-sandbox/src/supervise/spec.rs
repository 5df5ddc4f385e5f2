//! What the helper is told.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::windows::acl::Edit;
use crate::codec::{Reader, Writer};

/// Everything for one start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) program: PathBuf,
    pub(crate) argv: Vec<OsString>,
    /// As `NAME=value`.
    pub(crate) environment: Vec<OsString>,
    pub(crate) directory: PathBuf,
    pub(crate) wall_time_ms: Option<u64>,
    pub(crate) cpu_time_ms: Option<u64>,
    /// Bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) processes: Option<u64>,
    pub(crate) confinement: Confinement,
}

/// What confines the command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Confinement {
    /// Nothing: in tests of the rest, on systems that have neither.
    #[default]
    Nothing,
    /// Seatbelt with this profile.
    Profile(String),
    /// An AppContainer of this name.
    Container {
        name: String,
        /// What is opened for it, and what is closed inside of that.
        edits: Vec<Edit>,
        /// Whether the command may start other programs.
        children: bool,
    },
}

/// Longest specification, in bytes.
const LONGEST: u64 = 64 << 20;

impl Spec {
    /// Whether something has to be looked at while the command runs.
    pub(super) fn is_watched(&self) -> bool {
        let counted = self.memory.is_some() || self.processes.is_some();
        self.cpu_time_ms.is_some() || counted
    }

    pub(crate) fn send(&self, pipe: &mut impl Write) -> io::Result<()> {
        let mut whole = Writer::default();
        whole.bytes(&self.encode());
        pipe.write_all(&whole.finish())
    }

    pub(crate) fn receive(pipe: &mut impl Read) -> io::Result<Self> {
        let mut length = [0; 8];
        pipe.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > LONGEST {
            return Err(io::Error::other("a plan of impossible length"));
        }
        let mut bytes = Vec::new();
        pipe.take(length).read_to_end(&mut bytes)?;
        Self::decode(&bytes).ok_or_else(|| io::Error::other("not a plan"))
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.path(&self.program);
        for words in [&self.argv, &self.environment] {
            writer.list(words.iter(), |writer, word| {
                writer.text(word);
            });
        }
        writer.path(&self.directory);
        let limits = [
            self.wall_time_ms,
            self.cpu_time_ms,
            self.memory,
            self.processes,
        ];
        for limit in limits {
            writer.list(limit.iter(), |writer, limit| {
                writer.number(*limit);
            });
        }
        match &self.confinement {
            Confinement::Nothing => writer.number(0),
            Confinement::Profile(text) => writer.number(1).bytes(text.as_bytes()),
            Confinement::Container {
                name,
                edits,
                children,
            } => {
                writer.number(2).bytes(name.as_bytes()).flag(*children);
                writer.list(edits.iter(), |writer, edit| edit.write(writer))
            }
        };
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let reader = &mut Reader::new(bytes);
        let text = |reader: &mut Reader<'_>| String::from_utf8(reader.bytes()?.to_vec()).ok();
        let limit = |reader: &mut Reader<'_>| Some(reader.list(Reader::number)?.pop());
        let spec = Self {
            program: reader.path()?,
            argv: reader.list(Reader::text)?,
            environment: reader.list(Reader::text)?,
            directory: reader.path()?,
            wall_time_ms: limit(reader)?,
            cpu_time_ms: limit(reader)?,
            memory: limit(reader)?,
            processes: limit(reader)?,
            confinement: match reader.number()? {
                0 => Confinement::Nothing,
                1 => Confinement::Profile(text(reader)?),
                2 => {
                    let (name, children) = (text(reader)?, reader.flag()?);
                    Confinement::Container {
                        name,
                        children,
                        edits: reader.list(Edit::read)?,
                    }
                }
                _ => return None,
            },
        };
        reader.at_end().then_some(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::super::windows::acl::Change;
    use super::*;

    #[test]
    fn a_specification_arrives_as_it_was_sent() {
        let plain = Spec {
            program: "/bin/sh".into(),
            argv: vec!["sh".into(), "".into()],
            environment: vec!["A=b".into()],
            directory: "/".into(),
            wall_time_ms: Some(1),
            cpu_time_ms: None,
            memory: Some(u64::MAX),
            processes: Some(3),
            confinement: Confinement::Nothing,
        };
        let confinements = [
            Confinement::Nothing,
            Confinement::Profile("(version 1)".into()),
            Confinement::Container {
                name: "katachi".into(),
                edits: vec![Edit {
                    path: "/w".into(),
                    directory: true,
                    change: Change::Hide,
                }],
                children: true,
            },
        ];
        for confinement in confinements {
            let spec = Spec {
                confinement,
                ..plain.clone()
            };
            let mut pipe = Vec::new();
            spec.send(&mut pipe).unwrap();
            assert_eq!(Spec::receive(&mut pipe.as_slice()).unwrap(), spec);
            pipe.pop();
            assert!(Spec::receive(&mut pipe.as_slice()).is_err());
        }
    }
}
