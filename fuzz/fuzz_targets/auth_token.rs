//! Refresh and session tokens: only the text that was issued opens anything, and no
//! other text ends what it belongs to.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use katachi_auth::clock::Timestamp;
use katachi_auth::refresh::{MemoryFamilies, RefreshError, RefreshTokens};
use katachi_auth::session::{Token, TokenDigest};
use katachi_crypto::Secret;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Change<'a> {
    at: u16,
    cut: u8,
    paste: &'a str,
}

impl Change<'_> {
    fn of(&self, text: &str) -> String {
        let mut changed = text.to_owned();
        let from = usize::from(self.at) % (changed.len() + 1);
        let to = (from + usize::from(self.cut)).min(changed.len());
        changed.replace_range(from..to, self.paste);
        changed
    }
}

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

static TOKENS: LazyLock<RefreshTokens> =
    LazyLock::new(|| RefreshTokens::new(&Secret::new([6; 32]), Duration::from_secs(3600)));

fuzz_target!(|change: Change<'_>| {
    let families = MemoryFamilies::new();
    let issued = TOKENS
        .issue(&families, "ana", None, NOW)
        .expect("randomness");
    let text = issued.token.expose_secret();
    let changed = change.of(text);
    match TOKENS.exchange(&families, &changed, None, NOW) {
        Ok(next) => {
            assert_eq!(changed, text);
            assert_eq!(next.subject, "ana");
        }
        Err(RefreshError::Invalid) => {
            assert_ne!(changed, text);
            // Whatever was sent, the true one still works.
            let next = TOKENS.exchange(&families, text, None, NOW);
            assert!(next.is_ok(), "{changed} ended a family");
        }
        Err(error) => panic!("{changed}: {error}"),
    }

    let session = Token::generate().expect("randomness");
    let changed = change.of(session.expose_secret());
    assert_eq!(
        TokenDigest::of(&changed) == session.digest(),
        changed == session.expose_secret()
    );
});
