//! Chapter 4: the tunnel, dialled out, and signed calls: what passes, and what
//! a replayed, an aged and an altered one meet.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Method;
use katachi_protocol::agent::{Activity, ActivityKind, AgentState, Heartbeat};
use katachi_protocol::problem::codes;
use katachi_protocol::routes;
use tokio::sync::{oneshot, watch};

use super::{Story, Tunnel};
use crate::audit::AuditLog;
use crate::chat::Chat;
use crate::relay_client::{Answer, RelayClient};
use crate::tunnel::{self, Link, Service};

/// Copies of one call that are sent at once.
const COPIES: usize = 16;
/// Time for the tunnel to open.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn sign(story: &mut Story) -> anyhow::Result<()> {
    open_tunnel(story).await?;
    let service = Arc::clone(
        story
            .service
            .as_ref()
            .context("the tunnel has no service")?,
    );
    let client = service.client();

    let beat = client.heartbeat(AgentState::Idle).await?;
    let noted = client
        .activity(&Activity {
            kind: ActivityKind::Connected,
            outcome: None,
            control: None,
            milliseconds: None,
        })
        .await?;
    story.check(
        11,
        beat.next_seconds > 0 && noted.sequence > 0,
        format!(
            "signed heartbeat and activity calls are taken (entry {} of the relay's log)",
            noted.sequence
        ),
    );
    refusals(story, client).await?;
    Ok(())
}

/// Dials, and waits until the relay shows this machine as online.
async fn open_tunnel(story: &mut Story) -> anyhow::Result<()> {
    let home = story.home.clone().context("there is no vault")?;
    let registration = story
        .registration
        .as_ref()
        .context("this machine was not approved")?;
    let audit = Arc::new(AuditLog::open(&story.config.paths.audit_log())?);
    let client = RelayClient::new(registration, Some(Arc::clone(&audit)))?;
    let chat = Chat::open(&home, &story.config.workspace)?;
    let interrupted = tunnel::interrupted(&audit)?;
    let service = Service::new(&story.config, home, chat, client, audit, &interrupted)?;
    let service = Arc::new(service);

    let (link, mut watcher) = watch::channel(Link::Dialling);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(tunnel::keep_open(Arc::clone(&service), link, async move {
        // A story that was dropped ends the tunnel as well.
        let _ = stopped.await;
    }));
    story.tunnel = Some(Tunnel { stop, task });
    let agent = service.client().agent_id().to_owned();
    story.service = Some(service);

    let opened = tokio::time::timeout(PATIENCE, async {
        loop {
            watcher.changed().await?;
            match &*watcher.borrow_and_update() {
                Link::Open => return Ok(()),
                Link::Waiting { why, .. } => bail!("{why}"),
                Link::Dialling => {}
            }
        }
    });
    opened.await.context("the tunnel did not open in time")??;
    let browser = story.browser.as_ref().context("there is no browser")?;
    let online = tokio::time::timeout(PATIENCE, async {
        loop {
            let agents = browser.agents().await?.agents;
            if agents.iter().any(|known| known.id == agent && known.online) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    online
        .await
        .context("the relay does not show this machine as online")??;
    let service = story
        .service
        .as_ref()
        .context("the tunnel has no service")?;
    let relayed = tunnel::relayed(service.client()).await?;
    story.check(
        2,
        relayed == 401,
        format!("the tunnel was dialled out over TLS 1.3; a signature made for another TLS connection gets {relayed}"),
    );
    match listeners() {
        Some(count) => story.check(
            2,
            count == 0,
            format!("this process listens on {count} sockets"),
        ),
        None => story.ledger.unwitnessed(
            2,
            "whether this process listens cannot be seen on this system",
        ),
    }
    Ok(())
}

/// How many listening TCP sockets this process has, where `/proc` says so.
fn listeners() -> Option<usize> {
    let mut own = std::collections::HashSet::new();
    for entry in std::fs::read_dir("/proc/self/fd").ok()?.flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let inode = target.to_str().and_then(|text| {
            text.strip_prefix("socket:[")?
                .strip_suffix(']')
                .map(str::to_owned)
        });
        own.extend(inode);
    }
    let mut count = 0;
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        // A machine without IPv6 has no second table.
        let Ok(text) = std::fs::read_to_string(table) else {
            continue;
        };
        count += text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| {
                fields.get(3) == Some(&"0A")
                    && fields.get(9).is_some_and(|inode| own.contains(*inode))
            })
            .count();
    }
    Some(count)
}

/// A call that is replayed, one that is too old, and one that was altered.
async fn refusals(story: &mut Story, client: &RelayClient) -> anyhow::Result<()> {
    let body = || {
        serde_json::to_vec(&Heartbeat {
            state: AgentState::Idle,
            vault_generation: None,
        })
    };
    let post = |body, at| client.prepare(&Method::POST, routes::HEARTBEAT, body, at);

    let call = post(body()?, client.now())?;
    let first = client.send(&call).await?;
    let second = client.send(&call).await?;
    story.check(
        11,
        first.status.is_success() && first.is_believed() && refused(&second, Some(codes::REPLAYED)),
        format!(
            "the same call sent twice: {}, then {}",
            first.status,
            shown(&second)
        ),
    );

    let call = post(body()?, client.now())?;
    let copies = futures_util::future::join_all((0..COPIES).map(|_| client.send(&call))).await;
    let copies = copies.into_iter().collect::<Result<Vec<_>, _>>()?;
    let taken = copies
        .iter()
        .filter(|answer| answer.status.is_success())
        .count();
    story.check(
        11,
        taken == 1,
        format!("of {COPIES} copies of one call sent at once, {taken} was taken"),
    );

    let old = client.now().before(Duration::from_secs(120));
    let aged = client.send(&post(body()?, old)?).await?;
    story.check(
        11,
        refused(&aged, Some(codes::SKEW)),
        format!("a call signed two minutes ago: {}", shown(&aged)),
    );

    let mut altered = post(body()?, client.now())?;
    altered.body = serde_json::to_vec(&Heartbeat {
        state: AgentState::Busy,
        vault_generation: None,
    })?;
    let altered = client.send(&altered).await?;
    let mut moved = post(body()?, client.now())?;
    moved.path = routes::ACTIVITY.to_owned();
    let moved = client.send(&moved).await?;
    story.check(
        11,
        refused(&altered, None) && refused(&moved, None),
        format!(
            "a call with another body: {}; with another path: {}",
            shown(&altered),
            shown(&moved)
        ),
    );
    Ok(())
}

/// Refused as a signature is; with this word where the signature itself held.
fn refused(answer: &Answer, word: Option<&str>) -> bool {
    let code = answer.problem().map(|problem| problem.error);
    answer.status == 401
        && word.is_none_or(|word| code.as_deref() == Some(word) && answer.is_believed())
}

fn shown(answer: &Answer) -> String {
    let word = answer
        .problem()
        .map(|problem| problem.error)
        .unwrap_or_default();
    format!(
        "{} {}",
        answer.status.as_u16(),
        crate::output::printable(&word)
    )
}
