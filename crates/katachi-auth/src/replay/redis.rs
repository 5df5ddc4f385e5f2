//! A replay store in Redis.

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, ConnectionAddr, Script, ScriptInvocation};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::shared::{self, Answer, SharedLimits, Trace};
use super::{AsyncReplayStore, Epoch, Spend, Spending, Unavailable};

const SCRIPT: &str = include_str!("redis.lua");
const DEADLINE: Duration = Duration::from_secs(3);

/// A replay store in Redis 6.2 or newer, or Valkey, for any number of servers.
///
/// # The guarantee
///
/// One copy of a request at most is fresh, whichever servers they reach. Comparing the
/// epoch and recording the nonce is one run of one script. Redis may forget what it
/// answered: in a crash, and when a replica is promoted that lacked the last writes. So
/// an epoch belongs to one life of one process (`run_id` and `master_replid`), compared
/// in the same script. Any other process, a restart included, begins a new epoch, and
/// what was signed for the former one is refused as [`Spend::StaleEpoch`]; so does a
/// server whose nonces somebody deleted, and one to which its first replica connects
/// (Redis then takes another `master_replid`). One that would evict keys is refused.
///
/// The clock of Redis is the one that counts. If it steps back by more than the
/// window, a new epoch begins. Old entries are dropped by the half window; a store that
/// is full refuses and forgets nothing. What takes longer than the deadline is
/// [`Unavailable`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use katachi_auth::replay::{AsyncReplayStore, RedisReplay, SharedLimits};
///
/// let client = redis::Client::open("redis+unix:///run/redis/redis.sock")?;
/// let store = RedisReplay::new(client, "relay", SharedLimits::default())?;
/// let epoch = store.epoch().await?;
/// # Ok(())
/// # }
/// ```
pub struct RedisReplay {
    client: Client,
    keys: Vec<String>,
    script: Script,
    limits: SharedLimits,
    deadline: Duration,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl RedisReplay {
    /// A store whose keys begin with `{name}`. Connects when needed.
    ///
    /// For TLS, enable `tokio-rustls-comp` of the crate `redis` and open the client
    /// with a `rediss://` address.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] for an address that would be reached in plain text over
    /// a network, or without verifying who answers.
    pub fn new(client: Client, name: &str, limits: SharedLimits) -> Result<Self, Unavailable> {
        let is_safe = match client.get_connection_info().addr() {
            ConnectionAddr::Unix(_) => true,
            ConnectionAddr::Tcp(host, _) => {
                host == "localhost"
                    || host
                        .parse::<std::net::IpAddr>()
                        .is_ok_and(|address| address.is_loopback())
            }
            ConnectionAddr::TcpTls { insecure, .. } => !insecure,
            _ => false,
        };
        if !is_safe {
            return Err(Unavailable::new(
                "Redis is reached by a socket of this machine or by verified TLS",
            ));
        }
        // One hash tag: a cluster keeps them together.
        let part = |part: String| format!("{{{name}}}:replay:{part}");
        let keys = std::iter::once(part("state".to_owned()))
            .chain((0..8).map(|place| part(format!("nonces:{place}"))))
            .chain((0..8).map(|place| part(format!("clients:{place}"))))
            .collect();
        Ok(Self {
            client,
            keys,
            script: Script::new(SCRIPT),
            limits,
            deadline: DEADLINE,
            connection: Mutex::new(None),
        })
    }

    /// Bounds every call, connecting included. Three seconds unless set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Takes a new epoch and forgets everything: every signature made so far is dead.
    ///
    /// # Errors
    ///
    /// Returns [`Unavailable`] if the store cannot be asked.
    pub async fn start_new_epoch(&self) -> Result<Epoch, Unavailable> {
        let current = self.epoch().await?;
        self.begin(Some(current)).await
    }

    /// The epoch in force; a new one if there is none, or if it is still `replace`.
    async fn begin(&self, replace: Option<Epoch>) -> Result<Epoch, Unavailable> {
        let fresh = Epoch::generate()?;
        let mut call = self.call("epoch");
        call.arg(fresh.as_bytes().as_slice());
        match &replace {
            Some(epoch) => call.arg(epoch.as_bytes().as_slice()),
            None => call.arg(""),
        };
        call.arg(self.limits.bucket());
        shared::epoch(&self.ask(&call).await?)
    }

    fn call(&self, what: &str) -> ScriptInvocation<'_> {
        let mut call = self.script.prepare_invoke();
        for key in &self.keys {
            call.key(key);
        }
        call.arg(what);
        call
    }

    async fn ask(&self, call: &ScriptInvocation<'_>) -> Result<Vec<u8>, Unavailable> {
        let answered = async {
            let mut connection = self.connection().await?;
            call.invoke_async(&mut connection)
                .await
                .map_err(Unavailable::new)
        };
        let outcome = timeout(self.deadline, answered)
            .await
            .unwrap_or_else(|_| Err(Unavailable::new("no answer from Redis in time")));
        if outcome.is_err() {
            // Whatever state the connection is in, the next call gets a new one.
            *self.connection.lock().await = None;
        }
        outcome
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Unavailable> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref() {
            return Ok(connection.clone());
        }
        let made = self.client.get_multiplexed_async_connection().await;
        let connection = made.map_err(Unavailable::new)?;
        *kept = Some(connection.clone());
        Ok(connection)
    }
}

impl AsyncReplayStore for RedisReplay {
    async fn epoch(&self) -> Result<Epoch, Unavailable> {
        self.begin(None).await
    }

    async fn spend(&self, spending: &Spending<'_>) -> Result<Spend, Unavailable> {
        // Lua counts in doubles.
        if spending.created > 1 << 52 {
            return Ok(Spend::Replayed);
        }
        let trace = Trace::of(spending);
        let mut call = self.call("spend");
        call.arg(spending.epoch.as_bytes().as_slice())
            .arg(trace.nonce.as_slice())
            .arg(trace.key.as_slice())
            .arg(spending.created)
            .arg(self.limits.bucket())
            .arg(self.limits.requests)
            .arg(self.limits.requests_per_key);
        let answer = self.ask(&call).await?;
        match Answer::read(&String::from_utf8_lossy(&answer))? {
            Answer::Settled(spend) => Ok(spend),
            Answer::NeedsEpoch => {
                self.begin(None).await?;
                Ok(Spend::StaleEpoch)
            }
            Answer::NeedsRoom => Ok(Spend::Full),
        }
    }
}

impl fmt::Debug for RedisReplay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisReplay")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
