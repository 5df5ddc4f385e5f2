//! Runs a command under a policy file.
//!
//! ```text
//! cargo run -p katachi-sandbox --example confine -- policy.toml . ls -la
//! ```
//!
//! Prints what was enforced to standard error, and ends as the command did.
//! With `KATACHI_SHOW_PLAN=1` it prints the whole plan first. With
//! `KATACHI_ACCEPT_TIER=landlock` or `unwitnessed` it starts where less holds
//! than namespaces do.

use std::path::Path;
use std::process::ExitCode;

use katachi_sandbox::report::Tier;
use katachi_sandbox::{PlanOptions, Policy};

fn main() -> ExitCode {
    katachi_sandbox::helper::run_if_requested();

    let mut words = std::env::args_os().skip(1);
    let (Some(file), Some(workspace)) = (words.next(), words.next()) else {
        eprintln!("usage: confine POLICY.toml WORKSPACE COMMAND [ARGUMENT...]");
        return ExitCode::from(125);
    };
    match run(Path::new(&file), Path::new(&workspace), words.collect()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("confine: {error}");
            ExitCode::from(125)
        }
    }
}

fn accepted() -> Result<Tier, String> {
    match std::env::var("KATACHI_ACCEPT_TIER").as_deref() {
        Err(_) | Ok("" | "namespaces") => Ok(Tier::Namespaces),
        Ok("landlock") => Ok(Tier::Landlock),
        Ok("unwitnessed") => Ok(Tier::Unwitnessed),
        Ok(other) => Err(format!("KATACHI_ACCEPT_TIER: there is no tier {other:?}")),
    }
}

fn run(
    file: &Path,
    workspace: &Path,
    argv: Vec<std::ffi::OsString>,
) -> Result<u8, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(file)?;
    let plan = Policy::from_toml(&text, &file.display().to_string())?
        .plan(&PlanOptions::new(workspace).accept(accepted()?))?;
    if std::env::var_os("KATACHI_SHOW_PLAN").is_some() {
        eprint!("{plan}");
    }
    let mut child = match plan
        .command(argv)
        .stdin(std::process::Stdio::inherit())
        .spawn()
    {
        Ok(child) => child,
        Err(error) if error.denial().is_some() => {
            eprintln!("confine: {error}");
            return Ok(126);
        }
        Err(error) => return Err(error.into()),
    };
    let outcome = child.wait()?;
    eprint!("{}", child.enforcement());
    for violation in &outcome.violations {
        eprintln!("confine: {violation}");
    }
    Ok(u8::try_from(outcome.exit_code()).unwrap_or(u8::MAX))
}
