//! What is different without some namespaces, case by case.
//!
//! Everything that is not named here has the same verdict as with them.

use libtest_mimic::Failed;

use crate::bed::Ground;
use crate::suite::PAGE;
use crate::verdicts::{self, Seen};

/// The verdict of a case in a lower place, where it is another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Without {
    /// The policy is refused when it is planned.
    Refused,
    /// Possible, and said so in the report; the case ends with these words.
    Residual(&'static str),
    /// What the case is about does not exist there; it ends with these words.
    Unavailable(&'static str),
}

use Without::{Refused, Residual, Unavailable};

/// Where no namespace can be made.
const WITHOUT: &[(&str, Without)] = &[
    (
        "the workspace can be read and written",
        Unavailable("unavailable: create /tmp/private"),
    ),
    (
        "nothing above a denied or read-only place is moved away",
        Unavailable("unavailable: rename"),
    ),
    (
        "commits can be made and hooks cannot",
        Unavailable("unavailable: create"),
    ),
    (
        "nested repositories are protected too",
        Unavailable("unavailable: create"),
    ),
    (
        "git commits and its hooks stay as they are",
        Unavailable("unavailable: commits; branches"),
    ),
    (
        "git commits in linked working trees and submodules",
        Unavailable("unavailable: commits; commits"),
    ),
    ("a clone works outside and runs nothing there", Refused),
    (
        "a library in the workspace is not loaded",
        Residual("the library was loaded"),
    ),
    ("a named unix socket is reached", Refused),
    ("abstract sockets are not reached", Refused),
    (
        "servers inside can be reached from inside",
        Unavailable("loopback"),
    ),
    ("an allowed host is reached through the proxy", Refused),
    ("programs that know no proxy reach an allowed host", Refused),
    ("a host that no rule names is not reached", Refused),
    ("a denied host stays denied", Refused),
    ("no spelling of a host gets around the rules", Refused),
    ("a name that leads inside is refused", Refused),
    ("names are not resolved before they are allowed", Refused),
    ("private and metadata addresses are refused", Refused),
    ("TLS that names another host is refused", Refused),
    (
        "requests that two readers read differently are refused",
        Refused,
    ),
    ("SOCKS offers connections only", Refused),
    ("slow and endless requests end", Refused),
    ("what a command said before it ended arrives", Refused),
    ("connections end at their limit", Refused),
    ("bytes through the proxy end at their limit", Refused),
    ("without host rules there is no proxy", Refused),
    (
        "a published port is reached from the host's loopback alone",
        Refused,
    ),
    (
        "a waiting sandbox reaches its hosts and publishes its ports",
        Refused,
    ),
    ("host rules that cannot hold are refused", Refused),
    ("explain and the proxy agree", Refused),
    ("a self-test sees the network control hold", Refused),
    ("curl reaches an allowed host", Refused),
    ("git clones from an allowed host", Refused),
    ("npm installs from an allowed host", Refused),
    ("node reaches an allowed host", Refused),
    ("python reaches an allowed host", Refused),
    ("pip installs from an allowed host", Refused),
    ("cargo builds what it gets from an allowed host", Refused),
    ("ssh is refused cleanly", Refused),
    (
        "set-user-id programs gain nothing",
        Unavailable("unavailable: mounts"),
    ),
    (
        "mounts do not spread to the host",
        Unavailable("Operation not permitted"),
    ),
    (
        "a proc mounted in the workspace is hidden",
        Unavailable("Operation not permitted"),
    ),
    ("a file ends at its limit", Refused),
    ("the private directories end at their limit", Refused),
    (
        "the private directories hold a bounded number of files",
        Refused,
    ),
    ("many small files end at their limit", Refused),
    ("many files as large as the limit end at their sum", Refused),
    ("a million empty files end at their limit", Refused),
    ("removed files that are open count", Refused),
    ("files too deep to be measured end the command", Refused),
    ("what is removed and what was there does not count", Refused),
    (
        "a waiting sandbox is used once and never out of date",
        Unavailable("unavailable: waiting sandboxes"),
    ),
    (
        "a denied file that the host replaces is hidden again",
        Residual("it was not reported"),
    ),
    (
        "a protected file that the host replaces is protected again",
        Residual("it was not reported"),
    ),
    (
        "what appears under a denied name is hidden",
        Residual("goes on"),
    ),
    (
        "what the command makes under a denied name is hidden",
        Residual("goes on"),
    ),
    (
        "a waiting sandbox hides what appeared meanwhile",
        Residual("it was seen"),
    ),
    (
        "files and programs missed are reported with their line",
        Unavailable("cannot open"),
    ),
    (
        "a control group bounds memory, all of it",
        Unavailable("unavailable: files in memory"),
    ),
    (
        "a control group goes with its command",
        Unavailable("unavailable: waiting sandboxes"),
    ),
];

/// The differences of a place.
fn different(ground: Ground) -> &'static [(&'static str, Without)] {
    match ground {
        Ground::All | Ground::NoUsers => &[],
        Ground::Nothing => WITHOUT,
    }
}

/// Holds what a case showed or said in a place against its table.
pub(crate) fn judge(
    ground: Ground,
    name: &str,
    result: Result<Seen, Failed>,
) -> Result<(), Failed> {
    let known = different(ground).iter().find(|(known, _)| *known == name);
    let Some((_, wanted)) = known else {
        return Ok(verdicts::agree(PAGE, name, result?)?);
    };
    let words = match wanted {
        Refused => "cannot be enforced",
        Residual(words) | Unavailable(words) => words,
    };
    match result {
        Ok(seen) => Err(format!("it should have been {wanted:?}, and was {seen:?}").into()),
        Err(said) if said.message().is_some_and(|said| said.contains(words)) => Ok(()),
        Err(said) => {
            let said = said.message().unwrap_or_default();
            Err(format!("it should have been {wanted:?}, and was: {said}").into())
        }
    }
}

/// What the page has to say: a row for each difference.
pub(crate) fn rows() -> impl Iterator<Item = String> {
    different(Ground::Nothing).iter().map(|(name, wanted)| {
        let verdict = match wanted {
            Refused => "refused when planned",
            Residual(_) => "declared residual",
            Unavailable(_) => "unavailable",
        };
        format!("| `{name}` | {verdict} |")
    })
}
