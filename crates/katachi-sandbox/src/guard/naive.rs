//! The decision about an image, spelled out rule by rule.

use std::ffi::OsString;

use super::{Executable, FileNumber, Form, Guards, Place};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    Ask,
    Deny,
}

pub(crate) fn verdict(
    guards: &Guards,
    file: FileNumber,
    argv: &[OsString],
    place: Place<'_>,
) -> Verdict {
    let in_tree = match place {
        Place::Elsewhere => false,
        Place::Tree | Place::Named(_) => true,
    };
    let mut asked = false;
    let mut allowed = false;
    let mut hidden = false;
    let mut is_script = false;
    let mut known: Option<&Executable> = None;
    for executable in &guards.0 {
        if known.is_none() && executable.file == file {
            known = Some(executable);
        }
    }
    if let (None, Place::Named(name)) = (known, place) {
        for executable in guards.0.iter().rev() {
            for form in &executable.forms {
                if executable.guarded && form.names.contains(&name.to_owned()) {
                    known = Some(executable);
                }
            }
        }
    }
    let Some(known) = known else {
        return if in_tree {
            Verdict::Allow
        } else {
            Verdict::Deny
        };
    };
    for form in &known.forms {
        if name_fits(form, argv) && words_fit(form, argv) {
            asked = asked || form.ask;
            allowed = allowed || !form.ask;
        }
        if form.ask && name_fits(form, argv) {
            hidden = hidden || words_hide(form, argv);
        }
        if let Some(index) = form.script
            && argv.len() > index + 1
            && argv[index + 1] == form.words[index]
        {
            is_script = true;
        }
    }
    match (asked, allowed) {
        (true, _) => Verdict::Ask,
        (false, true) if hidden => Verdict::Ask,
        (false, true) => Verdict::Allow,
        // A rule about its arguments leaves nothing else.
        (false, false) if known.guarded => Verdict::Deny,
        (false, false) if in_tree => Verdict::Allow,
        // A program with any arguments, but not another rule's script.
        (false, false) if known.free && !is_script => Verdict::Allow,
        (false, false) => Verdict::Deny,
    }
}

fn name_fits(form: &Form, argv: &[OsString]) -> bool {
    let Some(first) = argv.first() else {
        return false;
    };
    if form.names.is_empty() {
        return true;
    }
    let bytes = first.as_encoded_bytes();
    // As the file name of a path: without slashes and dots at the end.
    let mut parts: Vec<&[u8]> = bytes.split(|byte| *byte == b'/').collect();
    while parts
        .last()
        .is_some_and(|part| part.is_empty() || *part == b".")
        && parts.len() > 1
    {
        parts.pop();
    }
    let name = parts.pop().unwrap_or_default();
    if name == b".." || name == b"." || name.is_empty() {
        return false;
    }
    form.names
        .iter()
        .any(|wanted| wanted.as_encoded_bytes() == name)
}

fn words_fit(form: &Form, argv: &[OsString]) -> bool {
    for (index, wanted) in form.words.iter().enumerate() {
        if argv.get(index + 1) != Some(wanted) {
            return false;
        }
    }
    true
}

/// Whether the words can be struck out of the arguments one after the other.
fn words_hide(form: &Form, argv: &[OsString]) -> bool {
    let mut next = 1;
    for (index, wanted) in form.words.iter().enumerate() {
        let fixed = form.script.is_some_and(|script| index <= script);
        while argv.get(next).is_some_and(|word| word != wanted) && !fixed {
            next += 1;
        }
        if argv.get(next) != Some(wanted) {
            return false;
        }
        next += 1;
    }
    true
}
