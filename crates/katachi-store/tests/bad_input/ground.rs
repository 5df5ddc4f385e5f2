//! A vault, a sealed file and a database, each with something precious.

use std::path::{Path, PathBuf};

use katachi_store::Vault;
use katachi_store::database::{Database, DatabaseError, DatabaseKey, Migration, Options};
use katachi_store::file::SealedFile;
use katachi_store::testing::FakeMachine;
use katachi_store::vault::Builder;

pub(crate) const PRECIOUS: &str = "precious";

pub(crate) const SCHEMA: &[Migration] = &[Migration::sql(
    "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT",
)];

/// Where it is, and the opened vault.
pub(crate) struct Ground {
    home: PathBuf,
    pub(crate) vault: Vault,
}

impl Ground {
    /// Makes everything in the empty directory `home`.
    pub(crate) fn new(home: &Path) -> Self {
        let ground = Self {
            home: home.to_owned(),
            vault: builder(home, FakeMachine::laptop()).create().unwrap(),
        };
        ground.vault.set_mark("mark", 1).unwrap();
        let sealed = ground.sealed();
        sealed.write(&ground.vault, PRECIOUS.as_bytes()).unwrap();
        std::fs::create_dir(home.join("data")).unwrap();
        let db = ground.open_database().unwrap();
        for text in Self::all_notes() {
            db.write(|tx| tx.execute("INSERT INTO note (text) VALUES (?1)", [text]))
                .unwrap();
        }
        ground
    }

    /// What was made there already.
    pub(crate) fn at(home: &Path) -> Self {
        let vault = builder(home, FakeMachine::laptop()).open().unwrap();
        Self {
            home: home.to_owned(),
            vault,
        }
    }

    pub(crate) fn all_notes() -> Vec<String> {
        let long = "note ".repeat(100);
        (0..50).map(|n| format!("{PRECIOUS} {n} {long}")).collect()
    }

    pub(crate) fn many_rows(&self) -> String {
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000)
         INSERT INTO note (text) SELECT hex(randomblob(500)) FROM n"
            .to_owned()
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.home.join("data/test.db")
    }

    pub(crate) fn vault_file(&self) -> PathBuf {
        self.home.join("vault/vault")
    }

    pub(crate) fn sealed_path(&self) -> PathBuf {
        self.home.join("token")
    }

    pub(crate) fn sealed(&self) -> SealedFile {
        SealedFile::at(self.sealed_path()).unwrap()
    }

    pub(crate) fn key(&self) -> DatabaseKey {
        DatabaseKey::from_vault(&self.vault, "test").unwrap()
    }

    pub(crate) fn builder(&self) -> Builder {
        self.builder_on(FakeMachine::laptop())
    }

    pub(crate) fn builder_on(&self, machine: FakeMachine) -> Builder {
        builder(&self.home, machine)
    }

    pub(crate) fn open_database(&self) -> Result<Database, DatabaseError> {
        self.open_with(SCHEMA)
    }

    fn open_with(&self, schema: &'static [Migration]) -> Result<Database, DatabaseError> {
        let options = Options::new().migrations(schema);
        Database::open(self.database(), &self.key(), options)
    }

    pub(crate) fn notes(&self, db: &Database) -> Result<Vec<String>, DatabaseError> {
        db.read(|tx| tx.query("SELECT text FROM note ORDER BY id", [], |row| row.get(0)))
    }

    /// Runs a misfortune that leaves its marks in the files, and checks that
    /// nothing else was changed: with the files as they were, all is there.
    pub(crate) fn survives(&self, misfortune: impl FnOnce()) {
        self.survives_with(SCHEMA, misfortune);
    }

    pub(crate) fn survives_with(&self, schema: &'static [Migration], misfortune: impl FnOnce()) {
        let before = self.files();
        misfortune();
        let changed: Vec<PathBuf> = self
            .files()
            .into_iter()
            .filter(|file| !before.contains(file))
            .map(|(path, _)| path)
            .collect();
        assert!(changed.len() <= 1, "more than the misfortune: {changed:?}");
        for (path, bytes) in &before {
            std::fs::write(path, bytes).unwrap();
        }
        self.check(schema);
    }

    /// All of it is there.
    pub(crate) fn check(&self, schema: &'static [Migration]) {
        let again = Self::at(&self.home);
        assert_eq!(again.vault.mark("mark").unwrap(), Some(1));
        let opened = again.sealed().read(&again.vault).unwrap();
        assert_eq!(opened.expose_secret(), PRECIOUS.as_bytes());
        let db = again.open_with(schema).unwrap();
        assert_eq!(again.notes(&db).unwrap(), Self::all_notes());
        assert!(db.verify().unwrap().is_sound());
    }

    /// Every file with its content, the locks and indexes that mean nothing left out.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        ["vault", "data", "."]
            .into_iter()
            .flat_map(|directory| std::fs::read_dir(self.home.join(directory)).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file() && !path.to_string_lossy().ends_with("-shm"))
            .map(|path| {
                let bytes = std::fs::read(&path).unwrap();
                (path, bytes)
            })
            .filter(|(_, bytes)| !bytes.is_empty())
            .collect()
    }
}

fn builder(home: &Path, machine: FakeMachine) -> Builder {
    Vault::builder(home.join("vault"))
        .binding(machine)
        .file_slot(home.join("secret"))
}
