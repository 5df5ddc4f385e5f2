//! A disk that is really full: a small file system in memory, in a namespace
//! of the test's own, with room for some steps of a save and not for others.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use katachi_store::SecretString;
use katachi_store::Vault;
use katachi_store::credentials::{CredentialError, Credentials, Name};
use katachi_store::file::{FileError, SealedFileError};
use katachi_store::vault::{RecoveryCode, VaultError};
use libtest_mimic::{Failed, Trial};

use crate::unix::{HOME, JOB as JOB_VARIABLE, open, prepare, sealed_file};

/// What the process inside the namespace is to do.
pub(crate) const JOB: &str = "fill the disk";
const TITLE: &str = "on a full disk the old vault opens, and the new one once there is room";
/// Of memory, as file systems in memory count it.
const BLOCK: usize = 4096;

pub(crate) fn trials() -> Vec<Trial> {
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1");
    let works = namespace("true", Path::new("/tmp"))
        .output()
        .is_ok_and(|output| output.status.success());
    if works || required {
        return vec![Trial::test(TITLE, full_disk)];
    }
    let title = format!("{TITLE} (ignored: no file system can be mounted here)");
    vec![Trial::test(title, || Ok(())).with_ignored_flag(true)]
}

fn namespace(inside: &str, place: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(format!(
            "mount -t tmpfs -o size=512k,nr_inodes=64,mode=0700 none \"$0\" && exec {inside}"
        ))
        .arg(place);
    command
}

fn full_disk() -> Result<(), Failed> {
    let place = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let output = namespace("\"$1\"", place.path())
        .arg(this)
        .env(JOB_VARIABLE, JOB)
        .env(HOME, place.path())
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{output:?}").into())
}

/// Inside the namespace.
pub(crate) fn run(home: &Path) {
    let code = prepare(home);
    let code = code.to_text();
    let mut refused = 0;
    for (number, act) in ACTS.iter().enumerate() {
        // Room for nothing, for a file without content, for one block, and so on.
        for blocks in 0..6 {
            let filler = fill(home, blocks);
            let before = open(home).generation();
            let outcome = act(home);
            refused += usize::from(outcome.is_err());
            if let Err(error) = outcome {
                assert!(is_full(&*error), "act {number}, {blocks} blocks: {error}");
            }
            // Still full: the vault opens, by either slot, and can be read.
            let vault = open(home);
            assert!(vault.generation() >= before);
            sealed_file(home).read(&vault).unwrap();
            drop(vault);
            let recovery = RecoveryCode::parse(code.expose_secret()).unwrap();
            drop(
                Vault::builder(home.join("vault"))
                    .recovery_code(recovery)
                    .open()
                    .unwrap(),
            );
            std::fs::remove_file(filler).unwrap();
            act(home).unwrap();
            check_tidy(home);
        }
    }
    assert!(refused >= ACTS.len(), "the disk was full {refused} times");
}

type Act = fn(&Path) -> Result<(), Box<dyn std::error::Error>>;

const ACTS: [Act; 5] = [
    |home| Ok(open(home).set_mark("mark", 1)?),
    |home| {
        let vault = open(home);
        vault.rewrap(vault.report().slot.id)?;
        Ok(())
    },
    |home| {
        open(home).rotate("notes")?;
        Ok(())
    },
    |home| {
        let vault = open(home);
        let name = Name::parse("key")?;
        let value = SecretString::new("v".repeat(9000));
        Ok(Credentials::open(&vault)?.set(&name, &value)?)
    },
    |home| Ok(sealed_file(home).write(&open(home), &[7; 10_000])?),
];

/// Fills the disk up to so many blocks.
fn fill(home: &Path, blocks: usize) -> PathBuf {
    let path = home.join("filler");
    let mut filler = File::create(&path).unwrap();
    let mut length = 0_u64;
    while let Ok(written) = filler.write(&[0; BLOCK]) {
        length += written as u64;
    }
    filler
        .set_len(length.saturating_sub((blocks * BLOCK) as u64))
        .unwrap();
    path
}

fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let file = error
        .downcast_ref::<VaultError>()
        .and_then(|error| match error {
            VaultError::File(error) => Some(error),
            _ => None,
        })
        .or_else(|| match error.downcast_ref::<SealedFileError>() {
            Some(SealedFileError::File(error) | SealedFileError::Key(VaultError::File(error))) => {
                Some(error)
            }
            _ => None,
        })
        .or_else(|| match error.downcast_ref::<CredentialError>() {
            Some(
                CredentialError::File(error) | CredentialError::Vault(VaultError::File(error)),
            ) => Some(error),
            _ => None,
        });
    matches!(file, Some(FileError::DiskFull { .. }))
}

fn check_tidy(home: &Path) {
    for directory in ["vault", "files", "secrets"] {
        for entry in std::fs::read_dir(home.join(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.ends_with(".tmp"), "{directory}/{name}");
        }
    }
}
