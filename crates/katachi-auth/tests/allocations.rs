//! What strangers cost, counted instead of timed: allocations, and looks into the message.

#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use katachi_auth::signature::{Answer, Context, KeyId, Request};
use support::{NOW, Sent, World, at, hostile};

/// The system's allocator, counting what each thread asks it for.
struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
    /// Taken and not given back. One thread's view, so it may fall below zero.
    static KEPT: Cell<isize> = const { Cell::new(0) };
}

impl Counting {
    fn count(bytes: usize) {
        // All cells are constants without a destructor, so they can always be reached.
        CALLS.set(CALLS.get() + 1);
        BYTES.set(BYTES.get() + bytes);
        Self::keep(bytes.cast_signed());
    }

    fn keep(bytes: isize) {
        KEPT.set(KEPT.get() + bytes);
    }
}

// SAFETY: every call goes to `System` unchanged; counting touches no memory but three
// thread-local integers and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: the caller's promises are `System`'s demands.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        Self::keep(-layout.size().cast_signed());
        // SAFETY: `memory` came from `System`, by `alloc` or `realloc` of ours.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count(size);
        Self::keep(-layout.size().cast_signed());
        // SAFETY: as for `dealloc`, and the caller promises that `size` fits `layout`.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations and bytes that `act` asks for.
fn cost<T>(act: impl FnOnce() -> T) -> (usize, usize, T) {
    let before = (CALLS.get(), BYTES.get());
    let outcome = act();
    (CALLS.get() - before.0, BYTES.get() - before.1, outcome)
}

#[test]
fn the_counter_can_see() {
    let (calls, bytes, kept) = cost(|| vec![0_u8; 100]);
    assert_eq!((calls, bytes, kept.len()), (1, 100, 100));
}

/// Requests by strangers: unsigned, by an unknown key, forged, and malformed.
fn strangers(world: &World) -> Vec<Sent> {
    let good = world.good();
    let with = |name: &str, from: &str, to: &str| {
        let mut sent = good.clone();
        sent.edit(name, from, to);
        sent
    };
    let mut unsigned = good.clone();
    unsigned.remove("signature");
    let mut elsewhere = good.clone();
    elsewhere.path = "/v1/other".into();
    let mut huge = good.clone();
    huge.set("signature-input", vec![b'('; 60_000]);
    vec![
        unsigned,
        elsewhere,
        huge,
        with("signature-input", "k-7Qm2", "k-none"),
        with("signature-input", "created=", "created=-"),
        with(
            "signature-input",
            "(\"@method\"",
            "(\"@method\" \"@method\"",
        ),
        with("signature", "katachi=:", "katachi=:A"),
        with("content-digest", "sha-256", "sha-512"),
    ]
}

#[test]
fn s12_a_stranger_s_request_allocates_nothing_at_all() {
    let world = World::agent();
    let context = Context::new(at(NOW), world.epoch);
    for sent in strangers(&world) {
        let (calls, bytes, refusal) = cost(|| {
            world
                .verifier
                .check(&sent, &world.keys, &context)
                .map(drop)
                .unwrap_err()
        });
        assert_eq!((calls, bytes), (0, 0), "{refusal}");
        assert!(refusal.authenticated().is_none());
    }
    assert!(world.store.is_empty());
}

#[test]
fn s12_a_million_forgeries_leave_the_store_as_it_was() {
    let long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
    let world = World::agent();
    world.accept(&world.good()).unwrap();
    let before = (world.store.len(), world.store.bytes());
    let mut sent = world.good();
    sent.edit("signature", "katachi=:", "katachi=:A");
    let input = sent.header("signature-input");
    for n in 0..if long { 1_000_000 } else { 10_000_u64 } {
        // Another nonce every time.
        let nonce = katachi_auth::replay::Nonce::Random(u128::from(n).to_be_bytes());
        let at = input.find("r1.").unwrap();
        let changed = format!("{}{nonce}{}", &input[..at], &input[at + 25..]);
        sent.set("signature-input", changed);
        assert!(world.accept(&sent).is_err());
    }
    assert_eq!((world.store.len(), world.store.bytes()), before);
}

#[test]
fn what_a_store_says_it_takes_is_what_it_takes_of_the_allocator() {
    use katachi_auth::replay::{Limits, MemoryReplay, Nonce, ReplayStore as _, Spend, Spending};

    type Call = fn(u64) -> (KeyId, Nonce, u64);
    let random: Call = |n| {
        let id = KeyId::parse(&format!("k{}", n % 5000)).unwrap();
        let nonce = Nonce::Random((u128::from(n) << 7).to_be_bytes());
        (id, nonce, NOW + n % 30)
    };
    let counter: Call = |n| {
        let id = KeyId::parse(&format!("agent-{n}")).unwrap();
        let session = n.to_be_bytes();
        (
            id,
            Nonce::Counter {
                session,
                counter: 7,
            },
            NOW,
        )
    };
    for (call, count, bound) in [(random, 100_000, 24), (counter, 20_000, 200)] {
        let before = KEPT.get();
        let store = MemoryReplay::new(Limits::default()).unwrap();
        let epoch = store.epoch().unwrap();
        for n in 0..count {
            let (key_id, nonce, created) = call(n);
            let outcome = store.spend(&Spending {
                key_id: &key_id,
                nonce: &nonce,
                created,
                expires: created + 60,
                epoch: &epoch,
                now: at(NOW),
            });
            assert_eq!(outcome.unwrap(), Spend::Fresh);
        }
        let taken = usize::try_from(KEPT.get() - before).unwrap();
        assert_eq!(store.len() as u64, count);
        let said = store.bytes();
        assert!(
            taken.abs_diff(said) <= taken / 50,
            "{taken} bytes, said to be {said}"
        );
        assert!(taken as u64 <= count * bound, "{taken} bytes for {count}");
    }
}

/// A request that counts how often somebody looks for a header.
struct Watched<'a> {
    sent: &'a Sent,
    looks: Cell<usize>,
}

impl Request for Watched<'_> {
    fn method(&self) -> &str {
        self.sent.method()
    }

    fn authority(&self) -> Option<&str> {
        self.sent.authority()
    }

    fn path(&self) -> &str {
        self.sent.path()
    }

    fn query(&self) -> Option<&str> {
        self.sent.query()
    }

    fn each_header<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        self.looks.set(self.looks.get() + 1);
        self.sent.each_header(name, visit);
    }

    fn body(&self) -> &[u8] {
        self.sent.body()
    }
}

#[test]
fn s35_hostile_headers_cost_the_strict_verifier_the_same_whatever_their_size() {
    let world = World::agent();
    let good = world.good();
    let input = good.header("signature-input");
    let context = Context::new(at(NOW), world.epoch);
    for value in [hostile(100, &input), hostile(1000, &input)].concat() {
        let mut sent = good.clone();
        sent.set("signature-input", value.clone());
        let watched = Watched {
            sent: &sent,
            looks: Cell::new(0),
        };
        let (calls, _, refusal) = cost(|| {
            world
                .verifier
                .check(&watched, &world.keys, &context)
                .map(drop)
                .unwrap_err()
        });
        let short = &value[..value.len().min(40)];
        assert!(
            matches!(refusal.answer(), Answer::BadRequest | Answer::Refused),
            "{short}"
        );
        assert_eq!(calls, 0, "{short}");
        assert!(watched.looks.get() <= 2, "{short}: {}", watched.looks.get());
    }
}

#[cfg(feature = "generic")]
#[test]
fn s35_hostile_headers_cost_the_generic_verifier_no_more_than_their_size() {
    use katachi_auth::signature::VerifyingKey;
    use katachi_auth::signature::generic::{Message, requested, verify};
    use katachi_crypto::mac::HmacKey;

    let world = World::agent();
    let good = world.good();
    let input = good.header("signature-input");
    let key = VerifyingKey::from(HmacKey::from_slice(&[1; 32]));
    let spent = |value: &str| {
        let mut sent = good.clone();
        sent.set("signature-input", value);
        sent.set("accept-signature", value);
        let watched = Watched {
            sent: &sent,
            looks: Cell::new(0),
        };
        let message = Message::Request {
            request: &watched,
            scheme: "https",
        };
        let (_, bytes, ()) = cost(|| {
            assert!(verify(&message, "katachi", &key).is_err());
            let _ = requested(&message);
        });
        // Both fields, the signature, and one for each of 64 components.
        assert!(watched.looks.get() <= 67, "{}", watched.looks.get());
        bytes
    };
    for (small, large) in hostile(60, &input).into_iter().zip(hostile(960, &input)) {
        let (small, large) = (spent(&small), spent(&large));
        // Sixteen times the size costs about sixteen times as much, or is not looked at.
        assert!(large <= 20 * small + 4096, "{small} -> {large}");
    }
}
