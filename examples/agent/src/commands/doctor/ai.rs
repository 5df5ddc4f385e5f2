//! The configured AI as `doctor` sees it.

use std::ffi::OsString;
use std::path::Path;

use katachi_sandbox::Query;

use super::Finding;
use crate::config::{Ai, Config, Mind};
use crate::home::Home;
use crate::output::printable;
use crate::policy::Rules;

/// The AI that is configured, and whether it can start.
pub(super) fn ai(config: &Config, ai: &Ai, home: Option<&Home>) -> Finding {
    let (kind, argv) = match &ai.mind {
        Mind::Command(argv) => ("a program", argv),
        Mind::Acp(argv) => ("a program that speaks ACP", argv),
        Mind::Http(model) => {
            let about = format!("the model {}", printable(&model.model));
            return match missing(home, model.key.as_slice()) {
                None => Finding::good("AI", about),
                Some(missing) => Finding::bad("AI", format!("{about} {missing}")),
            };
        }
    };
    let about = format!("{kind}, {}", printable(&argv[0]));
    let names: Vec<_> = ai.keys.values().cloned().collect();
    if let Some(missing) = missing(home, &names) {
        return Finding::bad("AI", format!("{about} {missing}"));
    }
    let policy = ai.policy.as_ref().or(config.policy.as_ref());
    let plan = Rules::load(policy.map(|file| file.as_ref() as &Path))
        .map_err(anyhow::Error::from)
        .and_then(|rules| rules.plan(config));
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return Finding::bad("AI", format!("{about} cannot start: {error:#}")),
    };
    let asked = Query::Exec(argv.iter().map(OsString::from).collect());
    match plan.explain(&asked).violation() {
        None => Finding::good("AI", format!("{about}, may start under its policy")),
        Some(violation) => {
            let allow = violation.allow_with.unwrap_or_default();
            let why = format!("{about} may not start: {}", violation.reason);
            Finding::bad(
                "AI",
                match allow.is_empty() {
                    true => why,
                    false => format!("{why}; to allow it: {allow}"),
                },
            )
        }
    }
}

/// Says which of `names` is no stored key.
fn missing(home: Option<&Home>, names: &[String]) -> Option<String> {
    let stored = home.and_then(|home| home.credentials().ok()?.list().ok());
    let stored = stored.unwrap_or_default();
    let name = names
        .iter()
        .find(|name| !stored.iter().any(|key| key.name.as_str() == name.as_str()))?;
    let name = printable(name);
    Some(format!(
        "lacks the key {name}; `katachi-agent key set {name}` stores it"
    ))
}
