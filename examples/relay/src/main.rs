//! `katachi-relay`: the relay as a program of its own.
#![forbid(unsafe_code)]

use std::future::Future;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use katachi_relay::cli::{Backup, Key, Migrate, Restore, Serve};
use tracing::warn;
use tracing_subscriber::EnvFilter;

/// What a crowd of connections took goes back to the system when they have ended, by a
/// thread of its own. The allocator of the GNU library keeps it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Threads that wait for the database or hash passwords. What else is to be done then
/// waits without a thread.
const WAITING_THREADS: usize = 48;

/// The relay between a browser and Katachi agents.
#[derive(Debug, Parser)]
#[command(name = "katachi-relay", version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve browsers and agents until SIGTERM or Ctrl-C
    Serve(Box<Serve>),
    /// Bring the tables of a PostgreSQL up to date, as `serve` does by itself
    Migrate(Migrate),
    /// Keys of the accounts, and of a cluster: several relays on one PostgreSQL that
    /// serve as one
    Key(Key),
    /// Copy the embedded database, the vault and the authority, encrypted as they are
    Backup(Backup),
    /// Make a state directory out of a backup, on this machine
    Restore(Restore),
}

fn main() -> ExitCode {
    // Before any key is made and any thread started.
    let hardening = katachi_crypto::harden();
    let Arguments { command } = Arguments::parse();
    start_log();
    if !hardening.undumpable || !hardening.locked_pages {
        warn!(
            ?hardening,
            "this process is not kept from others as far as it could be"
        );
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let builder = builder.enable_all().max_blocking_threads(WAITING_THREADS);
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("katachi-relay: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Listening for signals needs the runtime.
    let run = async {
        match command {
            Command::Serve(serve) => serve.run(shutdown()).await,
            Command::Migrate(migrate) => migrate.run().await,
            Command::Key(key) => key.run().await,
            Command::Backup(backup) => backup.run().await,
            Command::Restore(restore) => restore.run().await,
        }
    };
    match runtime.block_on(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("katachi-relay: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One JSON object for each event, on standard error.
fn start_log() {
    let filter =
        EnvFilter::try_from_env("KATACHI_RELAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

/// Ends when the process is asked to stop. Listens from the call on, so that
/// a parent may ask at any time.
fn shutdown() -> impl Future<Output = ()> + Send {
    #[cfg(unix)]
    let mut terminate = {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate())
            .inspect_err(|error| warn!(%error, "SIGTERM will not be waited for"))
            .ok()
    };
    async move {
        #[cfg(unix)]
        if let Some(terminate) = &mut terminate {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
        // Where it cannot be waited for, the process ends when it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
