//! Memory of a relay for each idle tunnel: what the process has of its own, with
//! all tunnels open and pinged, over what it had when it was started on the same
//! records. Memory of the kernel for the sockets is not in it.
//!
//! Prints one line of JSON for each figure, in bytes.

#[allow(dead_code, reason = "each bench uses a part of this")]
mod agent;
#[allow(dead_code, reason = "each bench uses a part of this")]
mod server;

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use agent::{Account, Agent};
use axum::Router;
use futures_util::{StreamExt as _, TryStreamExt as _};
use katachi_auth::replay::Epoch;
use katachi_protocol::routes;
use rustix::process::{Resource, getrlimit, setrlimit};
use server::{Failure, Server};

/// Agents that one address may connect at once (a start takes two attempts, as the
/// first has no nonce, and more while all addresses together begin too much), and one
/// account may have.
const PER_ADDRESS: usize = 4;
const PER_ACCOUNT: usize = 240;
/// What the design allows for each.
const ALLOWED: u32 = 32 * 1024;
/// Longer than until the relay has pinged every agent.
const SETTLED: Duration = Duration::from_secs(20);

fn main() -> Result<(), Failure> {
    // A descriptor for each tunnel, here and in the relay, which inherits this.
    let mut descriptors = getrlimit(Resource::Nofile);
    descriptors.current = descriptors.maximum;
    setrlimit(Resource::Nofile, descriptors)?;
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = server::runtime()?;
    match (arguments.get(1).map(String::as_str), arguments.get(2)) {
        (Some("--relay"), Some(state)) => runtime.block_on(server::relay(Path::new(state))),
        _ => runtime.block_on(measure(descriptors.maximum)),
    }
}

async fn measure(descriptors: Option<u64>) -> Result<(), Failure> {
    let is_long = std::env::var("KATACHI_LONG").is_ok_and(|long| long == "1");
    let wanted: usize = if is_long { 10_000 } else { 1_000 };
    let room = descriptors.map_or(wanted, |most| usize::try_from(most).unwrap_or(wanted));
    let count = wanted.min(room.saturating_sub(500));
    let home = tempfile::tempdir()?;
    let mut agents = registered(home.path(), count).await?;

    let relay = Server::start("--relay", home.path())?;
    let tls = agent::tls(home.path())?;
    let http = agent::client(Ipv4Addr::LOCALHOST)?.build()?;
    let answer = http.get(format!("{}{}", relay.url, routes::EPOCH)).send();
    let epoch: katachi_protocol::agent::Epoch = answer.await?.error_for_status()?.json().await?;
    let epoch = Epoch::parse(&epoch.epoch)?;
    let before = relay.resident()?;
    for (_, agent) in &mut agents {
        agent.follow(&relay.url, epoch);
    }
    let dialled = agents
        .iter()
        .map(|(from, agent)| agent.dial(&tls, *from, Router::new()));
    let dialled = futures_util::stream::iter(dialled).buffer_unordered(64);
    let tunnels: Vec<_> = dialled.try_collect().await?;
    tokio::time::sleep(SETTLED).await;
    let resident = relay.resident()?;
    let open = tunnels
        .iter()
        .filter(|tunnel| !tunnel.is_finished())
        .count();
    if open < count {
        return Err(format!("only {open} of {count} tunnels stayed open").into());
    }
    eprintln!("{count} tunnels; the relay had {before} bytes without, {resident} with them");
    let bytes = (resident - before) / count as f64;
    println!("{{\"figure\":\"relay\",\"bytes\":{bytes}}}");
    println!("{{\"figure\":\"allowed\",\"bytes\":{ALLOWED}}}");
    Ok(())
}

/// Registers `count` agents and ends the relay that did; each is to dial from
/// the address beside it.
async fn registered(state: &Path, count: usize) -> Result<Vec<(Ipv4Addr, Agent)>, Failure> {
    let relay = Server::start("--relay", state)?;
    let mut agents = Vec::with_capacity(count);
    let mut account = None;
    while agents.len() < count {
        let group = u16::try_from(agents.len() / PER_ADDRESS)?;
        let [high, low] = group.to_be_bytes();
        let from = Ipv4Addr::new(127, 1 + high, low, 1);
        if agents.len() % PER_ACCOUNT == 0 {
            let name = format!("bench-{group}");
            account = Some(Account::open(&relay.url, &name, from).await?);
        }
        let account = account.as_ref().ok_or("the first agent needs an account")?;
        let here = account.moved(from)?;
        let new = (0..PER_ADDRESS.min(count - agents.len())).map(|_| here.connect());
        let new = futures_util::stream::iter(new).buffer_unordered(4);
        let new: Vec<Agent> = new.try_collect().await?;
        agents.extend(new.into_iter().map(|agent| (from, agent)));
    }
    Ok(agents)
}
