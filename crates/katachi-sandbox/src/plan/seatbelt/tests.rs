//! Profiles are read back by a small reader of their language, which then has
//! to decide as `Plan::explain` does.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::plan::LateMatches;
use crate::{PlanOptions, Policy, Query};

/// An expression of the language: a word, a string or a list.
#[derive(Debug, PartialEq)]
enum Node {
    Word(String),
    Text(String),
    List(Vec<Node>),
}

fn read(profile: &str) -> Vec<Node> {
    let mut letters = profile.chars().peekable();
    let mut open: Vec<Vec<Node>> = vec![Vec::new()];
    while let Some(letter) = letters.next() {
        let node = match letter {
            '(' => {
                open.push(Vec::new());
                continue;
            }
            ')' => Node::List(open.pop().unwrap()),
            '"' => {
                let mut text = String::new();
                loop {
                    match letters.next().unwrap() {
                        '"' => break,
                        '\\' => text.push(letters.next().unwrap()),
                        letter => text.push(letter),
                    }
                }
                Node::Text(text)
            }
            '#' => {
                assert_eq!(letters.next(), Some('"'));
                Node::Text(
                    letters
                        .by_ref()
                        .take_while(|letter| *letter != '"')
                        .collect(),
                )
            }
            letter if letter.is_whitespace() => continue,
            letter => {
                let mut word = String::from(letter);
                while let Some(letter) =
                    letters.next_if(|letter| !letter.is_whitespace() && !"()\"".contains(*letter))
                {
                    word.push(letter);
                }
                Node::Word(word)
            }
        };
        open.last_mut().unwrap().push(node);
    }
    assert_eq!(open.len(), 1, "unbalanced: {profile}");
    open.pop().unwrap()
}

/// Whether the last rule about `operation` that fits `path` allows it.
/// Regular expressions are left out: no policy here has a pattern.
fn allows(profile: &[Node], operation: &str, path: &Path) -> bool {
    let mut allowed = false;
    for node in profile {
        let Node::List(parts) = node else {
            panic!("a word outside a rule")
        };
        let [Node::Word(verdict), rest @ ..] = parts.as_slice() else {
            panic!("a rule without a verdict")
        };
        let names = rest.iter().any(|part| {
            matches!(part, Node::Word(word) if operation == word.as_str()
                || word.strip_suffix('*').is_some_and(|start| operation.starts_with(start)))
        });
        let fits = rest.iter().any(|part| match part {
            Node::List(filter) => match filter.as_slice() {
                [Node::Word(kind), Node::Text(place)] if kind == "literal" => {
                    path == Path::new(place)
                }
                [Node::Word(kind), Node::Text(place)] if kind == "subpath" => {
                    path.starts_with(place)
                }
                _ => false,
            },
            _ => false,
        });
        if names && fits {
            allowed = verdict == "allow";
        }
    }
    allowed
}

/// A workspace outside `/tmp`, which is private for every command.
fn workspace() -> tempfile::TempDir {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let place = tempfile::tempdir_in(here).unwrap();
    for directory in ["a/b", "c", "no home"] {
        std::fs::create_dir_all(place.path().join(directory)).unwrap();
    }
    for file in ["a/x", "a/b/x", "c/x"] {
        std::fs::write(place.path().join(file), "x").unwrap();
    }
    place
}

fn options(place: &Path) -> PlanOptions {
    PlanOptions::new(place)
        .home(place.join("no home"))
        .late_matches(LateMatches::Watch)
}

fn profile_of(policy: &Policy, place: &Path) -> Result<String, PlanError> {
    policy
        .plan(&options(place))
        .and_then(|plan| plan.seatbelt_profile())
}

#[test]
fn names_cannot_end_the_string_they_stand_in() {
    for name in [
        "a\"b",
        "a\\",
        "\\\"",
        "a\") (allow default) (literal \"/",
        "a;b",
        "#\"a\"",
        "((",
        "ünï",
    ] {
        let quoted = quote(&format!("/{name}")).unwrap();
        assert_eq!(read(&quoted), [Node::Text(format!("/{name}"))]);
    }
}

#[test]
fn refuses_names_it_cannot_write() {
    for name in ["a\nb", "a\0b", "a\rb", "a\u{7f}b"] {
        assert!(quote(name).is_err(), "{name:?}");
        assert!(regex(name).is_err(), "{name:?}");
    }
    assert!(quote(&"a".repeat(LONGEST_PATH)).is_err());
    assert!(regex(&format!("/{}", "a".repeat(LONGEST_REGEX))).is_err());
    assert!(regex("/a\"b").is_err());
    assert!(regex("/\u{fc}").is_err());
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/a\xff"));
        assert!(text(path).is_err());
    }
}

#[test]
fn patterns_become_anchored_expressions_for_either_case() {
    assert_eq!(
        regex("/w/**/.env*").unwrap(),
        r"^/[wW](/[^/]+)*/\.[eE][nN][vV][^/]*(/.*)?$"
    );
    assert_eq!(regex("/1/?[(+").unwrap(), r"^/1/[^/]\[\(\+(/.*)?$");
}

#[test]
fn both_names_of_linked_directories_are_written() {
    assert_eq!(spellings("/var/x"), ["/var/x", "/private/var/x"]);
    assert_eq!(spellings("/private/tmp"), ["/private/tmp", "/tmp"]);
    assert_eq!(spellings("/variable"), ["/variable"]);
    assert_eq!(spellings("/private/other"), ["/private/other"]);
}

#[test]
fn a_profile_denies_by_default_and_holds_what_the_policy_names() {
    let place = workspace();
    let policy = Policy::default()
        .read("@system")
        .write("a")
        .deny("a/**/.env")
        .allow("ls");
    let profile = profile_of(&policy, place.path()).unwrap();
    assert!(profile.starts_with("(version 1)\n(deny default)\n"));
    assert!(profile.ends_with("(deny file-link)\n(deny file-write-setugid)\n"));
    assert!(
        profile.contains("/\\.[eE][nN][vV](/.*)?$\"))\n"),
        "{profile}"
    );
    let rules = read(&profile);
    let ls = std::fs::canonicalize("/bin/ls").unwrap();
    assert!(allows(&rules, "process-exec", &ls));
    assert!(!allows(&rules, "process-exec", &ls.with_file_name("cat")));
    let inside = place.path().canonicalize().unwrap().join("a");
    assert!(allows(&rules, "file-write-data", &inside.join("x")));
    assert!(!allows(&rules, "file-write-unlink", &inside));
    assert!(!allows(&rules, "network-outbound", Path::new("/run/x")));
}

#[test]
fn a_start_has_a_directory_of_its_own_and_cannot_redirect_git() {
    let place = workspace();
    let git = place.path().canonicalize().unwrap().join("repository/.git");
    for part in ["objects", "refs"] {
        std::fs::create_dir_all(git.join(part)).unwrap();
    }
    std::fs::write(git.join("HEAD"), "ref: refs/heads/main").unwrap();
    let plan = Policy::default()
        .write("repository")
        .git(crate::policy::GitAccess::Commit)
        .plan(&options(place.path()))
        .unwrap();
    let scratch = Path::new("/private/scratch");
    let start = Start {
        scratch,
        proxy: None,
    };
    let starts = read(&profile(&plan.0, Some(start)).unwrap());
    let shown = read(&plan.seatbelt_profile().unwrap());
    let file = scratch.join("file");
    assert!(allows(&starts, "file-write-data", &file));
    assert!(!allows(&starts, "process-exec", &file));
    assert!(!allows(&shown, "file-write-data", &file));
    assert!(allows(&starts, "file-write-data", &git.join("HEAD")));
    let absent = git.join("commondir");
    assert!(plan.0.absent.contains(&absent), "{:?}", plan.0.absent);
    assert!(!allows(&starts, "file-write-create", &absent));
}

#[test]
fn a_start_with_hosts_reaches_the_port_of_its_proxy_and_nothing_else() {
    let place = workspace();
    let plan = Policy::default()
        .read("@system")
        .allow_host("example.org:443")
        .plan(&options(place.path()))
        .unwrap();
    let with = |proxy| {
        let scratch = Path::new("/private/scratch");
        profile(&plan.0, Some(Start { scratch, proxy })).unwrap()
    };
    let network = |profile: &str| -> Vec<String> {
        let about = |line: &&str| line.contains("network") || line.contains("mDNSResponder");
        profile.lines().filter(about).map(str::to_owned).collect()
    };
    assert_eq!(
        network(&with(Some(49152))),
        ["(allow network-outbound (remote tcp \"localhost:49152\"))"]
    );
    assert!(network(&with(None)).is_empty());
    read(&with(Some(49152)));
}

#[test]
fn refuses_rules_that_seatbelt_cannot_hold() {
    let place = workspace();
    let base = || Policy::default().read("@system").write("a");
    for policy in [
        base().allow("ls").allow_host("example.org:443"),
        base().allow(["ls", "-a"]),
    ] {
        let refused = profile_of(&policy, place.path());
        assert!(matches!(refused, Err(PlanError::NotEnforceable { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_profile_says_what_explain_says(
        rules in prop::collection::vec((0..3_u8, prop::sample::select(PLACES)), 1..6),
    ) {
        let place = workspace();
        let policy = rules.iter().fold(Policy::default(), |policy, (kind, name)| match kind {
            0 => policy.read(*name),
            1 => policy.write(*name),
            _ => policy.deny(*name),
        });
        // Rules that contradict each other have no profile.
        if let Ok(plan) = policy.plan(&options(place.path())) {
            let profile = read(&plan.seatbelt_profile().unwrap());
            let top = plan.workspace();
            for name in PLACES.iter().chain(&["c/new", "a/b/new", "no home/x"]) {
                let path: PathBuf = top.join(name);
                for (operation, query) in [
                    ("file-read-data", Query::Read(path.clone())),
                    ("file-write-data", Query::Write(path.clone())),
                ] {
                    let answer = plan.explain(&query);
                    // What only leads to something can be passed, not listed,
                    // and private memory is closed.
                    let stricter = answer.rule.contains("leads to") || answer.rule.contains("private");
                    prop_assert_eq!(
                        allows(&profile, operation, &path),
                        answer.allowed && !stricter,
                        "{} {:?}", operation, answer
                    );
                }
            }
        }
    }
}

const PLACES: &[&str] = &["a", "a/b", "a/x", "a/b/x", "c", "c/x"];
