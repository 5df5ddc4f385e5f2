//! The operator's guide: what it names is there, and its one machine works as written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};

use crate::certificate::{NAME, Running, authority, client};
use crate::pages::{PROGRAM, blocks, code, page, unit, values};
use crate::program;

fn help(of: &[&str]) -> Option<String> {
    let output = program().args(of).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    output.status.success().then_some(text)
}

/// The words of `text` made of letters of an option or a variable.
fn words(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    text.split(|c| !is_part(c)).collect()
}

#[test]
fn what_the_operators_pages_name_is_there() {
    let serve = help(&["serve"]).unwrap();
    let mut commands = 0;
    for name in ["docs/operator-guide.md", "examples/relay/README.md"] {
        let page = page(name);
        for variable in words(&page) {
            let is_of_acme = variable.contains("_ACME") && !cfg!(feature = "acme");
            let is_ours = variable.starts_with("KATACHI_RELAY_") && !variable.ends_with('_');
            if is_ours && !is_of_acme && variable != "KATACHI_RELAY_LOG" {
                assert!(words(&serve).contains(variable), "{name}: {variable}");
            }
        }
        for line in code(&page) {
            let mut said = line.split_whitespace();
            if !matches!(said.next(), Some("relay" | "katachi-relay")) {
                continue;
            }
            let said: Vec<&str> = said.take_while(|word| *word != "#").collect();
            let depth = if said.first() == Some(&"key") { 2 } else { 1 };
            let Some(path) = said.get(..depth) else {
                continue;
            };
            let help = help(path).unwrap_or_else(|| panic!("{name}: no command `{line}`"));
            let options = said[depth..].iter().filter(|word| word.starts_with("--"));
            for option in options {
                let is_of_acme = option.starts_with("--acme") && !cfg!(feature = "acme");
                assert!(
                    is_of_acme || words(&help).contains(option),
                    "{name}: no {option} in `{line}`"
                );
            }
            commands += 1;
        }
    }
    assert!(commands > 15, "{commands} commands were found");
}

#[test]
fn the_unit_agrees_with_the_rest_of_the_page() {
    let (page, unit) = (page("docs/operator-guide.md"), unit());
    let code = code(&page);
    let beginning = |with: &str| code.iter().find(|line| line.starts_with(with)).unwrap();
    assert_eq!(values(&unit, "ExecStart"), [format!("{PROGRAM} serve")]);
    let install: Vec<_> = beginning("cargo install").split(' ').collect();
    let root = install.iter().position(|word| *word == "--root").unwrap();
    assert_eq!(format!("{}/bin/katachi-relay", install[root + 1]), PROGRAM);

    let [user] = values(&unit, "User")[..] else {
        panic!("{unit}");
    };
    let home = format!("/var/lib/{}", values(&unit, "StateDirectory")[0]);
    assert!(code.contains(&format!("KATACHI_RELAY_STATE_DIR={home}")));
    let add = format!("useradd --system --home-dir {home} {user}");
    assert_eq!(beginning("useradd"), &add);
    let run = format!("exec runuser -u {user} -- {PROGRAM} \"$@\"");
    assert_eq!(beginning("exec"), &run);
    let file = values(&unit, "EnvironmentFile")[0];
    assert_eq!(beginning(". "), &format!(". {file}"));
    assert!(page.contains(&format!("`{file}`, with mode 0600")));

    let loaded = values(&unit, "LoadCredential");
    let loaded: BTreeSet<_> = loaded.iter().map(|one| one.split(':').next()).collect();
    let read = values(&unit, "Environment").join(" ");
    let read: BTreeSet<_> = read
        .split(' ')
        .map(|pair| Some(pair.split_once("=%d/")?.1))
        .collect();
    assert_eq!(loaded, read);
    let help = help(&["serve"]).unwrap();
    for variable in words(&unit)
        .into_iter()
        .filter(|word| word.starts_with("KATACHI"))
    {
        assert!(words(&help).contains(variable), "{variable}");
    }
}

/// The guide's variables and its way to run commands, in a directory.
struct Machine {
    root: PathBuf,
    address: SocketAddr,
    metrics: SocketAddr,
}

impl Machine {
    fn new(root: &Path) -> Self {
        let free = || {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
        };
        let (address, metrics) = (free(), free());
        let root = root.to_owned();
        let machine = Self {
            root,
            address,
            metrics,
        };
        machine.write(&machine.state());
        machine
    }

    fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    fn url(&self) -> String {
        format!("https://{NAME}:{}", self.address.port())
    }

    /// Writes both files, with what has to be another here in its place.
    fn write(&self, state: &Path) {
        let blocks = blocks(&page("docs/operator-guide.md"));
        let variables = blocks
            .iter()
            .find(|block| block.starts_with("KATACHI_RELAY_"));
        let script = blocks.iter().find(|block| block.starts_with("#!/bin/sh"));
        let mut here = BTreeMap::from([
            ("LISTEN", self.address.to_string()),
            ("PUBLIC_URL", self.url()),
            ("STATE_DIR", state.display().to_string()),
            ("METRICS", self.metrics.to_string()),
        ]);
        let lines = variables.unwrap().lines().map(|line| {
            let (name, _) = line.split_once('=').unwrap();
            match here.remove(name.trim_start_matches("KATACHI_RELAY_")) {
                Some(value) => format!("{name}={value}\n"),
                None => format!("{line}\n"),
            }
        });
        let file = self.root.join("relay.env");
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        assert!(here.is_empty(), "the guide does not set {here:?}");
        // Only root can become somebody else; here it stays who it is.
        let user = Command::new("id").arg("-un").output().unwrap();
        let switch = match user.stdout == b"root\n" {
            true => "runuser -u root -- ",
            false => "",
        };
        let script = script
            .unwrap()
            .replace("/etc/katachi/relay.env", file.to_str().unwrap())
            .replace("runuser -u katachi-relay -- ", switch)
            .replace(PROGRAM, env!("CARGO_BIN_EXE_katachi-relay"));
        let path = self.root.join("relay");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The program as the unit starts it, with what it loads in `credentials`.
    fn unit(&self, credentials: Option<&Path>) -> Command {
        let (unit, file) = (unit(), self.root.join("relay.env"));
        let start = values(&unit, "ExecStart")[0];
        let arguments = start.strip_prefix(PROGRAM).unwrap().split_whitespace();
        let file = std::fs::read_to_string(file).unwrap();
        let mut variables: Vec<_> = file.lines().map(str::to_owned).collect();
        if let Some(credentials) = credentials {
            let pairs = values(&unit, "Environment").join(" ");
            let pairs = pairs.replace("%d", credentials.to_str().unwrap());
            variables.extend(pairs.split(' ').map(str::to_owned));
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_katachi-relay"));
        command
            .args(arguments)
            .env_clear()
            .envs(variables.iter().map(|pair| pair.split_once('=').unwrap()))
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// `relay` with these arguments.
    fn relay(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.root.join("relay"));
        command.args(arguments).current_dir(&self.root).env_clear();
        command
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.relay(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }
}

async fn until_ready(client: &reqwest::Client, url: &str) {
    let began = Instant::now();
    while client.get(format!("{url}/readyz")).send().await.is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{url} is not ready"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn one_machine_works_as_the_guide_says_and_so_does_the_way_back() {
    let root = tempfile::tempdir().unwrap();
    let machine = Machine::new(root.path());
    let (ours, issuer) = authority();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    let file = |name: &str, text: &str| {
        let path = root.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    file("cert.pem", &certificate);
    file("key.pem", &key.serialize_pem());
    let unit = Running(machine.unit(Some(root.path())).spawn().unwrap());
    let outside = client(&ours, machine.address);
    until_ready(&outside, &machine.url()).await;
    let contact = format!("{}/.well-known/security.txt", machine.url());
    let contact = outside
        .get(contact)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        contact.contains("mailto:security@relay.example"),
        "{contact}"
    );
    let metrics = format!("http://{}/metrics", machine.metrics);
    let metrics = outside
        .get(metrics)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(metrics.contains("katachi_relay_tunnels 0"), "{metrics}");
    let account = serde_json::json!({"email": "ana@example.org", "password": crate::PASSWORD});
    let signed_up = outside.post(format!("{}/api/signup", machine.url()));
    let signed_up = signed_up
        .header("origin", machine.url())
        .json(&account)
        .send();
    assert_eq!(signed_up.await.unwrap().status(), 201);

    let code = machine.done(&["backup", "backup"]);
    drop(unit);
    // Another machine: a directory that is empty, and the code in a file.
    let state = root.path().join("other");
    std::fs::create_dir(&state).unwrap();
    machine.write(&state);
    file("code.txt", &code);
    machine.done(&["restore", "backup", "--recovery-code-file", "code.txt"]);
    let url = format!("https://katachi.localhost:{}", machine.address.port());
    let mut again = machine.unit(None);
    again.args(["--public-url", &url]);
    let _again = Running(again.spawn().unwrap());
    let began = Instant::now();
    let authority = state.join("tls/ca.pem");
    while !authority.exists() {
        assert!(began.elapsed() < Duration::from_secs(30), "no authority");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let inside = client(
        &std::fs::read_to_string(authority).unwrap(),
        machine.address,
    );
    until_ready(&inside, &url).await;
    let signed_in = inside
        .post(format!("{url}/api/login"))
        .header("origin", &url);
    let signed_in = signed_in.json(&account).send().await.unwrap();
    assert_eq!(signed_in.status(), 200, "the account came back");
}
