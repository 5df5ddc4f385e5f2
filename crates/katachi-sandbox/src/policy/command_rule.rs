//! One entry of `commands.allow` or `commands.ask`: a name, a bundle, an argv
//! prefix, or a file with its digest.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::guard::in_order;

/// Names one program, or some of its uses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandRule {
    /// A program name looked up in the search path, an absolute path, or a
    /// bundle when it starts with `@`. Any arguments.
    Name(String),
    /// A program whose arguments must start with these words.
    Argv(Vec<String>),
    /// A file by path, and by content where a digest is given.
    File {
        /// Absolute path, or relative to the workspace.
        path: PathBuf,
        /// SHA-256 of the file, 64 hexadecimal digits.
        sha256: Option<String>,
    },
}

impl CommandRule {
    /// The program this rule is about, as the policy wrote it.
    #[must_use]
    pub fn program(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Argv(words) => words.first().map_or("", String::as_str),
            Self::File { path, .. } => path.to_str().unwrap_or(""),
        }
    }

    /// Whether `argv` without its program starts with the rule's words.
    #[must_use]
    pub fn matches_arguments<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> bool {
        match self {
            Self::Argv(words) => {
                let wanted = words.get(1..).unwrap_or(&[]);
                wanted.len() <= arguments.len()
                    && wanted
                        .iter()
                        .zip(arguments)
                        .all(|(word, argument)| argument.as_ref() == word.as_str())
            }
            Self::Name(_) | Self::File { .. } => true,
        }
    }

    /// Whether the rule's words are among the arguments, in their order.
    pub(crate) fn is_among<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> bool {
        match self {
            Self::Argv(words) => in_order(words.get(1..).unwrap_or(&[]), arguments),
            Self::Name(_) | Self::File { .. } => true,
        }
    }
}

impl fmt::Display for CommandRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name:?}"),
            Self::Argv(words) => write!(f, "{words:?}"),
            Self::File { path, sha256: None } => write!(f, "{{ path = {path:?} }}"),
            Self::File {
                path,
                sha256: Some(digest),
            } => {
                write!(f, "{{ path = {path:?}, sha256 = {digest:?} }}")
            }
        }
    }
}

impl From<&str> for CommandRule {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for CommandRule {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl<const N: usize> From<[&str; N]> for CommandRule {
    fn from(words: [&str; N]) -> Self {
        Self::Argv(words.iter().map(|word| (*word).to_owned()).collect())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    path: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl Serialize for CommandRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Name(name) => serializer.serialize_str(name),
            Self::Argv(words) => words.serialize(serializer),
            Self::File { path, sha256 } => FileRule {
                path: path.clone(),
                sha256: sha256.clone(),
            }
            .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for CommandRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rule;

        impl<'de> Visitor<'de> for Rule {
            type Value = CommandRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a program name, a bundle such as \"@rust\", a list such as \
                     [\"git\", \"status\"], or { path = \"...\", sha256 = \"...\" }",
                )
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<CommandRule, E> {
                if name.is_empty() || name.contains(char::is_whitespace) && !name.starts_with('/') {
                    return Err(E::custom(format!(
                        "{name:?} is not a program name; write arguments as a list, such as \
                         [\"git\", \"status\"]"
                    )));
                }
                Ok(CommandRule::Name(name.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<CommandRule, A::Error> {
                let words = Vec::<String>::deserialize(SeqAccessDeserializer::new(seq))?;
                if words.first().is_none_or(String::is_empty) {
                    return Err(serde::de::Error::custom(
                        "an argv prefix starts with a program name, such as [\"git\", \"status\"]",
                    ));
                }
                Ok(CommandRule::Argv(words))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<CommandRule, A::Error> {
                let FileRule { path, sha256 } =
                    FileRule::deserialize(MapAccessDeserializer::new(map))?;
                let well_formed = |digest: &String| {
                    digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
                };
                if !sha256.as_ref().is_none_or(well_formed) {
                    return Err(serde::de::Error::custom(
                        "sha256 is not 64 hexadecimal digits; `sha256sum FILE` prints them",
                    ));
                }
                Ok(CommandRule::File { path, sha256 })
            }
        }

        deserializer.deserialize_any(Rule)
    }
}
