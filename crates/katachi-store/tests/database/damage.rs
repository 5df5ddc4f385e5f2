//! Damage is found by opening or by verifying.

use katachi_store::database::{Database, DatabaseError, Profile};

use crate::support::{BOTH, Place, add, key, options, texts};

/// A checkpointed database of a few dozen pages, as bytes.
fn sample(profile: Profile) -> Vec<u8> {
    let place = Place::new();
    let db = place.open(profile);
    for number in 0..200 {
        add(&db, &format!("note {number} {}", "lorem ipsum ".repeat(20)));
    }
    db.checkpoint().unwrap();
    assert!(db.verify().unwrap().is_sound());
    drop(db);
    std::fs::read(place.path()).unwrap()
}

/// Tells whether opening or verifying notices that `bytes` are damaged.
fn noticed(bytes: &[u8], profile: Profile) -> bool {
    let place = Place::new();
    std::fs::write(place.path(), bytes).unwrap();
    match Database::open(place.path(), &key(1), options(profile)) {
        Ok(db) => !db.verify().unwrap().is_sound(),
        Err(DatabaseError::Corrupt { .. } | DatabaseError::WrongKey { .. }) => true,
        Err(other) => panic!("unexpected: {other:?}"),
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    for profile in BOTH {
        let sound = sample(profile);
        assert!(!noticed(&sound, profile), "{profile:?}");
        let step = sound.len() / 97;
        for index in (0..sound.len())
            .step_by(step)
            .chain([0, 15, 16, 100, sound.len() - 1])
        {
            let mut bytes = sound.clone();
            bytes[index] ^= 1 << (index % 8);
            assert!(noticed(&bytes, profile), "{profile:?}: byte {index}");
        }
    }
}

#[test]
fn swapped_missing_appended_and_blank_pages_are_noticed() {
    for profile in BOTH {
        let sound = sample(profile);
        let page = 4096;
        let mut swapped = sound.clone();
        let (left, right) = swapped.split_at_mut(3 * page);
        left[2 * page..].swap_with_slice(&mut right[..page]);
        let mut blank = sound.clone();
        blank[2 * page..3 * page].fill(0);
        let mut appended = sound.clone();
        appended.extend_from_within(page..2 * page);
        let mut torn = sound.clone();
        torn.truncate(sound.len() - 100);
        let mut shorter = sound.clone();
        shorter.truncate(sound.len() - page);
        for (what, bytes) in [
            ("swapped", swapped),
            ("blank", blank),
            ("appended", appended),
            ("torn", torn),
            ("shorter", shorter),
        ] {
            assert!(noticed(&bytes, profile), "{profile:?}: {what}");
        }
    }
}

#[test]
fn verify_names_the_damaged_page() {
    let mut bytes = sample(Profile::Compat);
    bytes[4096 * 4 + 5] ^= 1;
    let place = Place::new();
    std::fs::write(place.path(), bytes).unwrap();
    let report = place.open(Profile::Compat).verify().unwrap();
    assert!(
        report
            .problems
            .iter()
            .any(|problem| problem.page == Some(5)),
        "{report:?}"
    );
}

#[test]
fn a_backup_is_encrypted_complete_and_opens_with_the_same_key_alone() {
    for profile in BOTH {
        let place = Place::new();
        let db = place.open(profile);
        add(&db, "copied");
        let copy = place.dir.path().join("copy.db");
        db.backup(&copy).unwrap();
        add(&db, "later");
        assert!(
            db.backup(&copy).is_err(),
            "an existing backup is never replaced"
        );

        assert!(matches!(
            Database::open(&copy, &key(2), options(profile)),
            Err(DatabaseError::WrongKey { .. })
        ));
        let copy = Database::open(&copy, &key(1), options(profile).must_exist()).unwrap();
        assert_eq!(texts(&copy), ["copied"]);
        assert!(copy.verify().unwrap().is_sound());
    }
}

#[test]
fn a_backup_is_taken_while_others_write() {
    let place = Place::new();
    let db = place.open(Profile::Fast);
    for number in 0..100 {
        add(&db, &format!("{number} {}", "x".repeat(5000)));
    }
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..50).for_each(|_| add(&db, "meanwhile")));
        db.backup(place.dir.path().join("copy.db")).unwrap();
        writer.join().unwrap();
    });
    let copy = Database::open(
        place.dir.path().join("copy.db"),
        &key(1),
        options(Profile::Fast),
    )
    .unwrap();
    assert!(copy.verify().unwrap().is_sound());
    assert!(texts(&copy).len() >= 100);
}

#[test]
fn vacuum_shrinks_the_file_and_keeps_the_rest() {
    for profile in BOTH {
        let place = Place::new();
        let db = place.open(profile);
        for _ in 0..100 {
            add(&db, &"y".repeat(5000));
        }
        add(&db, "kept");
        db.write(|tx| tx.execute("DELETE FROM note WHERE text <> 'kept'", []))
            .unwrap();
        db.checkpoint().unwrap();
        let before = std::fs::metadata(place.path()).unwrap().len();
        db.vacuum().unwrap();
        db.checkpoint().unwrap();
        let after = std::fs::metadata(place.path()).unwrap().len();
        assert!(after < before, "{profile:?}: {after} of {before}");
        assert_eq!(texts(&db), ["kept"]);
        assert!(db.verify().unwrap().is_sound());
        drop(db);
        assert_eq!(texts(&place.open(profile)), ["kept"]);
    }
}
