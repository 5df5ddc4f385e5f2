//! The Katachi agent: lets an AI act on this machine, inside a sandbox, with
//! its keys, its history and its connection sealed.
//!
//! This program composes the crates of the family and adds nothing of its own
//! to what protects: the sandbox is `katachi-sandbox`, the vault and the
//! database are `katachi-store`, who may speak is `katachi-auth`.
#![forbid(unsafe_code)]

mod ai;
mod approvals;
mod audit;
mod channel;
mod chart;
mod chat;
mod cli;
#[cfg(unix)]
mod cloudflared;
mod commands;
mod config;
mod demo;
mod home;
mod mcp;
mod mistake;
mod output;
mod partner;
mod paths;
mod policy;
mod progress;
mod promises;
mod qr;
mod relay_client;
mod relay_process;
mod runner;
mod shield;
mod signals;
mod time;
mod tunnel;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use cli::{Cli, Command};
use config::Config;
use mistake::Mistake;
use output::{BAD, note, paint};

/// Something the user wrote has to change.
const MISTAKEN: u8 = 2;
/// Longest time for what a command that was cut off still has to write down.
const LAST_RECORDS: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    // Before anything else: this process may be the helper that builds a sandbox.
    katachi_sandbox::helper::run_if_requested();
    let hardening = katachi_crypto::harden();

    let cli = Cli::parse();
    start_log();
    tracing::debug!(?hardening, "what keeps others from this process");
    match command(&cli) {
        Ok(code) => code,
        Err(error) => {
            note(format_args!("{} {}", paint(BAD, "error:"), chain(&error)));
            match (&cli.command, error.downcast_ref::<Mistake>()) {
                (Command::Run(_), _) => ExitCode::from(commands::run::NOT_BUILT),
                (_, Some(_)) => ExitCode::from(MISTAKEN),
                (_, None) => ExitCode::FAILURE,
            }
        }
    }
}

fn command(cli: &Cli) -> anyhow::Result<ExitCode> {
    // These stand apart from whatever is configured on this machine.
    match &cli.command {
        Command::Demo(args) => return block_on(demo::demo(args, &cli.options)),
        #[cfg(unix)]
        Command::Tethered(args) => return cloudflared::tether::become_program(args),
        #[cfg(unix)]
        Command::McpBridge(args) => return mcp::bridge::bridge(args),
        Command::Relay(cli::Relay::Serve(args)) => {
            return block_on(commands::relay::serve(args));
        }
        Command::Schema => {
            output::print(katachi_protocol::AGENT_API)?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let config = Config::load(&cli.options)?;
    if !matches!(cli.command, Command::Doctor(_)) {
        recover();
    }
    match &cli.command {
        Command::Run(args) => commands::run::run(&config, args),
        Command::Why(args) => commands::why::why(&config, args),
        Command::Key(args) => commands::key::key(&config, args),
        Command::Vault(args) => block_on(commands::vault::vault(&config, args)),
        Command::Device(args) => commands::device::device(&config, args),
        Command::History(args) => commands::history::history(&config, args),
        Command::Memory(args) => commands::memory::memory(&config, args),
        Command::Audit(args) => commands::audit::audit(&config, args),
        Command::Doctor(args) => block_on(commands::doctor::doctor(&config, args)),
        Command::Login(args) => block_on(commands::login::login(&config, args)),
        Command::Unregister(args) => block_on(commands::login::unregister(&config, args)),
        Command::Service(args) => commands::service::service(&config, &cli.options, args),
        Command::Up(args) => block_on(commands::up::up(&config, args)),
        Command::Demo(_)
        | Command::Relay(_)
        | Command::Schema
        | Command::Tethered(_)
        | Command::McpBridge(_) => Ok(ExitCode::SUCCESS),
    }
}

/// Sets aside what commands left whose agent was killed, before anybody uses it.
fn recover() {
    match katachi_sandbox::recover() {
        Ok(found) => found
            .iter()
            .for_each(|violation| tracing::warn!("{violation}")),
        Err(error) => tracing::warn!("what killed commands left cannot be looked for: {error}"),
    }
}

/// Runs `work` to its end, then lets threads that still write records finish.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_RECORDS);
    done
}

/// Warnings on standard error; more with `KATACHI_LOG=debug`.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("KATACHI_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

/// An error and its causes, each said once.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let said = cause.to_string();
        if text.contains(&said) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&said);
    }
    // A relay's words may be among them.
    output::printable(&text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_error_that_quotes_a_relay_cannot_change_the_terminal() {
        let error = anyhow::anyhow!("\u{1b}]0;owned\u{7}").context("the relay refuses");
        let said = super::chain(&error);
        assert!(said.starts_with("the relay refuses: "), "{said:?}");
        assert!(!said.contains(['\u{1b}', '\u{7}']), "{said:?}");
    }
}
