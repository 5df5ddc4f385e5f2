//! An agent whose clock is wrong, by libfaketime: it is told by a signed answer and goes
//! on at once, and logs in; one whose clock is set while its tunnel is open; a pairing
//! link that is too old; and an answer that takes long.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use katachi_protocol::channel::PairingFragment;
use katachi_protocol::run::RunEvent;
use libtest_mimic::Trial;

use crate::support::browser::{Browser, EMAIL};
use crate::support::device::Device;
use crate::support::far::Far;
use crate::support::meeting::{Meeting, get, run, session_of, text_of};
use crate::support::pair::Pair;
use crate::support::place::{Place, Said};
use crate::support::up::{Up, block_on};
use crate::support::{self, far, needing, up};

pub(crate) fn trials() -> Vec<Trial> {
    let case =
        |name: &str, test: fn()| needing("libfaketime", support::faketime().is_some(), name, test);
    vec![
        case(
            "s38_a_clock_ten_minutes_off_costs_one_repetition",
            a_clock_ten_minutes_off_costs_one_repetition,
        ),
        case(
            "e18_a_link_is_good_for_ten_minutes",
            a_link_is_good_for_ten_minutes,
        ),
        case(
            "s38_a_machine_whose_clock_is_ten_minutes_off_logs_in",
            a_machine_whose_clock_is_wrong_logs_in,
        ),
        needing(
            "user namespaces and libfaketime",
            support::faketime().is_some() && support::can_confine(),
            "a_clock_that_is_set_while_the_tunnel_is_open_breaks_nothing",
            a_clock_that_is_set_while_the_tunnel_is_open,
        ),
        needing(
            "user namespaces and libfaketime",
            support::faketime().is_some() && support::can_confine(),
            "an_answer_that_is_silent_for_an_hour_is_not_taken_for_cut_off",
            an_answer_that_is_silent_for_an_hour,
        ),
    ]
}

/// `command` with its clock as `offset`, a file, says at each moment.
fn with_clock(mut command: Command, offset: &Path) -> Command {
    command
        .env("LD_PRELOAD", support::faketime().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", offset)
        .env("FAKETIME_NO_CACHE", "1")
        // Time that passes is right; which time it is, is not.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    command
}

fn a_clock_ten_minutes_off_costs_one_repetition() {
    block_on(async {
        let mut pair = Pair::meet(Far::start(), "", &[]).await;
        for offset in ["-600", "+600"] {
            let clock = pair.place.file("clock", offset);
            let command = with_clock(pair.place.command(), &clock);
            let relay = [
                "--relay-url",
                &pair.far.url,
                "--relay-ca",
                &pair.far.authority,
            ];
            up::signal("-TERM", &pair.up.child);
            pair.up.child.wait().unwrap();
            pair.up = Up::start_by(command, &relay);
            pair.up.wait_for("Connected.");
            pair.meeting.is_online().await;
            let answer = pair.meeting.ask(&pair.device, get("/v1/status")).await;
            assert_eq!(answer.unwrap().status, 200, "{offset}");
            // Whoever asks is told by how much it is wrong.
            let mut command = with_clock(pair.place.command(), &clock);
            let doctor = command.args(["doctor", "--json"]).args(relay).output();
            let doctor = String::from_utf8(doctor.unwrap().stdout).unwrap();
            let (_, known) = doctor.split_once("\"clock\"").expect(&doctor);
            let known = known.split_once(" ms from the relay's").expect(&doctor).0;
            let known: i64 = known.rsplit('"').next().unwrap().parse().unwrap();
            let expected = -1000 * offset.parse::<i64>().unwrap();
            assert!((known - expected).abs() < 30_000, "{offset}: {known}");
        }
        // Neither was a trouble that anybody was told of.
        let said = pair.up.stop_and_show();
        assert!(!said.contains("Not connected"), "{said}");
    });
}

impl Pair {
    /// Heartbeats that the relay answered so far.
    fn heartbeats(&self) -> usize {
        let log = self
            .place
            .agent(&["audit", "--json", "--limit", "1000"])
            .ok();
        let entries = log.lines().map(|line| serde_json::from_str(line).unwrap());
        let answered = entries.filter(|entry: &serde_json::Value| {
            entry["call"] == "POST /v1/agent/heartbeat" && entry["outcome"] == "answered"
        });
        answered.count()
    }
}

fn a_clock_that_is_set_while_the_tunnel_is_open() {
    block_on(async {
        let mut pair = Pair::meet(Far::start(), "", &[]).await;
        up::signal("-TERM", &pair.up.child);
        pair.up.child.wait().unwrap();
        let clock = pair.place.file("clock", "+0");
        let relay = [
            "--relay-url",
            &pair.far.url,
            "--relay-ca",
            &pair.far.authority,
        ];
        pair.up = Up::start_by(with_clock(pair.place.command(), &clock), &relay);
        pair.up.wait_for("Connected.");
        pair.meeting.is_online().await;
        let beat = run(&["sh", "-c", "while true; do echo beat; sleep 0.1; done"]);
        let mut answer = pair.meeting.ask(&pair.device, beat).await.unwrap();
        // An hour ahead, and then two hours back.
        for offset in ["+3600", "-3600"] {
            let (before, began) = (pair.heartbeats(), Instant::now());
            std::fs::write(&clock, offset).unwrap();
            let status = pair.meeting.ask(&pair.device, get("/v1/status")).await;
            assert_eq!(status.unwrap().status, 200, "{offset}");
            // What ran goes on, and the relay goes on hearing of this machine.
            while pair.heartbeats() == before {
                assert!(began.elapsed() < up::PATIENCE, "{offset}: no heartbeat");
                let piece = tokio::time::timeout(up::PATIENCE, answer.piece()).await;
                piece.expect("silence").unwrap().expect("an end");
            }
        }
        drop(answer);
        let said = pair.up.stop_and_show();
        assert!(!said.contains("Not connected"), "{said}");
    });
}

/// The proofs of a login carry a time too, and nothing is known yet of the relay's.
fn a_machine_whose_clock_is_wrong_logs_in() {
    let far = Far::start();
    let relay = ["--relay-url", &far.url, "--relay-ca", &far.authority];
    let ca = std::fs::read_to_string(&far.own_authority).unwrap();
    block_on(async {
        let browser = Browser::at(far::ADDRESS, &far.url, &ca);
        browser.sign_up(EMAIL).await;
        for offset in ["-600", "+600"] {
            let place = Place::new();
            let clock = place.file("clock", offset);
            let mut up = Up::start_by(with_clock(place.command(), &clock), &relay);
            up.wait_for("https://");
            browser.approve(&up.wait_for("code ")).await;
            up.wait_for("Connected.");
            up.stop();
        }
        assert_eq!(browser.agents().await.agents.len(), 2);
    });
}

/// What another command makes of an answer goes by whether `up` runs, not by the time.
fn an_answer_that_is_silent_for_an_hour() {
    let config = "[ai]\ncommand = [\"sh\", \"silent.sh\"]\n";
    block_on(async {
        let mut pair = Pair::meet(Far::start(), config, &[]).await;
        let silent = "cat >/dev/null; echo begun.; until [ -e go ]; do sleep 0.1; done; echo done.";
        std::fs::write(pair.place.workspace().join("silent.sh"), silent).unwrap();
        let (clock, go) = (
            pair.place.file("clock", "+3600"),
            pair.place.workspace().join("go"),
        );
        let interrupted = |place: &Place| {
            let mut later = with_clock(place.command(), &clock);
            let listed = later.args(["history", "list", "--json"]).output().unwrap();
            let listed: serde_json::Value = serde_json::from_str(&Said::from(listed).ok()).unwrap();
            listed[0]["interrupted"].as_u64().unwrap()
        };
        let answer = pair
            .meeting
            .follow(&pair.device, (None, "a long tool"), async |event| {
                if let RunEvent::Output { data, .. } = event
                    && data.contains("begun.")
                {
                    assert_eq!(interrupted(&pair.place), 0);
                    std::fs::write(&go, "").unwrap();
                }
                true
            });
        let answer = answer.await;
        assert_eq!(text_of(&answer), "begun.\ndone.\n");
        let session = session_of(&answer);
        let shown = pair.place.agent(&["history", "show", "--json", &session]);
        let shown: serde_json::Value = serde_json::from_str(&shown.ok()).unwrap();
        assert_eq!(shown[1]["state"], "complete");
        assert_eq!(shown[1]["text"], "begun.\ndone.\n");
        // Once it does not run, what it was writing is known to be cut off, at any time.
        std::fs::remove_file(&go).unwrap();
        let message = (Some(session.as_str()), "again");
        let follow = pair.meeting.follow(&pair.device, message, async |event| {
            let begun = matches!(event, RunEvent::Output { data, .. } if data.contains("begun."));
            if begun {
                up::signal("-KILL", &pair.up.child);
            }
            !begun
        });
        follow.await;
        pair.up.child.wait().unwrap();
        let listed = pair.place.agent(&["history", "list"]).ok();
        assert!(listed.contains("  1 interrupted"), "{listed}");
    });
}

fn a_link_is_good_for_ten_minutes() {
    let place = Place::new();
    let clock = place.file("clock", "+0");
    let mut up = Up::start_by(with_clock(place.command(), &clock), &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let fragment = up.fragment.take().unwrap();
        let late = Device::new(&fragment, "late").unwrap();
        for (offset, is_good) in [("+605", false), ("+700", false), ("+0", false)] {
            std::fs::write(&clock, offset).unwrap();
            let asked = meeting.ask(&late, get("/v1/status")).await;
            assert_eq!(asked.is_ok(), is_good, "{offset}: once too old, it is gone");
        }
        // One that is made then is as good as any, up to its own end.
        std::fs::write(&clock, "+700").unwrap();
        let link = with_clock(place.command(), &clock);
        let link = Said::from({ link }.args(["device", "pair"]).output().unwrap()).ok();
        let (_, fragment) = link.trim().split_once('#').unwrap();
        let fragment = PairingFragment::parse(fragment).unwrap();
        std::fs::write(&clock, "+1290").unwrap();
        let device = Device::new(&fragment, "in time").unwrap();
        let answer = meeting.ask(&device, get("/v1/status")).await.unwrap();
        assert_eq!(answer.status, 200);
    });
    let listed = place.agent(&["device", "list"]).ok();
    assert!(
        listed.contains("in time") && !listed.contains("late"),
        "{listed}"
    );
    up.stop();
}
