//! Twice the hostile input is about twice the work: no parser of the wire is quadratic.
//!
//! Instructions, counted by valgrind's callgrind on this very program, so that the counts
//! repeat; nothing is timed. A parser that is quadratic is counted, too, and found out.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use std::hint::black_box;
use std::process::{Command, ExitCode, Stdio};

use katachi_auth::device::dpop;
use katachi_auth::device::form::Form;
use katachi_auth::mail::Address;
use katachi_auth::oauth::id_token::{Expected, KeySet, verify as believe};
use katachi_auth::oauth::{Callback, ReturnTo};
use katachi_auth::password::Record;
use katachi_auth::session::cookie;
use katachi_auth::signature::generic::{Message, requested, verify};
use katachi_auth::signature::{Context, VerifyingKey};
use katachi_crypto::mac::HmacKey;
use libtest_mimic::{Arguments, Failed, Trial};
use support::{NOW, World, at, hostile};

const CHILD: &str = "KATACHI_TEST_WORK";
/// The name under which valgrind knows the function below.
const COUNTED: &str = "work::counted_here";
/// The smaller size; where there is a bound, twice of it lies below.
const SIZE: usize = 400;

fn main() -> ExitCode {
    if std::env::var_os(CHILD).is_some() {
        // Once for every size, in this order; the parent counts along.
        for size in [SIZE, 2 * SIZE] {
            for (_, parse) in cases(size) {
                counted_here(&*parse);
            }
        }
        return ExitCode::SUCCESS;
    }
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|all| all == "1");
    let mut valgrind = Command::new("valgrind");
    let here = valgrind.arg("--version").stdout(Stdio::null()).status();
    let name = "s35_twice_the_hostile_input_is_at_most_about_twice_the_work";
    let trial = match required || here.is_ok_and(|status| status.success()) {
        true => Trial::test(name, twice),
        false => Trial::test(format!("{name} (needs valgrind)"), twice).with_ignored_flag(true),
    };
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

/// What is counted, and nothing else.
#[inline(never)]
fn counted_here(parse: &dyn Fn()) {
    black_box(parse)();
}

type Case = (String, Box<dyn Fn()>);

/// Every parser of what strangers send, with inputs that grow with `n`.
fn cases(n: usize) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (number, value) in hostile(n, &World::agent().good().header("signature-input"))
        .into_iter()
        .enumerate()
    {
        let (world, mut sent) = (World::agent(), World::agent().good());
        sent.set("signature-input", value.clone());
        sent.set("accept-signature", value);
        let strict = sent.clone();
        let context = Context::new(at(NOW), world.epoch);
        cases.push((
            format!("strict, {number}"),
            Box::new(move || {
                assert!(
                    world
                        .verifier
                        .check(&strict, &world.keys, &context)
                        .is_err()
                );
            }),
        ));
        let key = VerifyingKey::from(HmacKey::from_slice(&[1; 32]));
        cases.push((
            format!("generic, {number}"),
            Box::new(move || {
                let message = Message::Request {
                    request: &sent,
                    scheme: "https",
                };
                assert!(verify(&message, "katachi", &key).is_err());
                let _ = requested(&message);
            }),
        ));
    }
    let mut add = |name: &str, value: String, parse: fn(&str)| {
        cases.push((name.to_owned(), Box::new(move || parse(&value))));
    };
    add("one long field", format!("a={}", "%41".repeat(n)), |text| {
        Form::parse(text.as_bytes()).unwrap();
    });
    add("empty fields", "&".repeat(4 * n), |text| {
        Form::parse(text.as_bytes()).unwrap();
    });
    add(
        "a redirect",
        format!("code={}", "+".repeat(4 * n)),
        |text| {
            Callback::parse(text).unwrap_err();
        },
    );
    add("cookies", "a=b; ".repeat(4 * n), |text| {
        assert!(cookie(text, "katachi").is_none());
    });
    add(
        "one cookie many times",
        "__Host-katachi=x; ".repeat(n),
        |text| {
            assert!(cookie(text, "katachi").is_none());
        },
    );
    add("a proof of dots", ".".repeat(2 * n), |text| {
        let world = World::agent();
        dpop::verify(text, "POST", "https://a.example", &world.store, at(NOW)).unwrap_err();
    });
    add("an ID token of dots", ".".repeat(4 * n), id_token);
    add(
        "nested JSON",
        "eyJhIjpb".repeat(n) + "." + &"W1tb".repeat(n) + ".",
        id_token,
    );
    let key = r#"{"kty":"OKP","crv":"Ed25519","kid":"1","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},"#;
    add(
        "a key set",
        format!(r#"{{"keys":[{}1]}}"#, key.repeat(n)),
        |text| {
            assert_eq!(KeySet::parse(text.as_bytes()).unwrap().len(), 32);
        },
    );
    add(
        "an address",
        format!("{}@a.example", "a.".repeat(n)),
        |text| {
            Address::parse(text).unwrap_err();
        },
    );
    add(
        "a password record",
        "$argon2id$v=19$".to_owned() + &"m=1,".repeat(n),
        |text| {
            Record::parse(text).unwrap_err();
        },
    );
    add("a way back", "/a".repeat(n / 2), |text| {
        ReturnTo::parse(text).unwrap();
    });
    // What must be found out.
    add("quadratic", "a".repeat(n), |text| {
        for at in 0..text.len() {
            assert!(!black_box(&text[at..]).contains('b'));
        }
    });
    cases
}

fn id_token(text: &str) {
    let expected = Expected {
        issuer: "https://a.example",
        client_id: "us",
        nonce: "n",
    };
    let keys = KeySet::parse(br#"{"keys":[]}"#).unwrap();
    believe(text, &keys, &expected, at(NOW)).unwrap_err();
}

fn twice() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("out");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        // Both by the whole name: with a pattern it dumps nothing.
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--dump-after={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .env(CHILD, "1")
        .output()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let count = |number: usize| -> Result<u64, Failed> {
        let dump = std::fs::read_to_string(folder.path().join(format!("out.{number}")))?;
        let count = dump.lines().find_map(|line| line.strip_prefix("summary: "));
        Ok(count.ok_or("a dump without a summary")?.trim().parse()?)
    };
    let names: Vec<String> = cases(1).into_iter().map(|(name, _)| name).collect();
    for (at, name) in names.iter().enumerate() {
        let (once, twice) = (count(at + 1)?, count(at + 1 + names.len())?);
        // What does not depend on the size, and what an allocator does now and then.
        let linear = twice <= once * 5 / 2 + 2000;
        assert_eq!(
            linear,
            name != "quadratic",
            "{name}: {once} and {twice} instructions"
        );
    }
    Ok(())
}
