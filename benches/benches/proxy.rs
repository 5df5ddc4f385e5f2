//! Processor time for each MiB of allowed HTTPS: of the process that holds our
//! proxy, and of nginx as a stream proxy. The same curl fetches the same file
//! from the same origin through either.
//!
//! Prints one line of JSON for each figure, in nanoseconds.

use std::path::Path;
use std::process::{Command, Stdio};

use katachi_benches::nginx::{self, Nginx, STREAM, free_port};
use katachi_benches::processor_time;
use katachi_sandbox::{PlanOptions, Policy};

/// What is fetched at once, in MiB.
const SIZE: u64 = 2048;

fn main() {
    katachi_sandbox::helper::run_if_requested();

    let needed = [nginx::PROGRAM, STREAM, "/usr/bin/curl", "/usr/bin/openssl"];
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

fn used(pid: u32) -> f64 {
    processor_time(pid).expect("the process lives")
}
