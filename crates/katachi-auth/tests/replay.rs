//! The replay guarantee, clause by clause, against the store in memory.

#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use katachi_auth::replay::{
    AsyncReplayStore, Epoch, Limits, MemoryReplay, Nonce, NonceSequence, ReplayStore, Spend,
    Spending, Unavailable,
};
use katachi_auth::signature::{Answer, KeyId};
use proptest::prelude::*;
use support::{NOW, Sent, World, at};

fn store(limits: Limits) -> MemoryReplay {
    MemoryReplay::new(limits).unwrap()
}

fn key(name: &str) -> KeyId {
    KeyId::parse(name).unwrap()
}

fn spend_for(
    store: &MemoryReplay,
    key_id: &KeyId,
    nonce: Nonce,
    created: u64,
    now: u64,
    epoch: Epoch,
) -> Spend {
    let spending = Spending {
        key_id,
        nonce: &nonce,
        created,
        expires: created + 60,
        epoch: &epoch,
        now: at(now),
    };
    store.spend(&spending).unwrap()
}

fn spend(store: &MemoryReplay, nonce: Nonce, created: u64, now: u64) -> Spend {
    spend_for(
        store,
        &key("k"),
        nonce,
        created,
        now,
        store.epoch().unwrap(),
    )
}

fn counter(session: u8, counter: u64) -> Nonce {
    Nonce::Counter {
        session: [session; 8],
        counter,
    }
}

fn random(n: u64) -> Nonce {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Nonce::Random(bytes)
}

#[test]
fn s09_of_256_copies_at_once_exactly_one_is_accepted() {
    for form in [
        Nonce::random().unwrap(),
        NonceSequence::start().unwrap().draw(),
    ] {
        let store = store(Limits::default());
        let (fresh, replayed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let start = Barrier::new(256);
        std::thread::scope(|scope| {
            for _ in 0..256 {
                scope.spawn(|| {
                    start.wait();
                    match spend(&store, form, NOW, NOW) {
                        Spend::Fresh => fresh.fetch_add(1, Ordering::SeqCst),
                        Spend::Replayed => replayed.fetch_add(1, Ordering::SeqCst),
                        other => panic!("{other:?}"),
                    };
                });
            }
        });
        assert_eq!((fresh.into_inner(), replayed.into_inner()), (1, 255));
    }
}

#[test]
fn s09_of_256_signed_copies_at_once_exactly_one_is_verified() {
    let world = Arc::new(World::agent());
    let sent: Sent = world.good();
    let start = Barrier::new(256);
    let accepted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..256 {
            scope.spawn(|| {
                start.wait();
                match world.accept(&sent) {
                    Ok(()) => {
                        accepted.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(refusal) => assert_eq!(refusal.answer(), Answer::Replayed),
                }
            });
        }
    });
    assert_eq!(accepted.into_inner(), 1);
}

#[test]
fn many_threads_draw_and_spend_one_sequence_without_a_loss() {
    let store = store(Limits::default());
    let sequence = NonceSequence::start().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..100 {
                    // 800 in all: however late a thread is, it stays within the window.
                    assert_eq!(spend(&store, sequence.draw(), NOW, NOW), Spend::Fresh);
                }
            });
        }
    });
    assert_eq!(store.len(), 1, "one window, whatever the rate");
}

#[test]
fn s11_a_full_store_refuses_new_nonces_and_forgets_none() {
    let limits = Limits {
        entries: 16 * 100,
        entries_per_key: 4096,
        ..Limits::default()
    };
    let store = store(limits);
    let mut accepted = Vec::new();
    let refused = loop {
        let nonce = random(accepted.len() as u64 + 1);
        match spend(&store, nonce, NOW, NOW) {
            Spend::Fresh => accepted.push(nonce),
            outcome => break outcome,
        }
    };
    assert_eq!(
        (refused, accepted.len()),
        (Spend::Full, 100),
        "the share of one lock"
    );
    for nonce in accepted {
        assert_eq!(spend(&store, nonce, NOW, NOW), Spend::Replayed);
    }
    // Room comes back with time, by expiry alone.
    assert_eq!(spend(&store, random(9999), NOW + 60, NOW + 60), Spend::Full);
    assert_eq!(
        spend(&store, random(9999), NOW + 80, NOW + 80),
        Spend::Fresh
    );
}

#[test]
fn s11_one_key_cannot_take_the_room_of_others() {
    let store = store(Limits {
        entries_per_key: 50,
        ..Limits::default()
    });
    let spent = (1..1000).take_while(|n| spend(&store, random(*n), NOW, NOW) == Spend::Fresh);
    assert_eq!(spent.count(), 50);
    let epoch = store.epoch().unwrap();
    for other in 0..100 {
        let id = key(&format!("other-{other}"));
        // Another key of the same group (1 in 256) shares the number.
        let outcome = spend_for(&store, &id, random(1), NOW, NOW, epoch);
        assert!(matches!(outcome, Spend::Fresh | Spend::Full));
    }
    assert!(store.len() > 140, "{}", store.len());
}

#[test]
fn s11_a_key_has_few_live_sessions_and_gets_them_back_with_time() {
    let store = store(Limits {
        sessions_per_key: 4,
        ..Limits::default()
    });
    for session in 1..=4 {
        assert_eq!(spend(&store, counter(session, 0), NOW, NOW), Spend::Fresh);
    }
    assert_eq!(spend(&store, counter(5, 0), NOW, NOW), Spend::Full);
    assert_eq!(
        spend(&store, counter(1, 1), NOW + 30, NOW + 30),
        Spend::Fresh
    );
    assert_eq!(spend(&store, counter(1, 0), NOW, NOW + 60), Spend::Replayed);
    assert_eq!(
        spend(&store, counter(5, 0), NOW + 61, NOW + 61),
        Spend::Fresh
    );
    assert_eq!(store.len(), 4, "a dead session gave its place");
    assert_eq!(
        spend(&store, counter(1, 1), NOW + 30, NOW + 61),
        Spend::Replayed
    );
}

#[test]
fn s11_all_sessions_together_are_bounded_and_swept() {
    let store = store(Limits {
        sessions: 16 * 8,
        ..Limits::default()
    });
    let epoch = store.epoch().unwrap();
    let mut outcomes = HashMap::new();
    for n in 0..2000 {
        let id = key(&format!("agent-{n}"));
        let outcome = spend_for(&store, &id, counter(1, 0), NOW, NOW, epoch);
        *outcomes.entry(format!("{outcome:?}")).or_insert(0) += 1;
    }
    assert_eq!(outcomes["Fresh"], 128);
    assert_eq!(outcomes["Full"], 2000 - 128);
    for n in 0..2000 {
        let id = key(&format!("agent-{n}"));
        let outcome = spend_for(&store, &id, counter(1, 0), NOW, NOW, epoch);
        assert_ne!(outcome, Spend::Fresh, "no live session was forgotten");
    }
    let later = NOW + 61;
    let fresh = (0..2000)
        .filter(|n| {
            let id = key(&format!("later-{n}"));
            spend_for(&store, &id, counter(1, 0), later, later, epoch) == Spend::Fresh
        })
        .count();
    assert_eq!(fresh, 128);
}

#[test]
fn s14_a_store_that_starts_again_refuses_what_was_signed_for_its_last_life() {
    let mut world = World::agent();
    let sent = world.good();
    world.accept(&sent).unwrap();
    let old = world.epoch;
    world.store = store(Limits::default());
    // Even where the verifier still believes in the old epoch, the store does not.
    assert_eq!(
        world.accept(&sent).unwrap_err().answer(),
        Answer::StaleEpoch
    );
    world.epoch = world.store.epoch().unwrap();
    assert_ne!(world.epoch, old);
    assert_eq!(
        world.accept(&sent).unwrap_err().answer(),
        Answer::StaleEpoch
    );
    world.accept(&world.good()).unwrap();
}

#[test]
fn s15_a_clock_that_steps_back_re_opens_nothing() {
    let store = store(Limits::default());
    let epoch = store.epoch().unwrap();
    assert_eq!(spend(&store, random(1), NOW, NOW), Spend::Fresh);
    // Ten minutes pass, then the clock returns: the entry is gone, the floor is not.
    assert_eq!(spend(&store, random(2), NOW + 600, NOW + 600), Spend::Fresh);
    assert_eq!(spend(&store, random(1), NOW, NOW + 540), Spend::Replayed);
    // Back below everything that can be accepted: a new epoch, and the old request is dead.
    assert_eq!(spend(&store, random(1), NOW, NOW), Spend::StaleEpoch);
    assert_ne!(store.epoch().unwrap(), epoch);
    assert_eq!(
        spend_for(&store, &key("k"), random(1), NOW, NOW, epoch),
        Spend::StaleEpoch
    );
    assert_eq!(
        spend(&store, random(3), NOW, NOW),
        Spend::Fresh,
        "service is back"
    );
}

#[test]
fn s15_a_clock_that_steps_forward_and_back_recovers() {
    let store = store(Limits::default());
    let epoch = store.epoch().unwrap();
    for nonce in [random(1), counter(1, 1)] {
        assert_eq!(spend(&store, nonce, NOW, NOW), Spend::Fresh);
    }
    // An hour ahead for a moment: what was made before is out of the window.
    let ahead = NOW + 3600;
    assert_eq!(spend(&store, random(1), NOW, ahead), Spend::Replayed);
    assert_eq!(spend(&store, random(2), ahead, ahead), Spend::Fresh);
    // And back. The copies are dead with their epoch, and service goes on in a new one.
    for nonce in [random(1), counter(1, 1), random(2)] {
        assert_ne!(
            spend_for(&store, &key("k"), nonce, NOW, NOW, epoch),
            Spend::Fresh
        );
    }
    assert_ne!(store.epoch().unwrap(), epoch);
    assert_eq!(spend(&store, random(3), NOW, NOW), Spend::Fresh);
    // A request from the hour ahead does not come back when that hour comes.
    assert_eq!(
        spend_for(&store, &key("k"), random(2), ahead, ahead, epoch),
        Spend::StaleEpoch
    );
}

#[test]
fn s15_a_small_step_back_costs_no_epoch() {
    let store = store(Limits::default());
    let epoch = store.epoch().unwrap();
    assert_eq!(spend(&store, random(1), NOW, NOW), Spend::Fresh);
    assert_eq!(spend(&store, random(2), NOW - 30, NOW - 30), Spend::Fresh);
    assert_eq!(spend(&store, random(1), NOW, NOW - 30), Spend::Replayed);
    assert_eq!(store.epoch().unwrap(), epoch);
}

#[test]
fn a_new_epoch_on_demand_kills_what_was_signed_before() {
    let store = store(Limits::default());
    let old = store.epoch().unwrap();
    assert_eq!(spend(&store, random(1), NOW, NOW), Spend::Fresh);
    assert_eq!(store.start_new_epoch().unwrap(), store.epoch().unwrap());
    assert!(store.is_empty());
    assert_eq!(
        spend_for(&store, &key("k"), random(1), NOW, NOW, old),
        Spend::StaleEpoch
    );
}

#[test]
fn an_epoch_that_changes_under_load_never_lets_a_copy_through() {
    let store = store(Limits::default());
    let fresh = AtomicUsize::new(0);
    let epoch = store.epoch().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 1..2000 {
                    let outcome = spend_for(&store, &key("k"), random(n), NOW, NOW, epoch);
                    fresh.fetch_add(usize::from(outcome == Spend::Fresh), Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| store.start_new_epoch().unwrap());
    });
    assert!(fresh.into_inner() < 2000, "each nonce at most once");
}

#[test]
fn an_unavailable_store_refuses_the_request() {
    struct Dead;
    impl ReplayStore for Dead {
        fn epoch(&self) -> Result<Epoch, Unavailable> {
            Err(Unavailable::new("gone"))
        }
        fn spend(&self, _: &Spending<'_>) -> Result<Spend, Unavailable> {
            Err(Unavailable::new("gone"))
        }
    }
    let world = World::agent();
    let context = katachi_auth::signature::Context::new(at(NOW), world.epoch);
    let refusal = world
        .good()
        .with(|view| {
            let authentic = world.verifier.check(view, &world.keys, &context)?;
            authentic.spend(&Dead, at(NOW)).map(drop)
        })
        .unwrap_err();
    assert_eq!(
        (refusal.answer(), refusal.answer().status()),
        (Answer::Unavailable, 503)
    );
    assert!(refusal.to_string().contains("gone"));
}

/// A store across a network: it answers after others had their turn.
struct Remote(MemoryReplay);

impl AsyncReplayStore for Remote {
    async fn epoch(&self) -> Result<Epoch, Unavailable> {
        self.0.epoch()
    }

    async fn spend(&self, spending: &Spending<'_>) -> Result<Spend, Unavailable> {
        tokio::task::yield_now().await;
        let spent = self.0.spend(spending);
        tokio::task::yield_now().await;
        spent
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s10_of_64_copies_over_three_nodes_with_one_store_one_is_accepted() {
    let world = World::agent();
    let store = Arc::new(Remote(MemoryReplay::new(Limits::default()).unwrap()));
    let epoch = AsyncReplayStore::epoch(&*store).await.unwrap();
    let sent = World { epoch, ..world }.good();
    let nodes: Vec<Arc<World>> = (0..3).map(|_| Arc::new(World::agent())).collect();
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let (node, store, sent) = (nodes[n % 3].clone(), store.clone(), sent.clone());
            tokio::spawn(async move {
                let context = katachi_auth::signature::Context::new(at(NOW), epoch);
                let authentic = node.verifier.check(sent, &node.keys, &context).unwrap();
                authentic.spend_async(&*store, at(NOW)).await.map(drop)
            })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(()) => accepted += 1,
            Err(refusal) => assert_eq!(refusal.answer(), Answer::Replayed),
        }
    }
    assert_eq!(accepted, 1);
}

#[test]
fn an_entry_takes_under_24_bytes_and_a_session_under_200() {
    let random_store = store(Limits {
        entries: 1 << 20,
        entries_per_key: 1 << 20,
        ..Limits::default()
    });
    let epoch = random_store.epoch().unwrap();
    for n in 0..200_000 {
        let id = key(&format!("k{}", n % 5000));
        let created = NOW + n % 30;
        let outcome = spend_for(&random_store, &id, random(n), created, NOW + 30, epoch);
        assert_eq!(outcome, Spend::Fresh);
    }
    let each = random_store.bytes() as f64 / 200_000.0;
    assert!(each < 24.0, "{each} bytes an entry");

    let counter_store = store(Limits {
        sessions: 1 << 20,
        ..Limits::default()
    });
    let epoch = counter_store.epoch().unwrap();
    for n in 0..50_000 {
        let id = key(&format!("agent-{n}"));
        assert_eq!(
            spend_for(&counter_store, &id, counter(1, 7), NOW, NOW, epoch),
            Spend::Fresh
        );
    }
    let each = counter_store.bytes() as f64 / 50_000.0;
    assert!(each < 200.0, "{each} bytes a session");
}

/// One step of a model run.
#[derive(Clone, Debug)]
struct Step {
    key: u8,
    nonce: Nonce,
    /// Seconds that the server's clock moves, mostly forward.
    tick: i64,
    /// `created` minus the server's time.
    age: i64,
}

fn step() -> impl Strategy<Value = Step> {
    let nonce = prop_oneof![
        (0_u8..3, 0_u64..3000).prop_map(|(session, n)| counter(session, n)),
        (0_u8..3, 0_u64..20).prop_map(|(session, n)| counter(session, n)),
        (0_u64..40).prop_map(random),
    ];
    let tick = prop_oneof![8 => 0_i64..3, 2 => 0_i64..70, 1 => -50_i64..0, 1 => -400_i64..400];
    let age = prop_oneof![4 => -5_i64..1, 1 => -70_i64..70];
    (0_u8..3, nonce, tick, age).prop_map(|(key, nonce, tick, age)| Step {
        key,
        nonce,
        tick,
        age,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The naive twin remembers everything for ever and says what must and what may be.
    #[test]
    fn the_store_agrees_with_a_twin_that_remembers_everything(
        steps in proptest::collection::vec(step(), 1..200)
    ) {
        let store = store(Limits { sessions_per_key: 64, ..Limits::default() });
        let mut epoch = store.epoch().unwrap();
        let mut now = NOW as i64;
        // When each was last accepted as made.
        let mut seen: HashMap<(u8, Nonce), i64> = HashMap::new();
        // By key, since keys on different locks have floors of their own.
        let mut floors: HashMap<u8, i64> = HashMap::new();
        let mut highest: HashMap<(u8, [u8; 8]), u64> = HashMap::new();
        for step in steps {
            now += step.tick;
            let created = now + step.age;
            let id = key(&format!("key-{}", step.key));
            let outcome =
                spend_for(&store, &id, step.nonce, created as u64, now as u64, epoch);
            if outcome == Spend::StaleEpoch {
                // Only a clock far back may cost the epoch.
                prop_assert!(floors.values().any(|floor| now < *floor));
                epoch = store.epoch().unwrap();
                seen.clear();
                floors.clear();
                highest.clear();
                continue;
            }
            // The least that the floor can be: what this key's own requests made it.
            let floor = floors.entry(step.key).or_insert(now - 60);
            *floor = (*floor).max(now - 60);
            // The most: what any request made it.
            let ceiling = floors.values().copied().max().unwrap_or(now - 60).max(now - 60);
            let floor = floors[&step.key];
            let before = seen.get(&(step.key, step.nonce)).copied();
            // A client that uses a nonce again is refused while the first use could
            // still be accepted; later the store may have forgotten it.
            let may = before.is_none_or(|before| before < ceiling)
                && (floor..=now + 60).contains(&created);
            let in_reach = match step.nonce {
                Nonce::Random(_) => true,
                Nonce::Counter { session, counter } => {
                    let top = highest.get(&(step.key, session)).copied().unwrap_or(0);
                    counter + 1024 > top
                }
            };
            let must = may && before.is_none() && in_reach && created >= ceiling;
            match outcome {
                Spend::Fresh => prop_assert!(may, "accepted {:?}: created {}, floor {}, before {:?}", step, created - now, floor - now, before.map(|b| b - now)),
                _ => prop_assert!(!must, "{:?} for {:?}", outcome, step),
            }
            if outcome == Spend::Fresh {
                seen.insert((step.key, step.nonce), created);
                if let Nonce::Counter { session, counter } = step.nonce {
                    let top = highest.entry((step.key, session)).or_default();
                    *top = (*top).max(counter);
                }
            }
        }
    }
}
