//! A user unit, systemd.service(5).

use super::{MARK, Program};
use crate::mistake::Mistake;

/// What a sandbox needs stays open: namespaces, mounts and its own seccomp filter
/// are how commands are confined, so nothing here may forbid those, and a program
/// in it may compile code as it runs.
const HARDENED: &str = "NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
UMask=0077
LimitCORE=0
OOMPolicy=continue
";

/// The unit that runs `program`.
///
/// # Errors
///
/// Returns a [`Mistake`] for a path or word that a unit cannot hold.
pub(super) fn unit(program: &Program) -> Result<String, Mistake> {
    let words: Vec<_> = program.argv.iter().map(|word| quoted(word)).collect();
    let directory = program.directory.display().to_string();
    if program
        .argv
        .iter()
        .chain([&directory])
        .any(|text| text.contains(char::is_control))
    {
        return Err(Mistake::new(
            "service",
            "a path or option holds a line break or another control character",
            "choose one without",
        ));
    }
    Ok(format!(
        "# {MARK}; `katachi-agent service remove` deletes it.
[Unit]
Description=Katachi agent
Documentation=https://github.com/katachi-rs/katachi
After=network-online.target

[Service]
Type=exec
ExecStart={}
WorkingDirectory={}
Restart=on-failure
RestartSec=5
# What a person has to change does not change by itself.
RestartPreventExitStatus=2
KillMode=mixed
TimeoutStopSec=20
{HARDENED}
[Install]
WantedBy=default.target
",
        words.join(" "),
        directory.replace('%', "%%")
    ))
}

/// A word of `ExecStart`: systemd takes `\\` and `"` in quotes as C does, `%` as a
/// specifier and `$` as a variable.
fn quoted(word: &str) -> String {
    let word = word.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", word.replace('%', "%%").replace('$', "$$"))
}
