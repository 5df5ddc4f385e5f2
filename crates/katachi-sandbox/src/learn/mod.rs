//! A policy that would allow what a command was refused, for a person to read
//! and to change.
//!
//! A command that runs [`observed`](crate::Command::observed) is confined as
//! ever, and its violations say what it looked for in vain. A [`Proposal`]
//! adds to the policy, for each of them, the narrowest line that would allow
//! it, with a comment that says who wanted it. Run, read, keep what is right,
//! run again: few rounds lead to a policy that a program works with.
//!
//! What a command wants is not what it should have, and a hostile one wants
//! whatever helps it. Lines that open secrets, startup files, the home
//! directory or much at once are therefore written as comments with the
//! reason, and take a person to become true. Nothing here changes what a
//! running command may do.

mod danger;
mod print;

use std::path::PathBuf;

use crate::plan::PlanOptions;
use crate::policy::{CommandRule, Policy};
use crate::report::{Violation, one_line};

/// A policy with additions, each with its reason.
///
/// ```no_run
/// use katachi_sandbox::learn::Proposal;
/// # use katachi_sandbox::{PlanOptions, Policy};
/// # let policy = Policy::default();
/// # let options = PlanOptions::new("/tmp/work");
/// let outcome = policy.plan(&options)?.command(["make"]).observed().spawn()?.wait()?;
/// let proposal = Proposal::new(&policy, &options, &outcome.violations);
/// std::fs::write("/home/me/proposed.toml", proposal.to_toml())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Proposal {
    policy: Policy,
    additions: Vec<Addition>,
    /// Refusals that no line would undo.
    notes: Vec<String>,
}

/// One element of one list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addition {
    pub(crate) list: List,
    pub(crate) element: Element,
    /// Who wanted it, in one line.
    pub(crate) why: String,
    /// Why it is a comment.
    pub(crate) held_back: Option<String>,
}

/// A list of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Read,
    Write,
    Allow,
    Hosts,
    Sockets,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Text(String),
    Rule(CommandRule),
}

impl Proposal {
    /// Makes one from what a command was refused under `policy`.
    ///
    /// Each addition is tried: one with which no plan can be made for
    /// `options` is a comment, so that the whole can be planned.
    #[must_use]
    pub fn new(policy: &Policy, options: &PlanOptions, violations: &[Violation]) -> Self {
        let mut proposal = Self {
            policy: policy.clone(),
            additions: Vec::new(),
            notes: Vec::new(),
        };
        let mut so_far = policy.clone();
        for violation in violations {
            let Some(wanted) = violation.allow_with.as_deref().and_then(lines) else {
                let note = one_line(violation);
                if !proposal.notes.contains(&note) {
                    proposal.notes.push(note);
                }
                continue;
            };
            for (list, element) in wanted {
                proposal.add(&mut so_far, options, violation, list, element);
            }
        }
        proposal
    }

    fn add(
        &mut self,
        so_far: &mut Policy,
        options: &PlanOptions,
        violation: &Violation,
        list: List,
        element: Element,
    ) {
        if list.holds(so_far, &element) {
            return;
        }
        let looked = violation.operation == "look";
        let known = self
            .additions
            .iter()
            .position(|known| known.list == list && known.element == element);
        if let Some(index) = known {
            // Opened after it was looked for.
            if looked || self.additions[index].held_back.as_deref() != Some(LOOKED) {
                return;
            }
            self.additions.remove(index);
        }
        let mut with = so_far.clone();
        list.push(&mut with, element.clone());
        let held_back = danger::of(list, &element, options)
            .or_else(|| looked.then(|| LOOKED.to_owned()))
            .or_else(|| with.plan(options).err().map(one_line));
        if held_back.is_none() {
            *so_far = with;
        }
        self.additions.push(Addition {
            list,
            element,
            why: one_line(format!("{}: {}", violation.operation, violation.reason)),
            held_back,
        });
    }

    /// How many lines are added, comments left aside.
    #[must_use]
    pub fn added(&self) -> usize {
        let added = |addition: &&Addition| addition.held_back.is_none();
        self.additions.iter().filter(added).count()
    }

    /// How many are comments, for a person to decide about.
    #[must_use]
    pub fn held_back(&self) -> usize {
        self.additions.len() - self.added()
    }

    /// The policy with the additions, comments left aside.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let mut policy = self.policy.clone();
        for addition in self.additions.iter().filter(|one| one.held_back.is_none()) {
            addition.list.push(&mut policy, addition.element.clone());
        }
        policy
    }

    /// The policy as TOML, with a comment at each addition.
    #[must_use]
    pub fn to_toml(&self) -> String {
        print::print(&self.policy, &self.additions, &self.notes)
    }
}

/// Why what was merely looked for is a comment.
const LOOKED: &str = "it was only looked for, which many programs do without need";

/// The elements in a line such as `[filesystem] read = ["/x"]`.
fn lines(text: &str) -> Option<Vec<(List, Element)>> {
    // On one line it is for people; the parser wants the section above.
    let text = text.replacen("] ", "]\n", 1);
    let policy = Policy::from_toml(&text, "").ok()?;
    let text = |list: List, elements: Vec<String>| {
        elements
            .into_iter()
            .map(move |element| (list, Element::Text(element)))
    };
    let rules = policy.commands.allow.into_iter();
    let found: Vec<_> = text(List::Read, policy.filesystem.read)
        .chain(text(List::Write, policy.filesystem.write))
        .chain(rules.map(|rule| (List::Allow, Element::Rule(rule))))
        .chain(text(List::Hosts, policy.network.allow))
        .chain(text(List::Sockets, policy.network.unix))
        .collect();
    (!found.is_empty()).then_some(found)
}

impl List {
    fn texts(self, policy: &mut Policy) -> Option<&mut Vec<String>> {
        match self {
            Self::Read => Some(&mut policy.filesystem.read),
            Self::Write => Some(&mut policy.filesystem.write),
            Self::Hosts => Some(&mut policy.network.allow),
            Self::Sockets => Some(&mut policy.network.unix),
            Self::Allow => None,
        }
    }

    fn push(self, policy: &mut Policy, element: Element) {
        match element {
            Element::Rule(rule) => policy.commands.allow.push(rule),
            Element::Text(text) => {
                if let Some(list) = self.texts(policy) {
                    list.push(text);
                }
            }
        }
    }

    fn holds(self, policy: &mut Policy, element: &Element) -> bool {
        match element {
            Element::Rule(rule) => policy.commands.allow.contains(rule),
            Element::Text(text) => self.texts(policy).is_some_and(|list| list.contains(text)),
        }
    }
}

/// Both names of a place: as written, and with links followed.
fn names_of(path: &str) -> Vec<PathBuf> {
    let path = PathBuf::from(path);
    let real = path.canonicalize().ok();
    let mut names = vec![path];
    names.extend(real);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violation(operation: &str, allow_with: &str) -> Violation {
        Violation {
            control: "files".into(),
            operation: operation.into(),
            target: "t".into(),
            reason: "python3 wanted it;\n[commands] # no line of its own".into(),
            allow_with: Some(allow_with.into()),
        }
    }

    #[test]
    fn additions_are_planned_commented_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (home, work) = (base.join("home"), base.join("work"));
        for directory in [home.join(".ssh"), home.join("notes"), work.clone()] {
            std::fs::create_dir_all(directory).unwrap();
        }
        for file in [".ssh/id", ".bashrc", "notes/a", "notes/.env"] {
            std::fs::write(home.join(file), "").unwrap();
        }
        let options = PlanOptions::new(&work).home(&home);
        let policy = Policy::default().read(".").set_env("A", "b");
        let line = |key: &str, path: &str| {
            let path = home.join(path);
            format!("[filesystem] {key} = [{:?}]", path.to_str().unwrap())
        };
        let proposal = Proposal::new(
            &policy,
            &options,
            &[
                violation("look", &line("read", "notes/a")),
                violation("read", &line("read", "notes/a")),
                violation("read", &line("read", "notes/a")),
                violation("look", &line("read", "notes")),
                violation("read", &line("read", ".ssh/id")),
                violation("read", &line("read", "notes/.env")),
                violation("write", &line("write", ".bashrc")),
                violation("read", &line("read", ".")),
                violation("read", "[filesystem] read = [\"/nowhere/at/all\"]"),
                violation("exec", "[commands] allow = [\"sudo\"]"),
                violation("write", "remove filesystem.deny"),
            ],
        );
        let text = proposal.to_toml();
        assert_eq!(proposal.added(), 1, "{text}");
        assert_eq!(proposal.held_back(), 7, "{text}");
        let read = Policy::from_toml(&text, "proposed").unwrap();
        assert_eq!(read, proposal.policy(), "{text}");
        assert_eq!(
            read.filesystem.read,
            [".", home.join("notes/a").to_str().unwrap()]
        );
        assert_eq!(read.env, policy.env);
        read.plan(&options).unwrap();
        for part in [
            "sudo",
            ".ssh/id",
            "remove filesystem.deny",
            "python3 wanted it",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn nothing_to_add_leaves_the_policy() {
        let options = PlanOptions::new("/tmp");
        let policy = Policy::default().read("@system").allow(["git", "status"]);
        let proposal = Proposal::new(&policy, &options, &[]);
        assert_eq!((proposal.added(), proposal.held_back()), (0, 0));
        let read = Policy::from_toml(&proposal.to_toml(), "p").unwrap();
        assert_eq!(read, policy);
    }
}
