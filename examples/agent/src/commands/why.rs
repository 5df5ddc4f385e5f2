//! `why`: what the policy says, and which rule says so.

use std::process::ExitCode;

use katachi_sandbox::Query;

use crate::cli;
use crate::config::Config;
use crate::mistake::Mistake;
use crate::output::{BAD, GOOD, QUIET, paint, print, print_json, printable};
use crate::policy::Rules;

/// Answers a question, or prints the whole plan where none is asked.
///
/// The exit code is 0 for allowed and 1 for denied.
///
/// # Errors
///
/// Returns an error if the policy cannot be read or planned.
pub(crate) fn why(config: &Config, args: &cli::Why) -> anyhow::Result<ExitCode> {
    let rules = Rules::load(config.policy.as_deref())?;
    let plan = rules.plan(config)?;
    let Some(question) = &args.question else {
        return whole(&rules, &plan, args);
    };
    let answer = plan.explain(&query(question)?);
    if args.json {
        print_json(&answer)?;
    } else {
        let verdict = match answer.allowed {
            true => paint(GOOD, "allowed"),
            false => paint(BAD, "denied"),
        };
        let mut text = format!(
            "{verdict}  {} {}\n  rule: {} ({})\n",
            answer.operation,
            printable(&answer.target),
            printable(&answer.rule),
            rules.source()
        );
        if let Some(line) = &answer.allow_with {
            text.push_str(&format!("  to allow it: {}\n", printable(line)));
        }
        print(&text)?;
    }
    Ok(match answer.allowed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn whole(rules: &Rules, plan: &katachi_sandbox::Plan, args: &cli::Why) -> anyhow::Result<ExitCode> {
    let enforcement = plan.enforcement();
    if args.json {
        print_json(&serde_json::json!({
            "policy": rules.source(),
            "rules": rules.policy,
            "enforcement": enforcement,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let source = paint(QUIET, format_args!("# {}", rules.source()));
    let mut text = format!("{source}\n{}\n", rules.policy.to_toml());
    if args.all {
        text.push_str(&format!(
            "{}\n{plan}\n",
            paint(QUIET, "# every path and program, on this machine")
        ));
    }
    text.push_str(&format!(
        "{}\n{enforcement}",
        paint(QUIET, "# what holds it here")
    ));
    if !args.all {
        text.push_str(&paint(QUIET, "# --all lists every path and program\n"));
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn query(question: &cli::Question) -> Result<Query, Mistake> {
    Ok(match question {
        cli::Question::Read { path } => Query::Read(from_here(path)),
        cli::Question::Write { path } => Query::Write(from_here(path)),
        cli::Question::Exec { argv } => Query::Exec(argv.clone()),
        cli::Question::Connect { target } => {
            let is_socket = target.starts_with('/');
            let has_port = target
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            if !is_socket && !has_port {
                return Err(Mistake::new(
                    "why connect",
                    format!("`{target}` names no port"),
                    "write it as example.com:443, or give the path of a unix socket",
                ));
            }
            Query::Connect(target.clone())
        }
    })
}

/// A relative path means the directory the question is asked in.
fn from_here(path: &std::path::Path) -> std::path::PathBuf {
    match path.starts_with("~") {
        true => path.to_owned(),
        false => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    }
}
