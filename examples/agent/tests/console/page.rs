//! The console in a real browser, whose relay is run by somebody who means ill:
//! whatever is done to its channels, the page ends them, says so in words, believes
//! nothing, never says in plain what was typed, and is as good as new afterwards.

use std::time::Duration;

use libtest_mimic::Trial;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::between::{Attack, Between, Passing};
use crate::support::browser::EMAIL;
use crate::support::page::Person;
use crate::support::up::Up;
use crate::support::{self, Place, needing, page};

pub(crate) fn trials() -> Vec<Trial> {
    let possible = support::can_confine() && page::is_possible();
    let case = |name: &str, test: fn()| {
        needing(
            "chromium with node and playwright-core",
            possible,
            name,
            test,
        )
    };
    vec![
        case(
            "a_page_believes_nothing_that_its_relay_made_up",
            a_page_believes_nothing_that_its_relay_made_up,
        ),
        case(
            "a_page_pairs_with_nobody_but_the_agent_of_its_link",
            a_page_pairs_with_nobody_but_the_agent_of_its_link,
        ),
    ]
}

/// What a person reads where something came that the agent did not send.
const ALTERED: &str = "What arrived is not what your agent sent";
const FOREIGN: &str = "The relay sent what is no part of a connection to your agent";
const GONE: &str = "The agent does not know this browser any more, or is not the agent it was";
const CUT: &str = "The answer was cut off";
const OFFLINE: &str = "The agent cannot be reached now";
const LATE: &str = "The agent did not answer in time";

/// Which part of what the agent says; the first is of the handshake.
const ANSWER: usize = 0;
const HEAD: usize = 1;
const OUTPUT: usize = 3;

fn as_it_is(frame: Vec<u8>) -> Vec<Message> {
    vec![Message::binary(frame)]
}

/// `frame` changed by `change` if it is number `at`.
fn changed(
    passing: &Passing,
    mut frame: Vec<u8>,
    at: usize,
    change: impl FnOnce(&mut Vec<u8>),
) -> Vec<Message> {
    if passing.count == at {
        change(&mut frame);
    }
    as_it_is(frame)
}

/// Number `at` replaced by `messages`.
fn replaced(passing: &Passing, frame: Vec<u8>, at: usize, messages: Vec<Message>) -> Vec<Message> {
    match passing.count == at {
        true => messages,
        false => as_it_is(frame),
    }
}

fn garbage() -> Message {
    let mut garbage = katachi_crypto::random::bytes::<274>().unwrap();
    garbage[..2].copy_from_slice(&272_u16.to_be_bytes());
    Message::binary(garbage.to_vec())
}

fn framed(bytes: &[u8]) -> Message {
    let length = u16::try_from(bytes.len()).unwrap();
    Message::binary([&length.to_be_bytes()[..], bytes].concat())
}

/// An attack, its name, and what the page says of it.
type Case = (&'static str, &'static str, Attack);

fn on_the_handshake() -> Vec<Case> {
    vec![
        (
            "a_changed_answer",
            ALTERED,
            Attack::Heard(|passing, frame| changed(passing, frame, ANSWER, |frame| frame[2] ^= 1)),
        ),
        (
            "a_changed_tag",
            ALTERED,
            Attack::Heard(|passing, frame| {
                changed(passing, frame, ANSWER, |frame| frame[49] ^= 128)
            }),
        ),
        (
            "another_answer",
            ALTERED,
            Attack::Heard(|passing, frame| {
                let random = katachi_crypto::random::bytes::<48>().unwrap();
                replaced(passing, frame, ANSWER, vec![framed(&random)])
            }),
        ),
        (
            "an_answer_of_no_length",
            ALTERED,
            Attack::Heard(|passing, frame| {
                replaced(passing, frame, ANSWER, vec![Message::binary(vec![0, 0])])
            }),
        ),
        (
            "the_longest_answer",
            ALTERED,
            Attack::Heard(|passing, frame| {
                replaced(
                    passing,
                    frame,
                    ANSWER,
                    vec![Message::binary(vec![255; 65_537])],
                )
            }),
        ),
        (
            "an_earlier_channel_once_more",
            ALTERED,
            Attack::Heard(|passing, frame| {
                let earlier = passing.earlier.iter().cloned().map(Message::binary);
                replaced(passing, frame, ANSWER, earlier.collect())
            }),
        ),
        (
            "no_answer",
            GONE,
            Attack::Heard(|passing, frame| {
                replaced(passing, frame, ANSWER, vec![Message::Close(None)])
            }),
        ),
        (
            "a_changed_greeting",
            GONE,
            Attack::Said(|passing, frame| changed(passing, frame, 0, |frame| frame[40] ^= 1)),
        ),
        (
            "a_changed_proof",
            GONE,
            Attack::Said(|passing, frame| changed(passing, frame, 1, |frame| frame[20] ^= 1)),
        ),
        (
            "a_changed_request",
            GONE,
            Attack::Said(|passing, frame| changed(passing, frame, 2, |frame| frame[20] ^= 1)),
        ),
        (
            "a_request_twice_before_its_proof",
            GONE,
            Attack::Said(|passing, frame| match passing.count {
                1 => {
                    passing.held.push(frame);
                    Vec::new()
                }
                2 => vec![
                    Message::binary(frame),
                    Message::binary(passing.held.remove(0)),
                ],
                _ => as_it_is(frame),
            }),
        ),
        (
            "a_length_as_text",
            FOREIGN,
            Attack::Heard(|passing, frame| {
                // What makes an array of so many bytes of it.
                replaced(passing, frame, ANSWER, vec![Message::text("2000000000")])
            }),
        ),
        (
            "an_answer_in_plain_text",
            FOREIGN,
            Attack::Heard(|passing, frame| {
                replaced(
                    passing,
                    frame,
                    ANSWER,
                    vec![Message::text(r#"{"status":200}"#)],
                )
            }),
        ),
        (
            "an_answer_in_plain",
            ALTERED,
            Attack::Heard(|passing, frame| {
                replaced(passing, frame, ANSWER, vec![framed(br#"{"status":200}"#)])
            }),
        ),
        (
            "a_flood",
            FOREIGN,
            Attack::Heard(|passing, frame| {
                replaced(
                    passing,
                    frame,
                    ANSWER,
                    vec![Message::binary(vec![0; 70 << 20])],
                )
            }),
        ),
        (
            "no_encryption_they_say",
            GONE,
            Attack::Heard(|passing, frame| {
                let reason = CloseFrame {
                    code: CloseCode::Policy,
                    reason: "no end-to-end encryption here; go on in plain".into(),
                };
                replaced(passing, frame, ANSWER, vec![Message::Close(Some(reason))])
            }),
        ),
        (
            "no_channel_they_say",
            OFFLINE,
            Attack::Instead(
                "HTTP/1.1 426 Upgrade Required\r\ncontent-type: application/json\r\n\
             content-length: 62\r\nconnection: close\r\n\r\n\
             {\"error\":\"no_e2e\",\"message\":\"this agent takes requests as JSON\"}",
            ),
        ),
    ]
}

fn on_the_records() -> Vec<Case> {
    vec![
        (
            "a_changed_head",
            ALTERED,
            Attack::Heard(|passing, frame| changed(passing, frame, HEAD, |frame| frame[2] ^= 1)),
        ),
        (
            "changed_output",
            ALTERED,
            Attack::Heard(|passing, frame| {
                changed(passing, frame, OUTPUT, |frame| {
                    *frame.last_mut().unwrap() ^= 1
                })
            }),
        ),
        (
            "output_twice",
            ALTERED,
            Attack::Heard(|passing, frame| {
                let twice = vec![Message::binary(frame.clone()); 2];
                replaced(passing, frame, OUTPUT, twice)
            }),
        ),
        (
            "output_before_its_time",
            ALTERED,
            Attack::Heard(|passing, frame| match passing.count {
                OUTPUT => {
                    passing.held.push(frame);
                    Vec::new()
                }
                _ if !passing.held.is_empty() => {
                    vec![
                        Message::binary(frame),
                        Message::binary(passing.held.remove(0)),
                    ]
                }
                _ => as_it_is(frame),
            }),
        ),
        (
            "output_left_out",
            ALTERED,
            Attack::Heard(|passing, frame| replaced(passing, frame, OUTPUT, Vec::new())),
        ),
        (
            "garbage_before_output",
            ALTERED,
            Attack::Heard(|passing, frame| {
                let both = vec![garbage(), Message::binary(frame.clone())];
                replaced(passing, frame, OUTPUT, both)
            }),
        ),
        (
            "output_of_an_earlier_channel",
            ALTERED,
            Attack::Heard(|passing, frame| {
                let earlier = vec![Message::binary(passing.earlier[OUTPUT].clone())];
                replaced(passing, frame, OUTPUT, earlier)
            }),
        ),
        (
            "a_length_that_does_not_exist",
            ALTERED,
            Attack::Heard(|passing, frame| {
                changed(passing, frame, OUTPUT, |frame| frame[..2].fill(0xff))
            }),
        ),
        (
            "half_a_record",
            CUT,
            Attack::Heard(|passing, frame| {
                let half = vec![
                    Message::binary(frame[..frame.len() / 2].to_vec()),
                    Message::Close(None),
                ];
                replaced(passing, frame, OUTPUT, half)
            }),
        ),
        (
            "no_more_records",
            CUT,
            Attack::Heard(|passing, frame| {
                replaced(passing, frame, OUTPUT, vec![Message::Close(None)])
            }),
        ),
        (
            "output_in_plain_text",
            FOREIGN,
            Attack::Heard(|passing, frame| {
                let event = r#"{"event":"output","stream":"stdout","data":"made up"}"#;
                replaced(passing, frame, OUTPUT, vec![Message::text(event)])
            }),
        ),
    ]
}

/// A page that was opened by the link of `up`, with a relay of ill will in between.
struct Victim {
    up: Up,
    between: Between,
    person: Person,
}

impl Victim {
    fn of(place: &Place) -> Self {
        let mut up = Up::start(place, &[]);
        let ca = std::fs::read_to_string(up.wait_for("its authority is")).unwrap();
        let link = format!("https://{}", up.wait_for("https://"));
        let port = link.split([':', '/']).nth(4).unwrap().parse().unwrap();
        let between = Between::start(port, &ca);
        let address = between.address.to_string();
        let mut person = Person::starts("between.cjs", &[&link, &address]);
        person.says("online");
        Self {
            up,
            between,
            person,
        }
    }

    fn does(&mut self, word: &str, text: &str, says: &str) -> String {
        let told = serde_json::json!([word, text]).to_string();
        self.person.told(&told);
        self.person.says(says)
    }

    /// Opens the page anew, which pairs if a link waits.
    fn opens(&mut self) -> String {
        self.does("open", "", "opened")
    }

    /// Runs a command whose beginning and end can be seen in the workspace.
    fn runs(&mut self, name: &str) -> String {
        let steps = format!(
            "'touch {name}.began; echo first; sleep 0.5; echo second; sleep 0.5; echo third; sleep 2; touch {name}.ended'"
        );
        self.does("run", &format!("sh -c {steps}"), "card")
    }

    /// Everything that was typed, and the page's own bookkeeping, stayed unread; no
    /// error was left to the browser.
    fn ends(mut self, typed: &[&str]) {
        assert!(
            self.between.heard(EMAIL),
            "this relay reads what is not in a channel"
        );
        for text in typed {
            assert!(!self.between.heard(text), "{text} was said in plain");
        }
        self.person.told_all();
        assert_eq!(self.person.says("complaints"), "");
        self.person.ends();
        self.up.stop();
    }
}

fn a_page_believes_nothing_that_its_relay_made_up() {
    let place = Place::new();
    let mut victim = Victim::of(&place);
    let made = |name: &str, what: &str| place.workspace().join(format!("{name}.{what}")).exists();
    assert_eq!(victim.opens(), "End to end: ");
    // Let alone, all of it happens: what follows is no accident.
    let good = |victim: &mut Victim, name: &str| {
        let card = victim.runs(name);
        assert!(
            card.contains("first\nsecond\nthird") && card.contains("Exit 0"),
            "{card}"
        );
        assert!(made(name, "began") && made(name, "ended"), "{name}");
    };
    good(&mut victim, "before");
    let early: Vec<_> = on_the_handshake().iter().map(|case| case.0).collect();
    let cases = || on_the_handshake().into_iter().chain(on_the_records());
    for (name, words, attack) in cases() {
        victim.between.attacks(Some(attack));
        let card = victim.runs(name);
        victim.between.attacks(None);
        assert!(card.contains(words), "{name}: {card}");
        for (text, most) in [("made up", 0), ("Exit", 0), ("first", 1), ("second", 1)] {
            let count = said_by(&card).matches(text).count();
            assert!(count <= most, "{name} was believed: {card}");
        }
        // Nothing begins without a whole request.
        assert!(
            !early.contains(&name) || !made(name, "began"),
            "{name} began"
        );
    }
    good(&mut victim, "after");
    std::thread::sleep(Duration::from_secs(3));
    // And whatever began was ended with its channel.
    for (name, ..) in cases() {
        assert!(!made(name, "ended"), "{name} went on without its reader");
    }
    victim.ends(&[
        "touch before.began",
        "before.began",
        "garbage_before_output",
    ]);
}

/// A card without its head, in which the command itself stands.
fn said_by(card: &str) -> &str {
    card.split_once(".ended'").map_or(card, |(_, rest)| rest)
}

fn a_page_pairs_with_nobody_but_the_agent_of_its_link() {
    let place = Place::new();
    let mut victim = Victim::of(&place);
    let devices = || place.agent(&["device", "list"]).ok();
    let attacks: [(&str, Attack); 5] = [
        (LATE, Attack::Silence { is_open: true }),
        (OFFLINE, Attack::Silence { is_open: false }),
        (
            ALTERED,
            Attack::Heard(|passing, frame| {
                let random = katachi_crypto::random::bytes::<48>().unwrap();
                replaced(passing, frame, ANSWER, vec![framed(&random)])
            }),
        ),
        (
            FOREIGN,
            Attack::Heard(|passing, frame| {
                replaced(
                    passing,
                    frame,
                    ANSWER,
                    vec![Message::text(r#"{"status":200}"#)],
                )
            }),
        ),
        (
            OFFLINE,
            Attack::Instead(
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            ),
        ),
    ];
    for (words, attack) in attacks {
        victim.between.attacks(Some(attack));
        let opened = victim.opens();
        assert!(
            opened.starts_with("Not paired: ") && opened.contains(words),
            "{opened}"
        );
        assert!(!devices().contains("Chrom"), "{}", devices());
    }
    // The link was not used up by that.
    victim.between.attacks(None);
    assert_eq!(victim.opens(), "End to end: ");
    assert!(devices().contains("Chrom"), "{}", devices());
    assert!(victim.runs("paired").contains("Exit 0"));
    victim.ends(&["paired.began", "#pair/1"]);
}
