//! The hosts and ports of a policy, read and checked.

use super::options::PlanOptions;
use crate::error::PlanError;
use crate::network::host::Host;
use crate::network::rule::{BadRule, Rule, Rules};
use crate::policy::Policy;
use crate::resolver::Resolver;

/// What a command reaches, and what reaches it.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) rules: Rules,
    pub(crate) publish: Vec<u16>,
    pub(crate) resolver: Resolver,
}

/// Different ports that `network.allow` may name: each is a listener.
const MOST_PORTS: usize = 64;
/// Entries of one list.
const MOST_RULES: usize = 1000;

pub(super) fn network(policy: &Policy, options: &PlanOptions) -> Result<Network, PlanError> {
    let wanted = &policy.network;
    let rules = Rules {
        allow: read("allow", &wanted.allow, Rule::allow)?,
        deny: read("deny", &wanted.deny, Rule::deny)?,
    };
    for (rule, text) in rules.allow.iter().zip(&wanted.allow) {
        check_allowed(&rules, rule, text)?;
    }
    let ports = rules.ports();
    if ports.len() > MOST_PORTS {
        return Err(PlanError::TooWide {
            rule: "network.allow".to_owned(),
            problem: format!("it names {} different ports", ports.len()),
            next_step: format!("name at most {MOST_PORTS}"),
        });
    }
    let mut publish: Vec<u16> = Vec::new();
    for port in &wanted.publish {
        let rule = format!("network.publish = {port}");
        if *port == 0 {
            return Err(PlanError::Malformed {
                rule,
                problem: "there is no port 0".to_owned(),
                next_step: "name the port on which the server inside listens".to_owned(),
            });
        }
        if ports.contains(port) {
            return Err(PlanError::Contradiction {
                rule,
                other: format!("a rule of network.allow for port {port}"),
                problem:
                    "inside, connections to that port lead outside, so no server can listen on it"
                        .to_owned(),
                next_step: "let the server listen on another port".to_owned(),
            });
        }
        if !publish.contains(port) {
            publish.push(*port);
        }
    }
    Ok(Network {
        rules,
        publish,
        resolver: options.resolver.clone(),
    })
}

fn read(
    key: &str,
    texts: &[String],
    parse: fn(&str) -> Result<Rule, BadRule>,
) -> Result<Vec<Rule>, PlanError> {
    if texts.len() > MOST_RULES {
        return Err(PlanError::TooWide {
            rule: format!("network.{key}"),
            problem: format!("it has {} entries", texts.len()),
            next_step: format!("write at most {MOST_RULES}, with *. for all names below one"),
        });
    }
    texts
        .iter()
        .map(|text| {
            parse(text).map_err(|bad| {
                let rule = format!("network.{key} = {text:?}");
                let (problem, next_step) = (bad.problem.to_owned(), bad.next_step.to_owned());
                if bad.too_wide {
                    PlanError::TooWide {
                        rule,
                        problem,
                        next_step,
                    }
                } else {
                    PlanError::Malformed {
                        rule,
                        problem,
                        next_step,
                    }
                }
            })
        })
        .collect()
}

/// A rule that could never let anything through is a mistake.
fn check_allowed(rules: &Rules, rule: &Rule, text: &str) -> Result<(), PlanError> {
    let (Some(host), Some(port)) = (rule.host(), rule.port()) else {
        return Ok(());
    };
    let rule = format!("network.allow = {text:?}");
    let decision = rules.decide(host, port);
    if !decision.allowed() {
        return Err(PlanError::Contradiction {
            rule,
            other: decision.rule,
            problem: "what is denied stays denied".to_owned(),
            next_step: "remove one of them".to_owned(),
        });
    }
    let own =
        matches!(host, Host::Name(name) if name == "localhost" || name.ends_with(".localhost"));
    if own {
        return Err(PlanError::Malformed {
            rule,
            problem: "inside, localhost is the command's own".to_owned(),
            next_step: format!("write \"127.0.0.1:{port}\" for the host's loopback"),
        });
    }
    Ok(())
}
