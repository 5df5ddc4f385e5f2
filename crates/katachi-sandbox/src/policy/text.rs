//! The policy as TOML, and mistakes in it with the line and the next step.

use std::fmt;

use crate::Policy;
use crate::suggest::closest;

/// A mistake in a policy's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    /// Name of the file, as given by the caller.
    pub file: String,
    /// Line, counted from one.
    pub line: Option<usize>,
    /// What is wrong, naming the key.
    pub problem: String,
    /// What to do about it.
    pub next_step: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}; {}", self.problem, self.next_step)
    }
}

impl Policy {
    /// Reads a policy from TOML. `file` names it in errors.
    ///
    /// # Errors
    ///
    /// Returns [`PolicyError`] with the line, the key and the next step for
    /// text that is no TOML, an unknown key or a value of the wrong shape.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, PolicyError> {
        toml::from_str(text).map_err(|error| describe(text, file, &error))
    }

    /// Prints the policy as TOML that [`Policy::from_toml`] reads back to an
    /// equal policy.
    #[must_use]
    pub fn to_toml(&self) -> String {
        // Every key is a string and every value a shape TOML has, so printing
        // cannot fail; an empty policy is the one that allows nothing.
        toml::to_string(self).unwrap_or_default()
    }
}

fn describe(text: &str, file: &str, error: &toml::de::Error) -> PolicyError {
    let span = error.span();
    let line = span.as_ref().map(|span| {
        let end = span.start.min(text.len());
        text.as_bytes()[..end]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1
    });
    let message = error
        .message()
        .lines()
        .next()
        .unwrap_or("unreadable")
        .to_owned();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        let kind = if message.starts_with("unknown field") {
            "key"
        } else {
            "value"
        };
        let (wrong, known) = quoted.split_first().unwrap_or((&"", &[]));
        let next_step = match closest(wrong, known.iter().copied()) {
            Some(right) => format!("write `{right}`"),
            None => format!("known here: {}", known.join(", ")),
        };
        return PolicyError {
            file: file.to_owned(),
            line,
            problem: format!("unknown {kind} `{wrong}`"),
            next_step,
        };
    }
    let written = span
        .and_then(|span| text.get(span))
        .map(str::trim)
        .unwrap_or_default();
    let problem = if written.is_empty() || written.len() > 60 || written.contains('\n') {
        message
    } else {
        format!("`{written}`: {message}")
    };
    PolicyError {
        file: file.to_owned(),
        line,
        problem,
        next_step: "correct this line; the policy keys and their shapes are listed in the \
                    documentation of `katachi_sandbox::policy::Policy`"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ByteSize, CommandRule, CpuShare, GitAccess, Limits, TimeSpan};
    use proptest::prelude::*;
    use std::time::Duration;

    const WHOLE: &str = r#"
[filesystem]
read = ["@system"]
write = ["."]
deny = ["**/.env", "~/.ssh"]
exec_from = ["target"]
git = "commit"
[commands]
allow = ["ls", "cat", "@rust", ["git", "status"], ["git", "diff"],
         { path = "/opt/tool", sha256 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff" }]
ask = [["git", "push"]]
[network]
allow = ["api.example.com:443", "*.crates.io:443"]
publish = [3000]
unix = []
[env]
pass = ["LANG"]
set = { CI = "1" }
[limits]
memory = "2GiB"
processes = 256
disk = "1GiB"
wall_time = "10m"
cpu_time = "30s"
cpus = 0.5
"#;

    #[test]
    fn reads_every_stable_key() {
        let policy = Policy::from_toml(WHOLE, "policy.toml").unwrap();
        assert_eq!(policy.filesystem.git, GitAccess::Commit);
        assert_eq!(policy.commands.allow.len(), 6);
        assert_eq!(
            policy.commands.allow[3],
            CommandRule::from(["git", "status"])
        );
        assert_eq!(policy.limits.memory, Some(ByteSize::new(2 << 30)));
        assert_eq!(
            policy.limits.wall_time,
            Some(TimeSpan::new(Duration::from_secs(600)))
        );
        assert_eq!(policy.limits.cpus.map(CpuShare::thousandths), Some(500));
        assert_eq!(
            Policy::from_toml(&policy.to_toml(), "again").unwrap(),
            policy
        );
    }

    #[test]
    fn an_empty_text_allows_nothing() {
        assert_eq!(Policy::from_toml("", "p").unwrap(), Policy::default());
        assert_eq!(Policy::default().to_toml(), "");
    }

    #[test]
    fn a_typo_names_the_line_and_the_right_key() {
        let error = Policy::from_toml("[filesystem]\nraed = ['.']\n", "my.toml").unwrap_err();
        assert_eq!(
            error.to_string(),
            "my.toml:2: unknown key `raed`; write `read`"
        );
        let error = Policy::from_toml("[comands]\n", "my.toml").unwrap_err();
        assert_eq!(
            error.to_string(),
            "my.toml:1: unknown key `comands`; write `commands`"
        );
        let error = Policy::from_toml("[filesystem]\ngit = 'comit'\n", "my.toml").unwrap_err();
        assert_eq!(
            error.to_string(),
            "my.toml:2: unknown value `comit`; write `commit`"
        );
    }

    #[test]
    fn a_wrong_shape_says_what_would_be_right() {
        for (text, line, part) in [
            ("[limits]\nmemory = '2 gigs'", 2, "a size such as"),
            ("[limits]\nwall_time = '10'", 2, "a time such as"),
            ("[limits]\ncpu_time = 10", 2, "expected a string"),
            ("[limits]\ncpus = 0", 2, "a number of processors"),
            (
                "[commands]\nallow = ['git status']",
                2,
                "[\"git\", \"status\"]",
            ),
            ("[commands]\nallow = [[]]", 2, "starts with a program name"),
            (
                "[commands]\nallow = [{ path = '/x', sha256 = 'zz' }]",
                2,
                "sha256sum",
            ),
            ("[filesystem]\nread = '.'", 2, "expected a sequence"),
            ("[filesystem\n", 1, "]"),
        ] {
            let error = Policy::from_toml(text, "p").unwrap_err();
            assert_eq!(error.line, Some(line), "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    fn any_rule() -> impl Strategy<Value = CommandRule> {
        prop_oneof![
            "[a-z@/][a-z0-9_./-]{0,12}".prop_map(CommandRule::Name),
            proptest::collection::vec("[ -~]{1,8}", 1..4).prop_map(CommandRule::Argv),
            ("/[a-z]{1,8}", proptest::option::of("[0-9a-f]{64}")).prop_map(|(path, sha256)| {
                CommandRule::File {
                    path: path.into(),
                    sha256,
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn prints_what_it_parses(
            read in proptest::collection::vec("\\PC{0,12}", 0..4),
            deny in proptest::collection::vec("\\PC{0,12}", 0..4),
            allow in proptest::collection::vec(any_rule(), 0..4),
            set in proptest::collection::btree_map("[A-Z]{1,5}", "\\PC{0,12}", 0..3),
            memory: Option<u64>,
            processes: Option<u32>,
        ) {
            let mut policy = Policy::default().limits(Limits {
                memory: memory.map(ByteSize::new), processes, ..Limits::default()
            });
            policy.filesystem.read = read;
            policy.filesystem.deny = deny;
            policy.commands.allow = allow;
            policy.env.set = set;
            prop_assert_eq!(Policy::from_toml(&policy.to_toml(), "p").unwrap(), policy);
        }
    }
}
