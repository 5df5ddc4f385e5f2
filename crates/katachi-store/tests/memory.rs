//! Workspace memory, seen through its public door.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]
#![cfg(feature = "memory")]

use katachi_crypto::Secret;
use katachi_store::database::{Database, DatabaseKey, Options};
use katachi_store::memory::{Limits, Memory, MemoryError};

fn memory() -> (tempfile::TempDir, Memory) {
    let dir = tempfile::tempdir().unwrap();
    let key = DatabaseKey::from_secret(Secret::new([4; 32]));
    let db = Database::open(dir.path().join("memory.db"), &key, Options::new()).unwrap();
    let memory = Memory::open(&db).unwrap().with_clock(|| 42);
    (dir, memory)
}

#[test]
fn remembers_replaces_and_forgets() {
    let (_dir, memory) = memory();
    memory.set("a", "k", "one", &["y", "x"]).unwrap();
    memory.set("b", "k", "other namespace", &[]).unwrap();
    memory.set("a", "k", "two", &["z"]).unwrap();
    let entry = memory.get("a", "k").unwrap().unwrap();
    assert_eq!((&*entry.value, entry.tags), ("two", vec!["z".to_owned()]));
    assert_eq!(entry.created_ms, 42);

    assert!(memory.remove("a", "k").unwrap());
    assert!(!memory.remove("a", "k").unwrap());
    assert_eq!(memory.get("a", "k").unwrap(), None);
    assert!(memory.get("b", "k").unwrap().is_some());
}

#[test]
fn lists_by_key_and_by_tag() {
    let (_dir, memory) = memory();
    for (key, tags) in [("c", &["red", "big"][..]), ("a", &["red"]), ("b", &[])] {
        memory.set("n", key, "v", tags).unwrap();
    }
    let keys = |tag, limit, offset| -> Vec<String> {
        let listed = memory.list("n", tag, limit, offset).unwrap();
        listed.into_iter().map(|entry| entry.key).collect()
    };
    assert_eq!(keys(None, 10, 0), ["a", "b", "c"]);
    assert_eq!(keys(None, 1, 1), ["b"]);
    assert_eq!(keys(Some("red"), 10, 0), ["a", "c"]);
    assert_eq!(keys(Some("re"), 10, 0), Vec::<String>::new());
    assert_eq!(memory.get("n", "c").unwrap().unwrap().tags, ["big", "red"]);
}

#[test]
fn counts_what_was_set_on_each_day() {
    const DAY: i64 = 86_400_000;
    let (_dir, memory) = memory();
    for (day, namespace, key) in [(3, "n", "a"), (3, "n", "b"), (5, "n", "c"), (5, "m", "a")] {
        let then = memory.clone().with_clock(move || day * DAY + 7);
        then.set(namespace, key, "v", &[]).unwrap();
    }
    let then = memory.clone().with_clock(|| 5 * DAY + 8);
    then.set("n", "a", "again", &[]).unwrap();
    let counted = |since: i64| -> Vec<(String, i64, u64)> {
        let days = memory.activity(since).unwrap();
        let count =
            |day: katachi_store::memory::MemoryActivity| (day.namespace, day.day, day.entries);
        days.into_iter().map(count).collect()
    };
    let (m, n) = ("m".to_owned(), "n".to_owned());
    let all = [(m.clone(), 5, 1), (n.clone(), 3, 1), (n.clone(), 5, 2)];
    assert_eq!(counted(0), all);
    assert_eq!(counted(4 * DAY), [(m, 5, 1), (n, 5, 2)]);
}

#[test]
fn finds_by_key_tag_and_text_in_that_order() {
    let (_dir, memory) = memory();
    memory.set("n", "text", "the walnut is ripe", &[]).unwrap();
    memory.set("n", "tagged", "something", &["walnut"]).unwrap();
    memory.set("n", "walnut", "something", &[]).unwrap();
    memory.set("m", "walnut", "elsewhere", &[]).unwrap();
    let found = memory.search(Some("n"), "walnut", 10).unwrap();
    let keys: Vec<_> = found.iter().map(|entry| &*entry.key).collect();
    assert_eq!(keys, ["walnut", "tagged", "text"]);
    assert_eq!(memory.search(None, "wal*", 10).unwrap().len(), 4);
    assert!(
        memory
            .search(Some("n"), "key:walnut AND", 10)
            .unwrap()
            .is_empty()
    );
    memory.set("n", "walnut", "replaced", &[]).unwrap();
    memory.remove("n", "text").unwrap();
    assert_eq!(memory.search(Some("n"), "ripe", 10).unwrap(), []);
    assert_eq!(memory.search(Some("n"), "replaced", 10).unwrap().len(), 1);
}

#[test]
fn stays_within_its_limits_and_keeps_what_was_there() {
    let (_dir, memory) = memory();
    let memory = memory.with_limits(Limits {
        entry_bytes: 10,
        tags: 2,
        namespace_entries: 2,
        namespace_bytes: 14,
    });
    memory.set("n", "a", "1234567890", &[]).unwrap();
    assert!(matches!(
        memory.set("n", "a", "12345678901", &[]),
        Err(MemoryError::EntryTooLarge { limit: 10 })
    ));
    assert!(matches!(
        memory.set("n", "b", "1234", &[]),
        Err(MemoryError::NamespaceFull { unit: "bytes", .. })
    ));
    assert!(matches!(
        memory.set("n", "b", "1", &["x", "y", "z"]),
        Err(MemoryError::TooManyTags { limit: 2 })
    ));
    memory.set("n", "b", "1", &[]).unwrap();
    assert!(matches!(
        memory.set("n", "c", "", &[]),
        Err(MemoryError::NamespaceFull {
            unit: "entries",
            ..
        })
    ));
    memory.set("other", "c", "", &[]).unwrap();
    assert_eq!(memory.get("n", "a").unwrap().unwrap().value, "1234567890");
    let use_of = memory.namespaces().unwrap();
    assert_eq!((use_of[0].entries, use_of[0].bytes), (2, 13));
    assert_eq!(memory.remove_namespace("n").unwrap(), 2);
    assert_eq!(memory.namespaces().unwrap().len(), 1);
}

#[test]
fn refuses_names_that_could_not_be_told_apart() {
    let (_dir, memory) = memory();
    for name in ["", "a\nb", "\u{1f}", &"x".repeat(257)] {
        assert!(matches!(
            memory.set(name, "k", "v", &[]),
            Err(MemoryError::Name { .. })
        ));
        assert!(matches!(
            memory.set("n", name, "v", &[]),
            Err(MemoryError::Name { .. })
        ));
        assert!(matches!(
            memory.set("n", "k", "v", &[name]),
            Err(MemoryError::Name { .. })
        ));
    }
}
