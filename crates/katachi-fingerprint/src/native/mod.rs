//! macOS and Windows: systems that are asked and not read.
//!
//! Each system's answers are collected under the names by which they are
//! documented, and a pure function turns them into an observation. So
//! everything but the asking itself is tested on any machine, with captures in
//! the place of a system, and what a fake machine answers is written down as
//! the real one would say it.

#[cfg(any(test, feature = "testing", target_os = "macos"))]
pub(crate) mod mac;
#[cfg(any(test, feature = "testing", windows))]
pub(crate) mod smbios;
#[cfg(any(test, feature = "testing", windows))]
pub(crate) mod storage;
#[cfg(any(test, feature = "testing", windows))]
pub(crate) mod windows;

use std::collections::BTreeMap;

/// What a system answers, by the name of what it was asked: the path of a
/// value, with `/` between its parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    by_name: BTreeMap<String, Answer>,
}

/// One answer, in the forms that registries have.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(
    target_os = "macos",
    allow(dead_code, reason = "only Windows gives numbers")
)]
pub(crate) enum Answer {
    Text(String),
    Bytes(Vec<u8>),
    Number(u64),
    Flag(bool),
}

/// The most answers that are looked at; a machine gives some dozens.
const MOST_ANSWERS: usize = 4096;

impl Answers {
    pub(crate) fn insert(&mut self, name: impl Into<String>, answer: Option<Answer>) {
        if let Some(answer) = answer
            && self.by_name.len() < MOST_ANSWERS
        {
            self.by_name.insert(name.into(), answer);
        }
    }

    /// A text; bytes that end with a NUL are text as well, as the I/O registry
    /// has them.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.by_name.get(name)? {
            Answer::Text(text) => Some(text),
            Answer::Bytes(bytes) => {
                let end = bytes.iter().position(|byte| *byte == 0)?;
                std::str::from_utf8(&bytes[..end]).ok()
            }
            Answer::Number(_) | Answer::Flag(_) => None,
        }
    }

    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        match self.by_name.get(name)? {
            Answer::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    #[cfg_attr(
        target_os = "macos",
        allow(dead_code, reason = "only Windows gives numbers")
    )]
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.by_name.get(name)? {
            Answer::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Says whether a flag is there and set.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.by_name.get(name) == Some(&Answer::Flag(true))
    }

    /// The parts of names that stand directly below `parent`, each once.
    pub(crate) fn below<'a>(&'a self, parent: &str) -> impl Iterator<Item = &'a str> {
        let start = format!("{parent}/");
        let range = self.by_name.range(start.clone()..);
        let mut last = None;
        range
            .map_while(move |(name, _)| name.strip_prefix(&start))
            .filter_map(move |rest| {
                let part = rest.split('/').next();
                let new = part != last;
                last = part;
                part.filter(|_| new)
            })
    }
}

/// Six bytes as an address is written.
fn address(bytes: &[u8]) -> Option<String> {
    let address: &[u8; 6] = bytes.try_into().ok()?;
    let [a, b, c, d, e, f] = address;
    Some(format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))
}
