//! A policy that is read and printed is read the same again, and an error names a line that exists.
#![no_main]

use katachi_sandbox::Policy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Policy::from_toml(text, "policy.toml") {
        Ok(policy) => {
            let printed = policy.to_toml();
            let again = Policy::from_toml(&printed, "printed").expect("what we print can be read");
            assert_eq!(again, policy);
            assert_eq!(again.hash(), policy.hash());
        }
        Err(error) => {
            let lines = text.matches('\n').count() + 1;
            assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)));
            assert!(!error.next_step.is_empty());
        }
    }
});
