//! What the caller's process tells the helper: one plan and one command, with
//! everything decided.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::attempts::Attempts;
use crate::codec::{Reader, Writer};
use crate::command::Notes;
use crate::guard::Guards;
use crate::plan::{Late, Reach};

/// First bytes of a specification. Caller and helper are one program, so a
/// mismatch means that the descriptor is not ours.
const MAGIC: &[u8] = b"katachi-sandbox launch 1";

/// One start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spec {
    /// By depth.
    pub(super) mounts: Vec<Mount>,
    /// Patterns for what is hidden when it appears.
    pub(super) late: Vec<Late>,
    /// Place and target.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
    /// Files that can be executed.
    pub(super) programs: Vec<(PathBuf, Identity)>,
    /// Directories whose files can be executed.
    pub(super) exec_trees: Vec<ExecTree>,
    /// The program to start, as found, and where it really lies.
    pub(super) program: PathBuf,
    pub(super) real_program: PathBuf,
    pub(super) argv: Vec<OsString>,
    /// What is checked at every start, if anything is.
    pub(super) guards: Option<Guards>,
    /// The rule under which the caller approved the command itself.
    pub(super) approved: Option<String>,
    /// Whether the caller can be asked about further starts.
    pub(super) asks: bool,
    /// Which refusals are noted.
    pub(super) notes: Notes,
    /// `NAME=value`.
    pub(super) environment: Vec<OsString>,
    pub(super) directory: PathBuf,
    pub(super) home: PathBuf,
    /// User and group that own the workspace.
    pub(super) owner: (u32, u32),
    pub(super) unix_sockets: bool,
    /// Whether the command comes later, by the channel.
    pub(super) waits: bool,
    /// Rows and columns of a terminal for the command.
    pub(super) terminal: Option<(u16, u16)>,
    /// What is made in the network namespace and handed out, if anything.
    pub(super) doors: Option<Doors>,
    pub(super) memory: Option<u64>,
    pub(super) processes: Option<u64>,
    pub(super) disk: Option<u64>,
    pub(super) wall_time_ms: Option<u64>,
    pub(super) cpu_time_ms: Option<u64>,
    /// What Landlock opens by itself; `None` where there are namespaces.
    pub(super) floor: Option<Vec<Place>>,
    /// The control group that the helper joins first, if one was made.
    pub(super) cgroup: Option<Joined>,
    /// Instead of a program.
    pub(super) attempts: Option<Attempts>,
}

/// A directory whose files can be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExecTree {
    pub(super) path: PathBuf,
    /// Whether nothing in it can be written, so that names are what they are.
    pub(super) fixed: bool,
}

/// A place that Landlock opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// `None` for whatever file lies there.
    pub(super) identity: Option<Identity>,
    pub(super) reach: Reach,
}

impl Place {
    fn write(&self, writer: &mut Writer) {
        writer.path(&self.path);
        writer.list(self.identity.iter(), |writer, identity| {
            identity.write(writer)
        });
        writer.number(match self.reach {
            Reach::List => 0,
            Reach::Read => 1,
            Reach::Write => 2,
        });
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            path: reader.path()?,
            identity: reader.list(Identity::read)?.pop(),
            reach: match reader.number()? {
                0 => Reach::List,
                1 => Reach::Read,
                2 => Reach::Write,
                _ => return None,
            },
        })
    }
}

/// A control group, and which limits it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Joined {
    pub(super) path: PathBuf,
    pub(super) memory: bool,
    pub(super) processes: bool,
}

impl Joined {
    fn write(&self, writer: &mut Writer) {
        writer
            .path(&self.path)
            .flag(self.memory)
            .flag(self.processes);
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            path: reader.path()?,
            memory: reader.flag()?,
            processes: reader.flag()?,
        })
    }
}

/// Listeners of the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Doors {
    /// Whether there is one; without it, only ports are published.
    pub(super) proxy: bool,
    /// Ports on which programs without a proxy connect.
    pub(super) ports: Vec<u16>,
    /// The same on the loopback address of IPv6.
    pub(super) ports_v6: Vec<u16>,
    /// Addresses that exist inside so that they can be connected to.
    pub(super) addresses: Vec<Ipv4Addr>,
}

impl Doors {
    fn write(&self, writer: &mut Writer) {
        writer.flag(self.proxy);
        for ports in [&self.ports, &self.ports_v6] {
            writer.list(ports.iter(), |writer, port| {
                writer.number((*port).into());
            });
        }
        writer.list(self.addresses.iter(), |writer, address| {
            writer.number(u32::from(*address).into());
        });
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let port = |reader: &mut Reader<'_>| reader.number()?.try_into().ok();
        Some(Self {
            proxy: reader.flag()?,
            ports: reader.list(port)?,
            ports_v6: reader.list(port)?,
            addresses: reader.list(|reader| {
                let bits = u32::try_from(reader.number()?).ok()?;
                Some(Ipv4Addr::from(bits))
            })?,
        })
    }
}

/// One place in the new root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) target: PathBuf,
    pub(super) source: Source,
    pub(super) write: bool,
    pub(super) load: bool,
    /// Whether it has to be there again if the host takes it away.
    pub(super) protects: bool,
}

/// Where its content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The same path outside, if it still is this file or directory.
    Host(Identity),
    Private,
    HiddenDirectory,
    HiddenFile,
}

/// A file or directory, however it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) directory: bool,
    pub(super) stamp: [i64; 3],
}

impl Identity {
    fn write(&self, writer: &mut Writer) {
        writer
            .number(self.device)
            .number(self.inode)
            .flag(self.directory);
        for part in self.stamp {
            writer.number(part.cast_unsigned());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (device, inode, directory) = (reader.number()?, reader.number()?, reader.flag()?);
        let mut stamp = [0; 3];
        for part in &mut stamp {
            *part = reader.number()?.cast_signed();
        }
        Some(Self {
            device,
            inode,
            directory,
            stamp,
        })
    }
}

fn write_option(writer: &mut Writer, value: Option<u64>) {
    writer.flag(value.is_some()).number(value.unwrap_or(0));
}

fn read_option(reader: &mut Reader<'_>) -> Option<Option<u64>> {
    let (some, value) = (reader.flag()?, reader.number()?);
    Some(some.then_some(value))
}

impl Spec {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.bytes(MAGIC);
        writer.list(self.mounts.iter(), |writer, mount| {
            writer
                .path(&mount.target)
                .flag(mount.write)
                .flag(mount.load)
                .flag(mount.protects);
            match &mount.source {
                Source::Host(identity) => identity.write(writer.number(0)),
                Source::Private => {
                    writer.number(1);
                }
                Source::HiddenDirectory => {
                    writer.number(2);
                }
                Source::HiddenFile => {
                    writer.number(3);
                }
            }
        });
        writer.list(self.late.iter(), |writer, late| {
            writer.bytes(late.pattern.as_bytes());
            writer.list(late.roots.iter(), |writer, root| {
                writer.path(root);
            });
        });
        writer.list(self.links.iter(), |writer, (place, target)| {
            writer.path(place).path(target);
        });
        writer.list(self.programs.iter(), |writer, (path, identity)| {
            identity.write(writer.path(path));
        });
        writer.list(self.exec_trees.iter(), |writer, tree| {
            writer.path(&tree.path).flag(tree.fixed);
        });
        writer.path(&self.program).path(&self.real_program);
        writer.list(self.argv.iter(), |writer, word| {
            writer.text(word);
        });
        writer.list(self.environment.iter(), |writer, word| {
            writer.text(word);
        });
        writer.path(&self.directory).path(&self.home);
        writer
            .number(self.owner.0.into())
            .number(self.owner.1.into());
        writer.flag(self.unix_sockets).flag(self.waits);
        writer.list(self.terminal.iter(), |writer, (rows, columns)| {
            writer.number((*rows).into()).number((*columns).into());
        });
        writer.list(self.doors.iter(), |writer, doors| doors.write(writer));
        for limit in [
            self.memory,
            self.processes,
            self.disk,
            self.wall_time_ms,
            self.cpu_time_ms,
        ] {
            write_option(&mut writer, limit);
        }
        writer.flag(self.floor.is_some());
        let places = self.floor.as_deref().unwrap_or_default();
        writer.list(places.iter(), |writer, place| place.write(writer));
        writer.list(self.cgroup.iter(), |writer, group| group.write(writer));
        writer.list(self.guards.iter(), |writer, guards| guards.write(writer));
        writer.list(self.approved.iter(), |writer, rule| {
            writer.bytes(rule.as_bytes());
        });
        writer.flag(self.asks).number(match self.notes {
            Notes::Starts => 0,
            Notes::Files => 1,
            Notes::Looks => 2,
        });
        writer.list(self.attempts.iter(), |writer, attempts| {
            attempts.write(writer)
        });
        writer.finish()
    }

    /// Whether the first process traces the command.
    pub(super) fn is_traced(&self) -> bool {
        self.guards.is_some() || self.observes()
    }

    /// Whether calls are looked at by the tracer, who sees how they end too.
    pub(super) fn observes(&self) -> bool {
        self.notes == Notes::Looks
    }

    /// Whether the first process hears of calls before the kernel does.
    pub(super) fn hears(&self) -> bool {
        self.floor.is_some() || !self.observes()
    }

    /// Memory in bytes, where no control group holds it.
    pub(super) fn watched_memory(&self) -> Option<u64> {
        let held = self.cgroup.as_ref().is_some_and(|group| group.memory);
        self.memory.filter(|_| !held)
    }

    /// Processes and threads, where no control group holds them.
    pub(super) fn watched_processes(&self) -> Option<u64> {
        let held = self.cgroup.as_ref().is_some_and(|group| group.processes);
        self.processes.filter(|_| !held)
    }

    /// Takes over what a command that came later is about.
    pub(super) fn with_start(&self, start: Self) -> Self {
        Self {
            program: start.program,
            real_program: start.real_program,
            argv: start.argv,
            environment: start.environment,
            directory: start.directory,
            approved: start.approved,
            asks: start.asks,
            notes: start.notes,
            ..self.clone()
        }
    }

    /// `None` if the bytes are not exactly one specification.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let reader = &mut Reader::new(bytes);
        if reader.bytes()? != MAGIC {
            return None;
        }
        let spec = Self {
            mounts: reader.list(|reader| {
                let (target, write, load) = (reader.path()?, reader.flag()?, reader.flag()?);
                let protects = reader.flag()?;
                let source = match reader.number()? {
                    0 => Source::Host(Identity::read(reader)?),
                    1 => Source::Private,
                    2 => Source::HiddenDirectory,
                    3 => Source::HiddenFile,
                    _ => return None,
                };
                Some(Mount {
                    target,
                    source,
                    write,
                    load,
                    protects,
                })
            })?,
            late: reader.list(|reader| {
                Some(Late {
                    pattern: String::from_utf8(reader.bytes()?.to_vec()).ok()?,
                    roots: reader.list(Reader::path)?,
                })
            })?,
            links: reader.list(|reader| Some((reader.path()?, reader.path()?)))?,
            programs: reader.list(|reader| Some((reader.path()?, Identity::read(reader)?)))?,
            exec_trees: reader.list(|reader| {
                Some(ExecTree {
                    path: reader.path()?,
                    fixed: reader.flag()?,
                })
            })?,
            program: reader.path()?,
            real_program: reader.path()?,
            argv: reader.list(Reader::text)?,
            environment: reader.list(Reader::text)?,
            directory: reader.path()?,
            home: reader.path()?,
            owner: (
                reader.number()?.try_into().ok()?,
                reader.number()?.try_into().ok()?,
            ),
            unix_sockets: reader.flag()?,
            waits: reader.flag()?,
            terminal: reader
                .list(|reader| {
                    let mut side = || reader.number()?.try_into().ok();
                    Some((side()?, side()?))
                })?
                .pop(),
            doors: reader.list(Doors::read)?.pop(),
            memory: read_option(reader)?,
            processes: read_option(reader)?,
            disk: read_option(reader)?,
            wall_time_ms: read_option(reader)?,
            cpu_time_ms: read_option(reader)?,
            floor: {
                let without_namespaces = reader.flag()?;
                let places = reader.list(Place::read)?;
                without_namespaces.then_some(places)
            },
            cgroup: reader.list(Joined::read)?.pop(),
            guards: reader.list(Guards::read)?.pop(),
            approved: reader
                .list(|reader| String::from_utf8(reader.bytes()?.to_vec()).ok())?
                .pop(),
            asks: reader.flag()?,
            notes: match reader.number()? {
                0 => Notes::Starts,
                1 => Notes::Files,
                2 => Notes::Looks,
                _ => return None,
            },
            attempts: reader.list(Attempts::read)?.pop(),
        };
        reader.at_end().then_some(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_encodes_and_nothing_shorter() {
        let identity = Identity {
            device: 1,
            inode: 2,
            directory: false,
            stamp: [-3, 4, 5],
        };
        let mount = |source| Mount {
            target: "/a".into(),
            source,
            write: true,
            load: false,
            protects: true,
        };
        let spec = Spec {
            floor: Some(vec![Place {
                path: "/w".into(),
                identity: Some(identity),
                reach: Reach::List,
            }]),
            mounts: [
                Source::Host(identity),
                Source::Private,
                Source::HiddenDirectory,
                Source::HiddenFile,
            ]
            .map(mount)
            .to_vec(),
            late: vec![Late {
                pattern: "/w/**/.env".into(),
                roots: vec!["/w".into()],
            }],
            links: vec![("/bin".into(), "usr/bin".into())],
            programs: vec![("/usr/bin/ls".into(), identity)],
            exec_trees: vec![ExecTree {
                path: "/t".into(),
                fixed: true,
            }],
            program: "/bin/ls".into(),
            real_program: "/usr/bin/ls".into(),
            argv: vec!["ls".into()],
            environment: vec!["A=b".into()],
            directory: "/w".into(),
            home: "/h".into(),
            owner: (1000, 100),
            unix_sockets: true,
            waits: true,
            terminal: Some((24, 80)),
            doors: Some(Doors {
                proxy: true,
                ports: vec![80, 443],
                ports_v6: vec![1],
                addresses: vec![Ipv4Addr::LOCALHOST],
            }),
            memory: Some(1),
            processes: None,
            disk: Some(0),
            wall_time_ms: None,
            cpu_time_ms: Some(2),
            cgroup: Some(Joined {
                path: "/sys/fs/cgroup/a".into(),
                memory: true,
                processes: false,
            }),
            guards: Some(Guards(vec![crate::guard::Executable::default()])),
            approved: Some("rule".into()),
            asks: true,
            notes: Notes::Files,
            attempts: Some(Attempts {
                protected: Some("/p".into()),
                port: 443,
                ..Attempts::default()
            }),
        };
        let bytes = spec.encode();
        assert_eq!(Spec::decode(&bytes), Some(spec));
        for length in 0..bytes.len() {
            assert_eq!(Spec::decode(&bytes[..length]), None);
        }
        assert_eq!(Spec::decode(&[&bytes[..], b"x"].concat()), None);
    }
}
