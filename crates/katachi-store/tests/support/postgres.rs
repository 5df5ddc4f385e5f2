//! A PostgreSQL of a test's own: made in a temporary directory, on a free port of
//! loopback and a Unix socket, with TLS, stopped when dropped.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "each test program uses a part of it"
)]

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// The password of the user `postgres`.
pub const PASSWORD: &str = "of the test";

/// A server, started.
pub struct Postgres {
    directory: tempfile::TempDir,
    binaries: PathBuf,
    settings: Vec<String>,
    environment: Vec<(String, String)>,
    port: u16,
    process: Option<Child>,
    /// The certificate authority, as PEM.
    pub authority: String,
}

/// Where the newest PostgreSQL of this machine is.
pub fn binaries() -> Option<PathBuf> {
    let version = |path: &PathBuf| -> u32 {
        let name = path.parent().and_then(Path::file_name);
        name.and_then(|name| name.to_str()?.parse().ok())
            .unwrap_or(0)
    };
    let installed = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    installed
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").is_file() && bin.join("postgres").is_file())
        .max_by_key(version)
}

impl Postgres {
    /// Makes and starts a server.
    pub fn start(settings: &[&str]) -> Self {
        Self::start_in(settings, &[])
    }

    /// Makes and starts a server with these environment variables.
    pub fn start_in(settings: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut server = Self::prepare(settings, environment);
        let home = server.directory.path().to_owned();
        let mut initdb = server.command("initdb");
        initdb
            .args(["--no-sync", "-U", "postgres"])
            .args(["-A", "scram-sha-256", "-E", "UTF8", "--locale", "C", "-D"])
            .arg(home.join("data"))
            .arg("--pwfile")
            .arg(home.join("password"));
        run(&mut initdb);
        server.run();
        server
    }

    /// Makes and starts a replica of this server, which streams and follows
    /// asynchronously.
    pub fn replica(&self) -> Self {
        let mut replica = Self::prepare(&[], &[]);
        let mut copy = replica.command("pg_basebackup");
        copy.args(["-U", "postgres", "-h"])
            .arg(self.directory.path())
            .args(["-p", &self.port.to_string()])
            .args(["--checkpoint=fast", "--wal-method=stream"])
            .args(["--write-recovery-conf", "-D"])
            .arg(replica.directory.path().join("data"));
        run(&mut copy);
        replica.run();
        replica
    }

    fn prepare(settings: &[&str], environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("katachi-pg-")
            .tempdir()
            .unwrap();
        let (authority, certificate, key) = certificates();
        let server = Self {
            directory,
            binaries: binaries().expect("PostgreSQL is installed"),
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            environment: environment
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            port: 0,
            process: None,
            authority,
        };
        let home = server.directory.path().to_owned();
        for (name, content) in [
            ("server.crt", certificate.as_str()),
            ("server.key", &key),
            ("password", PASSWORD),
            (
                "hba.conf",
                "local all,replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
            ),
        ] {
            std::fs::write(home.join(name), content).unwrap();
        }
        run(Command::new("chmod")
            .arg("0600")
            .arg(home.join("server.key")));
        if let Some((user, group)) = account() {
            run(Command::new("chown")
                .args(["-R", &format!("{user}:{group}")])
                .arg(&home));
        }
        server
    }

    /// Where its Unix socket lies.
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// The server's process.
    pub fn process(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Over TLS, as `localhost`.
    pub fn url(&self) -> String {
        format!(
            "host=localhost hostaddr=127.0.0.1 port={} user=postgres dbname=postgres password='{PASSWORD}'",
            self.port
        )
    }

    /// Over the Unix socket.
    pub fn local_url(&self) -> String {
        format!(
            "host={} port={} user=postgres dbname=postgres",
            self.directory.path().display(),
            self.port
        )
    }

    /// Starts the server, again if need be, on its port.
    pub fn run(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if self.port == 0 {
                let free = TcpListener::bind("127.0.0.1:0").unwrap();
                self.port = free.local_addr().unwrap().port();
            }
            let home = self.directory.path();
            let mut command = self.command("postgres");
            command
                .arg("-D")
                .arg(home.join("data"))
                .arg("-k")
                .arg(home)
                .args(["-p", &self.port.to_string(), "-h", "127.0.0.1"])
                .args([
                    "-c",
                    "fsync=on",
                    "-c",
                    "ssl=on",
                    "-c",
                    "max_connections=300",
                ])
                .args([
                    "-c",
                    &format!("ssl_cert_file={}", home.join("server.crt").display()),
                ])
                .args([
                    "-c",
                    &format!("ssl_key_file={}", home.join("server.key").display()),
                ])
                .args([
                    "-c",
                    &format!("hba_file={}", home.join("hba.conf").display()),
                ]);
            for setting in &self.settings {
                command.args(["-c", setting]);
            }
            for (name, value) in &self.environment {
                command.env(name, value);
            }
            let mut process = command.spawn().unwrap();
            while process.try_wait().unwrap().is_none() {
                if self.is_ready() {
                    self.process = Some(process);
                    return;
                }
                if Instant::now() > deadline {
                    process.kill().unwrap();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            // Its port was taken, or processes of the killed one still live.
            std::thread::sleep(Duration::from_millis(100));
        }
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        panic!("PostgreSQL does not start:\n{log}");
    }

    fn is_ready(&self) -> bool {
        let mut ready = self.command("pg_isready");
        ready
            .arg("-h")
            .arg(self.directory.path())
            .args(["-p", &self.port.to_string()]);
        ready.status().is_ok_and(|status| status.success())
    }

    /// Kills the server as a power cut would: no process of it gets to say anything.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let children = children(process.id());
            process.kill().unwrap();
            for child in children {
                let _ = Command::new("kill")
                    .args(["-9", &child])
                    .stderr(Stdio::null())
                    .status();
            }
            process.wait().unwrap();
        }
    }

    /// Sends a signal such as `-STOP` to every process of the server.
    pub fn signal(&self, signal: &str) {
        let process = self.process();
        let mut all = children(process);
        all.push(process.to_string());
        run(Command::new("kill").arg(signal).args(&all));
    }

    /// Kills one server process that serves a client; the server then restarts itself.
    pub fn kill_backend(&self, pid: i32) {
        run(Command::new("kill").args(["-9", &pid.to_string()]));
    }

    /// A program of PostgreSQL, run as its user where we are root.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .unwrap();
        command
            .current_dir("/")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if let Some((user, group)) = account() {
            command.gid(group).uid(user);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The account to run PostgreSQL under, which refuses to run as root.
fn account() -> Option<(u32, u32)> {
    let number = |arguments: &[&str]| -> u32 {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    (number(&["-u"]) == 0).then(|| (number(&["-u", "postgres"]), number(&["-g", "postgres"])))
}

fn children(process: u32) -> Vec<String> {
    let path = format!("/proc/{process}/task/{process}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    children.split_whitespace().map(str::to_owned).collect()
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// An authority, and a certificate for `localhost` with its key.
pub fn certificates() -> (String, String, String) {
    let (mut authority, authority_key) =
        (CertificateParams::default(), KeyPair::generate().unwrap());
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    (
        authority_certificate.pem(),
        certificate.pem(),
        key.serialize_pem(),
    )
}
