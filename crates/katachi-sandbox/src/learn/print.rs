//! A policy as TOML, with comments at what was added.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::{Addition, Element, List};
use crate::policy::Policy;
use crate::report::one_line;

const HEAD: &str = "\
# Proposed from what a command was refused. Read every line before you use it:
# a command may ask for more than it should have. Comments of the policy that
# it ran under are not taken over.
";

impl List {
    const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Allow,
        Self::Hosts,
        Self::Sockets,
    ];

    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Read => ("filesystem", "read"),
            Self::Write => ("filesystem", "write"),
            Self::Allow => ("commands", "allow"),
            Self::Hosts => ("network", "allow"),
            Self::Sockets => ("network", "unix"),
        }
    }
}

pub(super) fn print(policy: &Policy, additions: &[Addition], notes: &[String]) -> String {
    let mut text = HEAD.to_owned();
    for note in notes {
        let _ = writeln!(text, "# Not to be allowed by a line here: {note}");
    }
    let mut sections = Table::try_from(policy).unwrap_or_default();
    for addition in additions {
        let (section, key) = addition.list.place();
        let section = sections
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section
                .entry(key)
                .or_insert_with(|| Value::Array(Vec::new()));
        }
    }
    for (name, section) in &sections {
        let Value::Table(section) = section else {
            continue;
        };
        let _ = writeln!(text, "\n[{name}]");
        for (key, value) in section {
            let list = List::ALL
                .into_iter()
                .find(|list| list.place() == (name.as_str(), key.as_str()));
            let added: Vec<&Addition> = additions
                .iter()
                .filter(|addition| Some(addition.list) == list)
                .collect();
            match value {
                Value::Array(elements) if !added.is_empty() => {
                    print_list(&mut text, key, elements, &added);
                }
                _ => {
                    let _ = writeln!(text, "{key} = {value}");
                }
            }
        }
    }
    text
}

fn print_list(text: &mut String, key: &str, elements: &[Value], added: &[&Addition]) {
    let _ = writeln!(text, "{key} = [");
    for element in elements {
        let _ = writeln!(text, "    {element},");
    }
    for addition in added {
        let value = match &addition.element {
            Element::Text(text) => Value::from(text.as_str()),
            Element::Rule(rule) => match Value::try_from(rule) {
                Ok(value) => value,
                Err(_) => continue,
            },
        };
        let _ = writeln!(text, "    # {}", addition.why);
        match &addition.held_back {
            // Its text has no line break: the writer escapes them, or this does.
            Some(reason) => {
                let _ = writeln!(text, "    # held back: {reason}");
                let _ = writeln!(text, "    # {},", one_line(value));
            }
            None => {
                let _ = writeln!(text, "    {value},");
            }
        }
    }
    let _ = writeln!(text, "]");
}
