//! The Katachi agent: lets an AI act on this machine, inside a sandbox, with
//! its keys, its history and its connection sealed.

mod cli;
mod config;
mod mistake;
mod output;
mod paths;
mod progress;
mod promises;

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    let cli = cli::Cli::parse();
    match config::Config::load(&cli.options) {
        Ok(_) => {}
        Err(error) => output::note(format_args!("{} {error}", output::paint(output::BAD, "error:"))),
    }
    std::process::ExitCode::from(2)
}
