//! Credentials of a Cloudflare tunnel: both forms, every field, every mistake.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

mod support;

use katachi_store::file::SealedFile;
use katachi_store::file::cloudflare::{TunnelCredential, TunnelCredentialError};
use support::Home;

const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";
const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const TUNNEL: &str = "6ff42ae2-765d-4adf-8112-31c55c1551ef";
/// The token of the three above, made by `base64` of another program.
const TOKEN: &str = "eyJhIjoiMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYiLCJzIjoiQUFFQ0F3UUZCZ2NJQ1FvTERBME9EeEFSRWhNVUZSWVhHQmthR3h3ZEhoOD0iLCJ0IjoiNmZmNDJhZTItNzY1ZC00YWRmLTgxMTItMzFjNTVjMTU1MWVmIn0=";

fn file(account: &str, secret: &str, tunnel: &str) -> String {
    format!(r#"{{"AccountTag":{account},"TunnelSecret":{secret},"TunnelID":{tunnel}}}"#)
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn good_file() -> String {
    file(&quoted(ACCOUNT), &quoted(SECRET), &quoted(TUNNEL))
}

#[test]
fn reads_both_forms_and_writes_them_again() {
    let from_file = TunnelCredential::parse(good_file().as_bytes()).unwrap();
    assert_eq!(from_file.account_tag(), ACCOUNT);
    assert_eq!(from_file.tunnel_id(), TUNNEL);
    assert_eq!(from_file.endpoint(), None);
    let counting: Vec<u8> = (0..32).collect();
    assert_eq!(from_file.secret().expose_secret(), counting);

    let from_token = TunnelCredential::parse(format!(" {TOKEN}\n").as_bytes()).unwrap();
    assert_eq!(from_token, from_file);
    assert_eq!(from_file.to_token().expose_secret(), TOKEN);
    assert_eq!(from_token.to_json().expose_secret(), good_file().as_bytes());
}

#[test]
fn takes_what_other_versions_write() {
    for text in [
        // An empty endpoint, a name besides, other case, white space.
        good_file().replace('}', r#","Endpoint":"","TunnelName":"home"}"#),
        good_file().replace(ACCOUNT, &ACCOUNT.to_uppercase()),
        good_file().replace(',', ",\n  ") + "\n",
    ] {
        let credential = TunnelCredential::parse(text.as_bytes()).unwrap();
        assert_eq!(credential.to_json().expose_secret(), good_file().as_bytes());
    }
    let bound = good_file().replace('}', r#","Endpoint":"us"}"#);
    let bound = TunnelCredential::parse(bound.as_bytes()).unwrap();
    assert_eq!(bound.endpoint(), Some("us"));
    // Base64 of a slash, as some writers of JSON escape it.
    let slashes = "////".repeat(10) + "//8=";
    let escaped = good_file().replace(SECRET, &slashes.replace('/', r"\/"));
    let credential = TunnelCredential::parse(escaped.as_bytes()).unwrap();
    assert_eq!(credential.secret().expose_secret(), [0xff; 32]);
}

#[test]
fn says_which_field_is_wrong_and_never_what_stood_there() {
    let short = &SECRET[4..];
    let long = "AAAA".repeat(22);
    let cases = [
        (
            "AccountTag",
            file("\"sk-canary\"", &quoted(SECRET), &quoted(TUNNEL)),
        ),
        ("AccountTag", file("7", &quoted(SECRET), &quoted(TUNNEL))),
        (
            "TunnelSecret",
            file(&quoted(ACCOUNT), "\"sk-canary\"", &quoted(TUNNEL)),
        ),
        (
            "TunnelSecret",
            file(&quoted(ACCOUNT), "[\"sk-canary\"]", &quoted(TUNNEL)),
        ),
        (
            "TunnelSecret",
            file(&quoted(ACCOUNT), &quoted(short), &quoted(TUNNEL)),
        ),
        (
            "TunnelSecret",
            file(&quoted(ACCOUNT), &quoted(&long), &quoted(TUNNEL)),
        ),
        (
            "TunnelID",
            file(&quoted(ACCOUNT), &quoted(SECRET), "\"sk-canary\""),
        ),
        (
            "TunnelID",
            file(&quoted(ACCOUNT), &quoted(SECRET), "{\"a\":{}}"),
        ),
        (
            "Endpoint",
            good_file().replace('}', r#","Endpoint":"sk canary"}"#),
        ),
    ];
    for (name, text) in cases {
        let error = TunnelCredential::parse(text.as_bytes()).unwrap_err();
        assert!(
            matches!(error, TunnelCredentialError::Field { field, .. } if field == name),
            "{name}: {error}"
        );
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.contains("canary") && !shown.contains(short),
            "{shown}"
        );
    }
    for name in ["AccountTag", "TunnelSecret", "TunnelID"] {
        let text = good_file().replace(name, "Other");
        let error = TunnelCredential::parse(text.as_bytes()).unwrap_err();
        assert!(
            matches!(error, TunnelCredentialError::Missing { field } if field == name),
            "{name}: {error}"
        );
    }
}

#[test]
fn refuses_what_is_neither_form() {
    let twice = good_file().replace('}', &format!(r#","a":"{ACCOUNT}"}}"#));
    for (text, expected) in [
        ("", "neither"),
        ("sk-ant-api03-canary", "neither"),
        ("bm90IGpzb24=", "neither"),
        ("{\"AccountTag\":", "malformed"),
        (&twice, "malformed"),
        (&good_file().repeat(2), "malformed"),
        (&" ".repeat(5000), "at most"),
    ] {
        let error = TunnelCredential::parse(text.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("canary"), "{error}");
    }
}

#[test]
fn is_kept_in_a_sealed_file() {
    let home = Home::new();
    let vault = home.with_file().create().unwrap();
    let file = SealedFile::at(home.directory.path().join("tunnel.json")).unwrap();
    let credential = TunnelCredential::parse(TOKEN.as_bytes()).unwrap();
    credential.seal(&vault, &file).unwrap();
    assert_eq!(TunnelCredential::open(&vault, &file).unwrap(), credential);
    let on_disk = std::fs::read(file.path()).unwrap();
    for part in [ACCOUNT, SECRET, TUNNEL] {
        assert!(memchr::memmem::find(&on_disk, part.as_bytes()).is_none());
    }
    assert!(!format!("{credential:?}").contains(SECRET));
    assert!(!format!("{credential:?}").contains("[0, 1, 2"));
}
