//! What the parser of `Signature-Input` accepts, written again, is what was received;
//! and no other bytes mean the same.
#![no_main]

use katachi_auth::signature::{Profile, RequestInput};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    for profile in [Profile::AGENT_REQUEST, Profile::TUNNEL_REQUEST] {
        if let Ok(input) = RequestInput::parse(&profile, value) {
            assert_eq!(input.serialise(&profile), value);
        }
    }
});
