//! A person in a real browser, an agent, and two relays between them that are one:
//! the browser comes in at one of them, the agent at the other, and the one that the
//! browser has is killed.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::nodes::{Balancer, Nodes};
use crate::postgres;
use crate::support::browser::EMAIL;
use crate::support::page::Person;
use crate::support::up::{PATIENCE, Up};
use crate::support::{self, Place, needing, page};

/// An AI that counts, to five once somebody saw it begin, or for ever.
const COUNTING: &str = r#"read -r said; echo "heard: $said"; echo "tick 1"; i=1
while [ ! -e begun ]; do sleep 0.1; done
while [ "$i" -lt 5 ] || [ "$said" = "for ever" ]; do
  i=$((i + 1)); echo "tick $i"; sleep 0.1
done"#;

pub(crate) fn trials() -> Vec<Trial> {
    let present = support::can_confine() && page::is_possible() && postgres::binaries().is_some();
    vec![needing(
        "user namespaces, chromium with node and playwright-core, and PostgreSQL",
        present,
        "a_chat_outlives_the_relay_that_carried_it",
        a_chat_outlives_the_relay_that_carried_it,
    )]
}

fn a_chat_outlives_the_relay_that_carried_it() {
    let mut nodes = Nodes::start();
    let balancer = Balancer::start(&nodes);
    let place = Place::new();
    let counting = place.file("counting.sh", COUNTING);
    let policy = format!(
        "[filesystem]\nread = [\"@system\", {counting:?}]\nwrite = [\".\"]\n[commands]\nallow = [\"@system\"]\nask = [\"touch\"]\n"
    );
    let policy = place.file("policy.toml", &policy);
    let counting = format!("sh {}", counting.display());
    let mut up = Up::start(
        &place,
        &[
            "--relay-url",
            &nodes.url(),
            "--relay-ca",
            nodes.authority(),
            "--ai-command",
            &counting,
            "--policy",
            policy.to_str().unwrap(),
        ],
    );
    let link = format!("https://{}", up.wait_for("https://"));
    up.wait_for("code ");
    let mut person = Person::starts("cluster.cjs", &[&link, &balancer.address()]);
    up.wait_for("Connected.");
    becomes("the tunnel is at the other relay", || {
        nodes.sql("SELECT node FROM katachi_relay.tunnels") == "b"
    });
    person.told("connected");
    // The rest does not come before the first piece was seen.
    assert!(person.says("begins").contains("tick 1"));
    // Question and answer pass both relays at this moment, and stand in neither.
    assert_eq!(nodes.remember("plums ripen?"), 0, "a relay knows it");
    std::fs::write(place.workspace().join("begun"), "").unwrap();
    assert!(person.says("approved").contains("Exit 0"));
    assert!(place.workspace().join("approved-through-a").exists());
    assert!(person.says("stopped").contains("Stopped"));
    let beat = || std::fs::read(place.workspace().join("beat")).unwrap();
    becomes("what was stopped goes on", || {
        let before = beat();
        std::thread::sleep(Duration::from_millis(400));
        beat() == before
    });
    assert!(person.says("talking").contains("heard: for ever"));
    // The agent answered this browser, and knows it for the time after.
    let devices = place.agent(&["device", "list", "--json"]).ok();
    let devices: serde_json::Value = serde_json::from_str(&devices).unwrap();
    let known = devices["devices"].as_array().map(Vec::len);
    assert_eq!(known, Some(1), "{devices}");
    // All of it went through the relay that has no tunnel.
    assert!(balancer.passed(0) > 0);
    assert_eq!(balancer.passed(1), 0);
    nodes.kill_first();
    person.told("killed");
    let cut = person.says("cut");
    assert!(cut.contains("tick 2") && cut.contains("cut off"), "{cut}");
    let log = person.says("log");
    for text in [
        "when do plums ripen?",
        "tick 5",
        "approved-through-a",
        "for ever",
        "heard: and pears?",
        "approved-through-b",
    ] {
        assert!(log.contains(text), "{text}: {log}");
    }
    assert_eq!(person.says("complaints"), "");
    // The search finds what the relay that is left does know, and nothing of the rest.
    becomes("the search finds something", || nodes.remember(EMAIL) > 0);
    person.told("found");
    assert_eq!(nodes.remember("and pears?"), 0, "a relay knows it");
    // What both relays wrote down has nothing of it; that they wrote shows that the
    // search finds what is there.
    let written = nodes.everything();
    let holds = |text: &str| {
        let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        written.contains(text) || written.contains(&digits)
    };
    assert!(holds("tunnel_opened"), "{written}");
    for text in [
        "when do plums ripen?",
        "approved-through-a",
        "heard: and pears?",
    ] {
        assert!(!holds(text), "the database knows {text}");
    }
    person.ends();
    assert!(balancer.passed(1) > 0);
    assert!(place.workspace().join("approved-through-b").exists());
    up.stop();
    // One conversation, on both sides of it.
    let listed = place.agent(&["history", "list", "--json"]).ok();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
}

fn becomes(what: &str, mut there: impl FnMut() -> bool) {
    let began = Instant::now();
    while !there() {
        assert!(began.elapsed() < PATIENCE, "{what}");
    }
}
