//! People at the console of a running `up`, in Chromium: one with a mouse, and one who
//! has a keyboard alone. What they type stands in no byte of the relay. Pictures of
//! what they see are kept in `target/console`.

use libtest_mimic::Trial;

use crate::capture;
use crate::outside;
use crate::support::browser::EMAIL;
use crate::support::up::Up;
use crate::support::{self, Place, needing, page};

pub(crate) fn trials() -> Vec<Trial> {
    let possible = support::can_confine() && page::is_possible();
    vec![
        needing(
            page::NEEDED,
            possible,
            "a_person_in_a_browser_approves_and_sees_the_output",
            a_person_in_a_browser_approves_and_sees_the_output,
        ),
        needing(
            page::NEEDED,
            possible,
            "a_keyboard_is_enough",
            a_keyboard_is_enough,
        ),
        needing(
            "chromium with node and playwright-core, tcpdump and root",
            possible && capture::is_possible(),
            "nothing_that_a_person_types_passes_or_is_logged_in_plain",
            nothing_that_a_person_types_passes_or_is_logged_in_plain,
        ),
    ]
}

fn a_person_in_a_browser_approves_and_sees_the_output() {
    let place = Place::new();
    std::fs::write(place.workspace().join("plums.txt"), "two plums\n").unwrap();
    let policy = place.asking();
    let policy = policy.to_str().unwrap();
    let options = ["--ai-command", "sed s/^/heard:/", "--policy", policy];
    let mut up = Up::start(&place, &options);
    let link = format!("https://{}", up.wait_for("https://"));
    let code = up.wait_for("code ");
    let relay = up.relay();
    let said = page::browse(&link);
    let held = |text: &str| outside::in_memory(relay, text.as_bytes()).unwrap();
    // What was typed in the browser stands in no byte of the relay; what the
    // relay does know shows that the search finds things.
    assert!(held(EMAIL) > 0, "the search finds nothing");
    for text in ["quince-jelly-51c0de77", "when do plums ripen?"] {
        assert_eq!(held(text), 0, "the relay knows {text}");
    }
    for (path, bytes) in place.stored() {
        let found = bytes
            .windows(21)
            .any(|window| window == b"quince-jelly-51c0de77");
        // The agent's own log says which commands it ran.
        assert!(
            !found || path.ends_with("state/audit.jsonl"),
            "{}",
            path.display()
        );
    }
    // Nor in any row of what it keeps, which is encrypted on the disk: decrypted here.
    let stored = place.stored();
    let database = stored.iter().find(|(path, _)| path.ends_with("relay.db"));
    let state = database.unwrap().0.parent().unwrap();
    let rows = format!("{:?}", crate::embedded::tables(state));
    assert!(
        rows.contains(EMAIL) && rows.contains("tunnel_opened"),
        "{rows}"
    );
    for text in ["quince-jelly", "when do plums ripen?", "approved-by-mia"] {
        let digits: String = text.bytes().map(|byte| format!("{byte:02X}")).collect();
        let is_there = rows.contains(text) || rows.contains(&digits);
        assert!(!is_there, "the relay keeps {text}: {rows}");
    }
    let shown = |what: &str| {
        let texts = said.iter().filter(|(kind, _)| kind == what);
        texts
            .map(|(_, text)| text.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(shown("error"), "", "{said:#?}");
    assert_eq!(shown("foreign"), "", "the page asked another host");
    assert_eq!(shown("fault"), "", "faults of accessibility");
    assert!(shown("device").contains(&code), "{said:#?}");
    assert!(shown("agent").contains("End to end"), "{said:#?}");
    assert!(shown("devices").contains("(this browser)"), "{said:#?}");
    assert!(shown("removed").contains("device pair"), "{said:#?}");
    // Its signature counts, so what fails is that no such program is allowed.
    let tools = shown("tools");
    assert!(tools.contains("weather-mcp --stdio two words"), "{said:#?}");
    assert!(tools.contains("no program \"weather-mcp\""), "{said:#?}");
    assert!(!tools.contains("Not started"), "{said:#?}");
    for text in ["touch", "approved-by-mia", "commands.ask"] {
        assert!(shown("asked").contains(text), "{text}: {said:#?}");
    }
    let decided = shown("decided");
    assert!(decided.contains("Deny: Exit 126"), "{said:#?}");
    assert!(decided.contains("Approve: Exit 0"), "{said:#?}");
    assert!(place.workspace().join("approved-by-mia").exists());
    assert!(
        shown("asked elsewhere").contains("approved-elsewhere"),
        "{said:#?}"
    );
    assert!(shown("decided elsewhere").contains("Exit 0"), "{said:#?}");
    assert!(place.workspace().join("approved-elsewhere").exists());
    let withdrawn = shown("withdrawn");
    assert!(
        withdrawn.contains("Stopped") && withdrawn.contains("0 buttons"),
        "{said:#?}"
    );
    assert!(!place.workspace().join("never-approved").exists());
    let log = shown("log");
    for text in [
        "two plums",
        "Denied",
        "commands.allow",
        "tick 3",
        "quince-jelly-51c0de77",
        "heard:when do plums ripen?",
    ] {
        assert!(log.contains(text), "{text}: {said:#?}");
    }
    up.stop();
}

fn nothing_that_a_person_types_passes_or_is_logged_in_plain() {
    let place = Place::new();
    std::fs::write(place.workspace().join("plums.txt"), "two plums\n").unwrap();
    let policy = place.asking();
    let policy = policy.to_str().unwrap();
    let options = ["--ai-command", "sed s/^/heard:/", "--policy", policy];
    let capture = capture::Capture::start();
    let mut command = place.command();
    command.env("KATACHI_LOG", "debug");
    let mut up = Up::start_by(command, &options);
    // The log names addresses too; the link alone has a secret behind its `#`.
    let mut addresses = std::iter::repeat_with(|| up.wait_for("https://"));
    let link = addresses.find(|address| address.contains('#')).unwrap();
    let said = page::browse(&format!("https://{link}"));
    let shown = up.stop_and_show();
    let port = link.split([':', '/']).nth(1).unwrap().parse().unwrap();
    let packets = capture.end(port);
    // The agent passes on what the relay, a process of its own, writes.
    let log: Vec<&str> = shown
        .lines()
        .filter(|line| line.contains(" relay: "))
        .collect();
    let logged = |text: &str| log.iter().any(|line| line.contains(text));
    // It all happened, and the search finds what is there: the name of the relay
    // passes before anything is encrypted.
    let happened = |text: &str| said.iter().any(|(_, shown)| shown.contains(text));
    assert!(packets.hold("katachi.localhost"));
    assert!(logged("/api/agents"), "{shown}");
    for text in [
        "quince-jelly-51c0de77",
        "two plums",
        EMAIL,
        "approved-by-mia",
    ] {
        assert!(happened(text) || text == EMAIL, "{text}: {said:#?}");
        assert!(!packets.hold(text), "{text} passed in plain");
        assert!(!logged(text), "{text} is in the relay's log");
    }
}

fn a_keyboard_is_enough() {
    let place = Place::new();
    let policy = place.asking();
    let policy = policy.to_str().unwrap();
    let options = ["--ai-command", "sed s/^/heard:/", "--policy", policy];
    let mut up = Up::start(&place, &options);
    let link = format!("https://{}", up.wait_for("https://"));
    let said = page::browse_by("keyboard.cjs", &link);
    let done: Vec<_> = said.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(done, ["approved", "denied", "done"], "{said:#?}");
    assert!(place.workspace().join("approved-by-keys").exists());
    assert!(!place.workspace().join("denied-by-keys").exists());
    up.stop();
}
