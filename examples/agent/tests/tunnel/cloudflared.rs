//! The tunnel through a supervised `cloudflared`: a stand-in for that program checks
//! how it is called, one for Cloudflare's API keeps the books, and a paired device talks
//! through all of it. No traffic leaves this machine.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use katachi_protocol::channel::PairingFragment;
use libtest_mimic::Trial;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::cloudflare_api::{ACCOUNT, API_TOKEN, Api, ZONE};
use crate::support::browser::{Browser, EMAIL};
use crate::support::meeting::Meeting;
use crate::support::served::Served;
use crate::support::up::{PATIENCE, Up};
use crate::support::{Place, meeting, needing};

pub(crate) fn trials() -> Vec<Trial> {
    let python = Path::new("/usr/bin/python3").exists();
    let on_linux = cfg!(target_os = "linux") && python;
    let trial = |name: &str, test: fn()| needing("Linux with Python", on_linux, name, test);
    vec![
        trial(
            "a_paired_device_talks_through_cloudflared_and_its_token_lies_nowhere",
            a_paired_device_talks_through_cloudflared_and_its_token_lies_nowhere,
        ),
        trial(
            "the_origin_takes_the_relays_request_once_and_no_others",
            the_origin_takes_the_relays_request_once_and_no_others,
        ),
        trial(
            "another_program_than_the_wanted_one_is_not_started",
            another_program_than_the_wanted_one_is_not_started,
        ),
        trial(
            "a_program_that_is_too_old_or_that_others_can_write_is_not_started",
            a_program_that_is_too_old_or_that_others_can_write_is_not_started,
        ),
        trial(
            "a_cloudflared_without_connection_is_reported",
            a_cloudflared_without_connection_is_reported,
        ),
        trial(
            "a_cloudflared_that_loses_its_connection_is_noticed_while_it_carries",
            a_cloudflared_that_loses_its_connection_is_noticed,
        ),
        trial(
            "without_a_name_the_cloudflared_in_path_is_started_and_none_elsewhere",
            the_cloudflared_in_path_is_started,
        ),
        trial(
            "a_cloudflared_that_keeps_ending_is_reported_without_its_token",
            a_cloudflared_that_keeps_ending_is_reported_without_its_token,
        ),
    ]
}

/// A relay, Cloudflare's API, and a `cloudflared` to be started.
struct Stage {
    place: Place,
    runtime: tokio::runtime::Runtime,
    api: Api,
    relay: Served,
    /// Where the stand-in takes Cloudflare's side of the tunnel.
    port: u16,
    program: PathBuf,
}

impl Stage {
    /// A stage on which `cloudflared` does as told: `serve`, `unready` or `crash`.
    fn set(does: &str) -> Self {
        let place = Place::new();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let api = runtime.block_on(Api::start());
        let program = place.file("cloudflared", include_str!("../support/cloudflared.py"));
        chmod(&program, 0o755);
        let port = free_port();
        settle(&place, does, port, "2025.10.1");
        let authority = edge_certificate(&place);
        let state = place.home().join("relay");
        let relay = Served::start(&state, |relay| {
            relay
                .args(["--listen", "127.0.0.1:0"])
                .args(["--cloudflare-account", ACCOUNT, "--cloudflare-zone", ZONE])
                .args(["--cloudflare-domain", "tunnels.example"])
                .args(["--cloudflare-api", &api.url()])
                .args(["--cloudflare-edge", &format!("127.0.0.1:{port}")])
                .arg("--cloudflare-ca")
                .arg(&authority)
                .env("KATACHI_RELAY_CLOUDFLARE_TOKEN", API_TOKEN)
        });
        Self {
            place,
            runtime,
            api,
            relay,
            port,
            program,
        }
    }

    fn options(&self) -> Vec<String> {
        let relay = &self.relay;
        let options = ["--relay-url", &relay.url, "--relay-ca", &relay.authority];
        let program = self.program.to_str().unwrap().to_owned();
        let carrier = ["--tunnel-carrier", "cloudflared", "--cloudflared", &program];
        let all = options.into_iter().chain(carrier);
        all.map(str::to_owned).collect()
    }

    fn up(&self, further: &[&str]) -> Up {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Up::start(&self.place, &[&options[..], further].concat())
    }

    /// Signs up and approves the machine behind `up`.
    fn approve(&self, up: &mut Up) -> Browser {
        let link = up.wait_for("https://");
        let code = up.wait_for("code ");
        let (_, fragment) = link.split_once('#').unwrap();
        up.fragment = PairingFragment::parse(fragment);
        let ca = std::fs::read_to_string(&self.relay.authority).unwrap();
        self.runtime.block_on(async {
            let browser = Browser::new(&self.relay.url, &ca);
            browser.sign_up(EMAIL).await;
            browser.approve(&code).await;
            browser
        })
    }

    /// Waits until the account sees its agent.
    fn online(&self, browser: &Browser) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let agents = self.runtime.block_on(browser.agents()).agents;
            if agents[0].online {
                return agents[0].id.clone();
            }
            assert!(Instant::now() < deadline, "{agents:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the stand-in wrote down.
    fn reports(&self) -> Vec<Value> {
        let file = self.program.with_file_name("report.jsonl");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn socket(&self) -> PathBuf {
        self.place.home().join("state/cloudflared/origin")
    }
}

fn a_paired_device_talks_through_cloudflared_and_its_token_lies_nowhere() {
    let stage = Stage::set("serve");
    let mut up = stage.up(&[]);
    let browser = stage.approve(&mut up);
    up.wait_for("Connected.");
    let agent = stage.online(&browser);
    let meeting = Meeting { browser, agent };
    let device = stage.runtime.block_on(meeting.paired(&up));

    let (hostname, token) = stage.api.only();
    let report = stage.reports().remove(0);
    let argv: Vec<&str> = report["argv"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    let dir = stage.socket();
    let dir = dir.parent().unwrap();
    let config = dir.join("config.yml");
    let port = argv[5].strip_prefix("127.0.0.1:").unwrap();
    assert!(port.parse::<u16>().is_ok());
    let config = config.to_str().unwrap();
    let expected = format!(
        "tunnel --config {config} --no-autoupdate --metrics {} --output json \
         --grace-period 5s run --token-file /dev/stdin",
        argv[5]
    );
    assert_eq!(argv.join(" "), expected);
    assert_eq!(report["stdin_is_pipe"], true);
    assert_eq!(report["modes"], serde_json::json!([0o700, 0o600, 0o600]));
    assert_eq!(report["ingress"][0]["hostname"], hostname);
    assert_eq!(report["metrics"], argv[5]);
    assert_eq!(report["ingress"][1]["service"], "http_status:404");
    let digest: String = Sha256::digest(token.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        report["token_sha256"],
        digest.as_str(),
        "it got another token"
    );

    // Nobody's arguments or variables have it, and no file.
    let pid = report["pid"].as_u64().unwrap();
    assert_eq!(std::fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    let root = stage.program.parent().unwrap();
    assert_eq!(holders(&token, root), Vec::<PathBuf>::new());
    let mut control = Command::new("sleep")
        .arg("60")
        .env("CONTROL", &token)
        .spawn()
        .unwrap();
    let file = stage.place.file("control", &token);
    std::thread::sleep(Duration::from_millis(200));
    let environ = PathBuf::from(format!("/proc/{}/environ", control.id()));
    assert_eq!(holders(&token, root), [environ, file]);
    control.kill().unwrap();
    control.wait().unwrap();

    // It is started again, and the device goes on.
    signal("-KILL", pid);
    until("a second start", || stage.reports().len() == 2);
    stage.online(&meeting.browser);
    let deadline = Instant::now() + PATIENCE;
    while stage
        .runtime
        .block_on(meeting.ask(&device, meeting::get("/v1/status")))
        .is_err()
    {
        assert!(
            Instant::now() < deadline,
            "the device does not get through again"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    // It ends with its agent, however that ends.
    let second = stage.reports()[1]["pid"].clone();
    up.child.kill().unwrap();
    drop(up);
    until("the end", || {
        stage.reports().last().unwrap()["ended"] == second
    });

    let options = stage.options();
    let unregister: Vec<&str> = std::iter::once("unregister")
        .chain(options.iter().map(String::as_str))
        .collect();
    stage.place.agent(&unregister).ok();
    until("the end of tunnel and name", || stage.api.left() == (0, 0));
}

fn the_origin_takes_the_relays_request_once_and_no_others() {
    let stage = Stage::set("serve");
    let mut up = stage.up(&[]);
    let browser = stage.approve(&mut up);
    up.wait_for("Connected.");
    stage.online(&browser);
    // The very bytes with which the relay came through a moment ago.
    let signed = std::fs::read(stage.program.with_file_name("request.bin")).unwrap();
    let text = String::from_utf8(signed).unwrap();
    assert!(text.contains("tag=\"katachi-origin/1\""), "{text}");
    let plain: String = text
        .split_inclusive("\r\n")
        .filter(|line| !line.to_lowercase().starts_with("signature"))
        .collect();
    let elsewhere = text.replacen("/v1/origin", "/v1/channel", 1);
    // With a nonce that nobody spent the signature alone stands in the way.
    let unspent = with_another_nonce(&text);
    let unspent_elsewhere = with_another_nonce(&elsewhere);
    for request in [&text, &plain, &elsewhere, &unspent, &unspent_elsewhere] {
        let mut stream = UnixStream::connect(stage.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 403", "{request}");
    }
    up.stop();
    until("a gentle end", || {
        stage.reports().last().unwrap()["ended"].is_number()
    });
    assert!(!stage.socket().exists());
}

/// The request with one character of its nonce exchanged.
fn with_another_nonce(request: &str) -> String {
    let (before, nonce) = request.split_once("nonce=\"").unwrap();
    let other = match nonce.starts_with('A') {
        true => 'B',
        false => 'A',
    };
    format!("{before}nonce=\"{other}{}", &nonce[1..])
}

fn another_program_than_the_wanted_one_is_not_started() {
    let stage = Stage::set("serve");
    let wrong = "ab".repeat(32);
    let mut up = stage.up(&["--cloudflared-sha256", &wrong]);
    stage.approve(&mut up);
    let said = up.wait_for("has another SHA-256");
    assert!(said.contains("not started"), "{said}");
    assert_eq!(up.ends(), Some(2));
    assert_eq!(stage.reports(), Vec::<Value>::new());
    assert_eq!(stage.api.left(), (0, 0));
    // The control: with its own digest it is.
    let own: String = Sha256::digest(std::fs::read(&stage.program).unwrap())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut up = stage.up(&["--cloudflared-sha256", &own]);
    up.wait_for("Connected.");
    up.stop();
}

fn a_program_that_is_too_old_or_that_others_can_write_is_not_started() {
    let stage = Stage::set("serve");
    chmod(&stage.program, 0o775);
    let mut up = stage.up(&[]);
    stage.approve(&mut up);
    up.wait_for("can be written by others");
    assert_eq!(up.ends(), Some(2));
    chmod(&stage.program, 0o755);
    settle(&stage.place, "serve", stage.port, "2024.12.2");
    let mut up = stage.up(&[]);
    up.wait_for("is version 2024.12.2, which takes its token from no file");
    assert_eq!(up.ends(), Some(2));
    assert_eq!(stage.reports(), Vec::<Value>::new());
    assert_eq!(stage.api.left(), (0, 0));
    // The control: well installed it is, and looked at again before a second start.
    settle(&stage.place, "serve", stage.port, "2025.4.0");
    let mut up = stage.up(&[]);
    up.wait_for("Connected.");
    chmod(&stage.program, 0o775);
    signal("-KILL", stage.reports()[0]["pid"].as_u64().unwrap());
    up.wait_for("can be written by others");
    assert_eq!(stage.reports().len(), 1);
    up.stop();
}

fn a_cloudflared_without_connection_is_reported() {
    let stage = Stage::set("unready");
    let mut up = stage.up(&[]);
    stage.approve(&mut up);
    let said = up.wait_for("no connection to Cloudflare");
    assert!(said.contains("/ready answers 503"), "{said}");
    // It is left to try on by itself.
    assert_eq!(stage.reports().len(), 1);
    up.stop();
}

impl Stage {
    /// What `doctor` says of the program.
    fn doctor(&self) -> (String, String) {
        let options = self.options();
        let options = options.iter().map(String::as_str);
        let asked: Vec<&str> = ["doctor", "--json"].into_iter().chain(options).collect();
        about(&self.place.agent(&asked).stdout)
    }
}

/// Health and detail of the program in what `doctor` says.
fn about(doctor: &str) -> (String, String) {
    let report: Value = serde_json::from_str(doctor).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let found = findings
        .iter()
        .find(|found| found["about"] == "cloudflared");
    let found = found.expect(doctor);
    let text = |name: &str| found[name].as_str().unwrap().to_owned();
    (text("health"), text("detail"))
}

/// The stand-in goes on forwarding: that it has no connection is seen by what it says.
fn a_cloudflared_that_loses_its_connection_is_noticed() {
    let stage = Stage::set("serve");
    let lost = stage.program.with_file_name("lost");
    let mut up = stage.up(&[]);
    let browser = stage.approve(&mut up);
    up.wait_for("Connected.");
    stage.online(&browser);
    let (health, detail) = stage.doctor();
    assert_eq!(health, "good", "{detail}");
    let counts = "connections to Cloudflare: 4, requests: 17, errors: 2";
    assert!(detail.ends_with(counts), "{detail}");
    // A paired device sees the same, and when it wavers.
    let agent = stage.online(&browser);
    let meeting = Meeting { browser, agent };
    let device = stage.runtime.block_on(meeting.paired(&up));
    let status = || stage.runtime.block_on(meeting.read(&device, "/v1/status"));
    let health = |ready: bool| {
        let counts = serde_json::json!({ "connections": 4, "requests": 17, "errors": 2 });
        serde_json::json!({ "ready": ready, "counts": counts })
    };
    let shows = |ready: bool| {
        let status: Value = status();
        status["cloudflared"] == health(ready)
    };
    until("a status that is well", || shows(true));
    let wavering = stage.program.with_file_name("wavering");
    std::fs::write(&wavering, "").unwrap();
    until("a status that is not", || shows(false));
    std::fs::remove_file(&wavering).unwrap();
    until("a status that is well again", || shows(true));
    let Meeting { browser, .. } = meeting;
    // It finds back by itself, and is the same as before.
    std::fs::write(&lost, "").unwrap();
    let said = up.wait_for("cloudflared lost its connection to Cloudflare: ");
    let counts = "/ready answers 503 (connections to Cloudflare: 0, requests: 17, errors: 2)";
    assert!(said.starts_with(counts), "{said}");
    std::fs::remove_file(&lost).unwrap();
    up.wait_for("Connected.");
    assert_eq!(stage.reports().len(), 1);
    // It does not, and another is started in its place.
    std::fs::write(&lost, "").unwrap();
    let (health, detail) = stage.doctor();
    assert_eq!(health, "weak", "{detail}");
    assert!(detail.contains("no connection to Cloudflare: "), "{detail}");
    up.wait_for("cloudflared lost its connection to Cloudflare: ");
    up.wait_for("it is started afresh");
    std::fs::remove_file(&lost).unwrap();
    up.wait_for("Connected.");
    stage.online(&browser);
    let started: Vec<_> = stage
        .reports()
        .into_iter()
        .filter(|report| report["argv"].is_array())
        .collect();
    assert_eq!(started.len(), 2, "{started:?}");
    up.stop();
    let (health, detail) = stage.doctor();
    assert_eq!(health, "good", "{detail}");
    assert!(detail.ends_with("which does not run now"), "{detail}");
}

fn the_cloudflared_in_path_is_started() {
    let stage = Stage::set("serve");
    // One that cannot be executed, and one where commands work, which a project brings.
    let decoys = stage.place.home().join("decoys");
    std::fs::create_dir(&decoys).unwrap();
    std::fs::write(decoys.join("cloudflared"), "").unwrap();
    let brought = stage.place.workspace().join("cloudflared");
    let trap = "#!/bin/sh\ntouch \"$(dirname \"$0\")/trapped\"\n";
    std::fs::write(&brought, trap).unwrap();
    chmod(&brought, 0o755);
    let dir = stage.program.parent().unwrap();
    let without = format!(".::{}", decoys.display());
    let command = |path: &str| {
        let relay = &stage.relay;
        let mut command = stage.place.command();
        command
            .env("PATH", path)
            .env("KATACHI_RELAY_URL", &relay.url)
            .env("KATACHI_RELAY_CA", &relay.authority)
            .env("KATACHI_TUNNEL_CARRIER", "cloudflared");
        command
    };
    let mut up = Up::start_by(command(&without), &[]);
    stage.approve(&mut up);
    up.wait_for("there is no cloudflared in PATH");
    assert_eq!(up.ends(), Some(2));
    let doctor = |path: &str| {
        let asked = command(path).args(["doctor", "--json"]).output().unwrap();
        about(&String::from_utf8(asked.stdout).unwrap())
    };
    let (health, detail) = doctor(&without);
    assert_eq!(health, "bad", "{detail}");
    assert!(
        detail.contains("there is no cloudflared in PATH"),
        "{detail}"
    );
    let with = format!("{without}:{}", dir.display());
    let mut up = Up::start_by(command(&with), &[]);
    up.wait_for("Connected.");
    assert_eq!(stage.reports().len(), 1);
    assert!(doctor(&with).1.starts_with(stage.program.to_str().unwrap()));
    up.stop();
    assert!(!stage.place.workspace().join("trapped").exists());
}

fn a_cloudflared_that_keeps_ending_is_reported_without_its_token() {
    let stage = Stage::set("crash");
    let mut up = stage.up(&[]);
    stage.approve(&mut up);
    let said = up.wait_for("ended by itself 3 times in a row");
    assert!(said.contains("bad token [secret]"), "{said}");
    // It is started again ever more seldom: each wait is a part, and at least a tenth, of
    // half a second that doubles.
    let said = up.wait_for("ended by itself 5 times in a row");
    let (_, wait) = said.split_once("trying again in ").unwrap();
    let wait: f64 = wait.trim_end_matches(" s").parse().unwrap();
    assert!(wait >= 0.8, "{said}");
    until("a sixth start", || stage.reports().len() == 6);
    let started = |nth: usize| stage.reports()[nth]["at"].as_f64().unwrap();
    let waited = started(5) - started(4);
    // It is told to a tenth of a second.
    assert!(waited >= wait - 0.05, "{waited} s: {said}");
    let (_, token) = stage.api.only();
    let shown = up.stop_and_show();
    assert!(!shown.contains(&token), "{shown}");
}

/// Processes and files below `root` that hold `text`, in that order.
fn holders(text: &str, root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        for part in ["cmdline", "environ"] {
            let path = process.path().join(part);
            // What ended meanwhile, or is not a process, holds nothing.
            if holds(&std::fs::read(&path).unwrap_or_default(), text) {
                found.push(path);
            }
        }
    }
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file()
                && holds(&std::fs::read(entry.path()).unwrap_or_default(), text)
            {
                found.push(entry.path());
            }
        }
    }
    found
}

fn holds(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn chmod(file: &Path, mode: u32) {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Tells the stand-in what to do.
fn settle(place: &Place, does: &str, port: u16, version: &str) {
    let setting = serde_json::json!({ "does": does, "port": port, "version": version });
    place.file("setting.json", &setting.to_string());
}

fn signal(name: &str, pid: u64) {
    let status = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Makes the certificate of the public names; gives the file of its authority.
fn edge_certificate(place: &Place) -> PathBuf {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::from_params(&parameters, &key);
    let own = rcgen::KeyPair::generate().unwrap();
    let names = vec!["*.tunnels.example".to_owned()];
    let leaf = rcgen::CertificateParams::new(names).unwrap();
    let leaf = leaf.signed_by(&own, &issuer).unwrap();
    place.file(
        "edge.pem",
        &format!("{}{}", own.serialize_pem(), leaf.pem()),
    );
    place.file("authority.pem", &authority.pem())
}
