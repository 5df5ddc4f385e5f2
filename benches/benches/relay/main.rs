//! Processor time of a server for each call: of the relay for signed calls of
//! an agent; of a plain axum route over the same TLS that reads the same rows
//! and checks nothing; and of that route without TLS together with an nginx that
//! ends TLS before it. Each server is a process of its own with one worker, and
//! the same client calls each over one kept connection.
//!
//! Prints one line of JSON for each figure, in nanoseconds.

#[allow(dead_code, reason = "each bench uses a part of this")]
mod agent;
mod behind_nginx;
mod plain;
#[allow(dead_code, reason = "each bench uses a part of this")]
mod server;

use std::net::Ipv4Addr;
use std::path::Path;

use agent::Account;
use server::{Failure, Server};

/// Calls that are counted, and those before them for the caches.
const CALLS: u32 = 20_000;
const WARM_UP: u32 = 1_000;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let state = arguments.get(2).map(Path::new);
    let runtime = server::runtime()?;
    match (arguments.get(1).map(String::as_str), state) {
        (Some("--relay"), Some(state)) => runtime.block_on(server::relay(state)),
        (Some("--plain"), Some(state)) => runtime.block_on(plain::serve(state)),
        (Some("--origin"), Some(state)) => runtime.block_on(plain::serve_origin(state)),
        _ => runtime.block_on(measure()),
    }
}

async fn measure() -> Result<(), Failure> {
    let home = tempfile::tempdir()?;
    let relay = Server::start("--relay", &home.path().join("relay"))?;
    let account = Account::open(&relay.url, "bench", Ipv4Addr::LOCALHOST).await?;
    let agent = account.connect().await?;
    for _ in 0..WARM_UP {
        agent.call().await?;
    }
    let before = relay.used()?;
    for _ in 0..CALLS {
        agent.call().await?;
    }
    print("relay", relay.used()? - before);

    let plain = Server::start("--plain", &home.path().join("plain"))?;
    let http = agent::client(Ipv4Addr::LOCALHOST)?.build()?;
    for _ in 0..WARM_UP {
        plain::call(&http, &plain.url).await?;
    }
    let before = plain.used()?;
    for _ in 0..CALLS {
        plain::call(&http, &plain.url).await?;
    }
    print("plain", plain.used()? - before);
    drop(plain);

    print("nginx", behind_nginx::measure(home.path(), WARM_UP, CALLS).await?);
    Ok(())
}

fn print(figure: &str, used: f64) {
    let nanoseconds = used / f64::from(CALLS);
    println!("{{\"figure\":\"{figure}\",\"ns\":{nanoseconds}}}");
}
