//! Processor time for each MiB of allowed HTTPS: of the process that holds our
//! proxy, and of nginx as a stream proxy. The same curl fetches the same file
//! from the same origin through either.
//!
//! Prints one line of JSON for each figure, in nanoseconds.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use katachi_sandbox::{PlanOptions, Policy};

/// What is fetched at once, in MiB.
const SIZE: u64 = 2048;
/// The clock of `/proc/PID/stat` on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

fn main() {
    katachi_sandbox::helper::run_if_requested();

    let needed = [
        "/usr/sbin/nginx",
        STREAM,
        "/usr/bin/curl",
        "/usr/bin/openssl",
    ];
    if let Some(missing) = needed.iter().find(|path| !Path::new(path).exists()) {
        eprintln!("{missing} is not there, so nothing is measured");
        return;
    }
    let bed = Bed::new();
    // Once for the caches, of either.
    bed.ours(64);
    bed.peer(64);
    println!("{{\"figure\":\"nginx\",\"ns\":{}}}", bed.peer(SIZE));
    println!("{{\"figure\":\"ours\",\"ns\":{}}}", bed.ours(SIZE));
}

/// The origin and the peer, gone with it.
struct Bed {
    origin: Nginx,
    stream: Nginx,
    directory: tempfile::TempDir,
}

struct Nginx {
    port: u16,
    master: Child,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It ends its workers when it is asked to, and not when it is killed.
        let _ = Command::new("kill")
            .arg(self.master.id().to_string())
            .status();
        let _ = self.master.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback has free ports")
        .port()
}

impl Nginx {
    fn start(directory: &Path, name: &str, port: u16, module: &str, block: &str) -> Self {
        let pid_file = directory.join(format!("{name}.pid"));
        let config = directory.join(format!("{name}.conf"));
        let text = format!(
            "{module}\ndaemon off;\nuser root;\nworker_processes 1;\npid {};\nerror_log /dev/null;\nevents {{}}\n{block}\n",
            pid_file.display()
        );
        std::fs::write(&config, text).expect("the configuration is written");
        let master = Command::new("/usr/sbin/nginx")
            .args(["-e", "/dev/null", "-p"])
            .arg(directory)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        let started = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(started, "nginx listens");
        Self { port, master }
    }

    /// The process that does the work.
    fn worker(&self) -> u32 {
        let master = self.master.id();
        let children = format!("/proc/{master}/task/{master}/children");
        std::fs::read_to_string(children)
            .ok()
            .and_then(|text| text.split_whitespace().next()?.parse().ok())
            .expect("nginx has a worker")
    }
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        let (key, certificate) = (path.join("key.pem"), path.join("ca.pem"));
        let made = Command::new("/usr/bin/openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
            .args([
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=a",
            ])
            .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status();
        assert!(
            made.is_ok_and(|status| status.success()),
            "openssl makes a certificate"
        );
        let file = std::fs::File::create(path.join("zeros")).expect("a file");
        file.set_len(SIZE << 20).expect("a file with a hole");
        let (origin, stream) = (free_port(), free_port());
        let http = format!(
            "http {{ access_log off; server {{ listen 127.0.0.1:{origin} ssl; ssl_certificate {}; ssl_certificate_key {}; root {}; }} }}",
            certificate.display(),
            key.display(),
            path.display()
        );
        let relay = format!(
            "stream {{ server {{ listen 127.0.0.1:{stream}; proxy_pass 127.0.0.1:{origin}; }} }}"
        );
        let module = format!("load_module {STREAM};");
        Self {
            origin: Nginx::start(path, "origin", origin, "", &http),
            stream: Nginx::start(path, "stream", stream, &module, &relay),
            directory,
        }
    }

    fn fetch(port: u16, size: u64) -> Vec<String> {
        let last = (size << 20) - 1;
        [
            "curl",
            "-sS",
            "--fail",
            "--cacert",
            "ca.pem",
            "-r",
            &format!("0-{last}"),
            "-o",
            "/dev/null",
            &format!("https://127.0.0.1:{port}/zeros"),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn peer(&self, size: u64) -> f64 {
        let argv = Self::fetch(self.stream.port, size);
        let worker = self.stream.worker();
        let before = used(worker);
        let status = Command::new(&argv[0])
            .args(&argv[1..])
            .current_dir(self.directory.path())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "curl fetches");
        (used(worker) - before) / size as f64
    }

    fn ours(&self, size: u64) -> f64 {
        let plan = Policy::default()
            .read("@system")
            .read(".")
            .allow("curl")
            .allow_host(format!("127.0.0.1:{}", self.origin.port))
            .plan(&PlanOptions::new(self.directory.path()))
            .expect("curl is installed");
        let before = used(std::process::id());
        let mut child = plan
            .command(Self::fetch(self.origin.port, size))
            .spawn()
            .expect("this machine can confine");
        assert!(
            child.wait().expect("it ends").success(),
            "curl fetches inside"
        );
        (used(std::process::id()) - before) / size as f64
    }
}

/// Processor time of a process and its threads so far, in nanoseconds.
fn used(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let (_, fields) = stat
        .rsplit_once(')')
        .expect("the name stands in parentheses");
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<f64>().expect("a number"))
        .sum();
    ticks / TICKS_PER_SECOND * 1e9
}
