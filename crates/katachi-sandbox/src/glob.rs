//! Patterns such as `**/.env` for `filesystem.deny`.
//!
//! A pattern is a list of components. `**` stands for any number of
//! components, none included; `*` inside a component for any bytes but `/`;
//! `?` for one byte but `/`; everything else, brackets included, for itself.
//! The match is anchored at both ends and on bytes, so that a name that is no
//! valid text cannot slip past it.

#[cfg(test)]
mod naive;

use std::path::Path;

/// A compiled pattern.
///
/// ```
/// use katachi_sandbox::glob::Glob;
///
/// let glob = Glob::new("**/*.pem");
/// assert!(glob.matches("server.pem"));
/// assert!(glob.matches("deep/er/key.pem"));
/// assert!(!glob.matches("key.pem.txt"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    components: Vec<Component>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Component {
    AnyDepth,
    Name(Vec<u8>),
}

impl Glob {
    /// Compiles a pattern. Leading `./` and empty components are dropped.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        let mut components: Vec<Component> = Vec::new();
        for part in pattern
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
        {
            match part {
                // Two in a row mean what one means.
                "**" if components.last() == Some(&Component::AnyDepth) => {}
                "**" => components.push(Component::AnyDepth),
                name => components.push(Component::Name(name.as_bytes().to_vec())),
            }
        }
        Self { components }
    }

    /// Whether a policy entry is a pattern and not a plain path.
    #[must_use]
    pub fn is_pattern(text: &str) -> bool {
        text.contains(['*', '?'])
    }

    /// The leading components without a wildcard: where to look for matches.
    #[must_use]
    pub fn fixed_prefix(&self) -> std::path::PathBuf {
        self.components
            .iter()
            .map_while(|component| match component {
                Component::Name(name) if !name.contains(&b'*') && !name.contains(&b'?') => {
                    std::str::from_utf8(name).ok()
                }
                _ => None,
            })
            .collect()
    }

    /// Whether the relative `path` matches as a whole.
    #[must_use]
    pub fn matches(&self, path: impl AsRef<Path>) -> bool {
        let names: Vec<&[u8]> = path
            .as_ref()
            .as_os_str()
            .as_encoded_bytes()
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty() && *name != b".")
            .collect();
        matches_components(&self.components, &names)
    }
}

/// Greedy with one point to return to: a later `**` makes every earlier
/// choice irrelevant, so the time is at most components times names.
fn matches_components(pattern: &[Component], names: &[&[u8]]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < names.len() {
        match pattern.get(p) {
            Some(Component::AnyDepth) => {
                retry = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(Component::Name(name)) if matches_name(name, names[n]) => {
                p += 1;
                n += 1;
                continue;
            }
            _ => {}
        }
        let Some((after, from)) = retry else {
            return false;
        };
        retry = Some((after, from + 1));
        p = after;
        n = from + 1;
    }
    pattern[p..]
        .iter()
        .all(|component| *component == Component::AnyDepth)
}

/// The same within one component, for `*` and `?`.
fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
                continue;
            }
            _ => {}
        }
        let Some((after, from)) = retry else {
            return false;
        };
        retry = Some((after, from + 1));
        p = after;
        n = from + 1;
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::naive::naive_matches;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn matches_what_the_documentation_says() {
        for (pattern, path, expected) in [
            ("**/.env", ".env", true),
            ("**/.env", "a/b/.env", true),
            ("**/.env", "a/.env/b", false),
            (".env*", ".env.local", true),
            (".env*", "a/.env", false),
            ("secrets/**", "secrets/a/b", true),
            ("secrets/**", "secrets", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("?.key", "a.key", true),
            ("?.key", "ab.key", false),
            ("[ab]", "a", false),
            ("[ab]", "[ab]", true),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(path),
                expected,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn stars_in_a_row_cost_no_time() {
        let pattern = format!("{}b", "*a".repeat(40));
        assert!(!Glob::new(&pattern).matches("a".repeat(4000)));
    }

    #[test]
    fn the_fixed_prefix_ends_at_the_first_wildcard() {
        assert_eq!(Glob::new("a/b/*.pem").fixed_prefix(), Path::new("a/b"));
        assert_eq!(Glob::new("**/x").fixed_prefix(), Path::new(""));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn agrees_with_the_naive_matcher(
            pattern in "([ab.]|\\*|\\?|\\*\\*/|/){0,9}",
            path in "[ab./]{0,9}",
        ) {
            prop_assert_eq!(
                Glob::new(&pattern).matches(&path),
                naive_matches(&pattern, &path),
                "{} {}", pattern, path
            );
        }
    }
}
