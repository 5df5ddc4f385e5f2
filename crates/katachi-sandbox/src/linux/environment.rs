//! The variables that a command is started with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::inside::PROXY_PORT;
use crate::error::SpawnError;
use crate::network::names::GATEWAY;
use crate::plan::Inner;

/// Built from nothing: what every command has, what the policy passes and sets,
/// and what the caller adds.
pub(super) fn environment(
    plan: &Inner,
    extra: &BTreeMap<OsString, OsString>,
) -> Result<Vec<OsString>, SpawnError> {
    let path = if plan.search_path.is_empty() {
        OsString::from("/usr/bin:/bin")
    } else {
        std::env::join_paths(&plan.search_path).map_err(|error| SpawnError::Request {
            problem: format!("the search path cannot be written as one variable: {error}"),
            next_step: "leave out directories with a colon in their name".to_owned(),
        })?
    };
    let mut variables: BTreeMap<OsString, OsString> = BTreeMap::from([
        ("PATH".into(), path),
        ("HOME".into(), plan.home.clone().into()),
        ("TMPDIR".into(), "/tmp".into()),
        ("LANG".into(), "C.UTF-8".into()),
    ]);
    if !plan.network.rules.allow.is_empty() {
        variables.extend(proxy_variables());
    }
    for name in &plan.policy.env.pass {
        if let Some(value) = std::env::var_os(name) {
            variables.insert(name.into(), value);
        }
    }
    for (name, value) in &plan.policy.env.set {
        variables.insert(name.into(), value.into());
    }
    variables.extend(
        extra
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    Ok(variables
        .into_iter()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            name
        })
        .collect())
}

/// Where there are no private directories, temporary files and what belongs
/// into a home lie in one that goes with the command.
pub(super) fn stay_in(scratch: &Path, home: &Path, environment: &mut [OsString]) {
    for (name, usual) in [("TMPDIR=", Path::new("/tmp")), ("HOME=", home)] {
        let variable = |value: &Path| {
            let mut word = OsString::from(name);
            word.push(value);
            word
        };
        // What the policy sets stays as it is.
        if let Some(word) = environment
            .iter_mut()
            .find(|word| **word == variable(usual))
        {
            *word = variable(scratch);
        }
    }
}

/// What programs that know proxies look for. Others need nothing of it: names
/// resolve to addresses that lead to the proxy too.
fn proxy_variables() -> impl Iterator<Item = (OsString, OsString)> {
    const PROXIED: &[&str] = &[
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "CARGO_HTTP_PROXY",
        "npm_config_proxy",
        "npm_config_https_proxy",
    ];
    const OWN: &[&str] = &["no_proxy", "NO_PROXY", "npm_config_noproxy"];
    let proxy = format!("http://{GATEWAY}:{PROXY_PORT}");
    let proxied = PROXIED.iter().map(move |name| (*name, proxy.clone()));
    let own = OWN
        .iter()
        .map(|name| (*name, "localhost,127.0.0.1,::1".to_owned()));
    proxied
        .chain(own)
        .chain([("NODE_USE_ENV_PROXY", "1".to_owned())])
        .map(|(name, value)| (name.into(), value.into()))
}
