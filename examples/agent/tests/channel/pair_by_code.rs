//! Pairing by numbers that a person compares: the terminal, `up` and a browser.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStderr, ChildStdin, Stdio};

use katachi_protocol::channel::{Devices, Mode};
use libtest_mimic::Trial;

use crate::stranger::{self, Stranger};
use crate::support::browser::EMAIL;
use crate::support::meeting::Meeting;
use crate::support::up::{Up, block_on};
use crate::support::{self, Place, browser, needing, page};

pub(crate) fn trials() -> Vec<Trial> {
    let unix = |name: &str, test: fn()| needing("unix signals", cfg!(unix), name, test);
    vec![
        unix("the_right_numbers_pair_one_browser", right_numbers_pair),
        unix("wrong_numbers_pair_nobody_and_end_it", wrong_numbers_end_it),
        unix("a_middleman_shows_other_numbers", a_middleman_is_seen),
        unix("nobody_pairs_who_was_not_waited_for", nobody_waits),
        unix("one_browser_gets_the_attempt", one_browser_gets_it),
        unix("a_browser_that_leaves_ends_it", a_browser_that_leaves),
        unix(
            "a_browser_that_does_not_confirm_is_not_paired",
            not_confirmed,
        ),
        needing(
            page::NEEDED,
            support::can_confine() && page::is_possible(),
            "a_person_compares_numbers_in_a_browser",
            a_person_compares,
        ),
    ]
}

/// `device pair --code` as a person sees it.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: BufReader<ChildStderr>,
}

impl Terminal {
    fn start(place: &Place) -> Self {
        let mut child = place
            .command()
            .args(["device", "pair", "--code"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (keys, screen) = (child.stdin.take(), child.stderr.take());
        let mut terminal = Self {
            child,
            keys: keys.unwrap(),
            screen: BufReader::new(screen.unwrap()),
        };
        terminal.shows("choose this machine");
        terminal
    }

    /// Reads up to what contains `mark`, which may be a question without an end.
    fn shows(&mut self, mark: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(mark) {
            let piece = self.screen.fill_buf().unwrap();
            assert!(!piece.is_empty(), "`{mark}` did not come: {seen}");
            seen.push_str(std::str::from_utf8(piece).unwrap());
            let length = piece.len();
            self.screen.consume(length);
        }
        seen
    }

    fn types(&mut self, text: &str) {
        self.shows("Type the three numbers");
        writeln!(self.keys, "{text}").unwrap();
    }

    /// The exit code and what was left on the screen.
    fn ends(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.screen, &mut rest).unwrap();
        (code, rest)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn devices(place: &Place) -> Vec<String> {
    let listed = place.agent(&["device", "list", "--json"]).ok();
    let devices: Devices = serde_json::from_str(&listed).unwrap();
    devices.devices.into_iter().map(|one| one.name).collect()
}

fn right_numbers_pair() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let mut terminal = Terminal::start(&place);
        let stranger = Stranger::meets(&meeting).await.unwrap();
        // However they are separated.
        terminal.types(&stranger.numbers().replace(' ', "-"));
        terminal.shows("The same numbers");
        assert_eq!(devices(&place), [""; 0], "the browser has not confirmed");
        let status = stranger.confirms("Ana's phone").await.unwrap();
        assert_eq!(status, 200);
        let (code, _) = terminal.ends();
        assert_eq!(code, Some(0));
        assert_eq!(devices(&place), ["Ana's phone"]);
        // The attempt is over.
        assert!(Stranger::meets(&meeting).await.is_err());
    });
    up.stop();
    let audit = place.agent(&["audit", "--json"]).ok();
    assert!(audit.contains("pairing by code"), "{audit}");
}

fn wrong_numbers_end_it() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let mut terminal = Terminal::start(&place);
        let stranger = Stranger::meets(&meeting).await.unwrap();
        let numbers = stranger.numbers();
        let (first, rest) = numbers.split_at(1);
        let first = if first == "9" { "8" } else { "9" };
        terminal.types(&format!("{first}{rest}"));
        let (code, said) = terminal.ends();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("nothing was paired"), "{said}");
        assert!(stranger.confirms("Eve").await.is_err());
        assert!(Stranger::meets(&meeting).await.is_err());
    });
    assert_eq!(devices(&place), [""; 0]);
    up.stop();
}

/// Two handshakes, as a relay would have to run them.
fn a_middleman_is_seen() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let mut terminal = Terminal::start(&place);
        // The victim's browser was answered by someone with a key of their own.
        let victim = stranger::numbers_with_someone_else();
        let relay = Stranger::meets(&meeting).await.unwrap();
        assert_ne!(victim, relay.numbers());
        terminal.types(&victim);
        let (code, said) = terminal.ends();
        assert_eq!(code, Some(1), "{said}");
        assert!(relay.confirms("the relay").await.is_err());
    });
    assert_eq!(devices(&place), [""; 0]);
    up.stop();
}

fn nobody_waits() {
    let place = Place::new();
    let alone = place.agent(&["device", "pair", "--code"]).refused(2);
    assert!(alone.contains("not registered"), "{alone}");
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        assert!(Stranger::meets(&meeting).await.is_err());
        // A link that waits is for its secret and not for numbers.
        place.agent(&["device", "pair"]).ok();
        assert!(Stranger::meets(&meeting).await.is_err());
        // Nor do numbers open what is for a paired device.
        let _terminal = Terminal::start(&place);
        let asked = Stranger::meets_as(&meeting, Mode::Resume).await;
        assert!(asked.is_err());
    });
    up.stop();
    let stopped = place.agent(&["device", "pair", "--code"]).refused(2);
    assert!(stopped.contains("does not run"), "{stopped}");
}

fn one_browser_gets_it() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let mut terminal = Terminal::start(&place);
        let strangers = (0..6).map(|_| Stranger::meets(&meeting));
        let mut met = futures_util::future::join_all(strangers).await;
        met.retain(Result::is_ok);
        assert_eq!(met.len(), 1, "one of six");
        let stranger = met.remove(0).unwrap();
        terminal.types(&stranger.numbers());
        terminal.shows("The same numbers");
        stranger.confirms("the one").await.unwrap();
        assert_eq!(terminal.ends().0, Some(0));
    });
    assert_eq!(devices(&place), ["the one"]);
    up.stop();
}

fn a_browser_that_leaves() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let mut terminal = Terminal::start(&place);
        let stranger = Stranger::meets(&meeting).await.unwrap();
        let numbers = stranger.numbers();
        terminal.shows("Type the three numbers");
        drop(stranger);
        std::thread::sleep(std::time::Duration::from_millis(500));
        // Also the right numbers come too late.
        writeln!(terminal.keys, "{numbers}").unwrap();
        let (code, said) = terminal.ends();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("the browser left"), "{said}");
    });
    assert_eq!(devices(&place), [""; 0]);
    up.stop();
}

fn not_confirmed() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let mut terminal = Terminal::start(&place);
        let stranger = Stranger::meets(&meeting).await.unwrap();
        terminal.types(&stranger.numbers());
        terminal.shows("The same numbers");
        drop(stranger);
        let (code, said) = terminal.ends();
        assert_eq!(code, Some(1), "{said}");
    });
    assert_eq!(devices(&place), [""; 0]);
    up.stop();
}

fn a_person_compares() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    let link = block_on(async {
        let meeting = Meeting::of(&mut up).await;
        format!("{}/#agents/{}", meeting.browser.origin(), meeting.agent)
    });
    let pictures = page::pictures();
    let pictures = pictures.to_str().unwrap();
    let told = [&link, EMAIL, browser::PASSWORD, pictures];
    let mut person = page::Person::starts("numbers.cjs", &told);
    // First without anyone at the terminal.
    let refused = person.says("refused");
    assert!(refused.contains("does not wait"), "{refused}");
    // Then with numbers that differ, and at last with the right ones.
    let mut terminal = Terminal::start(&place);
    person.told("begin");
    person.says("numbers");
    terminal.types("1000 1000 1000");
    let refused = person.says("refused");
    assert!(refused.contains("did not accept"), "{refused}");
    assert_eq!(terminal.ends().0, Some(1));
    let mut terminal = Terminal::start(&place);
    person.told("begin");
    terminal.types(&person.says("numbers"));
    terminal.shows("The same numbers");
    person.told("accepted");
    assert_eq!(terminal.ends().0, Some(0));
    assert_eq!(person.says("faults"), "");
    let log = person.says("log");
    assert!(log.contains("through-numbers"), "{log}");
    person.ends();
    assert_eq!(devices(&place).len(), 1);
    up.stop();
}
