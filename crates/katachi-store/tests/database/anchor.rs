//! Old copies of an anchored database, whole and page by page.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use katachi_store::Vault;
use katachi_store::binding::Unbound;
use katachi_store::database::{Anchor, Comparison, Database, DatabaseError, Profile, Report};
use katachi_store::vault::{FileWitness, VaultError};

use crate::support::{BOTH, add, files, key, options, texts};

/// A vault and an anchored database, in directories of their own.
struct Place {
    home: tempfile::TempDir,
    vault: Arc<Vault>,
    profile: Profile,
}

fn vault(home: &Path) -> Result<Vault, VaultError> {
    Vault::builder(home.join("vault"))
        .binding(Unbound)
        .file_slot(home.join("secret"))
        .witness(FileWitness::in_directory(home.join("witness")))
        .open_or_create()
}

impl Place {
    fn new(profile: Profile) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("data")).unwrap();
        let vault = Arc::new(vault(home.path()).unwrap());
        Self {
            home,
            vault,
            profile,
        }
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn path(&self) -> PathBuf {
        self.data().join("test.db")
    }

    fn anchor(&self) -> Anchor {
        Anchor::in_vault(&self.vault, "test")
    }

    fn try_open(&self, anchor: &Anchor) -> Result<Database, DatabaseError> {
        Database::open_anchored(self.path(), &key(1), anchor, options(self.profile))
    }

    fn open(&self) -> Database {
        self.try_open(&self.anchor()).unwrap()
    }

    fn generation(&self) -> Option<u64> {
        self.vault.mark("database/test").unwrap()
    }

    /// Bytes in a page.
    const PAGE: usize = 4096;

    /// Every file of the database.
    fn copy(&self) -> Vec<(PathBuf, Vec<u8>)> {
        files(&self.data())
    }

    /// Lets the vault forget what it recorded since, so that a test can damage
    /// the same copy in several ways.
    fn forget_since(&self, generation: Option<u64>) {
        let generation = generation.expect("it was recorded");
        self.vault.set_mark("database/test", generation).unwrap();
    }

    /// Puts all files of the database back as they were, and removes others.
    fn put_back(&self, copy: &[(PathBuf, Vec<u8>)]) {
        std::fs::remove_dir_all(self.data()).unwrap();
        std::fs::create_dir(self.data()).unwrap();
        for (path, content) in copy {
            std::fs::write(path, content).unwrap();
        }
    }
}

/// Pages that the report says are not the newest.
fn replaced(report: &Report) -> Vec<u64> {
    let older = |problem: &&katachi_store::database::Problem| problem.detail.contains("older one");
    let problems = report.problems.iter().filter(older);
    problems.filter_map(|problem| problem.page).collect()
}

#[test]
fn opens_again_and_again_and_verifies() {
    for profile in BOTH {
        let place = Place::new(profile);
        for round in 0..4 {
            let db = place.open();
            add(&db, &format!("note {round}"));
            let report = db.verify().unwrap();
            assert!(report.is_sound(), "{report:?}");
            add(&db, "after verifying");
            assert!(db.verify().unwrap().is_sound());
        }
        let db = place.open();
        assert_eq!(texts(&db).len(), 8);
        let report = db.verify().unwrap();
        assert!(report.is_sound());
        assert!(matches!(report.comparison, Comparison::Compared { pages } if pages > 2));
    }
}

#[test]
fn looking_alone_saves_no_vault() {
    let place = Place::new(Profile::Fast);
    add(&place.open(), "kept");
    let before = (place.generation(), place.vault.generation());
    for _ in 0..3 {
        assert_eq!(texts(&place.open()), ["kept"]);
    }
    assert_eq!((place.generation(), place.vault.generation()), before);
}

#[test]
fn a_whole_old_copy_is_refused_until_it_is_accepted() {
    for profile in BOTH {
        let place = Place::new(profile);
        add(&place.open(), "old");
        let old = place.copy();
        add(&place.open(), "new");
        place.put_back(&old);

        for _ in 0..2 {
            let refused = place.try_open(&place.anchor()).unwrap_err();
            assert!(
                matches!(refused, DatabaseError::RolledBack { found, recorded } if found < recorded),
                "{refused:?}"
            );
        }
        let untouched = |path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            matches!(name, "test.db" | "test.db-anchor")
        };
        for (path, content) in old.iter().filter(|(path, _)| untouched(path)) {
            assert_eq!(&std::fs::read(path).unwrap(), content, "{}", path.display());
        }

        let db = place.try_open(&place.anchor().accept_restore()).unwrap();
        assert_eq!(texts(&db), ["old"]);
        db.checkpoint().unwrap();
        assert!(db.verify().unwrap().is_sound());
        drop(db);
        add(&place.open(), "goes on");
        assert!(place.open().verify().unwrap().is_sound());
    }
}

#[test]
fn an_old_copy_with_its_log_is_refused() {
    let place = Place::new(Profile::Fast);
    let db = place.open();
    add(&db, "in the file");
    db.checkpoint().unwrap();
    add(&db, "in the log");
    let old = place.copy();
    let log = |(path, content): &(PathBuf, Vec<u8>)| {
        path.to_string_lossy().ends_with("-wal") && content.len() > 2 * Place::PAGE
    };
    assert!(old.iter().any(log), "the copy has a log");
    add(&db, "later");
    drop(db);
    place.put_back(&old);
    let refused = place.try_open(&place.anchor());
    assert!(
        matches!(refused, Err(DatabaseError::RolledBack { .. })),
        "{refused:?}"
    );

    // The file alone, and the file with the log of now.
    let now = {
        let place = &place;
        place.put_back(&old);
        drop(place.try_open(&place.anchor().accept_restore()).unwrap());
        add(&place.open(), "newest");
        place.copy()
    };
    let mut mixed: Vec<_> = now.clone();
    for (path, content) in &mut mixed {
        if path.ends_with("test.db") {
            *content = old.iter().find(|(old, _)| old == path).unwrap().1.clone();
        }
    }
    place.put_back(&mixed);
    let noticed = match place.try_open(&place.anchor()) {
        Err(DatabaseError::RolledBack { .. } | DatabaseError::Corrupt { .. }) => true,
        Err(other) => panic!("{other:?}"),
        Ok(db) => !db.verify().unwrap().is_sound(),
    };
    assert!(noticed, "an old file under the log of now");
}

#[test]
fn a_copy_of_the_running_session_is_refused_after_its_end() {
    let place = Place::new(Profile::Compat);
    let db = place.open();
    add(&db, "first");
    db.checkpoint().unwrap();
    let old = place.copy();
    add(&db, "second");
    drop(db);
    place.put_back(&old);
    assert!(matches!(
        place.try_open(&place.anchor()),
        Err(DatabaseError::RolledBack { .. })
    ));
}

#[test]
fn a_removed_database_is_not_made_anew_in_silence() {
    let place = Place::new(Profile::Fast);
    add(&place.open(), "precious");
    place.put_back(&[]);
    for content in [None, Some(Vec::new())] {
        if let Some(content) = content {
            std::fs::write(place.path(), content).unwrap();
        }
        assert!(matches!(
            place.try_open(&place.anchor()),
            Err(DatabaseError::RolledBack { found: 0, .. })
        ));
    }
    let db = place.try_open(&place.anchor().accept_restore()).unwrap();
    assert!(texts(&db).is_empty());
    drop(db);
    add(&place.open(), "begun anew");
    assert!(place.open().verify().unwrap().is_sound());
}

#[test]
fn every_old_page_put_in_place_is_found_and_stays_known() {
    for profile in BOTH {
        let place = Place::new(profile);
        let db = place.open();
        for number in 0..40 {
            add(&db, &format!("note {number} {}", "x".repeat(2000)));
        }
        drop(db);
        let old = std::fs::read(place.path()).unwrap();
        let db = place.open();
        db.write(|tx| tx.execute("UPDATE note SET text = 'changed ' || text", []))
            .unwrap();
        drop(db);
        let new = std::fs::read(place.path()).unwrap();
        let page = Place::PAGE;
        let changed: Vec<usize> = (0..old.len().min(new.len()) / page)
            .filter(|at| old[at * page..][..page] != new[at * page..][..page])
            .collect();
        assert!(changed.len() > 5, "{changed:?}");
        let (sound, generation) = (place.copy(), place.generation());
        let (mut found, mut stayed) = (0, 0);
        for at in changed.into_iter().step_by(3) {
            let mut spliced = new.clone();
            spliced[at * page..][..page].copy_from_slice(&old[at * page..][..page]);
            place.put_back(&sound);
            place.forget_since(generation);
            std::fs::write(place.path(), &spliced).unwrap();
            let db = match place.try_open(&place.anchor()) {
                Ok(db) => db,
                // The page with the generation itself.
                Err(DatabaseError::RolledBack { .. }) => continue,
                Err(other) => panic!("page {}: {other:?}", at + 1),
            };
            let number = at as u64 + 1;
            assert_eq!(replaced(&db.verify().unwrap()), [number], "{profile:?}");
            found += 1;
            // Neither a checkpoint nor another opening takes it for good.
            let change = "CREATE TABLE meanwhile (a INTEGER) STRICT";
            let _ = db.write(|tx| tx.execute_batch(change));
            db.checkpoint().unwrap();
            drop(db);
            let file = std::fs::read(place.path()).unwrap();
            if file[at * page..][..page] == spliced[at * page..][..page] {
                let report = place.open().verify().unwrap();
                assert_eq!(replaced(&report), [number], "{profile:?}: {report:?}");
                stayed += 1;
            }
        }
        assert!(found > 3 && stayed > 1, "{profile:?}: {found}, {stayed}");
    }
}

#[test]
fn a_page_too_many_or_too_few_is_found() {
    let place = Place::new(Profile::Compat);
    let db = place.open();
    for _ in 0..30 {
        add(&db, &"y".repeat(3000));
    }
    drop(db);
    let (sound, generation) = (place.copy(), place.generation());
    let file = std::fs::read(place.path()).unwrap();
    for (what, content) in [
        ("cut", &file[..file.len() - 4096]),
        ("doubled", &[&file[..], &file[4096..8192]].concat()),
    ] {
        place.put_back(&sound);
        place.forget_since(generation);
        std::fs::write(place.path(), content).unwrap();
        let noticed = match place.try_open(&place.anchor()) {
            Ok(db) => !db.verify().unwrap().is_sound(),
            Err(DatabaseError::Corrupt { .. }) => true,
            Err(other) => panic!("{what}: {other:?}"),
        };
        assert!(noticed, "{what}");
    }
}

#[test]
fn a_record_that_is_gone_damaged_or_old_is_reported_and_stays_so() {
    let place = Place::new(Profile::Fast);
    add(&place.open(), "one");
    let record = place.data().join("test.db-anchor");
    let old = std::fs::read(&record).unwrap();
    add(&place.open(), "two");
    let (sound, generation) = (place.copy(), place.generation());
    let spoil: [(&str, &dyn Fn()); 3] = [
        ("gone", &|| std::fs::remove_file(&record).unwrap()),
        ("damaged", &|| std::fs::write(&record, b"KTC1").unwrap()),
        ("old", &|| std::fs::write(&record, &old).unwrap()),
    ];
    for (what, spoil) in spoil {
        place.put_back(&sound);
        place.forget_since(generation);
        spoil();
        let db = place.open();
        assert!(!db.verify().unwrap().is_sound(), "{what}");
        add(&db, "more");
        drop(db);
        let report = place.open().verify().unwrap();
        assert!(!report.is_sound(), "{what}: {report:?}");
    }
}

#[test]
fn a_backup_that_is_put_in_place_is_accepted_once_and_no_more_often() {
    let place = Place::new(Profile::Fast);
    let db = place.open();
    add(&db, "backed up");
    let backup = place.home.path().join("backup.db");
    db.backup(&backup).unwrap();
    add(&db, "lost");
    drop(db);

    // Looking into it needs no consent, and changes nothing.
    let look = options(place.profile).ignore_anchor();
    assert_eq!(
        texts(&Database::open(&backup, &key(1), look).unwrap()),
        ["backed up"]
    );

    place.put_back(&[]);
    std::fs::copy(&backup, place.path()).unwrap();
    assert!(place.try_open(&place.anchor()).is_err());
    drop(place.try_open(&place.anchor().accept_restore()).unwrap());
    assert_eq!(texts(&place.open()), ["backed up"]);
    assert!(place.open().verify().unwrap().is_sound());

    // The consent was for that one: the same backup again is old.
    add(&place.open(), "new");
    place.put_back(&[]);
    std::fs::copy(&backup, place.path()).unwrap();
    assert!(place.try_open(&place.anchor()).is_err());
}

#[test]
fn an_older_vault_is_told_from_an_older_database() {
    let place = Place::new(Profile::Fast);
    add(&place.open(), "one");
    let old_vault = std::fs::read(place.home.path().join("vault/vault")).unwrap();
    for round in 0..3 {
        add(&place.open(), &format!("{round}"));
    }
    let Place {
        home,
        vault: open,
        profile,
    } = place;
    drop(open);
    std::fs::write(home.path().join("vault/vault"), old_vault).unwrap();

    // A vault with a witness does not even open.
    assert!(matches!(
        vault(home.path()),
        Err(VaultError::RolledBack { .. })
    ));

    let unwitnessed = Vault::builder(home.path().join("vault"))
        .binding(Unbound)
        .file_slot(home.path().join("secret"))
        .open()
        .unwrap();
    let place = Place {
        home,
        vault: Arc::new(unwitnessed),
        profile,
    };
    let refused = place.try_open(&place.anchor());
    assert!(
        matches!(refused, Err(DatabaseError::VaultRolledBack { .. })),
        "{refused:?}"
    );
    let db = place.try_open(&place.anchor().accept_restore()).unwrap();
    assert_eq!(texts(&db).len(), 4);
    drop(db);
    assert!(place.open().verify().unwrap().is_sound());
}

#[test]
fn an_anchored_database_does_not_open_without_by_mistake() {
    let place = Place::new(Profile::Fast);
    add(&place.open(), "kept");
    let refused = Database::open(place.path(), &key(1), options(place.profile));
    assert!(
        matches!(refused, Err(DatabaseError::Anchored { .. })),
        "{refused:?}"
    );
    let refused = Database::rekey(place.path(), &key(1), &key(2), options(place.profile));
    assert!(
        matches!(refused, Err(DatabaseError::Anchored { .. })),
        "{refused:?}"
    );
    // What is written without is told from what should be there.
    let without = options(place.profile).ignore_anchor();
    add(
        &Database::open(place.path(), &key(1), without).unwrap(),
        "written without",
    );
    assert!(!place.open().verify().unwrap().is_sound());
}

#[test]
fn a_database_that_had_no_anchor_gets_one() {
    let place = Place::new(Profile::Compat);
    add(
        &Database::open(place.path(), &key(1), options(place.profile)).unwrap(),
        "before",
    );
    add(&place.open(), "after");
    assert_eq!(texts(&place.open()), ["before", "after"]);
    assert!(place.open().verify().unwrap().is_sound());
}

#[test]
fn another_key_keeps_the_anchor() {
    for profile in BOTH {
        let place = Place::new(profile);
        for number in 0..20 {
            add(&place.open(), &format!("{number} {}", "z".repeat(900)));
        }
        let old = place.copy();
        Database::rekey_anchored(
            place.path(),
            &key(1),
            &key(2),
            &place.anchor(),
            options(profile),
        )
        .unwrap();
        let db = Database::open_anchored(place.path(), &key(2), &place.anchor(), options(profile))
            .unwrap();
        let report = db.verify().unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert!(matches!(report.comparison, Comparison::Compared { .. }));
        assert_eq!(texts(&db).len(), 20);
        drop(db);
        // The file of before, with the key of before.
        place.put_back(&old);
        let refused = place.try_open(&place.anchor());
        assert!(
            matches!(refused, Err(DatabaseError::RolledBack { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn the_log_is_brought_to_rest_on_the_way() {
    let place = Place::new(Profile::Compat);
    let db = place.open();
    let before = place.generation();
    for _ in 0..30 {
        add(&db, &"w".repeat(400_000));
    }
    assert!(place.generation() > before, "{before:?}");
    let log = std::fs::metadata(place.data().join("test.db-wal"))
        .unwrap()
        .len();
    assert!(log < 12 << 20, "{log}");
    assert!(db.verify().unwrap().is_sound());
}

#[test]
fn vacuum_and_truncation_are_no_damage() {
    let place = Place::new(Profile::Fast);
    let db = place.open();
    for _ in 0..100 {
        add(&db, &"v".repeat(5000));
    }
    db.checkpoint().unwrap();
    db.write(|tx| tx.execute("DELETE FROM note", [])).unwrap();
    db.vacuum().unwrap();
    assert!(db.verify().unwrap().is_sound());
    drop(db);
    let report = place.open().verify().unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn what_is_deleted_leaves_the_log_too() {
    let place = Place::new(Profile::Fast);
    let db = place.open();
    for _ in 0..50 {
        add(&db, &"u".repeat(5000));
    }
    db.write(|tx| tx.execute("DELETE FROM note", [])).unwrap();
    db.checkpoint().unwrap();
    let log = std::fs::metadata(place.data().join("test.db-wal"))
        .unwrap()
        .len();
    assert!(log <= 32 + 24 + 4096, "{log}");
}

#[test]
fn a_reader_that_stays_delays_rest_and_harms_nothing() {
    let place = Place::new(Profile::Compat);
    let db = place.open();
    add(&db, "before");
    db.read(|tx| {
        let count = "SELECT count(*) FROM note";
        assert_eq!(
            tx.query_one(count, [], |row| row.get::<_, i64>(0))?,
            Some(1)
        );
        std::thread::scope(|scope| {
            scope.spawn(|| {
                add(&db, "meanwhile");
                assert!(matches!(db.checkpoint(), Err(DatabaseError::Busy)));
                let report = db.verify().unwrap();
                assert!(report.is_sound(), "{report:?}");
            });
        });
        assert_eq!(
            tx.query_one(count, [], |row| row.get::<_, i64>(0))?,
            Some(1)
        );
        Ok::<_, DatabaseError>(())
    })
    .unwrap();
    db.checkpoint().unwrap();
    assert!(db.verify().unwrap().is_sound());
    assert_eq!(texts(&db).len(), 2);
}
