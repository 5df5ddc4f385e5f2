//! Which executed images are allowed with which arguments.
//!
//! The table is made with the plan and asked at every `exec`, after the kernel
//! has put the new program in place and before its first instruction. What is
//! compared is therefore final: the file by its number, and the words that lie
//! on its stack. What it does not know it refuses.

#[cfg(test)]
#[path = "guard/naive.rs"]
mod naive;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::codec::{Reader, Writer};
use crate::suggest::quoted;

/// Device and inode.
pub(crate) type FileNumber = (u64, u64);

/// Every file that can be executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guards(pub(crate) Vec<Executable>);

/// One file and its uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Executable {
    pub(crate) file: FileNumber,
    /// A rule allows it with any arguments.
    pub(crate) free: bool,
    /// A rule is about its arguments, so one of its forms must fit.
    pub(crate) guarded: bool,
    pub(crate) forms: Vec<Form>,
}

/// One allowed way to call it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    /// What its first word may be, without directories. Some programs are
    /// many and go by that word. Empty: anything.
    pub(crate) names: Vec<OsString>,
    /// The words after the first start so.
    pub(crate) words: Vec<OsString>,
    /// Which of the words is the script, where the file is an interpreter.
    pub(crate) script: Option<usize>,
    /// Whether somebody has to be asked each time.
    pub(crate) ask: bool,
    /// The rule, as reports show it.
    pub(crate) rule: String,
}

/// Where an image lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// Where a file is executed because a rule names it.
    Elsewhere,
    /// Where everything can be executed and the command may write.
    Tree,
    /// Where everything can be executed under the name that it has.
    Named(&'a OsStr),
}

/// The answer for one image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ruling<'a> {
    Allow,
    /// If somebody agrees.
    Ask(&'a Form),
    Deny(String),
}

impl Form {
    fn fits(&self, argv: &[OsString]) -> bool {
        let Some((name, words)) = argv.split_first() else {
            return false;
        };
        self.is_called(name) && words.starts_with(&self.words)
    }

    /// Whether the words are among those of `argv`, in their order: options in
    /// front of a subcommand do not make it another.
    fn is_among(&self, argv: &[OsString]) -> bool {
        let Some((name, words)) = argv.split_first() else {
            return false;
        };
        // What the kernel puts in front of a script's arguments is not moved.
        let (fixed, wanted) = self
            .words
            .split_at_checked(self.script.map_or(0, |index| index + 1))
            .unwrap_or((&self.words, &[]));
        self.is_called(name)
            && words
                .strip_prefix(fixed)
                .is_some_and(|words| in_order(wanted, words))
    }

    fn is_called(&self, name: &OsStr) -> bool {
        self.names.is_empty()
            || Path::new(name)
                .file_name()
                .is_some_and(|name| self.names.iter().any(|known| known == name))
    }

    /// Whether it is this form's script, with whatever arguments.
    fn is_script(&self, argv: &[OsString]) -> bool {
        self.script
            .is_some_and(|index| argv.get(index + 1) == self.words.get(index))
    }
}

impl Guards {
    /// Decides about an image.
    pub(crate) fn rule_on(
        &self,
        file: FileNumber,
        argv: &[OsString],
        place: Place<'_>,
    ) -> Ruling<'_> {
        let known = self.0.iter().find(|executable| executable.file == file);
        let namesake = match place {
            Place::Named(name) => self.namesake(name),
            Place::Tree | Place::Elsewhere => None,
        };
        let in_tree = place != Place::Elsewhere;
        let Some(known) = known.or(namesake) else {
            return match in_tree {
                true => Ruling::Allow,
                false => Ruling::Deny("no rule of commands.allow names it".to_owned()),
            };
        };
        let fitting = || known.forms.iter().filter(|form| form.fits(argv));
        // Asking comes first: it is the narrower rule.
        if let Some(form) = fitting().find(|form| form.ask) {
            return Ruling::Ask(form);
        }
        if fitting().next().is_some() {
            let mut asking = known.forms.iter().filter(|form| form.ask);
            return match asking.find(|form| form.is_among(argv)) {
                Some(form) => Ruling::Ask(form),
                None => Ruling::Allow,
            };
        }
        let is_script = known.forms.iter().any(|form| form.is_script(argv));
        if (known.free && !known.guarded && !is_script) || (in_tree && !known.guarded) {
            return Ruling::Allow;
        }
        let near: Vec<&str> = known
            .forms
            .iter()
            .filter(|form| !form.ask)
            .map(|form| form.rule.as_str())
            .collect();
        Ruling::Deny(match near.as_slice() {
            [] if known.guarded => "no rule of commands.allow names it".to_owned(),
            [] => "it is a loader or an interpreter, which is executable for others and not called by name".to_owned(),
            near => {
                let mut near = near.to_vec();
                near.dedup();
                format!("its name and arguments do not start as {} wants", near.join(" or "))
            }
        })
    }

    /// What a rule about arguments says of a program with this name: a toolchain
    /// can have a copy of it among its own.
    fn namesake(&self, name: &OsStr) -> Option<&Executable> {
        self.0.iter().find(|known| {
            let mut names = known.forms.iter().flat_map(|form| &form.names);
            known.guarded && names.any(|known| known == name)
        })
    }

    /// The entry for a file, made if there is none.
    pub(crate) fn entry(&mut self, file: FileNumber) -> &mut Executable {
        let index = self.0.iter().position(|known| known.file == file);
        let index = index.unwrap_or_else(|| {
            self.0.push(Executable {
                file,
                ..Executable::default()
            });
            self.0.len() - 1
        });
        &mut self.0[index]
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.list(self.0.iter(), |writer, executable| {
            writer
                .number(executable.file.0)
                .number(executable.file.1)
                .flag(executable.free)
                .flag(executable.guarded);
            writer.list(executable.forms.iter(), |writer, form| {
                for words in [&form.names, &form.words] {
                    writer.list(words.iter(), |writer, word| {
                        writer.text(word);
                    });
                }
                let script = form.script.map_or(0, |index| index as u64 + 1);
                writer.number(script).flag(form.ask);
                writer.bytes(form.rule.as_bytes());
            });
        });
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let form = |reader: &mut Reader<'_>| {
            Some(Form {
                names: reader.list(Reader::text)?,
                words: reader.list(Reader::text)?,
                script: usize::try_from(reader.number()?).ok()?.checked_sub(1),
                ask: reader.flag()?,
                rule: String::from_utf8(reader.bytes()?.to_vec()).ok()?,
            })
        };
        let executable = |reader: &mut Reader<'_>| {
            Some(Executable {
                file: (reader.number()?, reader.number()?),
                free: reader.flag()?,
                guarded: reader.flag()?,
                forms: reader.list(form)?,
            })
        };
        reader.list(executable).map(Self)
    }
}

/// Whether `wanted` is among `words`, in its order.
pub(crate) fn in_order<A: AsRef<OsStr>, B: AsRef<OsStr>>(wanted: &[A], words: &[B]) -> bool {
    let mut rest = words.iter();
    wanted
        .iter()
        .all(|wanted| rest.any(|word| word.as_ref() == wanted.as_ref()))
}

/// The words of an argv as one line for people.
pub(crate) fn command_line<S: AsRef<OsStr>>(argv: &[S]) -> String {
    argv.iter()
        .map(|word| word.as_ref().to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The line of policy that would allow an argv.
pub(crate) fn allow_with<S: AsRef<OsStr>>(argv: &[S]) -> String {
    let words: Vec<_> = argv
        .iter()
        .take(2)
        .map(|word| quoted(&word.as_ref().to_string_lossy()))
        .collect();
    format!("[commands] allow = [[{}]]", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::naive::{Verdict, verdict};
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(Into::into).collect()
    }

    fn form(name: &str, tail: &str, ask: bool) -> Form {
        Form {
            names: words(name),
            words: words(tail),
            ask,
            rule: format!("{name} {tail}"),
            ..Form::default()
        }
    }

    fn guards() -> Guards {
        let mut guards = Guards::default();
        let git = guards.entry((1, 1));
        git.guarded = true;
        git.forms = vec![form("git", "status", false), form("git", "push", true)];
        guards.entry((1, 2)).free = true;
        guards.entry((1, 3));
        guards.entry((1, 4)).forms = vec![Form {
            words: words("/usr/bin/npm install"),
            script: Some(0),
            rule: "npm install".into(),
            ..Form::default()
        }];
        guards
    }

    #[test]
    fn a_guarded_file_runs_in_its_forms_alone() {
        let guards = guards();
        let on = |argv: &str| guards.rule_on((1, 1), &words(argv), Place::Elsewhere);
        assert_eq!(on("/usr/bin/git status -s"), Ruling::Allow);
        assert!(matches!(on("git push"), Ruling::Ask(_)));
        for argv in [
            "git",
            "git -C . status",
            "git-push status",
            "status push",
            "",
        ] {
            assert!(matches!(on(argv), Ruling::Deny(_)), "{argv}");
        }
        // Not even where everything else may run.
        assert!(matches!(
            guards.rule_on((1, 1), &words("git pull"), Place::Tree),
            Ruling::Deny(_)
        ));
    }

    #[test]
    fn an_interpreter_runs_its_script_alone() {
        let guards = guards();
        let on = |argv: &str| guards.rule_on((1, 4), &words(argv), Place::Elsewhere);
        assert_eq!(on("/usr/bin/node /usr/bin/npm install x"), Ruling::Allow);
        for argv in [
            "node",
            "node -e x",
            "node /usr/bin/npm publish",
            "node ./npm install",
        ] {
            assert!(matches!(on(argv), Ruling::Deny(_)), "{argv}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let guards = guards();
        assert_eq!(
            guards.rule_on((1, 2), &words("any thing"), Place::Elsewhere),
            Ruling::Allow
        );
        for file in [(1, 3), (1, 9), (2, 1)] {
            assert!(matches!(
                guards.rule_on(file, &words("git status"), Place::Elsewhere),
                Ruling::Deny(_)
            ));
        }
        assert_eq!(
            guards.rule_on((1, 9), &words("x"), Place::Tree),
            Ruling::Allow
        );
    }

    #[test]
    fn what_is_asked_about_is_found_wherever_it_stands() {
        let mut guards = guards();
        let on = |guards: &Guards, argv: &str| match guards.rule_on(
            (1, 1),
            &words(argv),
            Place::Elsewhere,
        ) {
            Ruling::Allow => "allow",
            Ruling::Ask(_) => "ask",
            Ruling::Deny(_) => "deny",
        };
        // Asking narrows, and opens nothing that no rule allows.
        assert_eq!(on(&guards, "git -C . push"), "deny");
        guards.entry((1, 1)).forms.push(form("git", "", false));
        for argv in [
            "git push",
            "git -C . push",
            "git --no-pager push",
            "git x push y",
        ] {
            assert_eq!(on(&guards, argv), "ask", "{argv}");
        }
        assert_eq!(on(&guards, "git pushed"), "allow");
        guards.entry((1, 1)).forms.push(form("git", "a b", true));
        assert_eq!(on(&guards, "git x a x b"), "ask");
        assert_eq!(on(&guards, "git b a"), "allow");
    }

    #[test]
    fn a_toolchains_own_copy_has_the_rules_of_its_name() {
        let guards = guards();
        let on = |name: &str, argv: &str| {
            guards.rule_on((9, 9), &words(argv), Place::Named(name.as_ref()))
        };
        assert_eq!(on("git", "/lib/git status"), Ruling::Allow);
        assert!(matches!(on("git", "/lib/git push"), Ruling::Ask(_)));
        assert!(matches!(on("git", "git-push"), Ruling::Deny(_)));
        assert_eq!(on("git-remote-https", "x"), Ruling::Allow);
    }

    #[test]
    fn arrives_as_it_was_sent() {
        let guards = guards();
        let mut writer = Writer::default();
        guards.write(&mut writer);
        let bytes = writer.finish();
        let reader = &mut Reader::new(&bytes);
        assert_eq!(Guards::read(reader), Some(guards));
        assert!(reader.at_end());
    }

    proptest! {
        /// Against the decision spelled out rule by rule.
        #[test]
        fn decides_as_the_naive_twin_does(
            argv in proptest::collection::vec("(/|x/|)(a|b|\\.|)(/|)", 0..4),
            forms in proptest::collection::vec(
                (proptest::collection::vec("[ab.]", 0..2),
                 proptest::collection::vec("(x/|)[ab]", 0..3), any::<bool>(), any::<bool>()), 0..4),
            free in any::<bool>(),
            guarded in any::<bool>(),
            known in any::<bool>(),
            place in 0..3_usize,
            named in "[ab.]",
        ) {
            let argv: Vec<OsString> = argv.into_iter().map(Into::into).collect();
            let words = |words: Vec<String>| words.into_iter().map(OsString::from).collect::<Vec<_>>();
            let mut guards = Guards::default();
            let entry = guards.entry((1, 1));
            (entry.free, entry.guarded) = (free, guarded);
            entry.forms = forms
                .into_iter()
                .map(|(names, tail, ask, script)| Form {
                    script: (script && !tail.is_empty()).then_some(0),
                    names: words(names),
                    words: words(tail),
                    ask,
                    ..Form::default()
                })
                .collect();
            let file = if known { (1, 1) } else { (1, 2) };
            let place = [Place::Elsewhere, Place::Tree, Place::Named(named.as_ref())][place];
            let ours = match guards.rule_on(file, &argv, place) {
                Ruling::Allow => Verdict::Allow,
                Ruling::Ask(_) => Verdict::Ask,
                Ruling::Deny(_) => Verdict::Deny,
            };
            prop_assert_eq!(ours, verdict(&guards, file, &argv, place));
        }

        /// Against a rule spelled out word by word.
        #[test]
        fn only_a_prefix_of_whole_words_fits(
            argv in proptest::collection::vec("[a-c]{0,2}", 0..5),
            wanted in proptest::collection::vec("[a-c]{0,2}", 0..3),
        ) {
            let argv: Vec<OsString> = argv.into_iter().map(Into::into).collect();
            let form = Form { names: vec!["a".into()], words: wanted.iter().map(Into::into).collect(), ..Form::default() };
            let mut expected = argv.first().is_some_and(|name| name == "a");
            for (index, word) in wanted.iter().enumerate() {
                expected &= argv.get(index + 1).is_some_and(|seen| seen.to_str() == Some(word));
            }
            prop_assert_eq!(form.fits(&argv), expected);
        }
    }
}
