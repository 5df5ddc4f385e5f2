//! The project's own commands.
//!
//! `cargo xtask test` runs everything that a change must pass, `cargo xtask
//! bench` measures us beside our peers and holds the rows against their bars,
//! and `cargo xtask fuzz` is the door to the fuzz targets.

mod bench;
mod foreign;
mod fuzz;
mod install;
mod machine;
mod package;
mod programs;
mod readme;
mod run;
mod test;
mod wine;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own commands", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything that a change must pass
    ///
    /// Without `--install` it uses the components that are there and names what
    /// it skipped. With KATACHI_REQUIRE_ALL=1 a missing component is a failure.
    Test(test::Options),
    /// Measure us beside our peers and hold each row against its bar
    Bench(bench::Options),
    /// Fuzz one target or all of them
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Test(options) => test::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
