//! `doctor`: looks at this machine and at everything stored on it.
//!
//! Looking changes nothing: no vault is made, and nobody is asked for a
//! password. With `--witness` the sandbox is tried for real, and the tier below it
//! too, so that a person sees what a machine without namespaces would lose.

mod ai;

use std::process::ExitCode;

use katachi_fingerprint::{Enrollment, Probe as _, SystemProbe};
use katachi_sandbox::doctor::{Capabilities, probe, witness};
use katachi_sandbox::report::{Control, Enforced, Tier};
use katachi_sandbox::{Enforcement, SpawnError};
use katachi_store::keychain::{Deadline, Keychain as _, SystemKeychain};
use katachi_store::vault::{Vault, VaultError};
use serde::Serialize;

use crate::cli;
use crate::config::{Config, KeychainUse, RelayChoice};
use crate::home::{self, Home};
use crate::output::{BAD, BOLD, GOOD, WEAK, paint, print, print_json, printable};
use crate::policy::Rules;
use crate::relay_client::{RegistrationFile, RelayClient};

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    config: String,
    findings: Vec<Finding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<Capabilities>,
    /// What a self-test under the policy saw, with `--witness`.
    #[serde(skip_serializing_if = "Option::is_none")]
    witnessed: Option<Enforcement>,
    /// What it saw without namespaces, with `--witness` on Linux.
    #[serde(skip_serializing_if = "Option::is_none")]
    without_namespaces: Option<Enforcement>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    about: &'static str,
    health: Health,
    detail: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Good,
    Weak,
    Bad,
}

impl Finding {
    fn good(about: &'static str, detail: impl Into<String>) -> Self {
        Self {
            about,
            health: Health::Good,
            detail: detail.into(),
        }
    }

    fn weak(about: &'static str, detail: impl Into<String>) -> Self {
        Self {
            about,
            health: Health::Weak,
            detail: detail.into(),
        }
    }

    fn bad(about: &'static str, detail: impl Into<String>) -> Self {
        Self {
            about,
            health: Health::Bad,
            detail: detail.into(),
        }
    }
}

/// Looks at everything and says what it found.
///
/// The exit code is 1 if something is broken, and 0 if it is merely weak.
///
/// # Errors
///
/// Returns an error if the policy cannot be planned or the output written.
pub(crate) async fn doctor(config: &Config, args: &cli::Doctor) -> anyhow::Result<ExitCode> {
    let mut findings = Vec::new();
    let sandbox = sandbox(&mut findings);
    findings.extend(left_behind());
    let witnessed = match args.witness {
        true => Some(try_sandbox(config, &mut findings)?),
        false => None,
    };
    let without_namespaces = match args.witness && cfg!(target_os = "linux") {
        true => try_without_namespaces(config, &mut findings)?,
        false => None,
    };
    findings.push(keychain(config));
    findings.push(fingerprint(config));
    let home = vault(config, &mut findings);
    if let Some(home) = &home {
        findings.push(database(home));
    }
    findings.extend(
        config
            .ai
            .as_ref()
            .map(|ai| ai::ai(config, ai, home.as_ref())),
    );
    relay(config, home.as_ref(), &mut findings).await;
    #[cfg(unix)]
    findings.extend(cloudflared(config).await);

    let broken = findings.iter().any(|finding| finding.health == Health::Bad);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        config: config.file.display().to_string(),
        findings,
        sandbox,
        witnessed: witnessed.flatten(),
        without_namespaces,
    };
    match args.json {
        true => print_json(&report)?,
        false => print(&text(&report))?,
    }
    Ok(match broken {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// What commands left whose agent was killed; it is set aside by this look.
fn left_behind() -> Vec<Finding> {
    match katachi_sandbox::recover() {
        Ok(found) => found
            .iter()
            .map(|violation| Finding::weak("left behind", violation.to_string()))
            .collect(),
        Err(error) => vec![Finding::weak(
            "left behind",
            format!("what killed commands left cannot be looked for: {error}"),
        )],
    }
}

/// The sandbox of this machine, in one line.
pub(crate) fn sandbox_line() -> String {
    match probe() {
        Ok(found) if found.landlock_abi == 0 => {
            format!("tier {}, {}", found.tier, found.kernel)
        }
        Ok(found) => format!(
            "tier {}, {}, Landlock ABI {}",
            found.tier, found.kernel, found.landlock_abi
        ),
        Err(error) => error.to_string(),
    }
}

fn sandbox(findings: &mut Vec<Finding>) -> Option<Capabilities> {
    match probe() {
        Ok(found) if found.tier == Tier::None => {
            let less = match found.landlock_abi {
                0..=2 => "",
                _ => ", and --accept-tier landlock starts them with less",
            };
            findings.push(Finding::bad(
                "sandbox",
                format!(
                    "commands cannot be confined here, so none is started; the checks say why{less}"
                ),
            ));
            Some(found)
        }
        Ok(found) if found.tier == Tier::Unwitnessed => {
            findings.push(Finding::weak(
                "sandbox",
                format!(
                    "unwitnessed: nobody has seen commands confined on {}, so none is started unless --accept-tier unwitnessed says so",
                    found.kernel
                ),
            ));
            Some(found)
        }
        Ok(found) => {
            let missing = found.checks.iter().filter(|check| !check.works).count();
            let detail = format!(
                "tier {} on {}, Landlock ABI {}",
                found.tier, found.kernel, found.landlock_abi
            );
            findings.push(match missing {
                0 => Finding::good("sandbox", detail),
                count => Finding::weak(
                    "sandbox",
                    format!("{detail}; {count} of its means are missing"),
                ),
            });
            Some(found)
        }
        Err(error) => {
            findings.push(Finding::bad("sandbox", error.to_string()));
            None
        }
    }
}

/// Starts the self-test under the policy in force.
fn try_sandbox(
    config: &Config,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<Option<Enforcement>> {
    let plan = Rules::load(config.policy.as_deref())?.plan(config)?;
    match witness(&plan) {
        Ok(seen) => {
            let silent: Vec<_> = seen
                .controls
                .iter()
                .filter(|control| !control.witnessed)
                .map(|control| control.id.as_str())
                .collect();
            findings.push(match silent.is_empty() {
                true => Finding::good("self-test", "every control refused what it must refuse"),
                false => Finding::weak(
                    "self-test",
                    format!("not seen at work: {}", silent.join(", ")),
                ),
            });
            Ok(Some(seen))
        }
        Err(error @ (SpawnError::Machine { .. } | SpawnError::Unsupported(_))) => {
            findings.push(Finding::bad("self-test", error.to_string()));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Starts the self-test under the same policy without namespaces, whether or not
/// they work here, and says what would be lost.
fn try_without_namespaces(
    config: &Config,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<Option<Enforcement>> {
    const ABOUT: &str = "without namespaces";
    let plan = match Rules::load(config.policy.as_deref())?.plan_without_namespaces(config) {
        Ok(plan) => plan,
        Err(error) => {
            let detail = format!("this policy could not be held: {error:#}");
            findings.push(Finding::weak(ABOUT, detail));
            return Ok(None);
        }
    };
    match witness(&plan) {
        Ok(seen) => {
            let names = |kept: fn(&Control) -> bool| {
                let names: Vec<_> = seen
                    .controls
                    .iter()
                    .filter(|control| kept(control))
                    .map(|control| control.id.as_str())
                    .collect();
                match names.is_empty() {
                    true => "none".to_owned(),
                    false => names.join(", "),
                }
            };
            let detail = format!(
                "tried as on a machine that forbids them: seen to refuse {}; with gaps {} (listed below)",
                names(|control| control.witnessed),
                names(|control| control.enforced != Enforced::Full),
            );
            findings.push(Finding::good(ABOUT, detail));
            Ok(Some(seen))
        }
        Err(error @ (SpawnError::Machine { .. } | SpawnError::Unsupported(_))) => {
            findings.push(Finding::weak(ABOUT, error.to_string()));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn keychain(config: &Config) -> Finding {
    use katachi_store::keychain::KeychainStatus;

    if config.keychain == KeychainUse::Off {
        return Finding::weak("keychain", "switched off by the configuration");
    }
    let keychain = SystemKeychain::new();
    match keychain.status(&Deadline::quiet()) {
        KeychainStatus::Ready => Finding::good("keychain", format!("{} is ready", keychain.name())),
        status => Finding::weak("keychain", format!("{}: {status}", keychain.name())),
    }
}

fn fingerprint(config: &Config) -> Finding {
    let seen = SystemProbe::new().volume_of(config.paths.vault()).observe();
    let parts: Vec<_> = seen.components().map(|part| part.to_string()).collect();
    match Enrollment::enroll(&seen) {
        Ok((_, enrolled)) => {
            let strength = enrolled.strength();
            let detail = format!("{}: {strength}", parts.join(", "));
            match strength.is_copy_deterrent() {
                true => Finding::weak(
                    "fingerprint",
                    format!("{detail}; a copy deterrent and no lock"),
                ),
                false => Finding::good("fingerprint", detail),
            }
        }
        Err(error) => Finding::weak("fingerprint", error.to_string()),
    }
}

fn vault(config: &Config, findings: &mut Vec<Finding>) -> Option<Home> {
    match Vault::status(config.paths.vault()) {
        Err(VaultError::NoVault { .. }) => {
            findings.push(Finding::good(
                "vault",
                "not made yet; the first key or message makes it",
            ));
            return None;
        }
        Err(error) => {
            findings.push(Finding::bad("vault", error.to_string()));
            return None;
        }
        Ok(_) => {}
    }
    match Home::open(config) {
        Ok(home) => {
            let report = home.vault.report();
            let slots: Vec<_> = home
                .vault
                .slots()
                .iter()
                .map(|slot| slot.kind.to_string())
                .collect();
            let mut detail = format!(
                "opened with the {}; slots: {}",
                home::slot_line(&home.vault),
                slots.join(", ")
            );
            for drift in &report.drift {
                detail.push_str(&format!("; changed: {drift}"));
            }
            let weak = report.is_copy_deterrent() || !report.degraded.is_empty();
            findings.push(match weak {
                true => Finding::weak("vault", detail),
                false => Finding::good("vault", detail),
            });
            match home.credentials().and_then(|keys| Ok(keys.list()?.len())) {
                Ok(count) => findings.push(Finding::good("API keys", format!("{count} stored"))),
                Err(error) => findings.push(Finding::bad("API keys", format!("{error:#}"))),
            }
            Some(home)
        }
        Err(error) => {
            findings.push(Finding::bad("vault", format!("{error:#}")));
            None
        }
    }
}

fn database(home: &Home) -> Finding {
    if !home.paths.database().exists() {
        return Finding::good("database", "not made yet");
    }
    let checked = home.database().and_then(|database| Ok(database.verify()?));
    match checked {
        Ok(report) if report.is_sound() => {
            Finding::good("database", "opens, every page is authentic")
        }
        Ok(report) => Finding::bad("database", format!("{report:?}")),
        Err(error) => Finding::bad("database", format!("{error:#}")),
    }
}

async fn relay(config: &Config, home: Option<&Home>, findings: &mut Vec<Finding>) {
    let place = match &config.relay {
        RelayChoice::Embedded(listen) => format!("one of our own on {listen}, started by `up`"),
        RelayChoice::At { url, .. } => url.clone(),
    };
    findings.push(Finding::good("relay", place));
    let Some(home) = home else { return };
    let registration = match RegistrationFile::of(&config.paths).read(&home.vault) {
        Ok(Some(registration)) => registration,
        Ok(None) => {
            findings.push(Finding::good(
                "registration",
                "none; `up` or `login` makes one",
            ));
            return;
        }
        Err(error) => {
            findings.push(Finding::bad("registration", format!("{error:#}")));
            return;
        }
    };
    let detail = format!(
        "with {} for {}",
        registration.url,
        printable(&registration.account)
    );
    findings.push(Finding::good("registration", detail));
    if registration.embedded {
        return;
    }
    let beat = async {
        let client = RelayClient::new(&registration, None)?;
        client
            .heartbeat(katachi_protocol::agent::AgentState::Idle)
            .await?;
        anyhow::Ok(client.clock_offset())
    };
    findings.push(match beat.await {
        Ok(offset) if offset.abs() < 5_000 => {
            Finding::good("clock", format!("{offset} ms from the relay's"))
        }
        Ok(offset) => Finding::weak(
            "clock",
            format!("{offset} ms from the relay's; set this machine's clock"),
        ),
        Err(error) => Finding::bad("relay", format!("{error:#}")),
    });
}

/// The program that carries the tunnel, where one does.
#[cfg(unix)]
async fn cloudflared(config: &Config) -> Option<Finding> {
    let crate::config::Carrier::Cloudflared(wanted) = &config.carrier else {
        return None;
    };
    // Whoever holds the lock has started it.
    let runs = config.paths.up_lock().exists() && matches!(super::up::alone(config), Ok(None));
    Some(match crate::cloudflared::look(config, wanted, runs).await {
        Ok((found, None)) => Finding::good("cloudflared", found),
        Ok((found, Some(error))) => Finding::weak(
            "cloudflared",
            format!("{found}; no connection to Cloudflare: {error:#}"),
        ),
        Err(error) => Finding::bad("cloudflared", format!("{error:#}")),
    })
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "katachi-agent {}, configuration {}\n",
        report.version, report.config
    );
    for finding in &report.findings {
        let mark = match finding.health {
            Health::Good => paint(GOOD, "ok  "),
            Health::Weak => paint(WEAK, "weak"),
            Health::Bad => paint(BAD, "BAD "),
        };
        text.push_str(&format!(
            "{mark}  {}  {}\n",
            paint(BOLD, format_args!("{:<12}", finding.about)),
            printable(&finding.detail)
        ));
    }
    if let Some(sandbox) = &report.sandbox {
        text.push_str(&format!("\n{sandbox}"));
    }
    if let Some(witnessed) = &report.witnessed {
        text.push_str(&format!("\n{witnessed}"));
    }
    if let Some(below) = &report.without_namespaces {
        text.push_str(&format!(
            "\nWhat would be left where nobody can make namespaces. To have them: allow user \
             namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns; for a container its seccomp profile), \
             or start as root with CAP_SYS_ADMIN.\n{below}"
        ));
    }
    text
}
