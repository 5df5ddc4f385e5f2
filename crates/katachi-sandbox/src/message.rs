//! What the helper tells the caller, and the caller the helper.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::codec::{Reader, Writer};
use crate::error::SpawnError;

/// One message. Written with a single call, so that messages of several
/// processes do not mix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The command runs, fully confined, with these gaps: control and reason.
    Started(Vec<(String, String)>),
    /// Everything is built, with these gaps, and waits for its command.
    Prepared(Vec<(String, String)>),
    /// A step failed and nothing was started.
    Failed {
        step: String,
        detail: String,
        code: i32,
    },
    /// A file is not the one the plan pinned.
    Replaced { path: String, detail: String },
    /// The command could not be executed.
    NotExecuted { code: i32 },
    /// The command ended.
    Ended(End),
    /// A program was killed before its first instruction.
    Refused {
        program: String,
        line: String,
        reason: String,
        allow_with: String,
    },
    /// Something that is hidden or protected was not, for a moment.
    Uncovered {
        path: String,
        /// Whether it could be read, and not only written.
        read: bool,
        /// Whether that is over.
        covered: bool,
    },
    /// A file was looked for in vain, by a program of this name.
    Missed {
        want: Want,
        path: OsString,
        program: String,
    },
    /// From now on, nothing more of that is told: so much was.
    NotNoted(u64),
    /// A program was started in vain, by one of this name.
    NotStarted {
        path: OsString,
        /// Whether it is there for the command.
        there: bool,
        program: String,
    },
    /// This program tries so much that it is not looked at any more.
    Flood { program: String },
    /// A program waits before its first instruction for an answer.
    Ask {
        number: u64,
        program: OsString,
        argv: Vec<OsString>,
        rule: String,
    },
}

/// What was to be done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Want {
    /// Ask whether it is there, what it is, or where it leads.
    Look,
    Read,
    /// Write, create, remove, rename or change.
    Write,
    Execute,
}

impl Want {
    fn number(self) -> u64 {
        match self {
            Self::Look => 0,
            Self::Read => 1,
            Self::Write => 2,
            Self::Execute => 3,
        }
    }

    fn of(number: u64) -> Option<Self> {
        [Self::Look, Self::Read, Self::Write, Self::Execute]
            .into_iter()
            .find(|want| want.number() == number)
    }
}

/// Ends every step of whoever builds a sandbox.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Message);

/// Names the step that failed.
pub(crate) trait Step<T> {
    fn step(self, step: &str) -> Result<T, Failure>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &str) -> Result<T, Failure> {
        self.map_err(|error| {
            Failure(Message::Failed {
                step: step.to_owned(),
                detail: error.to_string(),
                code: error.raw_os_error().unwrap_or(0),
            })
        })
    }
}

/// How the command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Code(i32),
    Signal(i32),
    TimedOut,
    Limit(String),
}

/// What the caller tells the first process while the command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The answer to the question of this number, which is never zero.
    Answer(u64, bool),
    /// A signal for the command's group.
    Signal(i32),
}

impl Order {
    pub(crate) fn send(self, pipe: &mut impl Write) -> io::Result<()> {
        let (number, value) = match self {
            Self::Answer(number, yes) => (number, u8::from(yes)),
            Self::Signal(signal) => (0, u8::try_from(signal).unwrap_or(0)),
        };
        let mut bytes = [0; 9];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8] = value;
        pipe.write_all(&bytes)
    }

    /// The next one; `None` at the end.
    pub(crate) fn receive(pipe: &mut impl Read) -> Option<Self> {
        let mut bytes = [0; 9];
        pipe.read_exact(&mut bytes).ok()?;
        let [number @ .., value] = bytes;
        Some(match u64::from_le_bytes(number) {
            0 => Self::Signal(value.into()),
            number => Self::Answer(number, value == 1),
        })
    }
}

/// Longest message. Until the command runs, when several processes write, all
/// are short enough for pipes to keep them in one piece.
const LIMIT: usize = 1 << 16;
/// Longest question, in bytes: one that cannot be shown in full is not asked.
pub(crate) const LONGEST_QUESTION: usize = 32 << 10;

impl Message {
    pub(crate) fn send(&self, pipe: &mut impl Write) -> io::Result<()> {
        let mut writer = Writer::default();
        let shorten = |text: &str| text.chars().take(400).collect::<String>();
        match self {
            Self::Started(gaps) | Self::Prepared(gaps) => {
                writer
                    .number(if matches!(self, Self::Started(_)) {
                        0
                    } else {
                        7
                    })
                    .list(gaps.iter().take(4), |writer, (control, reason)| {
                        writer
                            .bytes(control.as_bytes())
                            .bytes(shorten(reason).as_bytes());
                    });
            }
            Self::Failed { step, detail, code } => {
                writer
                    .number(1)
                    .bytes(shorten(step).as_bytes())
                    .bytes(shorten(detail).as_bytes());
                writer.number(u64::from(code.cast_unsigned()));
            }
            Self::Replaced { path, detail } => {
                writer
                    .number(2)
                    .bytes(shorten(path).as_bytes())
                    .bytes(shorten(detail).as_bytes());
            }
            Self::NotExecuted { code } => {
                writer.number(3).number(u64::from(code.cast_unsigned()));
            }
            Self::Ended(end) => {
                writer.number(4);
                match end {
                    End::Code(code) => writer.number(0).number(u64::from(code.cast_unsigned())),
                    End::Signal(signal) => {
                        writer.number(1).number(u64::from(signal.cast_unsigned()))
                    }
                    End::TimedOut => writer.number(2),
                    End::Limit(name) => writer.number(3).bytes(name.as_bytes()),
                };
            }
            Self::Refused {
                program,
                line,
                reason,
                allow_with,
            } => {
                writer.number(5);
                for text in [program, line, reason, allow_with] {
                    writer.bytes(shorten(text).as_bytes());
                }
            }
            Self::Uncovered {
                path,
                read,
                covered,
            } => {
                writer.number(8).bytes(shorten(path).as_bytes());
                writer.flag(*read).flag(*covered);
            }
            Self::Missed {
                want,
                path,
                program,
            } => {
                writer.number(9).number(want.number()).text(path);
                writer.bytes(shorten(program).as_bytes());
            }
            Self::NotNoted(count) => {
                writer.number(10).number(*count);
            }
            Self::NotStarted {
                path,
                there,
                program,
            } => {
                writer.number(11).text(path).flag(*there);
                writer.bytes(shorten(program).as_bytes());
            }
            Self::Flood { program } => {
                writer.number(12).bytes(shorten(program).as_bytes());
            }
            Self::Ask {
                number,
                program,
                argv,
                rule,
            } => {
                writer.number(6).number(*number).text(program);
                writer.list(argv.iter(), |writer, word| {
                    writer.text(word);
                });
                writer.bytes(shorten(rule).as_bytes());
            }
        }
        let body = writer.finish();
        let mut whole = Writer::default();
        whole.bytes(&body);
        let whole = whole.finish();
        debug_assert!(whole.len() <= LIMIT);
        pipe.write_all(&whole)
    }

    /// The next message, `None` at the end of the pipe.
    pub(crate) fn receive(pipe: &mut impl Read) -> io::Result<Option<Self>> {
        let mut length = [0; 8];
        match pipe.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > LIMIT {
            return Err(io::Error::other("a message of impossible length"));
        }
        let mut body = vec![0; length];
        pipe.read_exact(&mut body)?;
        Self::decode(&body)
            .map(Some)
            .ok_or_else(|| io::Error::other("an unreadable message"))
    }

    /// What an answer means that is not the start of the command. `next_step`
    /// has advice for a step that failed with an error's number.
    pub(crate) fn into_error(
        self,
        program: &Path,
        next_step: impl Fn(&str, i32) -> String,
    ) -> SpawnError {
        match self {
            Self::Replaced { path, detail } => SpawnError::Replaced {
                path: path.into(),
                detail,
            },
            Self::NotExecuted { code } => SpawnError::Exec {
                path: program.to_owned(),
                source: io::Error::from_raw_os_error(code),
            },
            Self::Failed { step, detail, code } => SpawnError::Machine {
                next_step: next_step(&step, code),
                step,
                detail,
            },
            Self::Started(_)
            | Self::Prepared(_)
            | Self::Ended(_)
            | Self::Refused { .. }
            | Self::Uncovered { .. }
            | Self::Missed { .. }
            | Self::NotNoted(_)
            | Self::NotStarted { .. }
            | Self::Flood { .. }
            | Self::Ask { .. } => SpawnError::Helper("it answered out of order".to_owned()),
        }
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let reader = &mut Reader::new(body);
        let text =
            |reader: &mut Reader<'_>| Some(String::from_utf8_lossy(reader.bytes()?).into_owned());
        let integer =
            |reader: &mut Reader<'_>| Some(u32::try_from(reader.number()?).ok()?.cast_signed());
        let message = match reader.number()? {
            0 => Self::Started(reader.list(|reader| Some((text(reader)?, text(reader)?)))?),
            7 => Self::Prepared(reader.list(|reader| Some((text(reader)?, text(reader)?)))?),
            1 => Self::Failed {
                step: text(reader)?,
                detail: text(reader)?,
                code: integer(reader)?,
            },
            2 => Self::Replaced {
                path: text(reader)?,
                detail: text(reader)?,
            },
            3 => Self::NotExecuted {
                code: integer(reader)?,
            },
            4 => Self::Ended(match reader.number()? {
                0 => End::Code(integer(reader)?),
                1 => End::Signal(integer(reader)?),
                2 => End::TimedOut,
                3 => End::Limit(text(reader)?),
                _ => return None,
            }),
            5 => Self::Refused {
                program: text(reader)?,
                line: text(reader)?,
                reason: text(reader)?,
                allow_with: text(reader)?,
            },
            8 => Self::Uncovered {
                path: text(reader)?,
                read: reader.flag()?,
                covered: reader.flag()?,
            },
            9 => Self::Missed {
                want: Want::of(reader.number()?)?,
                path: reader.text()?,
                program: text(reader)?,
            },
            10 => Self::NotNoted(reader.number()?),
            11 => Self::NotStarted {
                path: reader.text()?,
                there: reader.flag()?,
                program: text(reader)?,
            },
            12 => Self::Flood {
                program: text(reader)?,
            },
            6 => Self::Ask {
                number: reader.number()?,
                program: reader.text()?,
                argv: reader.list(Reader::text)?,
                rule: text(reader)?,
            },
            _ => return None,
        };
        reader.at_end().then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let messages = [
            Message::Started(vec![("files".into(), "why".into())]),
            Message::Prepared(Vec::new()),
            Message::Failed {
                step: "mount".into(),
                detail: "no".into(),
                code: 1,
            },
            Message::Replaced {
                path: "/x".into(),
                detail: "inode".into(),
            },
            Message::NotExecuted { code: 13 },
            Message::Ended(End::Code(-1)),
            Message::Ended(End::Signal(9)),
            Message::Ended(End::TimedOut),
            Message::Ended(End::Limit("memory".into())),
            Message::Refused {
                program: "/usr/bin/git".into(),
                line: "git push".into(),
                reason: "no".into(),
                allow_with: "yes".into(),
            },
            Message::Uncovered {
                path: "/w/.env".into(),
                read: true,
                covered: false,
            },
            Message::Missed {
                want: Want::Write,
                path: "/a".into(),
                program: "sh".into(),
            },
            Message::NotNoted(9),
            Message::NotStarted {
                path: "/usr/bin/curl".into(),
                there: true,
                program: "sh".into(),
            },
            Message::Flood {
                program: "python3".into(),
            },
            Message::Ask {
                number: 7,
                program: "/usr/bin/git".into(),
                argv: vec!["git".into(), "".into()],
                rule: "ask".into(),
            },
        ];
        let mut pipe = Vec::new();
        for message in &messages {
            message.send(&mut pipe).unwrap();
        }
        let mut pipe = pipe.as_slice();
        for message in messages {
            assert_eq!(Message::receive(&mut pipe).unwrap(), Some(message));
        }
        assert_eq!(Message::receive(&mut pipe).unwrap(), None);
    }
}
