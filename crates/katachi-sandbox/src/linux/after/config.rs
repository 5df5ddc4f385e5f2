//! What of a git configuration can stay.
//!
//! The text is read once and what stays is written anew, in the spelling git
//! itself uses, so that git reads nothing that was not looked at here. What
//! can stay is listed, and everything else goes: the keys that run programs
//! grow in number with each release of git.

/// A configuration, looked through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sifted {
    /// What stays, as git would write it.
    pub(crate) kept: String,
    /// Names of what does not.
    pub(crate) removed: Vec<String>,
}

/// Keys that stay whatever their value is, with `*` for any subsection.
const KEPT: &[&str] = &[
    "branch.*.description",
    "branch.*.merge",
    "branch.*.rebase",
    "core.abbrev",
    "core.autocrlf",
    "core.bare",
    "core.bigfilethreshold",
    "core.checkstat",
    "core.commentchar",
    "core.compression",
    "core.deltabasecachelimit",
    "core.eol",
    "core.filemode",
    "core.hidedotfiles",
    "core.ignorecase",
    "core.logallrefupdates",
    "core.longpaths",
    "core.loosecompression",
    "core.packedgitlimit",
    "core.packedgitwindowsize",
    "core.precomposeunicode",
    "core.preloadindex",
    "core.protecthfs",
    "core.protectntfs",
    "core.quotepath",
    "core.repositoryformatversion",
    "core.safecrlf",
    "core.sharedrepository",
    "core.sparsecheckout",
    "core.sparsecheckoutcone",
    "core.splitindex",
    "core.symlinks",
    "core.trustctime",
    "core.untrackedcache",
    "core.whitespace",
    "extensions.compatobjectformat",
    "extensions.noop",
    "extensions.objectformat",
    "extensions.partialclone",
    "extensions.preciousobjects",
    "extensions.refstorage",
    "extensions.relativeworktrees",
    "extensions.worktreeconfig",
    "feature.manyfiles",
    "fetch.prune",
    "gc.auto",
    "index.sparse",
    "index.version",
    "init.defaultbranch",
    "merge.conflictstyle",
    "pull.ff",
    "pull.rebase",
    "push.autosetupremote",
    "push.default",
    "remote.*.fetch",
    "remote.*.mirror",
    "remote.*.partialclonefilter",
    "remote.*.promisor",
    "remote.*.prune",
    "remote.*.push",
    "remote.*.skipdefaultupdate",
    "remote.*.skipfetchall",
    "remote.*.tagopt",
    "remote.pushdefault",
    "rerere.enabled",
    "submodule.*.active",
    "submodule.*.branch",
    "submodule.*.fetchrecursesubmodules",
    "submodule.*.ignore",
    "submodule.*.shallow",
    "submodule.active",
    "submodule.recurse",
    "user.email",
    "user.name",
];

/// Keys that stay where they lead to a server or a directory.
const REMOTES: &[&str] = &[
    "branch.*.pushremote",
    "branch.*.remote",
    "remote.*.pushurl",
    "remote.*.url",
    "submodule.*.url",
];

/// Looks through a configuration. `worktree` says whether a working tree may
/// lie at a path.
pub(crate) fn sift(text: &[u8], worktree: &dyn Fn(&str) -> bool) -> Sifted {
    let mut sifted = Sifted::default();
    let Ok(text) = std::str::from_utf8(text) else {
        sifted
            .removed
            .push("all of it, which is no text".to_owned());
        return sifted;
    };
    let mut open: Option<Section> = None;
    let mut reader = Reader { rest: text };
    let mut section = Section::default();
    loop {
        let entry = match reader.next(&mut section) {
            Ok(Some(entry)) => entry,
            Ok(None) => return sifted,
            Err(Unreadable) => {
                sifted.removed.push("what cannot be read".to_owned());
                return sifted;
            }
        };
        if !stays(&section, &entry, worktree) {
            sifted.removed.push(section.key(&entry.name));
            continue;
        }
        if open.as_ref() != Some(&section) {
            sifted.kept += &section.to_string();
            open = Some(section.clone());
        }
        sifted.kept += &entry.to_string();
    }
}

/// Whether a URL of a repository runs no program of its own.
pub(crate) fn is_plain_url(url: &str) -> bool {
    // `helper::address` starts a program by the name of the helper.
    let helper = url
        .split_once("::")
        .is_some_and(|(name, _)| !name.contains(['/', ':', '[']));
    let scheme = match url.split_once("://") {
        Some((scheme, rest)) => {
            let known = ["https", "http", "ssh", "git", "file", "git+ssh", "ssh+git"];
            known.contains(&scheme) && !rest.starts_with('-')
        }
        None => true,
    };
    !url.starts_with('-') && !helper && scheme && !url.contains(char::is_control)
}

fn stays(section: &Section, entry: &Entry, worktree: &dyn Fn(&str) -> bool) -> bool {
    let subsection = section.subsection.as_ref().map_or("", |_| ".*");
    let key = format!(
        "{}{subsection}.{}",
        section.name,
        entry.name.to_ascii_lowercase()
    );
    let value = entry.value.as_deref();
    if value
        .is_some_and(|value| value.contains(|letter: char| letter.is_control() && letter != '\t'))
    {
        return false;
    }
    match (key.as_str(), value) {
        ("core.worktree", Some(path)) => worktree(path),
        ("submodule.*.update", Some(how)) => ["checkout", "rebase", "merge", "none"].contains(&how),
        (key, Some(url)) if REMOTES.contains(&key) => is_plain_url(url),
        (key, _) => KEPT.contains(&key),
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Section {
    /// In lower case.
    name: String,
    subsection: Option<String>,
}

impl Section {
    fn key(&self, name: &str) -> String {
        match &self.subsection {
            Some(subsection) => format!("{}.{subsection}.{name}", self.name),
            None => format!("{}.{name}", self.name),
        }
    }
}

impl std::fmt::Display for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.subsection {
            Some(subsection) => {
                let quoted = subsection.replace('\\', "\\\\").replace('"', "\\\"");
                writeln!(f, "[{} \"{quoted}\"]", self.name)
            }
            None => writeln!(f, "[{}]", self.name),
        }
    }
}

struct Entry {
    name: String,
    /// Without one, the key stands for true.
    value: Option<String>,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(value) = &self.value else {
            return writeln!(f, "\t{}", self.name);
        };
        let escaped = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\t', "\\t");
        let quote =
            match value.starts_with(' ') || value.ends_with(' ') || value.contains([';', '#']) {
                true => "\"",
                false => "",
            };
        writeln!(f, "\t{} = {quote}{escaped}{quote}", self.name)
    }
}

/// The text goes on in a way git would refuse, or that is not worth reading.
struct Unreadable;

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let mut letters = self.rest.chars();
        let letter = letters.next();
        self.rest = letters.as_str();
        letter
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let end = self
            .rest
            .find(|letter| !wanted(letter))
            .unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken.to_owned()
    }

    /// The next key with its value; sections on the way become `section`.
    fn next(&mut self, section: &mut Section) -> Result<Option<Entry>, Unreadable> {
        loop {
            match self.peek() {
                None => return Ok(None),
                Some(letter) if letter.is_ascii_whitespace() => {
                    self.take();
                }
                Some('#' | ';') => {
                    self.take_while(|letter| letter != '\n');
                }
                Some('[') => *section = self.section()?,
                Some(letter) if letter.is_ascii_alphabetic() && !section.name.is_empty() => {
                    return self.entry().map(Some);
                }
                Some(_) => return Err(Unreadable),
            }
        }
    }

    fn section(&mut self) -> Result<Section, Unreadable> {
        self.take();
        let name =
            self.take_while(|letter| letter.is_ascii_alphanumeric() || "-.".contains(letter));
        let name = name.to_ascii_lowercase();
        let (name, mut subsection) = match name.split_once('.') {
            Some((name, subsection)) => (name.to_owned(), Some(subsection.to_owned())),
            None => (name, None),
        };
        if name.is_empty() {
            return Err(Unreadable);
        }
        if self.take_while(|letter| " \t".contains(letter)).is_empty() {
            return match self.take() {
                Some(']') => Ok(Section { name, subsection }),
                _ => Err(Unreadable),
            };
        }
        if subsection.is_some() || self.take() != Some('"') {
            return Err(Unreadable);
        }
        let mut quoted = String::new();
        loop {
            match self.take() {
                Some('"') => break,
                Some('\\') => quoted.push(
                    self.take()
                        .filter(|letter| *letter != '\n')
                        .ok_or(Unreadable)?,
                ),
                Some(letter) if letter.is_control() => return Err(Unreadable),
                Some(letter) => quoted.push(letter),
                None => return Err(Unreadable),
            }
        }
        subsection = Some(quoted);
        match self.take() {
            Some(']') => Ok(Section { name, subsection }),
            _ => Err(Unreadable),
        }
    }

    fn entry(&mut self) -> Result<Entry, Unreadable> {
        let name = self.take_while(|letter| letter.is_ascii_alphanumeric() || letter == '-');
        self.take_while(|letter| " \t".contains(letter));
        match self.peek() {
            Some('=') => {
                self.take();
                let value = Some(self.value()?);
                Ok(Entry { name, value })
            }
            Some('\n' | '\r' | '#' | ';') | None => Ok(Entry { name, value: None }),
            Some(_) => Err(Unreadable),
        }
    }

    fn value(&mut self) -> Result<String, Unreadable> {
        let mut value = String::new();
        // Blanks at the end do not belong to the value.
        let mut length = 0;
        let mut quoted = false;
        self.take_while(|letter| " \t".contains(letter));
        loop {
            match self.take() {
                None | Some('\n') if quoted => return Err(Unreadable),
                None | Some('\n') => break,
                Some('\r') if self.peek() == Some('\n') => {}
                Some('"') => {
                    quoted = !quoted;
                    length = value.len();
                }
                Some('#' | ';') if !quoted => {
                    self.take_while(|letter| letter != '\n');
                }
                Some('\\') => {
                    match self.take() {
                        Some('\n') => continue,
                        Some('n') => value.push('\n'),
                        Some('t') => value.push('\t'),
                        Some('b') => value.push('\u{8}'),
                        Some(letter @ ('"' | '\\')) => value.push(letter),
                        _ => return Err(Unreadable),
                    }
                    length = value.len();
                }
                Some(letter) => {
                    value.push(letter);
                    if quoted || !letter.is_ascii_whitespace() {
                        length = value.len();
                    }
                }
            }
        }
        value.truncate(length);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(text: &str) -> Sifted {
        sift(text.as_bytes(), &|path| path == "../../../sub")
    }

    #[test]
    fn what_a_clone_writes_stays_byte_for_byte() {
        let text = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
            [remote \"origin\"]\n\turl = https://example.com/a.git\n\
            \tfetch = +refs/heads/*:refs/remotes/origin/*\n\
            [branch \"main\"]\n\tremote = origin\n\tmerge = refs/heads/main\n\
            [submodule \"a\\\"b\"]\n\tactive = true\n\turl = ../b.git\n";
        assert_eq!(kept(text).kept, text);
        assert!(kept(text).removed.is_empty());
    }

    #[test]
    fn what_runs_programs_goes() {
        for (text, name) in [
            ("[core]\nfsmonitor=x", "core.fsmonitor"),
            ("[core] hooksPath = x", "core.hooksPath"),
            ("[CORE]\n\tsshCommand = x", "core.sshCommand"),
            ("[alias]\n\tst = !id", "alias.st"),
            ("[filter \"x\"]\n\tclean = id", "filter.x.clean"),
            ("[filter.X]\n\tsmudge = id", "filter.x.smudge"),
            ("[diff \"x\"]\n\ttextconv = id", "diff.x.textconv"),
            ("[include]\n\tpath = x", "include.path"),
            (
                "[includeIf \"gitdir:/\"]\n\tpath = x",
                "includeif.gitdir:/.path",
            ),
            (
                "[url \"ext::id \"]\n\tinsteadOf = a",
                "url.ext::id .insteadOf",
            ),
            ("[credential]\n\thelper = !id", "credential.helper"),
            ("[remote \"o\"]\n\turl = ext::id", "remote.o.url"),
            ("[remote \"o\"]\n\turl = --upload-pack=id", "remote.o.url"),
            ("[remote \"o\"]\n\tuploadpack = id", "remote.o.uploadpack"),
            ("[branch \"m\"]\n\tremote = ext::id", "branch.m.remote"),
            ("[submodule \"s\"]\n\tupdate = !id", "submodule.s.update"),
            ("[core]\n\tworktree = /home", "core.worktree"),
            ("[core]\n\tbare = \"a\\nb\"", "core.bare"),
            ("[core]\n\tbare = a\\q\n\tpager = x", "what cannot be read"),
            ("pager = x", "what cannot be read"),
            ("[core", "what cannot be read"),
        ] {
            let sifted = kept(text);
            assert_eq!(sifted.removed, [name], "{text}");
            assert_eq!(sifted.kept, "", "{text}");
        }
    }

    #[test]
    fn values_are_read_as_git_reads_them() {
        for (text, value) in [
            ("a b ; c", "a b"),
            ("\"a ; b\"  # c", "\"a ; b\""),
            ("a\\\nb", "ab"),
            ("\" a\"", "\" a\""),
            ("a\"b\"c", "abc"),
            ("a\\\\b", "a\\\\b"),
        ] {
            let sifted = kept(&format!("[user]\n\tname = {text}\n"));
            assert_eq!(sifted.kept, format!("[user]\n\tname = {value}\n"), "{text}");
        }
        let text = "[core]\n\tworktree = ../../../sub\n\tbare\n";
        assert_eq!(kept(text).kept, text);
    }

    proptest! {
        /// What stays is read again as the same, with nothing to remove.
        #[test]
        fn what_stays_stays(text in "(\\[(user|core|remote \"o\")\\]|name|url|bare|=|\"|\\\\|;|#| |\t|\n|a|::){0,24}") {
            let first = kept(&text);
            let second = kept(&first.kept);
            prop_assert_eq!(&second.kept, &first.kept);
            prop_assert!(second.removed.is_empty());
        }
    }
}
