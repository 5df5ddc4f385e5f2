//! What the full suite needs from outside, and how it gets here.
//!
//! Debian packages are installed where we are root; Python and Node peers and
//! cargo-deny go into `.tools`, a private folder of the checkout.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{machine, run};

/// Debian packages, and what each is for.
const DEBIAN: &[(&str, &str)] = &[
    ("libssl-dev", "the SQLCipher of the test builds"),
    ("g++", "linking libFuzzer"),
    ("python3-venv", "the Python peers"),
    ("gnome-keyring", "a real Secret Service"),
    ("dbus", "the bus that it answers on"),
    ("keyutils", "another session of the kernel's keyrings"),
    ("swtpm", "a software TPM 2.0"),
    ("faketime", "clocks that are wrong"),
    ("strace", "kills and faults at chosen system calls"),
    ("libsecret-tools", "an independent client of it"),
    ("bubblewrap", "the peer of the sandbox benches"),
    ("firejail", "another"),
    ("ripgrep", "a third, srt, which comes with long runs"),
    ("socat", "the same"),
    ("git", "repositories inside the sandbox"),
    ("busybox", "one program with many names inside the sandbox"),
    ("curl", "a client of allowed hosts inside the sandbox"),
    ("openssh-client", "a client that is refused there"),
    ("nginx-light", "the peer of the proxy bench, and its origin"),
    ("libnginx-mod-stream", "what makes it a stream proxy"),
    ("chromium", "the browser console"),
    ("tcpdump", "the packets that pass meanwhile"),
    ("age", "a peer of the sealing benches"),
    ("valgrind", "counting instructions of comparisons"),
    ("rustc-web", "type checks for other systems"),
    ("cargo-web", "the same"),
    ("rust-web-src", "the standard library of those systems"),
    ("rust-web-clippy", "lints for those systems"),
    ("gcc-mingw-w64-x86-64", "the C compiler of one of them"),
    ("tpm2-tools", "an independent client of it"),
    ("postgresql", "sealed columns and the replay store"),
    ("redis-server", "the replay store"),
    ("pebble", "an ACME authority"),
    ("systemd", "judging the units of both programs"),
    (
        "qemu-system-x86",
        "a machine with control groups of every kind",
    ),
];

/// What only long runs use.
const DEBIAN_LONG: &[(&str, &str)] = &[("wine64", "running the launcher for Windows")];

/// Python packages, installed into a virtual environment.
const PYTHON: &[&str] = &[
    "aiosmtpd==1.4.6",
    "Authlib==1.9.10",
    "requests==2.34.2",
    "sqlcipher3-wheels==0.5.7",
    "http-message-signatures==3.0.0",
    "cryptography==50.0.2",
    "noiseprotocol==0.3.1",
    // A C compiler for macOS.
    "ziglang==0.17.1",
];

/// Node packages.
const NODE: &[&str] = &[
    "@agentclientprotocol/sdk@2.4.0",
    // Looks for faults of accessibility in the console. MPL-2.0: a peer, never shipped.
    "axe-core@4.14.1",
    "@modelcontextprotocol/server-filesystem@2026.8.31",
    "http-message-sig@0.3.0",
    "http-message-signatures@1.0.6",
    "oauth4webapi@3.8.8",
    "oidc-provider@9.13.3",
    "playwright-core@1.64.1",
];

/// Further peers of the sandbox benches, and a coding agent as it is published.
/// They weigh hundreds of megabytes, so they are for long runs alone.
const HEAVY: &[&str] = &[
    "@agentclientprotocol/claude-agent-acp@0.101.0",
    "@anthropic-ai/sandbox-runtime@0.0.78",
    "@openai/codex@0.171.0",
];

/// Version of cargo-deny that the licence and ban rules were written for.
const CARGO_DENY: &str = "0.20.2";

/// The private folder for tools.
pub(crate) fn tools() -> PathBuf {
    run::root().join(".tools")
}

/// Python of the virtual environment, if it was made.
pub(crate) fn python() -> Option<PathBuf> {
    Some(tools().join("python/bin/python")).filter(|path| path.exists())
}

/// Folder of the Node packages, if they were installed.
pub(crate) fn node_modules() -> Option<PathBuf> {
    Some(tools().join("node/node_modules")).filter(|path| path.exists())
}

/// cargo-deny: ours, or one on the search path.
pub(crate) fn cargo_deny() -> Option<PathBuf> {
    let ours = tools().join("bin/cargo-deny");
    if ours.exists() {
        return Some(ours);
    }
    on_path("cargo-deny")
}

/// Looks `program` up on the search path.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Installs everything, or says with which line the user can. What only long
/// runs use comes with those.
pub(crate) fn install(long: bool) -> Result<()> {
    std::thread::scope(|scope| {
        // What is compiled, beside what is fetched.
        let compiled = scope.spawn(install_cargo_deny);
        install_debian(long)?;
        install_python()?;
        install_node("node", NODE)?;
        if long {
            install_node("peers", HEAVY)?;
        }
        machine::install()?;
        compiled
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn install_debian(long: bool) -> Result<()> {
    let wanted: Vec<_> = match long {
        true => [DEBIAN, DEBIAN_LONG].concat(),
        false => DEBIAN.to_vec(),
    };
    let missing: Vec<&str> = wanted
        .iter()
        .map(|(package, _)| *package)
        .filter(|package| !debian_has(package))
        .chain(on_path("node").is_none().then_some("nodejs"))
        .chain(on_path("npm").is_none().then_some("npm"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let line = format!(
        "apt-get update && apt-get install --no-install-recommends -y {}",
        missing.join(" ")
    );
    if !(is_root() && on_path("apt-get").is_some()) {
        println!(
            "not root, or no apt-get here. As root on Debian or Ubuntu this installs what is missing:"
        );
        println!("    {line}");
        for (package, purpose) in wanted.iter().filter(|(name, _)| missing.contains(name)) {
            println!("      {package:<16} {purpose}");
        }
        return Ok(());
    }
    println!("--- {line}");
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{{ {line}; }} >/dev/null")])
        .env("DEBIAN_FRONTEND", "noninteractive");
    ensure!(
        command.status()?.success(),
        "apt-get could not install: {}",
        missing.join(" ")
    );
    Ok(())
}

fn debian_has(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Status}", package]);
    run::capture(query).is_some_and(|status| status.contains("install ok installed"))
}

fn is_root() -> bool {
    let mut id = Command::new("id");
    id.arg("-u");
    run::capture(id).is_some_and(|user| user.trim() == "0")
}

fn install_python() -> Result<()> {
    let folder = tools().join("python");
    let stamp = folder.join("installed");
    let wanted = PYTHON.join("\n");
    if is_stamped(&stamp, &wanted) {
        return Ok(());
    }
    let Some(python) = on_path("python3") else {
        println!("no python3 here: the Python peers stay away");
        return Ok(());
    };
    println!("--- python peers: {}", PYTHON.join(" "));
    let mut make = Command::new(python);
    make.args(["-m", "venv"]).arg(&folder);
    ensure!(
        make.status()?.success(),
        "cannot make a Python environment; is python3-venv installed?"
    );
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet"]).args(PYTHON);
    ensure!(
        pip.status()?.success(),
        "pip could not install the Python peers"
    );
    std::fs::write(stamp, wanted).context("cannot record the installed Python peers")
}

fn install_node(name: &str, packages: &[&str]) -> Result<()> {
    let folder = tools().join(name);
    let stamp = folder.join("installed");
    let wanted = packages.join("\n");
    if is_stamped(&stamp, &wanted) {
        return Ok(());
    }
    let Some(npm) = on_path("npm") else {
        println!("no npm here: the Node peers stay away");
        return Ok(());
    };
    println!("--- node peers: {}", packages.join(" "));
    std::fs::create_dir_all(&folder)?;
    let mut command = Command::new(npm);
    command
        .args([
            "install",
            "--silent",
            "--no-save",
            "--no-audit",
            "--no-fund",
            "--prefix",
        ])
        .arg(&folder)
        .args(packages);
    ensure!(
        command.status()?.success(),
        "npm could not install the Node peers"
    );
    std::fs::write(stamp, wanted).context("cannot record the installed Node peers")
}

fn install_cargo_deny() -> Result<()> {
    if cargo_deny().is_some() {
        return Ok(());
    }
    println!("--- cargo-deny {CARGO_DENY}");
    // A debug build takes half the time and checks the same rules.
    let mut command = run::cargo([
        "install",
        "cargo-deny",
        "--locked",
        "--debug",
        "--quiet",
        "--version",
        CARGO_DENY,
        "--root",
    ]);
    command.arg(tools());
    ensure!(
        command.status()?.success(),
        "cargo could not install cargo-deny"
    );
    Ok(())
}

fn is_stamped(stamp: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(stamp).is_ok_and(|found| found == wanted)
}
