//! What the programs of tests share: an agent in a home of its own, who opens its link,
//! and what stands between the two.

#![allow(dead_code, reason = "each program of tests uses a part of this")]

pub(crate) mod browser;
#[path = "../../src/demo/device.rs"]
pub(crate) mod device;
pub(crate) mod far;
pub(crate) mod frames;
pub(crate) mod meeting;
pub(crate) mod page;
pub(crate) mod pair;
pub(crate) mod place;
pub(crate) mod provider;
pub(crate) mod served;
pub(crate) mod up;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use libtest_mimic::{Arguments, Trial};

pub(crate) use place::Place;

/// Runs the tests of a program.
pub(crate) fn run(tests: impl IntoIterator<Item = Vec<Trial>>) -> ExitCode {
    let tests = tests.into_iter().flatten().collect();
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// Whether this machine can confine commands, as the agent itself finds.
pub(crate) fn can_confine() -> bool {
    static TIER: LazyLock<bool> = LazyLock::new(|| {
        let said = Place::new().agent(&["doctor", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        report["sandbox"]["tier"] == "namespaces"
    });
    *TIER
}

/// The library that tells programs another time.
pub(crate) fn faketime() -> Option<PathBuf> {
    let roots = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut found = roots.map(|root| root.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.exists())
}

/// Whether an absent component is a failure, as in CI.
pub(crate) fn must_have_all() -> bool {
    std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|value| value == "1")
}

/// The root of the repository that this package lies in, if it does.
pub(crate) fn repository() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .ok()?;
    root.join(".git").exists().then_some(root)
}

/// One test that needs `component`: ignored by name where it is absent, and a
/// failure there if everything is required.
pub(crate) fn needing(component: &str, present: bool, name: &str, test: fn()) -> Trial {
    let run = move || {
        if !present {
            return Err("the component is absent, and KATACHI_REQUIRE_ALL=1 asks for it".into());
        }
        test();
        Ok(())
    };
    let ignored = !present && !must_have_all();
    let name = match ignored {
        true => format!("{name} (skipped: no {component})"),
        false => name.to_owned(),
    };
    Trial::test(name, run).with_ignored_flag(ignored)
}
