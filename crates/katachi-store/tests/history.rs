//! Chat history, seen through its public door.
#![allow(clippy::unwrap_used, reason = "a test says so by failing")]
#![cfg(feature = "history")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use katachi_crypto::Secret;
use katachi_store::database::{Database, DatabaseKey, Options};
use katachi_store::history::{
    Attachment, History, HistoryError, NewMessage, Role, Search, SessionId, State, ToolCall, Usage,
};
use proptest::prelude::*;

struct Place {
    dir: tempfile::TempDir,
    now: Arc<AtomicI64>,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            now: Arc::new(AtomicI64::new(1_000_000)),
        }
    }

    fn database(&self) -> Database {
        let key = DatabaseKey::from_secret(Secret::new([3; 32]));
        Database::open(self.dir.path().join("history.db"), &key, Options::new()).unwrap()
    }

    /// A clock that goes on by one millisecond each time it is read.
    fn history(&self) -> History {
        let now = Arc::clone(&self.now);
        History::with_clock(&self.database(), move || {
            now.fetch_add(1, Ordering::Relaxed)
        })
        .unwrap()
    }

    fn wait(&self, milliseconds: i64) {
        self.now.fetch_add(milliseconds, Ordering::Relaxed);
    }
}

fn session(history: &History, title: &str) -> SessionId {
    let workspace = history.workspace("/work").unwrap();
    history.start_session(workspace, title).unwrap()
}

fn say(history: &History, session: SessionId, text: &str) {
    history
        .append(session, &NewMessage::new(Role::User, text))
        .unwrap();
}

#[test]
fn keeps_messages_in_their_order_with_everything_that_belongs_to_them() {
    let place = Place::new();
    let history = place.history();
    let session = session(&history, "first");
    let call = ToolCall {
        id: "c1".into(),
        name: "read".into(),
        arguments: r#"{"path":"a"}"#.into(),
        result: None,
    };
    let picture = Attachment {
        name: "a.png".into(),
        media_type: "image/png".into(),
        content: vec![0, 255, 1],
    };
    say(&history, session, "look at this");
    let message = NewMessage::new(Role::Assistant, "I will")
        .tool_call(call.clone())
        .attachment(picture.clone())
        .usage(Usage {
            input_tokens: Some(10),
            output_tokens: Some(2),
        });
    let id = history.append(session, &message).unwrap();
    history.set_tool_result(id, "c1", "content of a").unwrap();

    drop(history);
    let history = place.history();
    let shown = history.show(session, None, 10).unwrap();
    assert_eq!(shown.len(), 2);
    assert_eq!(shown[0].text, "look at this");
    assert_eq!(
        shown[1].tool_calls[0].result.as_deref(),
        Some("content of a")
    );
    assert_eq!(shown[1].usage.output_tokens, Some(2));
    assert_eq!(history.attachments(id).unwrap(), [picture]);
    assert_eq!(history.session(session).unwrap().messages, 2);
}

#[test]
fn pages_through_sessions_and_messages() {
    let place = Place::new();
    let history = place.history();
    let first = session(&history, "0");
    for title in 1..5 {
        session(&history, &title.to_string());
    }
    for number in 0..7 {
        say(&history, first, &number.to_string());
    }
    let titles = |limit, offset| -> Vec<String> {
        let page = history.list_sessions(None, limit, offset).unwrap();
        page.into_iter().map(|session| session.title).collect()
    };
    assert_eq!(
        titles(2, 0),
        ["0", "4"],
        "the one written to last comes first"
    );
    assert_eq!(titles(10, 2), ["3", "2", "1"]);

    let page = history.show(first, None, 3).unwrap();
    let next = history.show(first, Some(page[2].id), 10).unwrap();
    assert_eq!(
        next.iter()
            .map(|message| &*message.text)
            .collect::<Vec<_>>(),
        ["3", "4", "5", "6"]
    );
}

#[test]
fn a_stream_is_visible_as_it_grows_and_searchable_at_the_end() {
    let place = Place::new();
    let history = place.history();
    let session = session(&history, "stream");
    let mut stream = history.begin(session, Role::Assistant).unwrap();
    stream.push("plums ").unwrap();
    stream.flush().unwrap();
    stream.push("are ripe").unwrap();
    let seen = history.message(stream.id()).unwrap();
    assert_eq!((seen.state, &*seen.text), (State::Streaming, "plums "));
    assert!(history.search("plums", 5).unwrap().is_empty());

    let id = stream.finish().unwrap();
    let seen = history.message(id).unwrap();
    assert_eq!(
        (seen.state, &*seen.text),
        (State::Complete, "plums are ripe")
    );
    assert_eq!(history.search("plums ripe", 5).unwrap()[0].message, id);
}

#[test]
fn a_dropped_stream_is_interrupted_and_keeps_its_text() {
    let place = Place::new();
    let history = place.history();
    let mut stream = history
        .begin(session(&history, "s"), Role::Assistant)
        .unwrap();
    stream.push("half a sent").unwrap();
    let id = stream.id();
    drop(stream);
    let seen = history.message(id).unwrap();
    assert_eq!(
        (seen.state, &*seen.text),
        (State::Interrupted, "half a sent")
    );
}

#[test]
fn a_stream_that_a_crash_cut_off_is_closed_at_the_next_opening() {
    let place = Place::new();
    let history = place.history();
    let mut stream = history
        .begin(session(&history, "s"), Role::Assistant)
        .unwrap();
    stream.push("flushed").unwrap();
    stream.flush().unwrap();
    let id = stream.id();
    std::mem::forget(stream);

    place.wait(1000);
    assert_eq!(
        place.history().message(id).unwrap().state,
        State::Streaming,
        "it may still live"
    );
    place.wait(600_000);
    let beside = History::open_beside(&place.database()).unwrap();
    let seen = beside.message(id).unwrap();
    assert_eq!(seen.state, State::Streaming, "others know whether it lives");
    let seen = place.history().message(id).unwrap();
    assert_eq!((seen.state, &*seen.text), (State::Interrupted, "flushed"));
    assert_eq!(history.search("flushed", 5).unwrap().len(), 1);
}

#[test]
fn a_stream_whose_message_was_deleted_says_so() {
    let place = Place::new();
    let history = place.history();
    let session = session(&history, "s");
    let mut stream = history.begin(session, Role::Assistant).unwrap();
    history.delete_session(session).unwrap();
    stream.push("x").unwrap();
    assert!(matches!(stream.flush(), Err(HistoryError::StreamEnded(_))));
}

#[test]
fn searching_ranks_marks_and_restricts() {
    let place = Place::new();
    let history = place.history();
    let here = session(&history, "here");
    let elsewhere = history
        .start_session(history.workspace("/other").unwrap(), "there")
        .unwrap();
    say(
        &history,
        here,
        "one apricot among many other words about something else entirely, for ranking",
    );
    say(&history, here, "apricot apricot");
    say(&history, elsewhere, "Apricót jam");
    history
        .append(here, &NewMessage::new(Role::Assistant, "no fruit"))
        .unwrap();

    let hits = history.search("apricot", 10).unwrap();
    assert_eq!(hits.len(), 3, "accents and capitals do not matter");
    assert_eq!(hits[0].snippet, "apricot apricot");
    assert_eq!(hits[0].highlights, [0..7, 8..15]);
    assert!(hits.windows(2).all(|pair| pair[0].rank >= pair[1].rank));
    assert_eq!(history.search("apricot", 1).unwrap().len(), 1);

    let restricted = Search::new("apricot").workspace(history.workspace("/other").unwrap());
    assert_eq!(history.search_with(&restricted).unwrap()[0].title, "there");
    assert_eq!(
        history
            .search_with(&Search::new("apri*").session(here))
            .unwrap()
            .len(),
        2
    );
    assert!(
        history
            .search_with(&Search::new("apricot").role(Role::Assistant))
            .unwrap()
            .is_empty()
    );
    assert_eq!(history.search("\"apricot jam\"", 9).unwrap().len(), 1);
    assert!(history.search("\"jam apricot\"", 9).unwrap().is_empty());
}

#[test]
fn what_is_deleted_is_found_no_more() {
    let place = Place::new();
    let history = place.history();
    let (kept, gone) = (session(&history, "kept"), session(&history, "gone"));
    say(&history, kept, "walnut tree");
    say(&history, gone, "walnut cake");
    history.delete_session(gone).unwrap();
    assert!(matches!(
        history.show(gone, None, 1),
        Err(HistoryError::NoSuchSession(_))
    ));
    assert_eq!(history.search("walnut", 9).unwrap().len(), 1);
    assert!(history.search("cake", 9).unwrap().is_empty());
    assert!(matches!(
        history.delete_session(gone),
        Err(HistoryError::NoSuchSession(_))
    ));

    let id = history.show(kept, None, 1).unwrap()[0].id;
    history.delete_message(id).unwrap();
    assert!(history.search("walnut", 9).unwrap().is_empty());
    assert!(history.database().verify().unwrap().is_sound());
}

/// Looks at the database from outside with the key, at every page in plain.
#[test]
fn what_is_deleted_is_in_no_table_and_no_index() {
    let place = Place::new();
    let history = place.history();
    let gone = session(&history, "gone");
    say(&history, session(&history, "kept"), "something else");
    say(&history, gone, "xylophone quartz");
    history.delete_session(gone).unwrap();
    let db = history.database();
    let terms: Vec<String> = db
        .write(|tx| {
            tx.execute_batch(
                "CREATE VIRTUAL TABLE temp.vocab USING fts5vocab(main, history_fts, row)",
            )?;
            tx.query("SELECT term FROM temp.vocab", [], |row| row.get(0))
        })
        .unwrap();
    assert_eq!(terms, ["else", "something"]);
    // The index's own blocks, where an outweighed entry would still be spelled.
    let blocks: Vec<Vec<u8>> = db
        .read(|tx| tx.query("SELECT block FROM history_fts_data", [], |row| row.get(0)))
        .unwrap();
    assert!(!blocks.is_empty());
    for block in blocks {
        assert!(memchr::memmem::find(&block, b"xylo").is_none());
        assert!(memchr::memmem::find(&block, b"quartz").is_none());
    }
}

#[test]
fn retention_deletes_old_sessions_alone() {
    let place = Place::new();
    let history = place.history();
    let old = session(&history, "old");
    place.wait(10_000);
    let limit = place.now.load(Ordering::Relaxed);
    let new = session(&history, "new");
    assert_eq!(history.delete_sessions_before(limit).unwrap(), 1);
    assert!(history.session(old).is_err());
    assert!(history.session(new).is_ok());
}

#[test]
fn refuses_what_does_not_exist_or_is_too_large() {
    let place = Place::new();
    let history = place.history();
    let session = session(&history, "s");
    assert!(matches!(
        history.append(SessionId(99), &NewMessage::new(Role::User, "x")),
        Err(HistoryError::NoSuchSession(_))
    ));
    let huge = "x".repeat(8 * 1024 * 1024 + 1);
    assert!(matches!(
        history.append(session, &NewMessage::new(Role::User, huge.clone())),
        Err(HistoryError::TooLarge { .. })
    ));
    let mut stream = history.begin(session, Role::User).unwrap();
    assert!(matches!(
        stream.push(&huge),
        Err(HistoryError::TooLarge { .. })
    ));
    stream.push("still usable").unwrap();
    stream.finish().unwrap();
}

#[test]
fn activity_counts_by_day() {
    let place = Place::new();
    let history = place.history();
    let session = session(&history, "s");
    say(&history, session, "day 0");
    place.wait(86_400_000);
    say(&history, session, "day 1");
    let usage = Usage {
        input_tokens: Some(5),
        output_tokens: Some(7),
    };
    history
        .append(session, &NewMessage::new(Role::User, "x").usage(usage))
        .unwrap();
    let days: Vec<_> = history
        .activity(0)
        .unwrap()
        .iter()
        .map(|a| (a.day, a.messages, a.tokens))
        .collect();
    assert_eq!(days, [(0, 1, 0), (1, 2, 12)]);
}

fn exported(history: &History) -> String {
    let mut out = Vec::new();
    history.export(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn an_export_imported_elsewhere_exports_the_same() {
    let place = Place::new();
    let history = place.history();
    for title in ["a\nb", "\"quoted\"", "ü"] {
        let session = session(&history, title);
        let message = NewMessage::new(Role::Tool, format!("{title}\0\u{2028}"))
            .attachment(Attachment {
                name: "n".into(),
                media_type: "m".into(),
                content: (0..=255).collect(),
            })
            .tool_call(ToolCall {
                id: "1".into(),
                name: "t".into(),
                arguments: "{}".into(),
                result: Some("r".into()),
            });
        history.append(session, &message).unwrap();
        let mut stream = history.begin(session, Role::Assistant).unwrap();
        stream.push("in the middle").unwrap();
    }
    let text = exported(&history);
    let other = Place::new();
    let copy = other.history();
    let mut told = 0;
    let count = copy
        .import(text.as_bytes(), |so_far| told = so_far.messages)
        .unwrap();
    assert_eq!(
        (count.workspaces, count.sessions, count.messages),
        (1, 3, 6)
    );
    assert_eq!(told, 6);
    assert_eq!(exported(&copy), text);
    assert_eq!(copy.search("middle", 10).unwrap().len(), 3);
}

#[test]
fn an_import_names_the_line_it_stopped_at_and_keeps_what_came_before() {
    let place = Place::new();
    let history = place.history();
    let good = r#"{"type":"katachi-history","version":1}
{"type":"workspace","name":"w","created_ms":1}
{"type":"session","title":"t","created_ms":1,"updated_ms":2}

{"type":"message","role":"user","state":"complete","text":"kept","created_ms":1}
"#;
    let refused = history
        .import(format!("{good}{{broken").as_bytes(), |_| {})
        .unwrap_err();
    assert!(
        matches!(
            refused,
            HistoryError::Import {
                line: 6,
                messages: 1,
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(history.search("kept", 9).unwrap().len(), 1);

    let headless = history.import(
        &b"{\"type\":\"workspace\",\"name\":\"w\",\"created_ms\":1}"[..],
        |_| {},
    );
    assert!(matches!(
        headless,
        Err(HistoryError::Import { line: 1, .. })
    ));
    let orphan = "{\"type\":\"katachi-history\",\"version\":1}\n{\"type\":\"session\",\"title\":\"t\",\"created_ms\":1,\"updated_ms\":2}";
    assert!(matches!(
        history.import(orphan.as_bytes(), |_| {}),
        Err(HistoryError::Import { line: 2, .. })
    ));
    assert!(matches!(
        history.import(&b"\xff\xfe"[..], |_| {}),
        Err(HistoryError::Import { line: 1, .. })
    ));
}

#[test]
fn history_and_memory_and_own_tables_share_one_file() {
    let place = Place::new();
    let history = place.history();
    history
        .database()
        .write(|tx| tx.execute_batch("CREATE TABLE mine (a INTEGER) STRICT"))
        .unwrap();
    say(&history, session(&history, "s"), "hello");
    assert_eq!(place.history().search("hello", 1).unwrap().len(), 1);
}

#[test]
fn threads_append_to_one_history_and_lose_nothing() {
    let place = Place::new();
    let history = place.history();
    let session = session(&history, "s");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let history = history.clone();
            scope.spawn(move || {
                let mut stream = history.begin(session, Role::Assistant).unwrap();
                for piece in 0..20 {
                    stream.push(&format!("{thread}-{piece} ")).unwrap();
                    stream.flush().unwrap();
                    say(&history, session, "noise");
                }
                stream.finish().unwrap();
            });
        }
    });
    let all = history.show(session, None, 1000).unwrap();
    assert_eq!(all.len(), 8 + 8 * 20);
    for thread in 0..8 {
        let whole: String = (0..20).map(|piece| format!("{thread}-{piece} ")).collect();
        assert!(all.iter().any(|message| message.text == whole));
    }
}

#[test]
fn an_abandoned_lease_uses_the_time_given() {
    let place = Place::new();
    let history = place.history();
    let stream = history
        .begin(session(&history, "s"), Role::Assistant)
        .unwrap();
    assert_eq!(
        history
            .close_abandoned_streams(Duration::from_secs(60))
            .unwrap(),
        0
    );
    place.wait(61_000);
    assert_eq!(
        history
            .close_abandoned_streams(Duration::from_secs(60))
            .unwrap(),
        1
    );
    assert_eq!(
        history.message(stream.id()).unwrap().state,
        State::Interrupted
    );
}

/// Text that is likely to hit the syntax of queries.
fn query_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[\"*():^+{}\\-\\x00 ]{1,4}",
        Just("AND".to_owned()),
        Just("NEAR(".to_owned()),
        Just("text:".to_owned()),
        "\\PC{0,6}",
        any::<String>(),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

#[test]
fn any_text_is_a_valid_query() {
    let place = Place::new();
    let history = place.history();
    say(&history, session(&history, "s"), "some words AND NEAR text");
    proptest!(ProptestConfig::with_cases(300), |(text in query_text())| {
        history.search(&text, 5).unwrap();
    });
}

#[test]
fn every_word_of_a_message_finds_it() {
    let place = Place::new();
    let history = place.history();
    let session = session(&history, "s");
    proptest!(ProptestConfig::with_cases(60), |(words in proptest::collection::vec("[a-z0-9]{1,10}", 1..6))| {
        let id = history.append(session, &NewMessage::new(Role::User, words.join(" "))).unwrap();
        let restricted = Search::new(words.join(" ")).session(session).page(10_000, 0);
        let hits = history.search_with(&restricted).unwrap();
        prop_assert!(hits.iter().any(|hit| hit.message == id));
    });
}

/// The corpus of a fuzz target, which lies beside the workspace and is not
/// part of the published crate.
fn corpus(target: &str) -> Vec<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let Ok(files) = std::fs::read_dir(root.join(target)) else {
        return Vec::new();
    };
    let read = |file: std::fs::DirEntry| std::fs::read(file.path()).unwrap();
    let texts = files.map(|file| String::from_utf8_lossy(&read(file.unwrap())).into_owned());
    texts.collect()
}

#[test]
fn every_query_of_the_corpus_is_understood_by_sqlite() {
    let place = Place::new();
    let history = place.history();
    say(
        &history,
        session(&history, "s"),
        "a b c d e f g h i plum red wine cherry",
    );
    for text in corpus("store_text_query") {
        for (cut, _) in text.char_indices() {
            history.search(&text[..cut], 5).unwrap();
        }
        history.search(&text, 5).unwrap();
    }
}

#[test]
fn every_line_of_the_corpus_is_imported_and_exported_alike_or_refused() {
    let before = "{\"type\":\"katachi-history\",\"version\":1}\n\
                  {\"type\":\"workspace\",\"name\":\"w\",\"created_ms\":1}\n\
                  {\"type\":\"session\",\"title\":\"t\",\"created_ms\":1,\"updated_ms\":1}\n";
    for line in corpus("store_history_line") {
        let place = Place::new();
        let history = place.history();
        if history
            .import(format!("{before}{line}").as_bytes(), |_| {})
            .is_ok()
        {
            let text = exported(&history);
            let other = Place::new();
            other.history().import(text.as_bytes(), |_| {}).unwrap();
            assert_eq!(exported(&other.history()), text);
        }
    }
}
