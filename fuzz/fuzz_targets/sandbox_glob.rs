//! The quick matcher answers as the obvious one does.
#![no_main]

use katachi_sandbox::glob::Glob;
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/katachi-sandbox/src/glob/naive.rs"]
mod naive;

fuzz_target!(|text: &str| {
    let (pattern, path) = text.split_once('\n').unwrap_or((text, ""));
    // The obvious one takes exponential time.
    if pattern.len() <= 24 && path.len() <= 24 {
        assert_eq!(
            Glob::new(pattern).matches(path),
            naive::naive_matches(pattern, path)
        );
    }
});
