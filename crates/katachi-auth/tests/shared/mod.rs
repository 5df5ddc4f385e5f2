//! What is tried with every replay store that servers share.
#![allow(dead_code, reason = "each test program uses a part of it")]

mod clock;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use katachi_auth::clock::Timestamp;
use katachi_auth::replay::{
    AsyncReplayStore, Epoch, Nonce, SharedLimits, Spend, Spending, Unavailable,
};
use katachi_auth::signature::KeyId;
use libtest_mimic::{Arguments, Failed, Trial};

pub(crate) use clock::Clock;

pub(crate) const LIMITS: SharedLimits = SharedLimits {
    window: 60,
    requests: 100_000,
    requests_per_key: 100_000,
};

/// Runs the cases, or reports each as ignored if `component` is missing.
pub(crate) fn main(
    component: &str,
    missing: bool,
    cases: &[(&'static str, fn())],
) -> std::process::ExitCode {
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
    let trials = cases
        .iter()
        .map(|&(name, case)| {
            let why = format!("{component} is not installed");
            match missing {
                true if required => Trial::test(name, || Err(Failed::from(why))),
                true => Trial::test(format!("{name} (ignored: {why})"), || Ok(()))
                    .with_ignored_flag(true),
                false => Trial::test(name, move || {
                    case();
                    Ok(())
                }),
            }
        })
        .collect();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    libtest_mimic::run(&arguments, trials).exit_code()
}

pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(300), future)
                .await
                .unwrap()
        })
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A signed request, as far as a store sees it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) key: KeyId,
    pub(crate) nonce: Nonce,
    pub(crate) created: u64,
    pub(crate) epoch: Epoch,
}

impl Call {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self {
            key: KeyId::parse("agent-1").unwrap(),
            nonce: Nonce::random().unwrap(),
            created: now(),
            epoch,
        }
    }

    pub(crate) async fn spend(&self, store: &impl AsyncReplayStore) -> Result<Spend, Unavailable> {
        let spending = Spending {
            key_id: &self.key,
            nonce: &self.nonce,
            created: self.created,
            expires: self.created.saturating_add(60),
            epoch: &self.epoch,
            now: Timestamp::from_unix(now()),
        };
        store.spend(&spending).await
    }
}

/// Sends `copies` of one request at once, over all nodes; says how many were fresh.
async fn storm_of_copies<S: AsyncReplayStore + 'static>(nodes: &[Arc<S>], copies: usize) -> usize {
    let call = Call::new(nodes[0].epoch().await.unwrap());
    let tasks: Vec<_> = (0..copies)
        .map(|number| {
            let (node, call) = (nodes[number % nodes.len()].clone(), call.clone());
            tokio::spawn(async move { call.spend(&*node).await.unwrap() })
        })
        .collect();
    let mut fresh = 0;
    for task in tasks {
        match task.await.unwrap() {
            Spend::Fresh => fresh += 1,
            other => assert_eq!(other, Spend::Replayed),
        }
    }
    fresh
}

pub(crate) async fn copies_at_once<S: AsyncReplayStore + 'static>(nodes: &[Arc<S>]) {
    assert_eq!(storm_of_copies(&nodes[..1], 256).await, 1);
    for _ in 0..5 {
        assert_eq!(storm_of_copies(nodes, 96).await, 1);
    }
}

pub(crate) async fn rules<S: AsyncReplayStore + 'static>(store: &S) {
    let epoch = store.epoch().await.unwrap();
    assert_eq!(store.epoch().await.unwrap(), epoch);
    let good = Call::new(epoch);
    assert_eq!(good.spend(store).await.unwrap(), Spend::Fresh);
    assert_eq!(good.spend(store).await.unwrap(), Spend::Replayed);
    // The nonce again with another time, by somebody who can sign.
    let later = Call {
        created: good.created + 31,
        ..good.clone()
    };
    assert_eq!(later.spend(store).await.unwrap(), Spend::Replayed);
    // Another key's nonce is another nonce.
    let other = Call {
        key: KeyId::parse("agent-2").unwrap(),
        ..good.clone()
    };
    assert_eq!(other.spend(store).await.unwrap(), Spend::Fresh);
    let counter = Call {
        nonce: Nonce::Counter {
            session: [1; 8],
            counter: 7,
        },
        ..good.clone()
    };
    assert_eq!(counter.spend(store).await.unwrap(), Spend::Fresh);
    assert_eq!(counter.spend(store).await.unwrap(), Spend::Replayed);
    for created in [0, now() - 63, now() + 63, u64::MAX, i64::MAX as u64] {
        let odd = Call {
            created,
            ..Call::new(epoch)
        };
        assert_eq!(
            odd.spend(store).await.unwrap(),
            Spend::Replayed,
            "{created}"
        );
    }
    let stale = Call::new(Epoch::generate().unwrap());
    assert_eq!(stale.spend(store).await.unwrap(), Spend::StaleEpoch);
}

/// Fills a store that holds little: what is in it stays.
pub(crate) async fn fills<S: AsyncReplayStore + 'static>(store: &S, small: &S, per_key: u32) {
    let epoch = store.epoch().await.unwrap();
    let mut spent = Vec::new();
    let full = loop {
        let call = Call::new(epoch);
        match call.spend(small).await.unwrap() {
            Spend::Fresh => spent.push(call),
            other => break other,
        }
        assert!(spent.len() < 10_000, "it has no bounds");
    };
    assert_eq!(full, Spend::Full);
    assert!(
        spent.len() as u32 >= per_key,
        "{} of {per_key}",
        spent.len()
    );
    for call in &spent {
        assert_eq!(call.spend(small).await.unwrap(), Spend::Replayed);
    }
    // Another key still has its share.
    let other = Call {
        key: KeyId::parse("agent-2").unwrap(),
        ..Call::new(epoch)
    };
    assert_eq!(other.spend(small).await.unwrap(), Spend::Fresh);
}

/// With a window of two seconds, for twelve: says how many requests were sent.
pub(crate) async fn rolls<S: AsyncReplayStore + 'static>(store: &S) -> usize {
    let epoch = store.epoch().await.unwrap();
    let begun = Instant::now();
    let mut fresh: Vec<Call> = Vec::new();
    while begun.elapsed() < Duration::from_secs(12) {
        let call = Call::new(epoch);
        assert_eq!(call.spend(store).await.unwrap(), Spend::Fresh);
        assert_eq!(call.spend(store).await.unwrap(), Spend::Replayed);
        // So does everything that was ever sent.
        let older = &fresh.get(fresh.len() * 7 / 11).unwrap_or(&call);
        assert_eq!(older.spend(store).await.unwrap(), Spend::Replayed);
        fresh.push(call);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fresh.len()
}

/// What was sent, and how often a server acted on it.
type Effects = HashMap<[u8; Nonce::TEXT_LEN], (Call, u32)>;

/// Clients that send every request in three copies to any node, and servers that act
/// once for each that is fresh.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    effects: Arc<Mutex<Effects>>,
    refused: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start<S: AsyncReplayStore + 'static>(nodes: &[Arc<S>]) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            effects: Arc::default(),
            refused: Arc::default(),
            tasks: Vec::new(),
        };
        for number in 0..6 {
            let (stop, effects, refused) = (
                load.stop.clone(),
                load.effects.clone(),
                load.refused.clone(),
            );
            let nodes = nodes.to_vec();
            load.tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(epoch) = nodes[number % nodes.len()].epoch().await else {
                        refused.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        continue;
                    };
                    let call = Call::new(epoch);
                    effects
                        .lock()
                        .unwrap()
                        .insert(call.nonce.encode(), (call.clone(), 0));
                    let mut copies = tokio::task::JoinSet::new();
                    for copy in 0..3 {
                        let (node, call) =
                            (nodes[(number + copy) % nodes.len()].clone(), call.clone());
                        copies.spawn(async move { call.spend(&*node).await });
                    }
                    while let Some(outcome) = copies.join_next().await {
                        match outcome.unwrap() {
                            Ok(Spend::Fresh) => act(&effects, &call),
                            Ok(_) => {}
                            Err(_) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                        }
                    }
                }
            }));
        }
        load
    }

    pub(crate) fn acted(&self) -> usize {
        self.effects
            .lock()
            .unwrap()
            .values()
            .filter(|(_, count)| *count > 0)
            .count()
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests had an effect.
    pub(crate) async fn more(&self, wanted: usize) {
        let (goal, begun) = (self.acted() + wanted, Instant::now());
        while self.acted() < goal {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "the service does not come back"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends, sends everything once more, and checks that nothing had two effects.
    pub(crate) async fn end<S: AsyncReplayStore + 'static>(self, store: &S) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let calls: Vec<Call> = self
            .effects
            .lock()
            .unwrap()
            .values()
            .map(|(call, _)| call.clone())
            .collect();
        assert!(calls.len() > 50, "only {} requests", calls.len());
        for call in calls {
            if call.spend(store).await.unwrap() == Spend::Fresh {
                act(&self.effects, &call);
            }
        }
        for (call, count) in self.effects.lock().unwrap().values() {
            assert!(*count <= 1, "{count} effects of {call:?}");
        }
    }
}

fn act(effects: &Mutex<Effects>, call: &Call) {
    effects
        .lock()
        .unwrap()
        .get_mut(&call.nonce.encode())
        .unwrap()
        .1 += 1;
}

/// What a stopped server costs: an error, soon.
pub(crate) async fn gives_up_in_time(
    store: &impl AsyncReplayStore,
    call: &Call,
    deadline: Duration,
) {
    let begun = Instant::now();
    assert!(call.spend(store).await.is_err());
    assert!(store.epoch().await.is_err());
    assert!(
        begun.elapsed() < 2 * deadline + Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

/// Steps the store's clock about: nothing that was spent is fresh again.
pub(crate) async fn clock_steps<S: AsyncReplayStore + 'static>(store: &S, clock: &Clock) {
    let mut spent: Vec<Call> = Vec::new();
    let mut epochs = Vec::new();
    for step in [0, -20, 40, 3600, 0, -600, 0] {
        clock.step(step);
        let begun = Instant::now();
        let call = loop {
            let epoch = store.epoch().await.unwrap();
            let created = now().checked_add_signed(step).unwrap();
            let call = Call {
                created,
                ..Call::new(epoch)
            };
            match call.spend(store).await.unwrap() {
                Spend::Fresh => break call,
                other => assert!(
                    begun.elapsed() < Duration::from_secs(10),
                    "{step}: {other:?}"
                ),
            }
        };
        epochs.push(call.epoch);
        spent.push(call);
        for call in &spent {
            assert_ne!(
                call.spend(store).await.unwrap(),
                Spend::Fresh,
                "after a step to {step}"
            );
        }
    }
    // Small steps cost nothing; a step back below the floor costs an epoch.
    assert!(epochs[0] == epochs[1] && epochs[1] == epochs[2] && epochs[2] == epochs[3]);
    assert!(epochs[3] != epochs[4] && epochs[4] != epochs[5]);
}

/// Signed requests through the whole of a server, on as many nodes as there are stores:
/// of all copies of each one is answered with an effect, the others with a refusal.
pub(crate) async fn signed_copies<S: AsyncReplayStore + 'static>(stores: Vec<S>) {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::post;
    use http::Request;
    use katachi_auth::replay::NonceSequence;
    use katachi_auth::signature::layer::{Gate, VerifyLayer};
    use katachi_auth::signature::{Freshness, KnownKey, Profile, Signer, Verifier, derive_key};
    use katachi_crypto::Secret;
    use tower::ServiceExt as _;

    let key = || derive_key(&Secret::new([3; 32]), "agent-1", &Profile::AGENT_REQUEST);
    let key_id = KeyId::parse("k1").unwrap();
    let epoch = stores[0].epoch().await.unwrap();
    let effects: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let nodes: Vec<Router> = stores
        .into_iter()
        .map(|store| {
            let gate = Gate::shared(
                Verifier::new(Profile::AGENT_REQUEST, ["relay.example"]),
                Arc::new(KnownKey::new(key_id.clone(), "agent-1", key())),
                store,
            );
            let effects = effects.clone();
            let act = move |body: String| async move {
                *effects.lock().unwrap().entry(body).or_default() += 1;
            };
            Router::new()
                .route("/v1/run", post(act))
                .layer(VerifyLayer::new(gate))
        })
        .collect();
    let signer = Signer::new(Profile::AGENT_REQUEST, key_id.clone(), key());
    let nonces = NonceSequence::start().unwrap();
    for number in 0..12 {
        let mut request = Request::post("https://relay.example/v1/run")
            .body(format!("command {number}"))
            .unwrap();
        // Either form of nonce.
        let nonce = match number % 2 {
            0 => nonces.draw(),
            _ => Nonce::random().unwrap(),
        };
        let freshness = Freshness::new(Timestamp::from_unix(now()), nonce, epoch);
        let signed = signer.sign(&request, &freshness).unwrap();
        signed.apply(request.headers_mut());
        let copies: Vec<_> = (0..66)
            .map(|copy| {
                let (node, request) = (nodes[copy % nodes.len()].clone(), request.clone());
                tokio::spawn(node.oneshot(request.map(Body::from)))
            })
            .collect();
        let mut accepted = 0;
        for copy in copies {
            match copy.await.unwrap().unwrap().status().as_u16() {
                200 => accepted += 1,
                status => assert_eq!(status, 401),
            }
        }
        assert_eq!(accepted, 1);
    }
    let effects = effects.lock().unwrap();
    assert!(effects.len() == 12 && effects.values().all(|count| *count == 1));
}
