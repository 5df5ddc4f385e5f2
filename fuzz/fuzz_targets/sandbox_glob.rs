//! The quick matcher answers as the obvious one does.
#![no_main]

use katachi_sandbox::glob::Glob;
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/katachi-sandbox/src/glob/naive.rs"]
mod naive;

fuzz_target!(|text: &str| {
    let (pattern, path) = text.split_once('\n').unwrap_or((text, ""));
    // Always, so that a pattern on which it is slow is found too.
    let quick = Glob::new(pattern).matches(path);
    // The obvious one takes time that is exponential in the stars.
    let stars = pattern.bytes().filter(|byte| *byte == b'*').count();
    if pattern.len() <= 24 && path.len() <= 24 && stars <= 6 {
        assert_eq!(quick, naive::naive_matches(pattern, path));
    }
});
