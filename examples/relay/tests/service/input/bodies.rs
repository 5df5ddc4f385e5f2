//! Bodies that are wrong.

use serde_json::{Value, json};

use super::CANARY;

/// Bodies that are JSON or nearly, and not what a good one is.
pub(super) fn bad_json(good: &Value) -> Vec<(String, Vec<u8>)> {
    let text = good.to_string();
    let members = good.as_object().unwrap();
    let with = |name: &str, value: Value| {
        let mut other = good.clone();
        other[name] = value;
        other.to_string().into_bytes()
    };
    let mut all: Vec<(String, Vec<u8>)> = vec![
        ("nothing".to_owned(), Vec::new()),
        (
            "half of it".to_owned(),
            text.as_bytes()[..text.len() / 2].to_vec(),
        ),
        (
            "more than it".to_owned(),
            format!("{text}{text}").into_bytes(),
        ),
        (
            "a byte order mark".to_owned(),
            format!("\u{feff}{text}").into_bytes(),
        ),
        ("a text".to_owned(), format!("\"{CANARY}\"").into_bytes()),
        ("a list".to_owned(), format!("[{text}]").into_bytes()),
        ("null".to_owned(), b"null".to_vec()),
        ("a large number".to_owned(), b"1e400".to_vec()),
        ("no JSON".to_owned(), format!("<{CANARY}/>").into_bytes()),
        ("zero bytes".to_owned(), vec![0; 64]),
        (
            "no UTF-8".to_owned(),
            text.replacen(':', ":\"\u{1}", 1).into_bytes(),
        ),
        ("deep".to_owned(), "[".repeat(100_000).into_bytes()),
        ("another member".to_owned(), with("admin", json!(CANARY))),
    ];
    let mut raw = text.clone().into_bytes();
    let at = raw.len() - 2;
    raw.insert(at, 0xff);
    all.push(("a byte that is no UTF-8".to_owned(), raw));
    for name in members.keys() {
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        let deep = text
            .replacen(&members[name].to_string(), &deep, 1)
            .into_bytes();
        all.push((format!("{name} deep"), deep));
        all.push((
            format!("{name} twice"),
            text.replacen('{', &format!("{{\"{name}\":{},", members[name]), 1)
                .into_bytes(),
        ));
        for (what, value) in [
            ("a number", json!(7)),
            ("below zero", json!(-1)),
            ("a map", json!({"x": {"y": CANARY}})),
            ("a list of lists", json!([[CANARY], [7]])),
            ("a zero byte", json!("\0")),
            ("half a character", json!("\u{fffd}\u{0}")),
            (
                "a long text",
                json!(format!("{CANARY}{}", "x".repeat(20_000))),
            ),
        ] {
            all.push((format!("{name} is {what}"), with(name, value)));
        }
    }
    all
}

pub(super) fn bad_form(good: &[(&'static str, String)]) -> Vec<(String, Vec<u8>)> {
    let text = |pairs: &[(&str, String)]| {
        let pairs = pairs.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("&")
    };
    let mut all = vec![
        ("nothing".to_owned(), Vec::new()),
        (
            "no form".to_owned(),
            format!("{{\"{CANARY}\":1}}").into_bytes(),
        ),
        ("zero bytes".to_owned(), vec![0; 64]),
        ("no UTF-8".to_owned(), b"client_id=\xff\xfe".to_vec()),
        (
            "escapes of no UTF-8".to_owned(),
            b"client_id=%ff%fe".to_vec(),
        ),
        ("half an escape".to_owned(), b"client_id=%f".to_vec()),
        ("many".to_owned(), "a=b&".repeat(10_000).into_bytes()),
    ];
    for at in 0..good.len() {
        let mut twice = good.to_vec();
        twice.push(good[at].clone());
        all.push((format!("{} twice", good[at].0), text(&twice).into_bytes()));
        for value in ["", "%00", "%ff", &"x".repeat(20_000)] {
            let mut other = good.to_vec();
            other[at].1 = value.to_owned();
            let shown = value.get(..5).unwrap_or(value);
            all.push((
                format!("{} is {shown:?}", good[at].0),
                text(&other).into_bytes(),
            ));
        }
    }
    all
}
