//! What time tells. Statistical, so it runs only where `KATACHI_LONG=1` asks for it; what
//! the time must not depend on is checked by structure elsewhere (`allocations`, `layer`).
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use katachi_auth::signature::Context;
use katachi_crypto::mac::HmacKey;
use libtest_mimic::{Arguments, Failed, Trial};
use support::{NOW, World, at};

type Test = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    let long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
    let tests: [(&str, Test); 2] = [
        (
            "s26_an_unknown_key_takes_as_long_as_a_forged_signature",
            keys,
        ),
        ("s29_a_mac_takes_as_long_wherever_it_differs", macs),
    ];
    let trials = tests
        .into_iter()
        .map(|(name, test)| {
            if long {
                Trial::test(name, test)
            } else {
                let name = format!("{name} (needs KATACHI_LONG=1)");
                Trial::test(name, test).with_ignored_flag(true)
            }
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Median times of two actions, measured in turns.
fn medians(one: impl Fn(), other: impl Fn()) -> (Duration, Duration) {
    const ROUNDS: usize = 20_000;
    let time = |act: &dyn Fn()| {
        let start = Instant::now();
        act();
        start.elapsed()
    };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Neither always goes first.
        if round % 2 == 0 {
            first.push(time(&one));
            second.push(time(&other));
        } else {
            second.push(time(&other));
            first.push(time(&one));
        }
    }
    first.sort();
    second.sort();
    (first[ROUNDS / 2], second[ROUNDS / 2])
}

/// Whether two medians differ by less than a stranger over a network could tell.
fn alike((one, other): (Duration, Duration)) -> Result<(), Failed> {
    let (less, more) = (one.min(other), one.max(other));
    if more - less <= less / 10 + Duration::from_nanos(200) {
        Ok(())
    } else {
        Err(format!("{one:?} and {other:?}").into())
    }
}

fn keys() -> Result<(), Failed> {
    let world = World::agent();
    let context = Context::new(at(NOW), world.epoch);
    let good = world.good();
    let mut unknown = good.clone();
    unknown.edit("signature-input", "k-7Qm2", "k-7Qm3");
    let mut forged = good.clone();
    forged.path = "/v1/agent/heartbeas".into();
    let check = |sent: &support::Sent| {
        let outcome = world.verifier.check(sent, &world.keys, &context);
        assert!(black_box(outcome).is_err());
    };
    alike(medians(|| check(&unknown), || check(&forged)))
}

fn macs() -> Result<(), Failed> {
    let key = HmacKey::from_slice(&[1; 32]);
    let message = [7; 64];
    let genuine = *key.sign(&message).as_bytes();
    let (mut first, mut last) = (genuine, genuine);
    first[0] ^= 1;
    last[31] ^= 1;
    let check = |mac: &[u8]| {
        // Often, so that one clock reading weighs little.
        for _ in 0..20 {
            assert!(black_box(key.verify(black_box(&message), black_box(mac))).is_err());
        }
    };
    alike(medians(|| check(&first), || check(&last)))
}
