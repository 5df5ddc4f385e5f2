//! Which AI answers messages.

use std::path::Path;

use super::file::{self, Kind};
use super::limits::{self, HOUR};
use super::{Ai, AiTimes, HttpModel, Mind, key_pairs};
use crate::cli::Options;
use crate::mistake::Mistake;

/// Settles the AI from the flags and the file at `path`.
///
/// # Errors
///
/// Returns a [`Mistake`] for keys that are missing or do not belong together.
pub(super) fn settle(
    options: &Options,
    file: file::Ai,
    path: &Path,
) -> Result<Option<Ai>, Mistake> {
    let mind = match &options.ai_command {
        Some(words) => {
            let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
            let words = command(&words, "--ai-command (or KATACHI_AI_COMMAND)")?;
            Some(match file.kind {
                Some(Kind::Acp) => Mind::Acp(words),
                _ => Mind::Command(words),
            })
        }
        None => mind(&file, path)?,
    };
    let Some(mind) = mind else {
        return Ok(None);
    };
    let keys = match options.ai_keys.is_empty() {
        true => file.keys.clone(),
        false => key_pairs(&options.ai_keys, "--ai-key (or KATACHI_AI_KEYS)")?,
    };
    if matches!(mind, Mind::Http(_)) && !keys.is_empty() {
        return Err(Mistake::new(
            format!("{}: key ai.keys", path.display()),
            "is for programs, and a model behind HTTP has no variables",
            "write key = \"NAME\" with the name of its stored API key",
        ));
    }
    Ok(Some(Ai {
        times: times(options, &file, path, &mind)?,
        mind,
        policy: options.ai_policy.clone().or(file.policy),
        keys,
    }))
}

/// Settles how long it may take.
fn times(options: &Options, file: &file::Ai, path: &Path, mind: &Mind) -> Result<AiTimes, Mistake> {
    let usual = AiTimes::default();
    let given = |flag: Option<f64>, file: Option<f64>, name: &str| match (flag, file) {
        (Some(seconds), _) => {
            let flag = format!("--ai-{name}-time");
            let variable = format!("KATACHI_AI_{}_TIME", name.to_uppercase());
            Some((seconds, format!("{flag} (or {variable})")))
        }
        (None, Some(seconds)) => {
            let place = format!("{}: key ai.{name}_time", path.display());
            Some((seconds, place))
        }
        (None, None) => None,
    };
    let start = given(options.ai_start_time, file.start_time, "start");
    let answer = given(options.ai_answer_time, file.answer_time, "answer");
    match (mind, &start, &answer) {
        (Mind::Command(_), Some((_, place)), _) | (Mind::Command(_), None, Some((_, place))) => {
            return Err(Mistake::new(
                place,
                "is not for a program that is only started: its time is that of its policy",
                "write wall_time = \"10m\" under [limits] of that policy",
            ));
        }
        (Mind::Http(_), Some((_, place)), _) => {
            return Err(Mistake::new(
                place,
                "is for programs that speak ACP, and a model behind HTTP is not started",
                "use ai.answer_time for the whole answer",
            ));
        }
        _ => {}
    }
    let time = |given: Option<(f64, String)>, most, usual| match given {
        None => Ok(usual),
        Some((seconds, place)) => limits::time(seconds, &place, most, usual),
    };
    Ok(AiTimes {
        start: time(start, HOUR, usual.start)?,
        answer: time(answer, 24 * HOUR, usual.answer)?,
    })
}

fn mind(file: &file::Ai, path: &Path) -> Result<Option<Mind>, Mistake> {
    let place = |key: &str| format!("{}: key ai.{key}", path.display());
    match (file.kind, &file.command, &file.model) {
        (None, None, None) => Ok(None),
        (None | Some(Kind::Command), Some(words), None) => {
            let words = command(words, &place("command"))?;
            Ok(Some(Mind::Command(words)))
        }
        (Some(Kind::Acp), Some(words), None) => {
            let words = command(words, &place("command"))?;
            Ok(Some(Mind::Acp(words)))
        }
        (Some(Kind::Command | Kind::Acp), None, None) => Err(no_program(&place("command"))),
        (Some(Kind::Http), None, Some(model)) => http(file, model, &place).map(Some),
        (Some(Kind::Http), None, None) => Err(Mistake::new(
            place("model"),
            "is missing",
            "name the model, for instance model = \"claude-sonnet-4-5\"",
        )),
        (None, None, Some(_)) => Err(Mistake::new(
            place("kind"),
            "is missing",
            "write kind = \"http\" beside the model",
        )),
        (_, Some(_), _) | (Some(Kind::Command | Kind::Acp), _, Some(_)) => Err(Mistake::new(
            place("kind"),
            "does not fit the other keys: `command` is for programs, `model` for models behind HTTP",
            "keep one of the two",
        )),
    }
}

fn command(words: &[String], place: &str) -> Result<Vec<String>, Mistake> {
    match words.first().is_none_or(String::is_empty) {
        true => Err(no_program(place)),
        false => Ok(words.to_vec()),
    }
}

fn no_program(place: &str) -> Mistake {
    Mistake::new(
        place,
        "names no program",
        "write it as command = [\"program\", \"argument\"]",
    )
}

fn http(file: &file::Ai, model: &str, place: &impl Fn(&str) -> String) -> Result<Mind, Mistake> {
    let base_url = match &file.base_url {
        None => None,
        Some(url) => Some(base_url(url).map_err(|problem| {
            Mistake::new(
                place("base_url"),
                format!("`{}` {problem}", crate::output::printable(url)),
                "write it as https://host/path",
            )
        })?),
    };
    Ok(Mind::Http(HttpModel {
        model: model.to_owned(),
        base_url,
        key: file.key.clone(),
    }))
}

/// Checks where a model is asked: keys and prompts go there.
fn base_url(text: &str) -> Result<String, &'static str> {
    let uri: http::Uri = text.parse().map_err(|_| "is not a URL")?;
    let host = uri.host().ok_or("names no host")?;
    let is_local = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    if uri
        .authority()
        .is_some_and(|part| part.as_str().contains('@'))
    {
        return Err("holds a user name; credentials never belong in it");
    }
    if uri.query().is_some() {
        return Err("has a query");
    }
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if is_local => {}
        _ => return Err("does not begin with https://, and is not on this machine"),
    }
    Ok(format!("{}/", text.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let file: file::Ai = toml::from_str(text).unwrap();
        let settled = settle(&Options::default(), file, Path::new("config.toml"));
        settled.unwrap_err().to_string()
    }

    #[test]
    fn a_model_is_asked_over_tls_or_on_this_machine() {
        assert_eq!(
            base_url("https://a.example/v1"),
            Ok("https://a.example/v1/".to_owned())
        );
        for local in [
            "http://127.0.0.1:1234/v1",
            "http://[::1]/",
            "http://localhost",
        ] {
            assert!(base_url(local).is_ok(), "{local}");
        }
        for bad in [
            "http://a.example/v1",
            "http://localhost.example",
            "a.example",
            "https://u:p@a.example",
            "https://a.example/?key=1",
            "ftp://a.example",
        ] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_that_do_not_belong_together_are_named() {
        for (text, named) in [
            ("kind = \"http\"", "ai.model"),
            ("model = \"m\"", "ai.kind"),
            ("kind = \"command\"", "ai.command"),
            ("kind = \"acp\"", "ai.command"),
            ("kind = \"acp\"\nmodel = \"m\"", "ai.kind"),
            (
                "kind = \"http\"\nmodel = \"m\"\ncommand = [\"c\"]",
                "ai.kind",
            ),
            (
                "kind = \"http\"\nmodel = \"m\"\nkeys = { A = \"b\" }",
                "ai.keys",
            ),
            (
                "kind = \"http\"\nmodel = \"m\"\nbase_url = \"http://a.example\"",
                "ai.base_url",
            ),
        ] {
            assert!(refusal(text).contains(named), "{text}: {}", refusal(text));
        }
    }

    #[test]
    fn times_are_in_seconds_and_the_flag_stands_above_the_file() {
        let settled = |text: &str, flag: Option<f64>| {
            let file: file::Ai = toml::from_str(text).unwrap();
            let options = Options {
                ai_answer_time: flag,
                ..Options::default()
            };
            settle(&options, file, Path::new("config.toml"))
        };
        let acp = "kind = \"acp\"\ncommand = [\"c\"]\n";
        let times = |text: &str, flag| settled(text, flag).unwrap().unwrap().times;
        assert_eq!(times(acp, None), AiTimes::default());
        let set = format!("{acp}start_time = 2.5\nanswer_time = 7200");
        let seconds = std::time::Duration::from_secs_f64;
        let (start, answer) = (seconds(2.5), seconds(7200.0));
        assert_eq!(times(&set, None), AiTimes { start, answer });
        let answer = seconds(90.0);
        assert_eq!(times(&set, Some(90.0)), AiTimes { start, answer });
        let http = "kind = \"http\"\nmodel = \"m\"\nanswer_time = 90";
        assert_eq!(times(http, None).answer, answer);
        for (text, flag, named, next) in [
            ("start_time = 0", None, "ai.start_time", "60 seconds"),
            ("start_time = 3601", None, "ai.start_time", "to 3600"),
            ("answer_time = nan", None, "ai.answer_time", "1800 seconds"),
            ("answer_time = 86401", None, "ai.answer_time", "to 86400"),
            ("", Some(-1.0), "KATACHI_AI_ANSWER_TIME", "1800 seconds"),
        ] {
            let refused = settled(&format!("{acp}{text}"), flag).unwrap_err();
            let refused = refused.to_string();
            assert!(
                refused.contains(named) && refused.contains(next),
                "{refused}"
            );
        }
        for (text, next) in [
            ("command = [\"c\"]\nstart_time = 5", "wall_time"),
            ("command = [\"c\"]\nanswer_time = 5", "wall_time"),
            (
                "kind = \"http\"\nmodel = \"m\"\nstart_time = 5",
                "ai.answer_time",
            ),
        ] {
            assert!(refusal(text).contains(next), "{text}: {}", refusal(text));
        }
    }
}
