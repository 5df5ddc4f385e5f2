//! A signed request with anything done to it is refused.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod support;

use proptest::prelude::*;
use support::{Sent, World};

/// Parts of a request by number: method, authority, path, query, body, header values.
fn edit(sent: &mut Sent, part: usize, change: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
    let text = |text: &mut String, change: &mut dyn FnMut(&mut Vec<u8>)| {
        let mut bytes = std::mem::take(text).into_bytes();
        change(&mut bytes);
        *text = String::from_utf8(bytes).ok()?;
        Some(())
    };
    let mut once = Some(change);
    let mut change = |bytes: &mut Vec<u8>| {
        if let Some(change) = once.take() {
            change(bytes);
        }
    };
    match part % (5 + sent.headers.len()) {
        0 => text(&mut sent.method, &mut change),
        1 => text(&mut sent.authority, &mut change),
        2 => text(&mut sent.path, &mut change),
        3 => text(sent.query.as_mut().unwrap(), &mut change),
        4 => {
            change(&mut sent.body);
            Some(())
        }
        header => {
            change(&mut sent.headers[header - 5].1);
            Some(())
        }
    }
}

fn same(one: &Sent, other: &Sent) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

#[test]
fn every_byte_of_every_part_counts() {
    let world = World::agent();
    let good = world.good();
    for part in 0..5 + good.headers.len() {
        let mut length = 0;
        edit(&mut good.clone(), part, |bytes| length = bytes.len());
        assert!(length > 0);
        for at in 0..length {
            for flip in [1, 0x20, 0x80] {
                let mut sent = good.clone();
                let valid = edit(&mut sent, part, |bytes| bytes[at] ^= flip);
                if valid.is_some() {
                    assert!(
                        world.check(&sent).is_err(),
                        "part {part}, byte {at}, {flip:#x}"
                    );
                }
            }
            let mut sent = good.clone();
            if edit(&mut sent, part, |bytes| {
                bytes.remove(at);
            })
            .is_some()
            {
                let accepted = world.check(&sent).is_ok();
                assert_eq!(
                    accepted,
                    same(&sent, &good),
                    "part {part} without byte {at}"
                );
            }
        }
        let mut sent = good.clone();
        if edit(&mut sent, part, |bytes| bytes.push(b' ')).is_some() {
            assert!(
                world.check(&sent).is_err(),
                "part {part} with a space behind"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn only_the_request_that_was_signed_is_accepted(
        changes in proptest::collection::vec(
            (any::<usize>(), any::<usize>(), 0_usize..40, "\\PC{0,12}|[ -~]{0,12}"), 0..3
        )
    ) {
        let world = World::agent();
        let good = world.good();
        let mut sent = good.clone();
        for (part, at, cut, paste) in changes {
            let valid = edit(&mut sent, part, |bytes| {
                let from = at % (bytes.len() + 1);
                let to = (from + cut).min(bytes.len());
                bytes.splice(from..to, paste.bytes());
            });
            if valid.is_none() {
                return Ok(());
            }
        }
        prop_assert_eq!(world.check(&sent).is_ok(), same(&sent, &good));
    }
}
