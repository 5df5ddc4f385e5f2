//! Processor time for each MiB through an end-to-end channel: of the relay that
//! carries it, and of nginx that ends TLS on one side and begins it on the other
//! for the same bytes; of the channel's two ends, and of bare AES-256-GCM.
//!
//! Prints one line of JSON for each figure, in nanoseconds.

#[allow(dead_code, reason = "each bench uses a part of this")]
mod agent;
mod ends;
#[allow(dead_code, reason = "each bench uses a part of this")]
mod server;
mod through_nginx;
mod through_relay;

use std::path::Path;

use katachi_benches::nginx;
use server::Failure;

/// What goes each way, in MiB.
const SIZE: usize = 1024;
/// What is sent at once, in bytes: three records of a channel.
const PIECE: usize = 3 * CONTENT;
/// What fits into the largest record of a channel, in bytes.
const CONTENT: usize = 16 * 1024 - 8;

fn main() -> Result<(), Failure> {
    let needed = [nginx::PROGRAM, nginx::STREAM];
    if let Some(missing) = needed.iter().find(|path| !Path::new(path).exists()) {
        eprintln!("{missing} is not there, so nothing is measured");
        return Ok(());
    }
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = server::runtime()?;
    if let (Some("--relay"), Some(state)) = (arguments.get(1).map(String::as_str), arguments.get(2))
    {
        return runtime.block_on(server::relay(Path::new(state)));
    }
    let [ours, theirs] = [
        runtime.block_on(through_relay::measure())?,
        runtime.block_on(through_nginx::measure())?,
    ];
    print("relay-to-agent", ours.to_agent);
    print("relay-to-browser", ours.to_browser);
    print("nginx-to-agent", theirs.to_agent);
    print("nginx-to-browser", theirs.to_browser);
    let (ours, bare) = ends::measure()?;
    print("ends", ours);
    print("aes-256-gcm", bare);
    Ok(())
}

/// Processor time for all that went each way, in nanoseconds.
struct Used {
    to_agent: f64,
    to_browser: f64,
}

fn print(figure: &str, used: f64) {
    println!("{{\"figure\":\"{figure}\",\"ns\":{}}}", used / SIZE as f64);
}
