//! End to end: a device and the agent, with a relay in between that is trusted
//! with nothing.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_protocol::Sensitive;
use katachi_protocol::approval::{ApprovalRequest, Approvals, Decision};
use katachi_protocol::channel::{ChannelRequest, Devices, Mode, PairingFragment};
use katachi_protocol::run::RunEvent;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::browser::EMAIL;
use crate::support::device::Device;
use crate::support::meeting::{Meeting, get, run, signed};
use crate::support::up::{Up, block_on};
use crate::support::{self, Place, device, needing, up};

pub(crate) fn trials() -> Vec<Trial> {
    let confine = support::can_confine();
    let plain = |name: &str, test: fn()| needing("unix signals", cfg!(unix), name, test);
    let trials = vec![
        plain(
            "a_link_pairs_one_device_and_only_once",
            a_link_pairs_one_device_and_only_once,
        ),
        plain(
            "of_several_devices_with_one_link_one_is_paired",
            of_several_devices_with_one_link_one_is_paired,
        ),
        plain(
            "a_device_that_is_not_paired_gets_no_channel",
            a_device_that_is_not_paired_gets_no_channel,
        ),
        plain(
            "who_knows_only_the_public_part_of_a_link_gets_nothing",
            who_knows_only_the_public_part_of_a_link_gets_nothing,
        ),
        plain(
            "a_relay_that_changes_the_place_gets_no_channel",
            a_relay_that_changes_the_place_gets_no_channel,
        ),
        plain(
            "a_page_of_another_site_opens_no_channel",
            a_page_of_another_site_opens_no_channel,
        ),
        plain(
            "another_pairing_link_ends_the_one_before",
            another_pairing_link_ends_the_one_before,
        ),
        needing(
            "user namespaces",
            confine,
            "a_removed_device_is_cut_off_in_the_middle_of_an_answer",
            a_removed_device_is_cut_off_in_the_middle_of_an_answer,
        ),
        needing(
            "user namespaces",
            confine,
            "a_removed_device_s_command_is_ended_though_it_says_nothing",
            a_removed_device_s_command_is_ended,
        ),
        needing(
            "user namespaces",
            confine,
            "a_device_that_leaves_ends_its_command",
            a_device_that_leaves_ends_its_command,
        ),
        needing(
            "user namespaces",
            confine,
            "a_long_answer_arrives_whole",
            a_long_answer_arrives_whole,
        ),
    ];
    let trials = trials.into_iter().chain([needing(
        "user namespaces",
        confine,
        "a_start_waits_for_the_signed_approval_of_a_paired_device",
        a_start_waits_for_the_signed_approval_of_a_paired_device,
    )]);
    trials.collect()
}

fn a_link_pairs_one_device_and_only_once() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let thief = Device::new(up.fragment.as_ref().unwrap(), "thief").unwrap();
        let device = meeting.paired(&up).await;
        let answer = meeting.ask(&device, get("/v1/devices")).await.unwrap();
        let devices: Devices = serde_json::from_slice(&answer.whole().await.unwrap()).unwrap();
        assert_eq!(devices.devices.len(), 1);
        assert_eq!(devices.devices[0].name, "Ana's laptop");
        assert!(meeting.ask(&thief, get("/v1/status")).await.is_err());
    });
    let listed = place.agent(&["device", "list"]).ok();
    assert!(listed.contains("Ana's laptop"), "{listed}");
    up.stop();
}

fn of_several_devices_with_one_link_one_is_paired() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let fragment = up.fragment.as_ref().unwrap();
        let pairings = (0..8).map(|n| {
            let device = Device::new(fragment, &format!("device {n}")).unwrap();
            let meeting = &meeting;
            async move { meeting.ask(&device, get("/v1/status")).await.is_ok() }
        });
        let paired = futures_util::future::join_all(pairings).await;
        assert_eq!(paired.iter().filter(|paired| **paired).count(), 1);
    });
    let listed = place.agent(&["device", "list", "--json"]).ok();
    let devices: Devices = serde_json::from_str(&listed).unwrap();
    assert_eq!(devices.devices.len(), 1, "{listed}");
    up.stop();
}

fn a_device_that_is_not_paired_gets_no_channel() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let devices: Devices = meeting.read(&device, "/v1/devices").await;
        let id = &devices.devices[0].id;
        place.agent(&["device", "rm", &id[..8]]).ok();
        assert!(meeting.ask(&device, get("/v1/status")).await.is_err());
    });
    up.stop();
    let audit = place.agent(&["audit", "--json"]).ok();
    assert!(audit.contains("POST /v1/channel"), "{audit}");
}

/// Somebody who saw the agent's key, and asks for as long as a person needs to pair.
fn who_knows_only_the_public_part_of_a_link_gets_nothing() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let seen = up.fragment.clone().unwrap();
        let observers: Vec<_> = (0..8)
            .map(|n| {
                let secret = katachi_crypto::random::bytes::<32>().unwrap();
                let guessed = PairingFragment {
                    agent: seen.agent.clone(),
                    secret: Sensitive::new(URL_SAFE_NO_PAD.encode(secret)),
                };
                Device::new(&guessed, &format!("observer {n}")).unwrap()
            })
            .collect();
        let get_nothing = async || {
            let polls = observers
                .iter()
                .map(|device| meeting.ask(device, get("/v1/status")));
            let got = futures_util::future::join_all(polls).await;
            assert!(got.iter().all(Result::is_err), "an observer got something");
        };
        get_nothing().await;
        // None of it used the link up, and what it pairs is one device.
        meeting.paired(&up).await;
        get_nothing().await;
    });
    let listed = place.agent(&["device", "list"]).ok();
    assert!(
        listed.contains("Ana's laptop") && !listed.contains("observer"),
        "{listed}"
    );
    up.stop();
}

fn a_relay_that_changes_the_place_gets_no_channel() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let honest = device.query().unwrap();
        let other = device.query().unwrap();
        let origin = meeting.browser.origin();
        // Another stream, another mode, another device than the browser meant.
        let mut changed = vec![honest.clone(), honest.clone(), honest.clone()];
        changed[0].stream = other.stream;
        changed[1].mode = Mode::Pair;
        changed[2].device = "A".repeat(43);
        for sent in changed {
            let socket = meeting.browser.channel(&meeting.agent, &sent, origin).await;
            let asked = device
                .ask(socket.unwrap(), &honest, meeting.place(), get("/v1/status"))
                .await;
            assert!(asked.is_err(), "{sent:?}");
        }
        // Another account or agent than the browser meant.
        for (account, agent) in [("eve@orchard.example", None), (EMAIL, Some("another"))] {
            let query = device.query().unwrap();
            let socket = meeting
                .browser
                .channel(&meeting.agent, &query, origin)
                .await;
            let elsewhere = device::Place {
                account,
                agent: agent.unwrap_or(&meeting.agent),
                ..meeting.place()
            };
            let asked = device
                .ask(socket.unwrap(), &query, elsewhere, get("/v1/status"))
                .await;
            assert!(asked.is_err(), "{account} {agent:?}");
        }
        let answer = meeting.ask(&device, get("/v1/status")).await.unwrap();
        assert_eq!(answer.status, 200);
    });
    up.stop();
}

fn a_page_of_another_site_opens_no_channel() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let query = device.query().unwrap();
        let open = async |origin: &str| {
            let opened = meeting
                .browser
                .channel(&meeting.agent, &query, origin)
                .await;
            opened.map(drop)
        };
        assert_eq!(open("https://elsewhere.example").await, Err(403));
        assert_eq!(open("null").await, Err(403));
        let mut short = query.clone();
        short.device.pop();
        let origin = meeting.browser.origin();
        let refused = meeting
            .browser
            .channel(&meeting.agent, &short, origin)
            .await;
        assert_eq!(refused.map(drop), Err(400));
        let refused = meeting.browser.channel("nobody", &query, origin).await;
        assert_eq!(refused.map(drop), Err(404));
    });
    up.stop();
}

fn another_pairing_link_ends_the_one_before() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let link = place.agent(&["device", "pair"]).ok();
        let old = Device::new(up.fragment.as_ref().unwrap(), "old").unwrap();
        assert!(meeting.ask(&old, get("/v1/status")).await.is_err());
        let (_, fragment) = link.trim().split_once('#').unwrap();
        up.fragment = katachi_protocol::channel::PairingFragment::parse(fragment);
        meeting.paired(&up).await;
    });
    up.stop();
}

/// Removes the only device, as a person at the machine does.
fn remove(place: &Place) {
    let devices = place.agent(&["device", "list", "--json"]).ok();
    let devices: Devices = serde_json::from_str(&devices).unwrap();
    place.agent(&["device", "rm", &devices.devices[0].id]).ok();
}

fn a_removed_device_is_cut_off_in_the_middle_of_an_answer() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let file = place.workspace().join("plums");
        std::fs::write(&file, "before\n").unwrap();
        let ticking = run(&["sh", "-c", "while true; do cat plums; sleep 0.02; done"]);
        let mut answer = meeting.ask(&device, ticking).await.unwrap();
        let mut said = String::new();
        let mut is_removed = false;
        let ended = tokio::time::timeout(up::PATIENCE, async {
            loop {
                match answer.piece().await {
                    Ok(Some(piece)) => said.push_str(std::str::from_utf8(&piece).unwrap()),
                    Ok(None) => return "closed as if complete",
                    Err(_) => return "cut",
                }
                if said.matches("before").count() > 4 && !is_removed {
                    is_removed = true;
                    remove(&place);
                    // What is read from here on was no part of any frame before.
                    std::fs::write(&file, "after\n").unwrap();
                }
            }
        });
        assert_eq!(ended.await, Ok("cut"));
        assert!(!said.contains("after"), "a frame came after it was removed");
    });
    up.stop();
}

const BEAT: &str = "while true; do date +%s%N > beat; sleep 0.1; done";

/// Waits until nobody writes the file of [`BEAT`] any more.
async fn beats_no_more(place: &Place) {
    let file = place.workspace().join("beat");
    let stopped = tokio::time::timeout(up::PATIENCE, async {
        loop {
            let before = std::fs::read(&file).unwrap();
            tokio::time::sleep(Duration::from_millis(700)).await;
            if std::fs::read(&file).unwrap() == before {
                return;
            }
        }
    });
    stopped.await.expect("the command goes on");
}

async fn beats(place: &Place) {
    while !place.workspace().join("beat").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn a_removed_device_s_command_is_ended() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let silent = run(&["sh", "-c", BEAT]);
        let mut answer = meeting.ask(&device, silent).await.unwrap();
        beats(&place).await;
        remove(&place);
        beats_no_more(&place).await;
        while let Ok(piece) = answer.piece().await {
            assert!(piece.is_some(), "closed as if complete");
        }
    });
    up.stop();
}

fn a_device_that_leaves_ends_its_command() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let mut answer = meeting
            .ask(&device, run(&["sh", "-c", BEAT]))
            .await
            .unwrap();
        answer.piece().await.unwrap().unwrap();
        beats(&place).await;
        drop(answer);
        beats_no_more(&place).await;
    });
    up.stop();
}

fn a_long_answer_arrives_whole() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let count = run(&["seq", "1", "200000"]);
        let answer = meeting.ask(&device, count).await.unwrap();
        let text = String::from_utf8(answer.whole().await.unwrap()).unwrap();
        let said: String = text
            .lines()
            .filter_map(|line| match RunEvent::from_line(line).unwrap() {
                RunEvent::Output { data, .. } => Some(data),
                _ => None,
            })
            .collect();
        assert_eq!(said.lines().count(), 200_000);
        assert_eq!(said.lines().last(), Some("200000"));
    });
    up.stop();
}

/// An audit log that takes one more line, that of the channel, and then none: it is as
/// long as it may be, and cannot move aside.
struct FullLog {
    path: PathBuf,
    length: u64,
}

impl FullLog {
    const MAX_BYTES: u64 = 16 << 20;

    /// Once nothing else is about to be written: a start that waits was told to the relay,
    /// and the last heartbeat, of those every half a minute, was just now.
    fn of(place: &Place) -> Self {
        let deadline = Instant::now() + up::PATIENCE;
        let is_quiet = || {
            let log = place.agent(&["audit", "--json"]).ok();
            let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
            let lines: Vec<Value> = lines.collect();
            let last = |call: &str| lines.iter().rposition(|line| line["call"] == call);
            let beat = last("POST /v1/agent/heartbeat").map(|beat| lines[beat]["at"].as_u64());
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            last("POST /v1/agent/activity") > last("POST /v1/run")
                && beat.flatten().unwrap() + 15 > now.unwrap().as_secs()
        };
        while !is_quiet() {
            assert!(Instant::now() < deadline, "the log never rests");
            std::thread::sleep(Duration::from_millis(100));
        }
        let path = place.home().join("state/audit.jsonl");
        let in_the_way = path.with_extension("old.jsonl").join("in the way");
        std::fs::create_dir_all(in_the_way).unwrap();
        let log = File::options().write(true).open(&path).unwrap();
        let length = log.metadata().unwrap().len();
        log.set_len(Self::MAX_BYTES).unwrap();
        Self { path, length }
    }

    /// Puts that line where it belongs.
    fn mend(self) {
        let bytes = std::fs::read(&self.path).unwrap();
        let line = &bytes[usize::try_from(Self::MAX_BYTES).unwrap()..];
        assert!(line.ends_with(b"\n"), "the channel is not in the log");
        let log = File::options().write(true).open(&self.path).unwrap();
        log.write_all_at(line, self.length).unwrap();
        log.set_len(self.length + line.len() as u64).unwrap();
        std::fs::remove_dir_all(self.path.with_extension("old.jsonl")).unwrap();
    }
}

fn a_start_waits_for_the_signed_approval_of_a_paired_device() {
    let place = Place::new();
    let policy = place.asking();
    let mut up = Up::start(&place, &["--policy", policy.to_str().unwrap()]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let stranger = Device::new(up.fragment.as_ref().unwrap(), "stranger").unwrap();
        let touched = place.workspace().join("plum");
        let ask = async || {
            let touch = run(&["touch", "plum"]);
            let mut answer = meeting.ask(&device, touch).await.unwrap();
            let line = String::from_utf8(answer.piece().await.unwrap().unwrap()).unwrap();
            let RunEvent::Approval(request) = RunEvent::from_line(line.trim()).unwrap() else {
                panic!("{line}");
            };
            (answer, request)
        };
        let say = async |request: ChannelRequest| {
            let answer = meeting.ask(&device, request).await.unwrap();
            let status = answer.status;
            let text = String::from_utf8(answer.whole().await.unwrap()).unwrap();
            (status, text)
        };

        let (answer, request) = ask().await;
        assert_eq!(request.argv, ["touch", "plum"]);
        assert_eq!(
            Path::new(&request.directory),
            place.workspace().canonicalize().unwrap()
        );
        assert!(request.rule.contains("commands.ask"), "{}", request.rule);
        let waiting: Approvals = meeting.read(&device, "/v1/approvals").await;
        assert_eq!(waiting.approvals, std::slice::from_ref(&request));
        let change = |change: fn(&mut ApprovalRequest)| {
            let mut other = request.clone();
            change(&mut other);
            signed(other, Decision::Approve, &device)
        };
        for (other, why) in [
            (
                signed(request.clone(), Decision::Approve, &stranger),
                "signature",
            ),
            (change(|r| r.argv[1] = "pear".to_owned()), "another argv"),
            (
                change(|r| r.directory = "/".to_owned()),
                "another directory",
            ),
            (change(|r| r.plan_hash = "00".repeat(32)), "another plan"),
            (change(|r| r.nonce = "A".repeat(22)), "no start waits"),
        ] {
            let (status, text) = say(other).await;
            assert!(
                status == 403 && text.contains(why),
                "{why}: {status} {text}"
            );
        }
        assert!(!touched.exists(), "it was started before it was approved");
        let approve = signed(request.clone(), Decision::Approve, &device);
        // One that cannot be written down is refused, and can be said again.
        let full = FullLog::of(&place);
        let (status, text) = say(approve.clone()).await;
        assert!(
            status == 503 && text.contains("audit log"),
            "{status} {text}"
        );
        full.mend();
        let waiting: Approvals = meeting.read(&device, "/v1/approvals").await;
        assert_eq!(waiting.approvals, std::slice::from_ref(&request));
        assert!(!touched.exists(), "it was started and is not written down");
        assert_eq!(say(approve.clone()).await.0, 204);
        let rest = String::from_utf8(answer.whole().await.unwrap()).unwrap();
        assert!(rest.contains(&request.plan_hash), "{rest}");
        assert!(rest.contains(r#""code":0"#), "{rest}");
        assert!(touched.exists());
        let (status, text) = say(approve.clone()).await;
        assert!(status == 403 && text.contains("answered before"), "{text}");

        // The next start is another question; an answer to the first is none to it.
        std::fs::remove_file(&touched).unwrap();
        let (answer, second) = ask().await;
        assert_ne!(second.nonce, request.nonce);
        let (status, _) = say(approve).await;
        assert_eq!(status, 403);
        assert_eq!(say(signed(second, Decision::Deny, &device)).await.0, 204);
        let rest = String::from_utf8(answer.whole().await.unwrap()).unwrap();
        assert!(
            rest.contains("a person denied it") && rest.contains("126"),
            "{rest}"
        );

        // A device that gives up takes its question with it.
        let (answer, _) = ask().await;
        drop(answer);
        let gone = tokio::time::timeout(up::PATIENCE, async {
            loop {
                let waiting: Approvals = meeting.read(&device, "/v1/approvals").await;
                if waiting.approvals.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        gone.await.expect("the question outlived its asker");
        assert!(!touched.exists());
    });
    up.stop();
    let audit = place.agent(&["audit", "--json"]).ok();
    assert!(
        audit.contains("refused: the signature is not this device's"),
        "{audit}"
    );
}
