//! Somebody between a device and its agent who passes on, changes, keeps and
//! repeats what both say: the channel ends, and nothing is done.

use std::collections::BTreeSet;
use std::time::Instant;

use katachi_protocol::channel::ChannelRequest;
use libtest_mimic::Trial;

use crate::meddler::{At, Meddler};
use crate::support::device::Device;
use crate::support::frames::Frames;
use crate::support::meeting::{Meeting, run};
use crate::support::up::{Up, block_on};
use crate::support::{self, Place, needing};

pub(crate) fn trials() -> Vec<Trial> {
    let confine = support::can_confine();
    let case = |name: &str, test: fn()| needing("user namespaces", confine, name, test);
    vec![
        case(
            "a_changed_frame_has_no_effect",
            a_changed_frame_has_no_effect,
        ),
        case(
            "what_was_said_before_has_no_effect_when_it_is_said_again",
            what_was_said_before_has_no_effect_when_it_is_said_again,
        ),
        case(
            "records_of_an_answer_have_four_sizes_at_most",
            records_of_an_answer_have_four_sizes_at_most,
        ),
        case(
            "records_of_an_answer_pass_on_a_tick_of_their_own",
            records_of_an_answer_pass_on_a_tick_of_their_own,
        ),
    ]
}

/// Makes `file`; so long that it takes two records.
fn touch(file: &str) -> ChannelRequest {
    let long = "x".repeat(20_000);
    run(&["sh", "-c", "touch \"$0\"; sleep 0.3", file, &long])
}

/// What is done to the frames that pass at a point.
type Change = fn(&mut Frames);

fn flip(frame: &mut [u8], index: usize) {
    frame[index] ^= 1;
}

/// Where a frame of records begins after its length.
const BODY: usize = 2;

fn changes() -> Vec<(&'static str, At, Change)> {
    vec![
        ("reorder", At::Request, |frames| frames.swap(0, 1)),
        ("drop_first", At::Request, |frames| drop(frames.remove(0))),
        ("drop_last", At::Request, |frames| drop(frames.pop())),
        ("duplicate", At::Request, |frames| {
            frames.insert(0, frames[0].clone());
        }),
        ("truncate", At::Request, |frames| {
            frames.last_mut().unwrap().truncate(100);
        }),
        ("truncate_well_framed", At::Request, |frames| {
            let frame = frames.last_mut().unwrap();
            frame.pop();
            let length = u16::try_from(frame.len() - BODY).unwrap();
            frame[..BODY].copy_from_slice(&length.to_be_bytes());
        }),
        ("flip_first_byte", At::Request, |frames| {
            flip(&mut frames[0], BODY);
        }),
        ("flip_tag", At::Request, |frames| {
            let last = frames[0].len() - 1;
            flip(&mut frames[0], last);
        }),
        ("flip_last_record", At::Request, |frames| {
            flip(&mut frames[1], 100);
        }),
        ("flip_length", At::Request, |frames| flip(&mut frames[0], 1)),
        ("longest_length", At::Request, |frames| {
            frames[0][..BODY].fill(0xff);
        }),
        ("no_length", At::Request, |frames| {
            frames.insert(0, vec![0; BODY]);
        }),
        ("garbage", At::Request, |frames| {
            let mut garbage = katachi_crypto::random::bytes::<274>().unwrap().to_vec();
            garbage[..BODY].copy_from_slice(&272_u16.to_be_bytes());
            frames.insert(0, garbage);
        }),
        ("plain_request", At::Request, |frames| {
            let plain = serde_json::to_vec(&run(&["touch", "plain_request"])).unwrap();
            let length = u16::try_from(plain.len()).unwrap();
            *frames = vec![[&length.to_be_bytes()[..], &plain].concat()];
        }),
        ("flip_hello", At::Hello, |frames| flip(&mut frames[0], BODY)),
        ("flip_hello_key", At::Hello, |frames| {
            flip(&mut frames[0], BODY + 40);
        }),
        ("plain_hello", At::Hello, |frames| {
            let plain = serde_json::to_vec(&run(&["touch", "plain_hello"])).unwrap();
            let length = u16::try_from(plain.len()).unwrap();
            *frames = vec![[&length.to_be_bytes()[..], &plain].concat()];
        }),
        ("flip_answer", At::Answer, |frames| {
            flip(&mut frames[0], BODY)
        }),
        ("plain_answer", At::Answer, |frames| {
            let plain = br#"{"status":200}"#;
            *frames = vec![[&[0, plain.len() as u8][..], plain].concat()];
        }),
    ]
}

fn a_changed_frame_has_no_effect() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        // Passed on as it is, it has its effect: what follows is no accident.
        for unchanged in ["before", "after"] {
            if unchanged == "after" {
                let all = changes()
                    .into_iter()
                    .map(|change| changed(&meeting, &device, change));
                futures_util::future::join_all(all).await;
            }
            let meddler = Meddler::default();
            let asked = meddler.ask(&meeting, &device, touch(unchanged)).await;
            asked.unwrap().whole().await.unwrap();
            assert!(place.workspace().join(unchanged).exists());
        }
        for (name, _, _) in changes() {
            assert!(
                !place.workspace().join(name).exists(),
                "{name} had an effect"
            );
        }
    });
    up.stop();
}

async fn changed(meeting: &Meeting, device: &Device, change: (&'static str, At, Change)) {
    let (name, at, change) = change;
    let meddler = Meddler::changing(at, Box::new(change));
    let asked = meddler.ask(meeting, device, touch(name)).await;
    assert!(asked.is_err(), "{name}: the device believed an answer");
    meddler.has_changed(name);
    // An answer that was changed is refused by the device, which then leaves.
    assert!(
        at == At::Answer || meddler.was_cut_off(),
        "{name}: the agent stayed"
    );
}

fn what_was_said_before_has_no_effect_when_it_is_said_again() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let file = place.workspace().join("again");
        let recorder = Meddler::default();
        let asked = recorder.ask(&meeting, &device, touch("again")).await;
        asked.unwrap().whole().await.unwrap();
        assert!(file.exists());
        std::fs::remove_file(&file).unwrap();

        // The whole of it under the same name, in a channel of its own.
        recorder.say_again(&meeting).await;
        // Its records in a channel of the same device.
        let records = recorder.records();
        let insert = Meddler::changing(
            At::Request,
            Box::new(move |frames: &mut Frames| frames.splice(.., records.clone()).for_each(drop)),
        );
        let asked = insert.ask(&meeting, &device, touch("other")).await;
        assert!(asked.is_err(), "records of another channel were taken");
        insert.has_changed("records of another channel");
        assert!(insert.was_cut_off());
        assert!(!file.exists(), "it was done again");
        assert!(!place.workspace().join("other").exists());
    });
    up.stop();
}

fn records_of_an_answer_have_four_sizes_at_most() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        // Pieces of every length up to some thousand bytes, each at its own time.
        let words = "for n in 1 7 30 90 200 333 500 800 1200 2500 3900 5000 9000 20000; do \
                     head -c $n /dev/zero | tr '\\0' x; sleep 0.15; done";
        let meddler = Meddler::default();
        let asked = meddler
            .ask(&meeting, &device, run(&["sh", "-c", words]))
            .await;
        let whole = asked.unwrap().whole().await.unwrap();
        assert!(whole.len() > 43_000, "{}", whole.len());
        let sizes = meddler.answered();
        assert!(sizes.len() > 8, "the answer came at once: {sizes:?}");
        let distinct: BTreeSet<usize> = sizes.into_iter().collect();
        assert!(distinct.len() <= 4, "{distinct:?}");
        assert!(distinct.len() > 1, "one size shows nothing: {distinct:?}");
    });
    up.stop();
}

/// The times at which tokens come are not those at which anything passes.
fn records_of_an_answer_pass_on_a_tick_of_their_own() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let words = "n=0; while [ $n -lt 300 ]; do n=$((n+1)); echo token $n; sleep 0.004; done";
        let meddler = Meddler::default();
        let began = Instant::now();
        let asked = meddler
            .ask(&meeting, &device, run(&["sh", "-c", words]))
            .await;
        let whole = asked.unwrap().whole().await.unwrap();
        let took = began.elapsed();
        assert!(String::from_utf8(whole).unwrap().contains("token 300"));
        let sizes = meddler.answered();
        // One in sixty milliseconds, and the first and last.
        let most = took.as_millis() as usize / 60 + 4;
        assert!(sizes.len() <= most, "{} in {took:?}", sizes.len());
        assert!(sizes.len() > 8, "the answer came at once: {sizes:?}");
        let distinct: BTreeSet<usize> = sizes.into_iter().collect();
        assert!(distinct.len() <= 4, "{distinct:?}");
    });
    up.stop();
}
