//! The variables that a command is started with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use crate::error::SpawnError;
use crate::plan::Inner;

/// Addresses of the proxy.
pub(crate) struct Proxies {
    pub(crate) http: String,
    /// For whatever is not HTTP.
    pub(crate) all: String,
}

/// Built from nothing: what every command has, what the policy passes and sets,
/// and what the caller adds. `proxies` is where programs find the proxy, if
/// there is one.
pub(crate) fn environment(
    plan: &Inner,
    extra: &BTreeMap<OsString, OsString>,
    proxies: Option<&Proxies>,
) -> Result<Vec<OsString>, SpawnError> {
    let path = if plan.search_path.is_empty() {
        OsString::from(match cfg!(windows) {
            true => r"C:\Windows\System32",
            false => "/usr/bin:/bin",
        })
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
    #[cfg(windows)]
    variables.extend(of_windows());
    variables.extend(proxies.into_iter().flat_map(proxy_variables));
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

/// Without these, few programs of Windows start. They say where it lies.
#[cfg(windows)]
fn of_windows() -> impl Iterator<Item = (OsString, OsString)> {
    const NEEDED: &[&str] = &["SystemRoot", "SystemDrive", "windir", "ComSpec", "PATHEXT"];
    const TEMPORARY: &[&str] = &["TEMP", "TMP", "USERPROFILE", "APPDATA", "LOCALAPPDATA"];
    let needed = NEEDED
        .iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    needed.chain(
        TEMPORARY
            .iter()
            .map(|name| (OsString::from(name), "/tmp".into())),
    )
}

/// Where there are no private directories, temporary files and what belongs
/// into a home lie in one that goes with the command.
pub(crate) fn stay_in(scratch: &Path, home: &Path, environment: &mut [OsString]) {
    let temporary = Path::new("/tmp");
    let places = [
        ("TMPDIR=", temporary),
        ("HOME=", home),
        ("TEMP=", temporary),
        ("TMP=", temporary),
        ("USERPROFILE=", temporary),
        ("APPDATA=", temporary),
        ("LOCALAPPDATA=", temporary),
    ];
    for (name, usual) in places {
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

/// What programs that know proxies look for. Others need nothing of it on Linux:
/// names resolve to addresses that lead to the proxy too.
pub(crate) fn proxy_variables(proxies: &Proxies) -> impl Iterator<Item = (OsString, OsString)> {
    const HTTP: &[&str] = &[
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "CARGO_HTTP_PROXY",
        "npm_config_proxy",
        "npm_config_https_proxy",
    ];
    const ALL: &[&str] = &["all_proxy", "ALL_PROXY"];
    const OWN: &[&str] = &["no_proxy", "NO_PROXY", "npm_config_noproxy"];
    let http = HTTP.iter().map(|name| (*name, proxies.http.clone()));
    let all = ALL.iter().map(|name| (*name, proxies.all.clone()));
    let own = OWN
        .iter()
        .map(|name| (*name, "localhost,127.0.0.1,::1".to_owned()));
    http.chain(all)
        .chain(own)
        .chain([("NODE_USE_ENV_PROXY", "1".to_owned())])
        .map(|(name, value)| (name.into(), value.into()))
}
