//! The laws that are fuzzed hold for the corpora of the fuzzers, for every text
//! in them cut short, and for random bytes.

use std::path::PathBuf;

use katachi_fingerprint::testing::laws;
use proptest::prelude::*;

/// Runs a law over the corpus of its fuzz target. The corpora lie beside the
/// workspace and are not part of the published crate.
fn replay(target: &str, law: fn(&[u8])) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    if !directory.exists() {
        return;
    }
    let files = std::fs::read_dir(directory.join(target)).expect("the target has a corpus");
    let mut count = 0;
    for file in files {
        let bytes = std::fs::read(file.expect("a readable directory").path()).expect("a file");
        law(&bytes);
        for end in (0..bytes.len()).step_by(7) {
            law(&bytes[..end]);
        }
        count += 1;
    }
    assert!(count > 0, "{target} has no corpus");
}

#[test]
fn enrollments() {
    replay("fingerprint_enrollment", laws::enrollment);
}

#[test]
fn readings() {
    replay("fingerprint_readings", laws::readings);
}

#[test]
fn mounts() {
    replay("fingerprint_mounts", laws::mounts);
}

#[test]
fn published_files() {
    replay("fingerprint_published", laws::published);
}

#[test]
fn smbios_tables() {
    replay("fingerprint_smbios", laws::smbios_tables);
}

#[test]
fn drive_descriptors() {
    replay("fingerprint_drive", laws::drive_descriptor);
}

#[test]
fn tpm_answers() {
    replay("fingerprint_tpm_answer", laws::tpm_answer);
}

proptest! {
    #[test]
    fn readings_of_anything(text in ".{0,80}") {
        laws::readings(text.as_bytes());
    }

    #[test]
    fn readings_of_hexadecimal_text(text in "[0-9a-fA-F:-]{0,40}\n?") {
        laws::readings(text.as_bytes());
    }

    #[test]
    fn mounts_of_anything(path in "[a-z /\\\\0-9]{0,20}", table in "[a-z0-9:/ \\\\\n-]{0,200}") {
        laws::mounts(format!("{path}\n{table}").as_bytes());
    }

    #[test]
    fn published_files_of_anything(text in "(board-serial|product-uuid|x)? ?[0-9]{0,4} [0-9a-f]{60,66}\n?") {
        laws::published(text.as_bytes());
    }
}
