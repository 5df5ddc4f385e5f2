//! Makes a program end when we do, however we end.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, bail};

use crate::cli::Tethered;

/// Asks the kernel to end this process with its parent, and becomes the program.
///
/// # Errors
///
/// Returns an error if that cannot be had; on success it does not return.
pub(crate) fn become_program(args: &Tethered) -> anyhow::Result<std::process::ExitCode> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};

        // It survives the exec below, unless the program has privileges of its own.
        set_parent_process_death_signal(Some(Signal::TERM))
            .context("the kernel does not tie processes together")?;
        // The parent may have ended before that.
        let parent = getppid().map(|parent| parent.as_raw_nonzero().get().unsigned_abs());
        if parent != Some(args.parent) {
            bail!("the process to end with is gone");
        }
    }
    let Some((program, rest)) = args.argv.split_first() else {
        bail!("there is no program to become");
    };
    let error = std::process::Command::new(program).args(rest).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
