//! `service`: `up` as a service of the person's own session, by systemd or
//! launchd. It writes one file and starts nothing.

mod launchd;
mod systemd;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::{self, Manager, Options};
use crate::config::Config;
use crate::mistake::Mistake;
use crate::output::{BOLD, note, paint, print};

/// What the service runs, and where.
#[derive(Debug)]
struct Program {
    /// Program and arguments, in absolute paths.
    argv: Vec<String>,
    directory: PathBuf,
    /// Where launchd writes what systemd's journal takes.
    log: PathBuf,
}

/// Does what was asked.
///
/// # Errors
///
/// Returns an error if there is no manager here that we know, the machine is not
/// registered yet, or a file cannot be written or is not ours.
pub(crate) fn service(
    config: &Config,
    options: &Options,
    command: &cli::Service,
) -> anyhow::Result<ExitCode> {
    match command {
        cli::Service::Print { manager } => {
            let manager = manager.map_or_else(here, Ok)?;
            print(&text(manager, &program(config, options)?)?)?;
        }
        cli::Service::Install => install(config, options)?,
        cli::Service::Remove => remove()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn install(config: &Config, options: &Options) -> anyhow::Result<()> {
    let manager = here()?;
    if !config.paths.relay_credentials().exists() {
        return Err(Mistake::new(
            "service install",
            "this machine is not registered with a relay, and a service cannot ask who approves it",
            "run `katachi-agent up` once, approve it, stop it, and install the service then",
        )
        .into());
    }
    let text = text(manager, &program(config, options)?)?;
    let path = place(manager)?;
    if path.exists() {
        ours(&path)?;
    }
    let directory = path.parent().context("a service's file has a directory")?;
    std::fs::create_dir_all(directory)?;
    // Whole or not at all.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.persist(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    note(format_args!(
        "Wrote {}. To start it now and at each login:",
        path.display()
    ));
    note(paint(BOLD, starting(manager, &path)));
    Ok(())
}

fn remove() -> anyhow::Result<()> {
    let manager = here()?;
    let path = place(manager)?;
    if !path.exists() {
        note(format_args!("There is no {}.", path.display()));
        return Ok(());
    }
    ours(&path)?;
    std::fs::remove_file(&path).with_context(|| format!("cannot delete {}", path.display()))?;
    note(format_args!(
        "Deleted {}. To stop what still runs:",
        path.display()
    ));
    note(paint(BOLD, stopping(manager)));
    Ok(())
}

/// Refuses a file that somebody else wrote.
fn ours(path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path)?;
    match text.contains(MARK) {
        true => Ok(()),
        false => Err(Mistake::new(
            path.display().to_string(),
            "was not written by `katachi-agent service install`",
            "move it away, or keep it and do without this command",
        )
        .into()),
    }
}

/// Stands in each file that this command writes.
const MARK: &str = "Written by `katachi-agent service install`";

/// The manager of this system.
fn here() -> Result<Manager, Mistake> {
    if cfg!(target_os = "linux") {
        Ok(Manager::Systemd)
    } else if cfg!(target_os = "macos") {
        Ok(Manager::Launchd)
    } else {
        Err(Mistake::new(
            "service",
            "this system has neither systemd nor launchd",
            "start `katachi-agent up` by what it has instead",
        ))
    }
}

fn text(manager: Manager, program: &Program) -> Result<String, Mistake> {
    match manager {
        Manager::Systemd => systemd::unit(program),
        Manager::Launchd => Ok(launchd::plist(program)),
    }
}

fn place(manager: Manager) -> anyhow::Result<PathBuf> {
    let home = etcetera::home_dir().context("there is no home directory")?;
    Ok(match manager {
        Manager::Systemd => {
            let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
            let config = config.filter(|path| path.is_absolute());
            config
                .unwrap_or_else(|| home.join(".config"))
                .join("systemd/user/katachi-agent.service")
        }
        Manager::Launchd => home
            .join("Library/LaunchAgents")
            .join(format!("{}.plist", launchd::LABEL)),
    })
}

fn starting(manager: Manager, path: &Path) -> String {
    match manager {
        Manager::Systemd => {
            "systemctl --user daemon-reload && systemctl --user enable --now katachi-agent"
                .to_owned()
        }
        Manager::Launchd => format!("launchctl bootstrap gui/$(id -u) '{}'", path.display()),
    }
}

fn stopping(manager: Manager) -> String {
    match manager {
        Manager::Systemd => {
            "systemctl --user disable --now katachi-agent && systemctl --user daemon-reload"
                .to_owned()
        }
        Manager::Launchd => format!("launchctl bootout gui/$(id -u)/{}", launchd::LABEL),
    }
}

/// `up` with the options that this call was given, none of which a service finds
/// in its own environment.
fn program(config: &Config, options: &Options) -> anyhow::Result<Program> {
    let exe = std::env::current_exe()?.canonicalize()?;
    let mut argv = vec![exe.into_os_string(), "up".into()];
    let mut path = |flag: &str, path: Option<&PathBuf>| -> std::io::Result<()> {
        if let Some(path) = path {
            argv.push(flag.into());
            argv.push(std::path::absolute(path)?.into_os_string());
        }
        Ok(())
    };
    path("--home", options.home.as_ref())?;
    path("--config", options.config.as_ref())?;
    path("--workspace", Some(&config.workspace))?;
    path("--policy", options.policy.as_ref())?;
    path("--relay-ca", options.relay_ca.as_ref())?;
    path("--ai-policy", options.ai_policy.as_ref())?;
    path("--cloudflared", options.cloudflared.as_ref())?;
    for (flag, value) in [
        ("--relay-url", options.relay_url.as_ref()),
        ("--ai-command", options.ai_command.as_ref()),
        ("--cloudflared-sha256", options.cloudflared_sha256.as_ref()),
    ] {
        argv.extend(
            value
                .into_iter()
                .flat_map(|value| [flag.into(), value.into()]),
        );
    }
    for pair in &options.ai_keys {
        argv.extend([OsString::from("--ai-key"), pair.into()]);
    }
    for (flag, seconds) in [
        ("--ai-start-time", options.ai_start_time),
        ("--ai-answer-time", options.ai_answer_time),
    ] {
        let pair = seconds.map(|seconds| [flag.to_owned(), seconds.to_string()]);
        argv.extend(pair.into_iter().flatten().map(OsString::from));
    }
    for (flag, value) in [
        ("--tunnel-carrier", named(options.tunnel_carrier.as_ref())),
        ("--accept-tier", named(options.accept_tier.as_ref())),
        ("--records", named(options.records.as_ref())),
        ("--keychain", named(options.keychain.as_ref())),
    ] {
        let pair = value.map(|value| [flag.to_owned(), value]);
        argv.extend(pair.into_iter().flatten().map(OsString::from));
    }
    let argv = argv
        .into_iter()
        .map(|word| word.into_string())
        .collect::<Result<_, _>>()
        .map_err(|word| {
            Mistake::new(
                "service",
                format!(
                    "{} is not text that a service's file can hold",
                    word.display()
                ),
                "choose paths in UTF-8",
            )
        })?;
    Ok(Program {
        argv,
        directory: config.workspace.clone(),
        log: config.paths.service_log(),
    })
}

/// What a value is called on the command line.
fn named<T: clap::ValueEnum>(value: Option<&T>) -> Option<String> {
    Some(value?.to_possible_value()?.get_name().to_owned())
}
