//! The program that a program in the sandbox starts as if it were an MCP server:
//! this one, which carries bytes between its standard streams and a socket.
//!
//! It runs in the sandbox of whoever started it, knows no secret and reads no
//! message. What may be said is decided at the [other end](super::desk).

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::McpBridge;

/// The word by which this program knows that it is one.
pub(crate) const SUBCOMMAND: &str = "mcp-bridge";

/// Bytes that are on their way at one time, in each direction.
const ROOM: usize = 16 * 1024;

/// Carries until the other end is done.
///
/// # Errors
///
/// Returns an error if the socket is not there, or a stream fails.
pub(crate) fn bridge(args: &McpBridge) -> anyhow::Result<ExitCode> {
    let socket = &args.socket;
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    let mut towards = stream.try_clone()?;
    std::thread::spawn(move || {
        // However it ended, nothing more comes: the other end is told that, and
        // closes.
        let _ = carry(&mut std::io::stdin().lock(), &mut towards);
        let _ = towards.shutdown(Shutdown::Write);
    });
    carry(&mut &stream, &mut std::io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

fn carry(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    let mut room = [0; ROOM];
    loop {
        match from.read(&mut room) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&room[..count])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        to.flush()?;
    }
}
