//! The laws that are fuzzed hold for the corpora of the fuzzers, for each of
//! them cut short or with a byte changed, and for random input.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

use std::path::Path;

use katachi_store::testing::laws;
use proptest::prelude::*;

/// Runs a law over the corpus of its fuzz target. The corpora lie beside the
/// workspace and are not part of the published crate.
fn replay(target: &str, law: impl Fn(&[u8])) {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    if !corpora.exists() {
        return;
    }
    let mut count = 0;
    for file in std::fs::read_dir(corpora.join(target)).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        law(&bytes);
        for place in 0..bytes.len() {
            law(&bytes[..place]);
            let mut changed = bytes.clone();
            changed[place] = changed[place].wrapping_add(1);
            law(&changed);
        }
        count += 1;
    }
    assert!(count > 1, "{target} has no corpus");
}

fn text(law: fn(&str)) -> impl Fn(&[u8]) {
    move |bytes| {
        if let Ok(text) = str::from_utf8(bytes) {
            law(text);
        }
    }
}

#[test]
fn vault_files() {
    replay("store_vault_file", laws::vault_file);
}

#[test]
fn key_rings() {
    replay("store_key_ring", laws::key_ring);
}

#[test]
fn credentials() {
    replay("store_credentials", laws::credentials);
}

#[test]
fn credential_names() {
    replay("store_credential_name", text(laws::credential_name));
}

#[test]
fn recovery_codes() {
    replay("store_recovery_code", text(laws::recovery_code));
}

#[cfg(all(feature = "tpm", target_os = "linux"))]
#[test]
fn answers_of_a_tpm_and_what_it_sealed() {
    replay("store_tpm_answer", laws::tpm_answer);
    replay("store_tpm_sealed", laws::tpm_sealed);
}

#[cfg(feature = "cloudflare")]
#[test]
fn tunnel_credentials() {
    replay("store_tunnel_credential", laws::tunnel_credential);
}

#[test]
fn anchor_records() {
    replay("store_anchor_record", laws::anchor_record);
}

#[test]
fn write_ahead_logs() {
    replay("store_write_ahead_log", laws::write_ahead_log);
}

proptest! {
    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        laws::key_ring(&bytes);
        laws::credentials(&bytes);
        laws::vault_file(&bytes);
    }

    #[test]
    fn random_texts(name in "[a-z0-9._/-]{0,20}", code in "[0-9A-Za-z -]{30,40}") {
        laws::credential_name(&name);
        laws::recovery_code(&code);
    }
}
