//! Times and nonces.

use katachi_auth::clock::{Clock as _, SystemClock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Verdict::{Silence, Taken, Told};
use super::{Answered, BUSY, IDLE, Sent, World, with_tails};
use crate::agent::connect;

#[tokio::test]
async fn s05_a_time_that_is_no_plain_integer() {
    let world = World::start().await;
    let odd = [
        "-1",
        "\"1\"",
        "1.5",
        "?1",
        "",
        "+1800000000",
        "01800000000",
        "@1800000000",
        "1800000000 ",
        ":MTgwMDAwMDAwMA==:",
        "1e9",
        "1800000000000000000000000000000000000000",
    ];
    let mut rows = Vec::new();
    for name in ["created", "expires"] {
        let tails = odd.map(|value| -> Box<dyn Fn(&Sent) -> String> {
            Box::new(move |sent| {
                let new = format!(";{name}={value}");
                sent.tail().replacen(&sent.parameter(name), &new, 1)
            })
        });
        rows.extend(with_tails(&world, Silence, tails));
    }
    // The largest that is an integer is a time, and not a time of ours.
    let far: Box<dyn Fn(&Sent) -> String> = Box::new(|sent| {
        let tail = sent
            .tail()
            .replacen(&sent.parameter("created"), ";created=999999999999939", 1);
        tail.replacen(&sent.parameter("expires"), ";expires=999999999999999", 1)
    });
    rows.extend(with_tails(&world, Told("skew"), [far]));
    world.hold("S05", rows).await;
}

#[tokio::test]
async fn s06_a_time_outside_the_window() {
    let world = World::start().await;
    let mut rows = Vec::new();
    // Seconds from now; the edges of 60 and 5 themselves pass by while this runs.
    for (created, expires, verdict) in [
        (0, 60, Taken),
        (0, 20, Taken),
        (-50, 10, Taken),
        (3, 63, Taken),
        (-75, -15, Told("skew")),
        (-30, -10, Told("skew")),
        (30, 90, Told("skew")),
        (86_400, 86_460, Told("skew")),
        (0, 0, Told("refused")),
        (0, -1, Told("refused")),
        (0, 61, Told("refused")),
        (0, 86_400, Told("refused")),
    ] {
        let body = if matches!(verdict, Taken) { IDLE } else { BUSY };
        let mut sent = world.heartbeat(body);
        let at = |offset: i64| SystemClock.now().as_unix().saturating_add_signed(offset);
        let tail = sent.tail();
        let tail = tail.replacen(
            &sent.parameter("created"),
            &format!(";created={}", at(created)),
            1,
        );
        let tail = tail.replacen(
            &sent.parameter("expires"),
            &format!(";expires={}", at(expires)),
            1,
        );
        let lines = sent.lines();
        world.resign(&mut sent, &lines, &tail);
        rows.push((
            format!("made {created} s from now, ends {expires} s"),
            sent,
            verdict,
        ));
    }
    world.hold("S06", rows).await;
}

#[tokio::test]
async fn s07_a_nonce_that_is_none() {
    let world = World::start().await;
    let tails = [
        "",
        "short",
        "c1.AAAA",
        "r1.AAAAAAAAAAAAAAAAAAAAA",
        "r1.AAAAAAAAAAAAAAAAAAAAAA==",
        "x1.AAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAA",
        "r1.AAAAAAAAAAAAAAAAAAAAA/",
        &"A".repeat(65),
        &"A".repeat(1500),
    ]
    .map(|nonce| -> Box<dyn Fn(&Sent) -> String> {
        let new = format!(";nonce=\"{nonce}\"");
        Box::new(move |sent| sent.tail().replacen(&sent.parameter("nonce"), &new, 1))
    });
    let rows = with_tails(&world, Silence, tails);
    world.hold("S07", rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s09_of_256_copies_at_once_one_is_accepted() {
    let world = World::start().await;
    let bytes = world.heartbeat(BUSY).bytes();
    // All are connected before the first is sent.
    let mut streams = Vec::new();
    for _ in 0..256 {
        streams.push(connect(&world.relay).await);
    }
    let copies = streams.into_iter().map(|mut stream| {
        let bytes = bytes.clone();
        tokio::spawn(async move {
            stream.write_all(&bytes).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            Answered::parse(&answer)
        })
    });
    let mut taken = 0;
    for answer in futures_util::future::join_all(copies).await {
        let answer = answer.unwrap();
        match answer.status {
            200 => taken += 1,
            _ => assert_eq!(
                (answer.status, answer.is_signed(), answer.error().as_str()),
                (401, true, "replayed")
            ),
        }
    }
    assert_eq!(taken, 1);
}
