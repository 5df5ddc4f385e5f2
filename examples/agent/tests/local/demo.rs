//! The demo tells the truth: legal statuses, evidence behind each, JSON alone.

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{Place, must_have_all, needing};

/// How each promise stands on a machine that has everything but a keychain, and what it
/// lacks where it is not kept whole. With a keychain 5 to 7 are kept.
const HONEST: [(&str, &str); 16] = [
    ("kept", ""),
    ("kept", ""),
    ("kept", ""),
    ("unwitnessed", "takes an account at Cloudflare"),
    ("partial", "the keychain is switched off"),
    ("partial", "deters copying and is no lock"),
    ("partial", "without a keychain"),
    ("kept", ""),
    ("partial", "GitHub and Google themselves"),
    ("kept", ""),
    ("kept", ""),
    ("partial", "the dynamic loader, called by name"),
    ("partial", "until then, for milliseconds"),
    ("kept", ""),
    ("unwitnessed", "nobody has seen hold"),
    ("partial", "how fast people answer"),
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        needing(
            "",
            true,
            "the_demo_succeeds_and_says_what_it_saw",
            the_demo_succeeds_and_says_what_it_saw,
        ),
        needing(
            "",
            true,
            "the_table_for_people_has_every_promise_and_a_sum",
            the_table_for_people_has_every_promise_and_a_sum,
        ),
    ]
}

fn the_demo_succeeds_and_says_what_it_saw() {
    let place = Place::new();
    let said = place.agent(&["demo", "--json"]);
    let (progress, code) = (said.stderr.clone(), said.code);
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(code, Some(0), "{progress}");
    assert!(report["seconds"].is_f64(), "{progress}");
    for step in 1..=9 {
        assert!(progress.contains(&format!("[{step}/9]")), "{progress}");
    }
    let promises = report["promises"].as_array().unwrap();
    assert_eq!(promises.len(), 16);
    for (index, promise) in promises.iter().enumerate() {
        assert_eq!(promise["id"], index + 1);
        assert!(!promise["title"].as_str().unwrap().is_empty());
        let status = promise["status"].as_str().unwrap();
        assert!(
            ["kept", "partial", "absent", "unavailable", "unwitnessed"].contains(&status),
            "{promise}"
        );
        let evidence = promise["evidence"].as_str().unwrap();
        assert!(evidence.len() > 20, "{promise}");
        assert!(!evidence.contains("FAILED"), "{promise}");
        assert!(
            !(status == "kept" && evidence.contains("not tried")),
            "{promise}"
        );
    }
    if must_have_all() {
        for (promise, (status, lack)) in promises.iter().zip(HONEST) {
            assert_eq!(promise["status"], status, "{promise}");
            let evidence = promise["evidence"].as_str().unwrap();
            assert!(evidence.contains(lack), "{promise}");
        }
    }
    // Nothing of a command or of its output is for the relay, paired or not.
    assert_eq!(promises[0]["status"], "kept", "{}", promises[0]);
    let channel = promises[1]["evidence"].as_str().unwrap();
    assert!(channel.contains("gets 403 on 15 of 15 routes"), "{channel}");
    let sign_in = promises[8]["evidence"].as_str().unwrap();
    for tried in ["link in its mail", "OpenID provider", "another browser"] {
        assert!(sign_in.contains(tried), "{sign_in}");
    }
    assert!(
        place.stored().is_empty(),
        "the demo wrote into the home of the person"
    );
}

fn the_table_for_people_has_every_promise_and_a_sum() {
    let said = Place::new().agent(&["demo"]);
    for id in 1..=16 {
        assert!(
            said.stdout.contains(&format!("\n {id:>2}  ")),
            "{}",
            said.stdout
        );
    }
    assert!(said.stdout.contains(" kept, "), "{}", said.stdout);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}
