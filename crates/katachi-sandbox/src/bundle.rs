//! Named sets of programs and paths.
//!
//! In `commands.allow` a bundle allows its programs and opens its paths; in
//! `filesystem.read` it opens its paths alone. Whatever a machine does not
//! have is left out. [`Plan`](crate::Plan) prints what each became here.

/// A named set of programs and the paths they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bundle {
    /// Name, with its `@`.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Programs, looked up in the search path.
    pub programs: &'static [&'static str],
    /// Paths that can be read, and not executed or loaded as libraries.
    pub read: &'static [&'static str],
    /// Paths that can be read, and whose files can be loaded as libraries.
    pub libraries: &'static [&'static str],
    /// Paths that can be read, loaded from and executed from: a toolchain's
    /// own helpers.
    pub execute: &'static [&'static str],
}

/// Every bundle there is.
pub const BUNDLES: &[Bundle] = &[SYSTEM, GIT, RUST, NODE, PYTHON, CC];

/// The bundle with this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Bundle> {
    BUNDLES.iter().find(|bundle| bundle.name == name)
}

/// What a dynamically linked program needs, and the usual small tools. Never
/// `/etc/shadow`, keys or machine identity.
const SYSTEM: Bundle = Bundle {
    name: "@system",
    purpose: "what a dynamically linked program needs, and the usual small tools",
    programs: &[
        "sh",
        "bash",
        "dash",
        "env",
        "true",
        "false",
        "echo",
        "printf",
        "pwd",
        "ls",
        "cat",
        "cp",
        "mv",
        "rm",
        "mkdir",
        "rmdir",
        "ln",
        "readlink",
        "realpath",
        "basename",
        "dirname",
        "touch",
        "chmod",
        "stat",
        "du",
        "df",
        "head",
        "tail",
        "wc",
        "sort",
        "uniq",
        "cut",
        "paste",
        "join",
        "tr",
        "tee",
        "comm",
        "cmp",
        "diff",
        "patch",
        "seq",
        "yes",
        "sleep",
        "timeout",
        "date",
        "expr",
        "test",
        "[",
        "nl",
        "od",
        "xxd",
        "fold",
        "split",
        "tac",
        "rev",
        "column",
        "md5sum",
        "sha1sum",
        "sha256sum",
        "sha512sum",
        "cksum",
        "base64",
        "find",
        "xargs",
        "grep",
        "egrep",
        "fgrep",
        "rg",
        "sed",
        "awk",
        "gawk",
        "mawk",
        "tar",
        "gzip",
        "gunzip",
        "zcat",
        "bzip2",
        "xz",
        "zstd",
        "unzip",
        "zip",
        "which",
        "file",
        "less",
        "mktemp",
        "install",
        "uname",
        "id",
        "whoami",
        "hostname",
        "nproc",
        "tput",
        "jq",
        "tree",
        "ps",
        "kill",
        "getconf",
    ],
    read: &[
        "/etc/ld.so.cache",
        "/etc/ld.so.conf",
        "/etc/ld.so.conf.d",
        "/etc/passwd",
        "/etc/group",
        "/etc/nsswitch.conf",
        "/etc/hosts",
        "/etc/host.conf",
        "/etc/services",
        "/etc/protocols",
        "/etc/localtime",
        "/etc/timezone",
        "/etc/locale.alias",
        "/etc/locale.conf",
        "/etc/ssl/certs",
        "/etc/ssl/openssl.cnf",
        "/etc/ca-certificates",
        "/etc/pki/tls/certs",
        "/etc/pki/ca-trust/extracted",
        "/etc/mime.types",
        "/etc/magic",
        "/etc/os-release",
        "/etc/debian_version",
        "/etc/inputrc",
        "/etc/terminfo",
        "/usr/share/zoneinfo",
        "/usr/share/locale",
        "/usr/share/i18n",
        "/usr/share/terminfo",
        "/usr/share/misc",
        "/usr/share/file",
        "/usr/share/ca-certificates",
        "/usr/share/awk",
        "/lib/terminfo",
    ],
    libraries: &[
        "/lib",
        "/lib64",
        "/lib32",
        "/libx32",
        "/usr/lib",
        "/usr/lib64",
        "/usr/lib32",
        "/usr/local/lib",
        "/usr/local/lib64",
        "/nix/store",
        "/gnu/store",
        "/System/Library",
        "/System/Volumes/Preboot/Cryptexes",
        "/Library/Apple",
    ],
    execute: &[],
};

const GIT: Bundle = Bundle {
    name: "@git",
    purpose: "git with its own helpers and the user's configuration, without credentials",
    programs: &["git"],
    read: &[
        "/etc/gitconfig",
        "/usr/local/etc/gitconfig",
        "~/.gitconfig",
        "~/.config/git/config",
        "~/.config/git/ignore",
        "~/.config/git/attributes",
        "/usr/share/git-core",
        "/usr/local/share/git-core",
        "/usr/share/perl5",
        "/usr/share/perl",
    ],
    libraries: &[],
    execute: &[
        "/usr/lib/git-core",
        "/usr/libexec/git-core",
        "/usr/local/lib/git-core",
        "/usr/local/libexec/git-core",
    ],
};

const RUST: Bundle = Bundle {
    name: "@rust",
    purpose: "cargo, rustc and the toolchains of rustup, with the crates already downloaded",
    programs: &[
        "cargo",
        "rustc",
        "rustdoc",
        "rustfmt",
        "cargo-fmt",
        "clippy-driver",
        "cargo-clippy",
        "rust-analyzer",
    ],
    read: &[
        "~/.cargo/registry",
        "~/.cargo/git",
        "~/.cargo/config.toml",
        "~/.cargo/config",
        "~/.cargo/env",
        "~/.cargo/.package-cache",
        "~/.rustup/settings.toml",
        "~/.rustup/update-hashes",
    ],
    libraries: &[],
    execute: &[
        "~/.rustup/toolchains",
        "/usr/lib/rustlib",
        "/usr/local/rustup/toolchains",
    ],
};

const NODE: Bundle = Bundle {
    name: "@node",
    purpose: "node and npm with the globally installed modules",
    programs: &[
        "node", "nodejs", "npm", "npx", "corepack", "yarn", "pnpm", "env",
    ],
    read: &[
        "/etc/npmrc",
        "/usr/etc/npmrc",
        "/usr/share/nodejs",
        "/usr/share/npm",
        "/usr/share/node_modules",
    ],
    libraries: &["/usr/lib/node_modules", "/usr/local/lib/node_modules"],
    execute: &[],
};

const PYTHON: Bundle = Bundle {
    name: "@python",
    purpose: "python3 with the system's and the distribution's modules",
    programs: &["python3", "python", "pip3", "pip"],
    read: &[
        "/etc/python3",
        "/etc/python3.11",
        "/etc/python3.12",
        "/etc/python3.13",
        "/usr/share/python3",
        "/usr/share/python-wheels",
    ],
    libraries: &["/usr/lib/python3", "/usr/local/lib/python3"],
    execute: &[],
};

const CC: Bundle = Bundle {
    name: "@cc",
    purpose: "C and C++ compilers, linkers and make",
    programs: &[
        "cc",
        "c++",
        "gcc",
        "g++",
        "cpp",
        "clang",
        "clang++",
        "ld",
        "ld.bfd",
        "ld.gold",
        "ld.lld",
        "lld",
        "mold",
        "as",
        "ar",
        "gcc-ar",
        "ranlib",
        "nm",
        "strip",
        "objcopy",
        "objdump",
        "readelf",
        "make",
        "cmake",
        "ninja",
        "pkg-config",
        "pkgconf",
        "m4",
    ],
    read: &[
        "/usr/include",
        "/usr/local/include",
        "/usr/share/cmake",
        "/usr/share/pkgconfig",
        "/usr/local/share/pkgconfig",
        "/usr/share/make",
        "/usr/share/gcc",
    ],
    libraries: &["/usr/x86_64-linux-gnu", "/usr/aarch64-linux-gnu"],
    execute: &[
        "/usr/lib/gcc",
        "/usr/libexec/gcc",
        "/usr/lib/llvm-14/bin",
        "/usr/lib/llvm-15/bin",
        "/usr/lib/llvm-16/bin",
        "/usr/lib/llvm-17/bin",
        "/usr/lib/llvm-18/bin",
        "/usr/lib/llvm-19/bin",
        "/usr/lib/llvm-20/bin",
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bundle_opens_secrets() {
        for bundle in BUNDLES {
            for path in [bundle.read, bundle.libraries, bundle.execute].concat() {
                for secret in [
                    "/etc/shadow",
                    "/etc",
                    "~",
                    "~/.ssh",
                    "~/.cargo",
                    "~/.git-credentials",
                    "/etc/ssl/private",
                    "/etc/ssl",
                ] {
                    assert_ne!(path, secret, "{}", bundle.name);
                }
            }
        }
    }
}
