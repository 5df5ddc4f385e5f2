//! A real browser, driven by playwright-core, where there is one.

use std::path::{Path, PathBuf};

/// What the test needs and this machine does not have.
pub(crate) fn missing() -> Option<String> {
    if chromium().is_none() {
        return Some("chromium".to_owned());
    }
    if !on_path("node") {
        return Some("node".to_owned());
    }
    if node_path().is_none() {
        return Some("playwright-core and axe-core in NODE_PATH".to_owned());
    }
    None
}

pub(crate) fn chromium() -> Option<PathBuf> {
    let given = std::env::var_os("KATACHI_CHROMIUM").map(PathBuf::from);
    given
        .or_else(|| find("chromium"))
        .or_else(|| find("chromium-browser"))
        .or_else(|| find("google-chrome"))
}

pub(crate) fn node_path() -> Option<PathBuf> {
    let given = std::env::var_os("NODE_PATH").map(PathBuf::from);
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/node/node_modules");
    [given, Some(local)].into_iter().flatten().find(|dir| {
        ["playwright-core", "axe-core"]
            .iter()
            .all(|one| dir.join(one).is_dir())
    })
}

fn on_path(program: &str) -> bool {
    find(program).is_some()
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}
