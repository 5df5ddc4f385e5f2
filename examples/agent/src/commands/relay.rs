//! `relay serve`: the embedded relay, started by `up` and `demo` as a process
//! of its own.

use std::process::ExitCode;

use tokio::sync::oneshot;

use crate::signals;

/// Serves until asked to stop, or until standard input ends.
///
/// # Errors
///
/// Returns an error if the relay cannot start.
pub(crate) async fn serve(args: &katachi_relay::cli::Serve) -> anyhow::Result<ExitCode> {
    let orphaned = parent_gone();
    let stop = async {
        tokio::select! {
            () = signals::asked_to_stop() => {}
            _ = orphaned => {}
        }
    };
    args.run(stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// Ends when standard input does: the parent holds its other end.
fn parent_gone() -> oneshot::Receiver<()> {
    let (gone, wait) = oneshot::channel();
    // A thread of its own, as a read of standard input cannot be given up.
    std::thread::spawn(move || {
        // Whatever it says, the parent only uses it to live.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        // Nobody waits any more if the relay stopped first.
        let _ = gone.send(());
    });
    wait
}
