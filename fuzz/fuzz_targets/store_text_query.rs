//! Whatever a user types becomes a well-formed full-text query or none.
//!
//! The module is taken in by itself, so that no C library is built with the
//! sanitizers. The crate's own tests hand the same corpus to SQLite.
#![no_main]

#[path = "../../crates/katachi-store/src/database/text_query.rs"]
mod text_query;

use libfuzzer_sys::fuzz_target;
use text_query::TextQuery;

fuzz_target!(|text: &str| {
    match TextQuery::parse(text) {
        Some(query) => {
            let phrases = phrases(query.as_str());
            assert!((1..=32).contains(&phrases.len()));
            // What was understood is understood the same way again.
            assert_eq!(
                TextQuery::parse(query.as_str()).map(|again| again_phrases(&again)),
                Some(bare(&phrases))
            );
        }
        None => assert!(text.split('"').all(|piece| {
            piece
                .split_whitespace()
                .all(|word| !word.chars().any(char::is_alphanumeric))
        })),
    }
});

/// Reads FTS5's grammar as far as it may occur: strings, a star after some,
/// one space between.
fn phrases(query: &str) -> Vec<(&str, bool)> {
    let mut rest = query;
    let mut found = Vec::new();
    loop {
        rest = rest.strip_prefix('"').expect("a string begins");
        let (phrase, after) = rest.split_once('"').expect("a string ends");
        assert!(phrase.chars().any(char::is_alphanumeric));
        assert!(!phrase.contains('\0'));
        let prefix = after.starts_with('*');
        rest = if prefix { &after[1..] } else { after };
        found.push((phrase, prefix));
        if rest.is_empty() {
            return found;
        }
        rest = rest.strip_prefix(' ').expect("strings are apart");
    }
}

fn bare(phrases: &[(&str, bool)]) -> Vec<String> {
    phrases
        .iter()
        .map(|(phrase, _)| (*phrase).to_owned())
        .collect()
}

fn again_phrases(query: &TextQuery) -> Vec<String> {
    bare(&phrases(query.as_str()))
}
