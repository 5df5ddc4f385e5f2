//! What every test of the database needs.

use std::path::{Path, PathBuf};

use katachi_crypto::Secret;
use katachi_store::database::{Database, DatabaseKey, Migration, Options, Profile};

pub(crate) const SCHEMA: &[Migration] = &[Migration::sql(
    "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
     CREATE VIRTUAL TABLE note_fts USING fts5(text);",
)];

pub(crate) const BOTH: [Profile; 2] = [Profile::Compat, Profile::Fast];

pub(crate) fn options(profile: Profile) -> Options {
    Options::new().profile(profile).migrations(SCHEMA)
}

pub(crate) fn key(seed: u8) -> DatabaseKey {
    DatabaseKey::from_secret(Secret::new([seed; 32]))
}

/// A database in a directory of its own.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("test.db")
    }

    pub(crate) fn open(&self, profile: Profile) -> Database {
        Database::open(self.path(), &key(1), options(profile)).expect("the database opens")
    }
}

pub(crate) fn add(db: &Database, text: &str) {
    db.write(|tx| {
        let id = tx.insert("INSERT INTO note (text) VALUES (?1)", [text])?;
        tx.execute(
            "INSERT INTO note_fts (rowid, text) VALUES (?1, ?2)",
            (id, text),
        )
    })
    .expect("a note is added");
}

pub(crate) fn texts(db: &Database) -> Vec<String> {
    db.read(|tx| tx.query("SELECT text FROM note ORDER BY id", [], |row| row.get(0)))
        .expect("the notes are read")
}

/// Every file below `dir` with its content.
pub(crate) fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if let Ok(content) = std::fs::read(&path) {
            found.push((path, content));
        }
    }
    found
}
