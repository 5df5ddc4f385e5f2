//! What several test programs need.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::missing_panics_doc,
    reason = "each test program uses a part of it"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use katachi_store::Vault;
use katachi_store::testing::{FakeMachine, MemoryKeychain};
use katachi_store::vault::Builder;

/// A home directory with its machine and its keychain.
pub struct Home {
    pub directory: tempfile::TempDir,
    pub machine: FakeMachine,
    pub keychain: MemoryKeychain,
}

impl Home {
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            machine: FakeMachine::laptop(),
            keychain: MemoryKeychain::new(),
        }
    }

    pub fn vault(&self) -> PathBuf {
        self.directory.path().join("vault")
    }

    pub fn secrets(&self) -> PathBuf {
        self.directory.path().join("secrets")
    }

    /// With a keychain and a file slot.
    pub fn both(&self) -> Builder {
        self.with_keychain().file_slot(self.secrets())
    }

    pub fn with_keychain(&self) -> Builder {
        Vault::builder(self.vault())
            .binding(self.machine.clone())
            .keychain(self.keychain.clone())
    }

    pub fn with_file(&self) -> Builder {
        Vault::builder(self.vault())
            .binding(self.machine.clone())
            .file_slot(self.secrets())
    }
}

/// Copies a directory of files, as a thief or a backup does.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
