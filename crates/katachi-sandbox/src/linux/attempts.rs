//! The self-test: what the command would try if it were hostile, tried from
//! its very place, after the last step and instead of a program.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use super::inside::PROXY_PORT;
use super::published::Servers;
use super::strain::Strain;
use super::sys::process::{Ended, Fork};
use super::sys::{c_string, fd, namespace, process};
use crate::codec::{Reader, Writer};
use crate::network::names::GATEWAY;

/// Name of a file that the self-test tries to create.
pub(super) const WITNESS: &str = "katachi-witness";

/// What to try. The caller made sure that each works outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attempts {
    /// A file that no rule opens.
    pub(super) secret: PathBuf,
    /// Files to create: outside, and below what is protected.
    pub(super) outside: PathBuf,
    pub(super) protected: Option<PathBuf>,
    /// An executable that no rule names, and one that a rule does.
    pub(super) unlisted: PathBuf,
    pub(super) listed: Option<PathBuf>,
    /// A port of the host's loopback on which somebody listens.
    pub(super) port: u16,
    pub(super) unix_sockets: bool,
    /// Whether there is a proxy, which must not lead there either.
    pub(super) proxy: bool,
    /// The caller, whose variables can be read outside, and the names of those
    /// that no rule passes.
    pub(super) caller: u32,
    pub(super) variables: Vec<OsString>,
    /// A descriptor of the caller's that every program inherits outside.
    pub(super) descriptor: u32,
    /// A start that a rule about arguments refuses.
    pub(super) refused: Option<(PathBuf, Vec<OsString>)>,
    /// Servers for published ports.
    pub(super) servers: Option<Servers>,
    /// A limit to pass, instead of all that.
    pub(super) strain: Option<Strain>,
}

impl Attempts {
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.path(&self.secret).path(&self.outside);
        writer.list(self.protected.iter(), |writer, path| {
            writer.path(path);
        });
        writer.path(&self.unlisted);
        writer.list(self.listed.iter(), |writer, path| {
            writer.path(path);
        });
        writer
            .number(self.port.into())
            .flag(self.unix_sockets)
            .flag(self.proxy)
            .number(self.caller.into())
            .number(self.descriptor.into());
        writer.list(self.variables.iter(), |writer, name| {
            writer.text(name);
        });
        writer.list(self.refused.iter(), |writer, (program, argv)| {
            writer.path(program).list(argv.iter(), |writer, word| {
                writer.text(word);
            });
        });
        writer.list(self.servers.iter(), |writer, servers| {
            servers.write(writer);
        });
        writer.list(self.strain.iter(), |writer, strain| {
            writer.number(strain.number());
        });
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            secret: reader.path()?,
            outside: reader.path()?,
            protected: reader.list(Reader::path)?.pop(),
            unlisted: reader.path()?,
            listed: reader.list(Reader::path)?.pop(),
            port: reader.number()?.try_into().ok()?,
            unix_sockets: reader.flag()?,
            proxy: reader.flag()?,
            caller: reader.number()?.try_into().ok()?,
            descriptor: reader.number()?.try_into().ok()?,
            variables: reader.list(Reader::text)?,
            refused: reader
                .list(|reader| Some((reader.path()?, reader.list(Reader::text)?)))?
                .pop(),
            servers: reader.list(Servers::read)?.pop(),
            strain: reader.list(|reader| Strain::of(reader.number()?))?.pop(),
        })
    }

    /// Tries everything and prints `control refused` or `control possible`
    /// for each attempt. The program would get these variables.
    pub(super) fn run(&self, environment: &[OsString]) {
        if self.strain.is_none() {
            self.inherited(environment);
        }
        // As executing does, which the first process waits for.
        if fd::close_range(3, u32::MAX, false).is_err() {
            return;
        }
        if let Some(strain) = self.strain {
            return strain.run(self.port);
        }
        self.files();
        self.network();
        self.kernel();
        self.arguments();
        if let Some(servers) = &self.servers {
            servers.serve();
        }
        self.lifetime();
        // Last, because an execution that works ends this process.
        self.execution();
    }

    fn files(&self) {
        say("files", std::fs::read(&self.secret).is_ok());
        say("files", std::fs::write(&self.outside, "x").is_ok());
        say(
            "files",
            std::fs::read_dir("/home").is_ok_and(|list| list.count() > 0),
        );
        if let Some(path) = &self.protected {
            // Opened and not written to: should it work, nothing is harmed.
            let opened = std::fs::File::options()
                .append(true)
                .create(true)
                .open(path)
                .is_ok();
            if opened && path.ends_with(WITNESS) {
                let _ = std::fs::remove_file(path);
            }
            say("metadata", opened);
        }
    }

    fn network(&self) {
        let host = std::net::SocketAddr::from(([127, 0, 0, 1], self.port));
        say(
            "network",
            TcpStream::connect_timeout(&host, Duration::from_millis(500)).is_ok(),
        );
        if self.proxy {
            say("network", self.through_proxy().unwrap_or(false));
        }
        // A documentation address: a datagram to it harms nobody.
        let sent =
            UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"x", ("192.0.2.1", 9)));
        say("network", sent.is_ok());
        if !self.unix_sockets {
            say("unix", UnixListener::bind("/tmp/witness").is_ok());
        }
    }

    /// Whether the proxy connects to the host's loopback.
    fn through_proxy(&self) -> std::io::Result<bool> {
        let patience = Duration::from_secs(2);
        let proxy = std::net::SocketAddr::from((GATEWAY, PROXY_PORT));
        let mut stream = TcpStream::connect_timeout(&proxy, patience)?;
        stream.set_read_timeout(Some(patience))?;
        write!(stream, "CONNECT 127.0.0.1:{} HTTP/1.1\r\n\r\n", self.port)?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(answer == *b"HTTP/1.1 200")
    }

    fn kernel(&self) {
        say("kernel", namespace::unshare(libc::CLONE_NEWUSER).is_ok());
        say("privileges", namespace::set_host_name("witness").is_ok());
        say("privileges", super::sys::caps::holds_any());
        let variables = format!("/proc/{}/environ", self.caller);
        say("processes", std::fs::read(variables).is_ok());
        if let Ok(list) = std::fs::read_dir("/proc") {
            let processes = list
                .flatten()
                .filter(|entry| {
                    entry
                        .file_name()
                        .to_str()
                        .is_some_and(|name| name.parse::<u32>().is_ok())
                })
                .count();
            say("processes", processes > 2);
        }
    }

    /// What a program would have of the caller's.
    fn inherited(&self, environment: &[OsString]) {
        let passed = |name: &OsString| {
            environment.iter().any(|variable| {
                let rest = variable
                    .as_encoded_bytes()
                    .strip_prefix(name.as_encoded_bytes());
                rest.is_some_and(|rest| rest.first() == Some(&b'='))
            })
        };
        say("environment", self.variables.iter().any(passed));
        say("descriptors", fd::stays_open(self.descriptor));
    }

    fn arguments(&self) {
        let Some((program, argv)) = &self.refused else {
            return;
        };
        let argv: std::io::Result<Vec<_>> = argv.iter().map(c_string).collect();
        let (Ok(program), Ok(argv)) = (c_string(program), argv) else {
            return;
        };
        match process::fork() {
            Ok(Fork::Child) => {
                process::execute(&program, &argv, &[]);
                process::exit(0)
            }
            Ok(Fork::Parent(pid)) => {
                let killed =
                    process::wait(pid).is_ok_and(|ended| ended == Ended::Signal(libc::SIGKILL));
                say("argv", !killed);
            }
            Err(_) => {}
        }
    }

    /// Leaves a process behind, which would speak up.
    fn lifetime(&self) {
        match process::fork() {
            Ok(Fork::Child) => {
                let _ = process::new_session();
                std::thread::sleep(Duration::from_secs(2));
                say("lifetime", true);
                process::exit(0)
            }
            Ok(Fork::Parent(_)) => say("lifetime", false),
            Err(_) => {}
        }
    }

    fn execution(&self) {
        let mut copy = None;
        if let Some(listed) = &self.listed
            && std::fs::copy(listed, "/tmp/copy").is_ok()
        {
            copy = Some(PathBuf::from("/tmp/copy"));
        }
        for program in [Some(self.unlisted.clone()), copy].into_iter().flatten() {
            if let Ok(name) = c_string(&program) {
                // It returns only when it failed.
                let _ = process::execute(&name, std::slice::from_ref(&name), &[]);
                say("exec", false);
            }
        }
    }
}

fn say(control: &str, possible: bool) {
    let verdict = if possible { "possible" } else { "refused" };
    // Nobody reads it if this fails, and then nothing counts as witnessed.
    let _ = writeln!(std::io::stdout(), "{control} {verdict}");
}
