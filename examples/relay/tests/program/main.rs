//! The program itself: how it starts, what it says, how it stops.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(
    dead_code,
    reason = "the helpers are shared with the tests of the service"
)]

#[path = "../service/agent.rs"]
mod agent;
mod backup;
mod certificate;
#[path = "../service/embedded.rs"]
mod embedded;
#[cfg(target_os = "linux")]
mod flood;
#[cfg(target_os = "linux")]
mod forgeries;
#[cfg(unix)]
mod guide;
#[path = "../service/held.rs"]
mod held;
#[cfg(target_os = "linux")]
mod idle;
#[cfg(unix)]
mod pages;
#[path = "../service/relay.rs"]
mod relay;
#[cfg(target_os = "linux")]
#[path = "../service/returning.rs"]
mod returning;
mod rotation;
#[cfg(target_os = "linux")]
mod storm;
#[cfg(target_os = "linux")]
mod stream;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[cfg(target_os = "linux")]
use returning::config;

use agent::{TestAgent, poll, start_device};
use embedded::database;
use relay::{PASSWORD, TestRelay};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_katachi-relay"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KATACHI_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a relay says once it listens.
fn ready_line(child: &mut std::process::Child) -> Value {
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

fn failing(arguments: &[&str]) -> (Output, String) {
    let output = program().args(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    (output, said)
}

#[test]
fn it_says_where_it_listens_serves_and_stops_when_told() {
    let state = tempfile::tempdir().unwrap();
    let mut child = program()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--no-keychain",
            "--ready-json",
            "--state-dir",
        ])
        .arg(state.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let address = ready["listening"].as_str().unwrap();
    assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"));
    let port = address.rsplit(':').next().unwrap();
    assert_eq!(
        ready["public_url"],
        format!("https://katachi.localhost:{port}")
    );
    let pem = std::fs::read_to_string(ready["ca"].as_str().unwrap()).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"));
    TcpStream::connect(address).unwrap();

    #[cfg(unix)]
    {
        let told = Instant::now();
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(told.elapsed() < Duration::from_secs(10), "it did not stop");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success());
        let mut log = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        for line in log.lines() {
            assert!(
                serde_json::from_str::<Value>(line).is_ok(),
                "not one JSON object: {line}"
            );
        }
        assert!(log.contains("stopped"));
    }
    #[cfg(not(unix))]
    child.kill().unwrap();
}

#[test]
fn a_database_that_cannot_be_used_is_named_with_the_next_step() {
    let state = tempfile::tempdir().unwrap();
    let (_, said) = failing(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--no-keychain",
        "--state-dir",
        state.path().to_str().unwrap(),
        "--database",
        "postgres://user:hunter2@localhost/katachi",
    ]);
    assert!(
        said.contains("over a network the database needs TLS: give --database-ca FILE"),
        "{said}"
    );
    assert!(!said.contains("hunter2"));
    let (_, said) = failing(&["serve", "--database", "postgres://user:hunter2@:x/"]);
    assert!(
        said.contains("write postgres://USER:PASSWORD@HOST/DATABASE"),
        "{said}"
    );
    assert!(!said.contains("hunter2"));
    let (_, said) = failing(&["migrate"]);
    assert!(said.contains("give --database"), "{said}");
    let (_, said) = failing(&["serve", "--database", "mysql://x"]);
    assert!(
        said.contains("`mysql` is not a kind of database that is known"),
        "{said}"
    );
}

#[test]
fn a_mistake_in_the_arguments_names_the_option() {
    for (arguments, expected) in [
        (&["serve", "--listen", "nowhere"][..], "--listen"),
        (
            &["serve", "--public-url", "http://relay.example"],
            "not an https origin",
        ),
        (&["serve", "--listen", "0.0.0.0:0"], "--public-url"),
        (
            &["serve", "--public-url", "https://relay.example"],
            "--tls-cert",
        ),
        (&["serve", "--tls-cert", "a.pem"], "--tls-key"),
        (&["server"], "serve"),
    ] {
        let (_, said) = failing(arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_certificate_that_is_none_is_named_and_nothing_listens() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("cert.pem");
    std::fs::write(&file, "not a certificate").unwrap();
    let (file, dir) = (file.to_str().unwrap(), state.path().to_str().unwrap());
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--no-keychain",
        "--state-dir",
        dir,
        "--tls-cert",
        file,
        "--tls-key",
        file,
    ];
    let (_, said) = failing(&arguments);
    assert!(
        said.contains("cert.pem") && said.contains("--tls-cert"),
        "{said}"
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let state = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = state.path().to_str().unwrap();
    let (_, said) = failing(&[
        "serve",
        "--listen",
        &address,
        "--no-keychain",
        "--state-dir",
        dir,
    ]);
    assert!(
        said.contains(&format!("cannot listen on {address}")),
        "{said}"
    );
}

#[test]
fn the_help_names_every_option_and_its_variable() {
    let output = program().args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for name in [
        "LISTEN",
        "PUBLIC_URL",
        "DATABASE",
        "TLS_CERT",
        "TLS_KEY",
        "STATE_DIR",
        "SECURITY_CONTACT",
        "SIGN_UP",
        "NO_KEYCHAIN",
    ] {
        assert!(help.contains(&format!("KATACHI_RELAY_{name}")), "{name}");
    }
    assert!(help.contains("--ready-json"));
}

#[test]
fn no_secret_is_in_the_log_however_much_it_says() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let mut child = program()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--no-keychain",
            "--ready-json",
            "--state-dir",
        ])
        .arg(state.path())
        .env("KATACHI_RELAY_LOG", "trace")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut log = Vec::new();
        stderr.read_to_end(&mut log).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    });
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let relay = TestRelay::of_process(&serde_json::from_str(&line).unwrap(), state);

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let secrets = runtime.block_on(async {
        let browser = relay.browser();
        let account = json!({"email": "ana@example.org", "password": PASSWORD});
        let answer = browser.post("/api/signup", account.clone()).await;
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
        browser.post("/api/login", json!({"email": "ana@example.org", "password": "a-wrong-guess"})).await;
        let started = start_device(&relay).await;
        let user_code = started["user_code"].as_str().unwrap().to_owned();
        browser.json(&format!("/api/device?user_code={user_code}")).await;
        browser.post("/api/device/approve", json!({"user_code": user_code})).await;
        let device_code = started["device_code"].as_str().unwrap().to_owned();
        let token: Value = poll(&relay, &device_code).await.json().await.unwrap();
        let agent = TestAgent::from_token(&token);
        let mcp = json!({
            "command": ["x"], "secrets": {"TOKEN": "canary-mcp-secret"}, "released_to": [agent.id.as_str()],
        });
        assert!(browser.send(reqwest::Method::PUT, "/api/mcp/x", Some(mcp)).await.status().is_success());
        let answer = agent.call(&relay, http::Method::GET, "/v1/agent/mcp", None).await;
        assert!(answer.body.to_string().contains("canary-mcp-secret"));
        let session = cookie.split(['=', ';']).nth(1).unwrap().to_owned();
        vec![
            PASSWORD.to_owned(),
            "a-wrong-guess".to_owned(),
            session,
            user_code,
            device_code,
            token["hmac_secret"].as_str().unwrap().to_owned(),
            "canary-mcp-secret".to_owned(),
        ]
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let log = log.join().unwrap();
    assert!(log.contains("/v1/agent/mcp"), "the log was read");
    for secret in secrets {
        let leak = log.lines().find(|line| line.contains(&secret));
        assert!(leak.is_none(), "{secret} is in the log: {leak:?}");
    }
}

/// A program that keeps keys, started as an ordinary user, who is refused its
/// memory as the same user. Root is not refused, so the test gives it up.
#[cfg(target_os = "linux")]
#[test]
fn a_program_of_the_same_user_cannot_read_its_memory() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    use std::os::unix::process::CommandExt as _;

    const NOBODY: u32 = 65534;
    let dir = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir(&state).unwrap();
    // Where it was built need not be open to that user.
    let copy = dir.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_katachi-relay"), &copy).unwrap();
    let is_root = chown(&state, Some(NOBODY), Some(NOBODY)).is_ok();
    let as_user = |mut command: Command| {
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.current_dir("/").stdin(Stdio::piped());
        command.stdout(Stdio::piped());
        command
    };
    let mut command = Command::new(&copy);
    command
        .args(["serve"])
        .args(["--listen", "127.0.0.1:0", "--no-keychain", "--ready-json"])
        .arg("--state-dir")
        .arg(&state)
        .stderr(Stdio::null());
    let mut hardened = as_user(command).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(hardened.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("listening"), "{line}");
    let mut ordinary = as_user(Command::new("cat")).spawn().unwrap();
    // Until its own program is loaded, the child is still ours.
    std::thread::sleep(Duration::from_millis(200));
    let maps = |pid: u32| {
        let mut command = as_user(Command::new("cat"));
        let output = command.arg(format!("/proc/{pid}/maps")).output().unwrap();
        output.status.success() && !output.stdout.is_empty()
    };
    let seen = (maps(ordinary.id()), maps(hardened.id()));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", hardened.id())).unwrap();
    for child in [&mut hardened, &mut ordinary] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(seen, (true, false), "whose memory could be read");
    let core = limits.lines().find(|line| line.contains("core")).unwrap();
    let core: Vec<_> = core.split_whitespace().collect();
    assert_eq!(core[4..6], ["0", "0"], "{limits}");
}

#[test]
fn metrics_are_for_this_machine_alone() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let (_, said) = failing(&["serve", "--metrics", "0.0.0.0:0", "--state-dir", state]);
    assert!(said.contains("--metrics 127.0.0.1:PORT"), "{said}");
}

#[test]
fn options_for_sign_in_that_contradict_themselves_say_what_to_write() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let listen = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--no-keychain",
        "--state-dir",
        state,
    ];
    for (given, said) in [
        (
            &["--provider", "github,client-id=a,secret=s3cret"][..],
            "secret-file=FILE",
        ),
        (
            &["--provider", "github,client-id=a"],
            "KATACHI_RELAY_PROVIDER_GITHUB_SECRET",
        ),
        (&["--provider", "work,client-id=a"], "issuer=URL is missing"),
        (
            &[
                "--provider",
                "a,client-id=a,issuer=https://id.example",
                "--provider",
                "a,client-id=b,issuer=https://other.example",
            ],
            "given twice",
        ),
        (
            &["--mail-from", "relay@example.com"],
            "--smtp URL or --mail-dir DIR",
        ),
        (
            &["--mail-from", "relay", "--mail-dir", "/nonexistent"],
            "--mail-from",
        ),
        (
            &[
                "--mail-from",
                "relay@example.com",
                "--mail-dir",
                "/proc/mail",
            ],
            "/proc/mail",
        ),
        (&["--mail-dir", "/nonexistent"], "--mail-from"),
        (
            &[
                "--mail-from",
                "relay@example.com",
                "--smtp",
                "smtps://ana:s3cret@mail.example",
            ],
            "--smtp-password-file",
        ),
    ] {
        let (_, error) = failing(&[&listen[..], given].concat());
        assert!(error.contains(said), "{given:?}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}
