//! Which additions take a person to become true.

use std::path::Path;

use super::{Element, List, names_of};
use crate::plan::{PROTECTED_NAMES, PlanOptions};

/// Names of directories and files that hold what others must not know. A part
/// of a path with one of them is enough.
const SECRETS: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".password-store",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".pgpass",
    ".my.cnf",
    ".git-credentials",
    ".vault-token",
    ".bash_history",
    ".zsh_history",
    "gcloud",
    "keyrings",
    "shadow",
    "gshadow",
    "sudoers",
];
/// Parts of names that tell of the same.
const TELLTALES: &[&str] = &[
    "secret",
    "credential",
    "password",
    "token",
    "id_rsa",
    "id_ed25519",
];
const KEY_ENDINGS: &[&str] = &["pem", "key", "p12", "pfx", "kdbx", "jks", "gpg"];
/// Names whose content runs, or is obeyed, outside later, beside those that are protected
/// anyway.
const STARTUP: &[&str] = &[
    ".git",
    "autostart",
    "systemd",
    "fish",
    "nvim",
    "hooks",
    "crontabs",
];
/// Where what is written is everybody's.
const SYSTEM: &[&str] = &[
    "/bin", "/boot", "/etc", "/lib", "/lib64", "/opt", "/root", "/sbin", "/srv", "/usr", "/var",
];
/// Programs that act for others, or start what nobody here confines.
const POWERFUL: &[&str] = &[
    "sudo",
    "su",
    "doas",
    "pkexec",
    "docker",
    "podman",
    "systemctl",
    "systemd-run",
    "crontab",
    "at",
    "ssh",
    "gdb",
    "strace",
    "mount",
    "nsenter",
    "unshare",
];

/// Why this is not added without a person, if so.
pub(super) fn of(list: List, element: &Element, options: &PlanOptions) -> Option<String> {
    let text = match element {
        Element::Rule(rule) => {
            let name = Path::new(rule.program()).file_name()?.to_str()?;
            return POWERFUL
                .contains(&name)
                .then(|| format!("{name} acts for others or starts what is not confined"));
        }
        Element::Text(text) => text,
    };
    match list {
        List::Read | List::Write => {
            let write = list == List::Write;
            names_of(text)
                .iter()
                .find_map(|path| path_danger(path, write, options))
        }
        List::Sockets => Some("whoever listens there acts on what it is told".to_owned()),
        List::Hosts | List::Allow => None,
    }
}

fn path_danger(path: &Path, write: bool, options: &PlanOptions) -> Option<String> {
    let home = options
        .home
        .as_deref()
        .map(|home| home.canonicalize().unwrap_or_else(|_| home.to_path_buf()));
    if let Some(home) = home.filter(|home| home.starts_with(path)) {
        let shown = home.display();
        return Some(format!("it opens all of the home directory {shown}"));
    }
    if path.components().count() <= 2 && path.is_dir() {
        return Some("it opens very much at once".to_owned());
    }
    for part in path.components() {
        let name = part.as_os_str().to_str()?.to_lowercase();
        let ending = Path::new(&name).extension().and_then(|end| end.to_str());
        let secret = SECRETS.contains(&name.as_str())
            || name == ".env"
            || name.starts_with(".env.")
            || TELLTALES.iter().any(|telltale| name.contains(telltale))
            || ending.is_some_and(|ending| KEY_ENDINGS.contains(&ending));
        if secret {
            return Some(format!("{name} may hold secrets"));
        }
        let mut known = STARTUP.iter().chain(PROTECTED_NAMES);
        if write && known.any(|known| *known == name) {
            return Some(format!("{name} is acted upon outside later"));
        }
    }
    let system = SYSTEM.iter().find(|system| path.starts_with(system));
    system
        .filter(|_| write)
        .map(|system| format!("what lies in {system} is acted upon outside later"))
}
