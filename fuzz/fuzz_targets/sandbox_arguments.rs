//! A table of argument rules is read as it was written, and decides about a
//! start as the obvious decision does.
//!
//! The first line is a start: the number of a file, `tree` or `-` or `=` and
//! the name that it has in a tree, and its words. Each further line is about a file: `free 1`, `guarded 1`, or
//! `form 1 ask names | words`, where `script` in place of `form` makes the
//! first word a script and `-` in place of `ask` allows without asking.
#![no_main]

use std::ffi::OsString;

use codec::{Reader, Writer};
use guard::{Form, Guards, Ruling};
use libfuzzer_sys::fuzz_target;
use naive::Verdict;

#[allow(dead_code)]
#[path = "../../crates/katachi-sandbox/src/codec.rs"]
mod codec;
#[allow(dead_code)]
#[path = "../../crates/katachi-sandbox/src/guard.rs"]
mod guard;
#[allow(dead_code)]
#[path = "../../crates/katachi-sandbox/src/suggest.rs"]
mod suggest;
// The twin names the types beside it.
use guard::{Executable, FileNumber, Place};
#[path = "../../crates/katachi-sandbox/src/guard/naive.rs"]
mod naive;

fuzz_target!(|bytes: &[u8]| {
    let reader = &mut Reader::new(bytes);
    if let Some(table) = Guards::read(reader).filter(|_| reader.at_end()) {
        assert_eq!(written(&table), bytes);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (start, lines) = text.split_once('\n').unwrap_or((text, ""));
    let mut start = start.split(' ');
    let file = number(start.next());
    let place = match start.next().unwrap_or("") {
        "tree" => Place::Tree,
        word => match word.strip_prefix('=') {
            Some(name) => Place::Named(name.as_ref()),
            None => Place::Elsewhere,
        },
    };
    let argv: Vec<OsString> = start.map(Into::into).collect();
    let mut table = Guards::default();
    lines
        .lines()
        .take(64)
        .for_each(|line| add(&mut table, line));

    let bytes = written(&table);
    let reader = &mut Reader::new(&bytes);
    assert_eq!(Guards::read(reader).as_ref(), Some(&table));
    assert!(reader.at_end());
    let ours = match table.rule_on(file, &argv, place) {
        Ruling::Allow => Verdict::Allow,
        Ruling::Ask(_) => Verdict::Ask,
        Ruling::Deny(_) => Verdict::Deny,
    };
    assert_eq!(ours, naive::verdict(&table, file, &argv, place));
});

fn written(table: &Guards) -> Vec<u8> {
    let mut writer = Writer::default();
    table.write(&mut writer);
    writer.finish()
}

fn number(text: Option<&str>) -> FileNumber {
    (1, text.and_then(|text| text.parse().ok()).unwrap_or(0))
}

fn add(table: &mut Guards, line: &str) {
    let (head, words) = line.split_once('|').unwrap_or((line, ""));
    let mut head = head.split_ascii_whitespace();
    let kind = head.next().unwrap_or("");
    let entry = table.entry(number(head.next()));
    match kind {
        "free" => entry.free = true,
        "guarded" => entry.guarded = true,
        "form" | "script" => {
            let ask = head.next() == Some("ask");
            let words: Vec<OsString> = words.split_ascii_whitespace().map(Into::into).collect();
            entry.forms.push(Form {
                names: head.map(Into::into).collect(),
                script: (kind == "script" && !words.is_empty()).then_some(0),
                words,
                ask,
                rule: line.to_owned(),
            });
        }
        _ => {}
    }
}
