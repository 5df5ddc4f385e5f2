//! What a case saw, in the words of the tables, and what the tables say.
//!
//! The bed notes how the attempts end that are made through it. Where these are of
//! several kinds, or where a case makes its attempts by itself, it says what it
//! shows. The process of the case tells the harness, which holds the page against
//! it.

use std::collections::BTreeSet;

use Seen::{
    Agrees, Denied, Ended, RefusedBefore, RefusedPlanned, RefusedStarted, Residual, SetAside, Works,
};

/// What became of the attempts of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    Denied,
    Ended,
    RefusedPlanned,
    RefusedStarted,
    RefusedBefore,
    /// Undone and reported.
    SetAside,
    Residual,
    Works,
    Agrees,
}

impl Seen {
    /// Each, with the words that a verdict in a table begins with.
    const WORDS: [(Self, &str); 11] = [
        (Denied, "denied"),
        (Ended, "ended"),
        (RefusedPlanned, "refused when planned"),
        (RefusedStarted, "refused when started"),
        (RefusedBefore, "refused before start"),
        (SetAside, "set aside and reported"),
        (SetAside, "renamed and reported"),
        (Residual, "declared residual"),
        (Residual, "the code runs"),
        (Works, "works"),
        (Agrees, "agrees"),
    ];

    fn word(self) -> &'static str {
        let mut words = Self::WORDS.into_iter();
        words.find(|(seen, _)| *seen == self).expect("a word").1
    }

    fn of_words(words: &str) -> Option<Self> {
        let mut known = Self::WORDS.into_iter();
        known
            .find(|(_, known)| words.starts_with(known))
            .map(|(seen, _)| seen)
    }
}

/// The one thing that a case shows, by what it said, or by what was noted. That
/// something is allowed beside what is not is no verdict.
pub(crate) fn shown(said: Option<Seen>, noted: &BTreeSet<Seen>) -> Result<Seen, String> {
    if let Some(said) = said {
        return Ok(said);
    }
    let mut others = noted.iter().filter(|seen| **seen != Works);
    match (others.next(), others.next()) {
        (Some(one), None) => Ok(*one),
        (None, _) if noted.contains(&Works) => Ok(Works),
        _ => Err(format!("it does not say which of {noted:?} it shows")),
    }
}

/// How the process of a case tells it.
const MARK: &str = "the case shows: ";

pub(crate) fn tell(seen: Seen) {
    println!("{MARK}{}", seen.word());
}

pub(crate) fn told(output: &[u8]) -> Option<Seen> {
    let output = String::from_utf8_lossy(output);
    let mut words = output.lines().filter_map(|line| line.split_once(MARK));
    Seen::of_words(words.next_back()?.1)
}

/// Whether the table says what the case saw.
pub(crate) fn agree(page: &str, name: &str, seen: Seen) -> Result<(), String> {
    match in_table(page, name)? {
        said if said == seen => Ok(()),
        said => Err(format!(
            "CONFINEMENT.md says {:?} of it, and it shows {:?}",
            said.word(),
            seen.word()
        )),
    }
}

/// What the tables with the verdicts of all places say.
fn in_table(page: &str, name: &str) -> Result<Seen, String> {
    let (all, _) = page
        .split_once("The whole suite runs in this tier too")
        .ok_or("the page has another order")?;
    let row = format!("| `{name}` | ");
    let mut last = None;
    for line in all.lines() {
        let Some((_, verdict)) = line.split_once("` | ") else {
            continue;
        };
        // What is the same is so as the row above.
        if !verdict.starts_with("the same") {
            last = Some(verdict);
        }
        if line.starts_with(&row) {
            let words = last.unwrap_or_default();
            return Seen::of_words(words)
                .ok_or_else(|| format!("CONFINEMENT.md has no verdict in {words:?}"));
        }
    }
    Err("CONFINEMENT.md does not list it".to_owned())
}

/// That a wrong word is noticed, in every row.
pub(crate) fn are_compared(page: &str, names: &[&str]) -> Result<(), String> {
    for name in names {
        let right = in_table(page, name).map_err(|problem| format!("{name}: {problem}"))?;
        let wrong = if right == Denied { Works } else { Denied };
        if agree(page, name, right).is_err() || agree(page, name, wrong).is_ok() {
            return Err(format!("{name}: its row can say anything"));
        }
    }
    Ok(())
}
