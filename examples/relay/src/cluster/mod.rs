//! Several relays on one PostgreSQL that serve as one.
//!
//! The rows are the truth, by the clock of the database: which nodes live (a lease
//! that each renews twice a second), which of them has the tunnel of an agent (the
//! highest generation), what was accepted, how often somebody tried. Notifications
//! only wake; whoever misses one looks within half a second by itself.
//!
//! ```text
//! browser ─▶ any node ─▶ row: who owns the agent? ─┬─ this node ─▶ tunnel ─▶ agent
//!                                                  └─ another ──▶ one hop ─▶ tunnel ─▶ agent
//! ```
//!
//! A node that cannot renew its lease closes its tunnels before anybody takes it for
//! dead, by a clock that only counts forward. Its agents connect again, anywhere.

pub(crate) mod cli;
mod forward;
pub(crate) mod keyset;
mod links;
mod rotate;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use katachi_crypto::random;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Client;
use tracing::{info, warn};

pub(crate) use forward::router;
pub(crate) use links::Links;

use crate::failure::Failure;
use crate::http::App;
use crate::records::keys::ClusterKeys;
use crate::records::postgres::Postgres;
use crate::records::tunnels::{self, Claim};
use crate::records::{Records, RecordsError, nodes};
use crate::tls::TlsError;

/// How long a node is taken for alive after it said so.
const LEASE: Duration = Duration::from_millis(1800);
/// How often it says so.
const BEAT: Duration = Duration::from_millis(500);
/// Time for saying so, before another connection is tried.
const PATIENCE: Duration = Duration::from_millis(700);
/// Notifications are not followed faster than this.
const BREATH: Duration = Duration::from_millis(50);

/// This node, as one of several.
pub(crate) struct Cluster {
    name: String,
    incarnation: [u8; 16],
    records: Records,
    postgres: Arc<Postgres>,
    keys: Arc<ClusterKeys>,
    /// Until when the lease holds, by this process's own clock.
    held_until: Mutex<Option<Instant>>,
    /// Of the generation of keys that they were made under.
    links: Mutex<Option<(i64, Links)>>,
    wake: Arc<Notify>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a node learns when it renews its lease.
struct Beat {
    /// Whether the lease still held.
    held: bool,
    generation: i64,
    endings: i64,
    tunnels: HashMap<String, u64>,
}

impl Cluster {
    /// Takes this node's place, if the records are of a cluster. A process that has
    /// it already ends. It waits for the server.
    pub(crate) fn enter(records: &Records, address: &str) -> Result<Option<Self>, RecordsError> {
        let Some((postgres, keys)) = records.shared() else {
            return Ok(None);
        };
        let incarnation = random::bytes::<16>()?;
        let entered = async {
            let client = postgres.listen(|| {}).await?;
            let name = nodes::name_of(&client, &keys).await?;
            let asked = Instant::now();
            client
                .execute(
                    &format!(
                        "UPDATE nodes SET incarnation = $2, address = $3,
                            expires = clock_timestamp() + interval '{} ms' WHERE name = $1",
                        LEASE.as_millis()
                    ),
                    &[&name, &incarnation.as_slice(), &address],
                )
                .await?;
            // What a former process of this node had.
            client
                .execute("DELETE FROM tunnels WHERE node = $1", &[&name])
                .await?;
            Ok::<_, RecordsError>((name, asked))
        };
        let (name, asked) = Handle::current().block_on(entered)?;
        info!(node = name, cluster = %keys.current().id(), "entered the cluster");
        Ok(Some(Self {
            name,
            incarnation,
            records: records.clone(),
            postgres,
            keys,
            held_until: Mutex::new(Some(asked + LEASE)),
            links: Mutex::default(),
            wake: Arc::default(),
        }))
    }

    /// Whether this node's lease holds.
    pub(crate) fn lives(&self) -> bool {
        self.held_until()
            .is_some_and(|until| Instant::now() < until)
    }

    fn held_until(&self) -> Option<Instant> {
        *self.lease()
    }

    fn lease(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.held_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// TLS towards the other nodes, under the newest keys.
    pub(crate) fn links(&self) -> Result<Links, TlsError> {
        let generation = self.keys.generation();
        let mut kept = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, links)) = kept.as_ref()
            && *of == generation
        {
            return Ok(links.clone());
        }
        let links = Links::of(&self.name, &self.keys.current())?;
        *kept = Some((generation, links.clone()));
        Ok(links)
    }

    /// Claims the tunnel of `agent` for this node. `None` if a newer one was claimed
    /// meanwhile, or the lease is over.
    pub(crate) async fn claim(&self, agent: &str) -> Result<Option<Claim>, RecordsError> {
        let (agent, node, incarnation) = (agent.to_owned(), self.name.clone(), self.incarnation);
        self.records
            .write(move |tx| tunnels::claim(tx, &agent, &node, &incarnation))
            .await
    }

    /// Gives a tunnel up that has ended.
    pub(crate) async fn release(&self, agent: &str, generation: u64) {
        let agent = agent.to_owned();
        let released = self
            .records
            .write(move |tx| tunnels::release(tx, &agent, generation))
            .await;
        if let Err(error) = released {
            warn!(%error, "a tunnel that ended is still in the database");
        }
    }

    /// Asks `agent`, wherever it has its tunnel.
    pub(crate) async fn ask(
        &self,
        app: &App,
        agent: &str,
        request: Request,
    ) -> Result<Response, Failure> {
        let asked = agent.to_owned();
        let owner = self
            .records
            .read(move |tx| tunnels::owner(tx, &asked))
            .await;
        let owner = owner.map_err(Failure::internal)?.ok_or(Failure::Offline)?;
        if owner.node == self.name {
            return app
                .tunnels
                .ask(agent, Some(owner.generation), request)
                .await;
        }
        // The owner gives up first.
        let patience = app.limits.answer + Duration::from_secs(1);
        self.forward(&owner, agent, request, patience).await
    }

    /// Renews the lease and follows the rows, until it may not go on: another process
    /// is this node, or the node was removed.
    pub(crate) async fn run(&self, app: &App) -> RecordsError {
        let mut client = None;
        let mut endings = None;
        loop {
            let asked = Instant::now();
            let known = app.tunnels.generations();
            let deadline = match self.held_until() {
                Some(until) if until > asked => until.min(asked + PATIENCE),
                _ => asked + PATIENCE,
            };
            let beat = match timeout_at(deadline, self.beat(&mut client)).await {
                Ok(beat) => beat,
                Err(_) => Ok(None),
            };
            match beat {
                Ok(Some(beat)) => {
                    *self.lease() = Some(asked + LEASE);
                    self.follow(app, &beat, known);
                    if endings
                        .replace(beat.endings)
                        .is_some_and(|e| e != beat.endings)
                    {
                        self.records.sessions().tell(1);
                    }
                    tokio::select! {
                        () = async { sleep(BREATH).await; self.wake.notified().await } => {}
                        () = tokio::time::sleep_until(asked + BEAT) => {}
                    }
                }
                Err(error @ (RecordsError::Superseded | RecordsError::NotAdded(_))) => {
                    return error;
                }
                missed => {
                    client = None;
                    if let Err(error) = missed {
                        warn!(%error, "the lease was not renewed");
                        sleep(BREATH).await;
                    }
                }
            }
            if !self.lives() && self.lease().take().is_some() {
                warn!("the lease is over; every tunnel is closed");
                app.tunnels.close_all();
            }
        }
    }

    /// Renews the lease, on a new connection if there is none.
    async fn beat(&self, client: &mut Option<Client>) -> Result<Option<Beat>, RecordsError> {
        let client = match client {
            Some(client) => client,
            None => {
                let wake = Arc::clone(&self.wake);
                let connected = self.postgres.listen(move || wake.notify_one()).await?;
                // A lease that a crash of the server forgets is only over sooner.
                connected
                    .batch_execute("SET synchronous_commit = off")
                    .await?;
                client.insert(connected)
            }
        };
        let sql = format!(
            "UPDATE nodes n SET expires = clock_timestamp() + interval '{} ms'
             FROM (SELECT expires > clock_timestamp() AS held FROM nodes
                   WHERE name = $1 FOR UPDATE) was
             WHERE n.name = $1 AND n.incarnation = $2
             RETURNING was.held, (SELECT generation FROM service), (SELECT endings FROM service)",
            LEASE.as_millis()
        );
        let renewed = client
            .query_opt(&sql, &[&self.name, &self.incarnation.as_slice()])
            .await?;
        let Some(renewed) = renewed else {
            // Removed, or another process is this node.
            let name = nodes::name_of(client, &self.keys).await?;
            warn!(node = name, "another process has this node's place");
            return Err(RecordsError::Superseded);
        };
        let generation = renewed.get(1);
        if generation > self.keys.generation() {
            nodes::take_up(client, &self.keys, generation).await?;
            info!(generation, "the keys were rotated");
        }
        let rows = client
            .query(
                "SELECT agent_id, generation FROM tunnels WHERE node = $1",
                &[&self.name],
            )
            .await?;
        let tunnels = rows.iter().map(|row| {
            let generation: i64 = row.get(1);
            (row.get(0), u64::try_from(generation).unwrap_or_default())
        });
        Ok(Some(Beat {
            held: renewed.get(0),
            generation,
            endings: renewed.get(2),
            tunnels: tunnels.collect(),
        }))
    }

    /// Closes the tunnels that are somebody else's now, of those `known` before the
    /// rows were read.
    fn follow(&self, app: &App, beat: &Beat, known: Vec<(String, u64)>) {
        if !beat.held {
            // By the clock of the database this node was dead for a while.
            warn!(
                generation = beat.generation,
                "the lease was over; every tunnel is closed"
            );
            app.tunnels.close_all();
            return;
        }
        for (agent, generation) in known {
            if beat.tunnels.get(&agent) != Some(&generation) {
                info!(
                    agent,
                    generation, "the tunnel is another node's now, or nobody's"
                );
                app.tunnels.close_one(&agent, generation);
            }
        }
    }

    /// Gives the lease up: agents of this node are nobody's from now on.
    pub(crate) async fn leave(&self) {
        *self.lease() = None;
        let (name, incarnation) = (self.name.clone(), self.incarnation);
        let left = self.records.write(move |tx| {
            tx.execute(
                "UPDATE nodes SET expires = '-infinity', incarnation = NULL
                 WHERE name = ?1 AND incarnation = ?2",
                crate::records::store::values![&name, incarnation.as_slice()],
            )
        });
        if let Err(error) = left.await {
            warn!(%error, "the lease was not given up; it ends by itself");
        }
    }
}
