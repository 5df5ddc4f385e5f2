//! Calls, channels, cuts and returns for a long time, and what both ends hold. Messages
//! are not among them: what is kept of a history fills a cache of its own.

use std::process::Child;
use std::time::{Duration, Instant};

use crate::faults::whole;
use crate::support::meeting::{get, run, text_of};
use crate::support::pair::Pair;
use crate::support::up::block_on;

/// How long, if nothing else is said.
const USUAL: Duration = Duration::from_secs(20 * 60);
/// Time between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// Time between two cuts. Of an agent that comes more than three times in a minute the
/// relay takes it that its key was copied.
const APART: Duration = Duration::from_secs(25);
/// What the last third may hold more than the second, on top of a twentieth, each when it
/// holds least: what a command or a connection needs while it is there comes and goes, and
/// allocators and caches have filled up by the end of the first third.
const MOST_BYTES: f64 = 1024.0 * 1024.0;
/// The database opens another reader (two descriptors) when many ask at once; one left by
/// each return would be about ten.
const MOST_DESCRIPTORS: f64 = 4.0;

/// What a process holds: bytes of memory of its own, open descriptors.
type Held = (f64, f64);

fn held(process: &Child) -> Held {
    let process = format!("/proc/{}", process.id());
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .map(|size| size.trim().trim_end_matches(" kB").parse::<f64>().unwrap());
    let descriptors = std::fs::read_dir(format!("{process}/fd")).unwrap().count();
    (memory.unwrap() * 1024.0, descriptors as f64)
}

pub(crate) fn neither_end_grows_with_time() {
    let seconds = std::env::var("KATACHI_SOAK_SECONDS").ok();
    let length = seconds.map_or(USUAL, |text| Duration::from_secs(text.parse().unwrap()));
    block_on(soak(length));
}

async fn soak(length: Duration) {
    let pair = Pair::meets(0.5).await;
    let (began, mut looked, mut cut) = (Instant::now(), Instant::now(), Instant::now());
    let mut looks: Vec<[Held; 2]> = Vec::new();
    let (mut calls, mut returns) = (0_u32, 0_u32);
    while began.elapsed() < length {
        let text = format!("plum {calls}");
        let events = pair.meeting.run(&pair.device, &["echo", &text]).await;
        assert_eq!(text_of(&events), format!("{text}\n"));
        for path in ["/v1/status", "/v1/denials"] {
            let answer = pair.meeting.ask(&pair.device, get(path)).await.unwrap();
            assert_eq!(answer.status, 200, "{path}");
            answer.whole().await.unwrap();
        }
        calls += 3;
        // A reader that goes away, and one who wants what does not exist.
        drop(pair.beating().await);
        let nothing = pair.meeting.ask(&pair.device, run(&["plum-jam"])).await;
        nothing.unwrap().whole().await.unwrap();
        calls += 2;
        if cut.elapsed() > APART {
            cut = Instant::now();
            let mut answer = pair.beating().await;
            pair.far.forget();
            whole(&mut answer).await;
            pair.meeting.is_online().await;
            returns += 1;
        }
        if looked.elapsed() > LOOK {
            looked = Instant::now();
            looks.push([held(&pair.far.relay.child), held(&pair.up.child)]);
        }
    }
    eprintln!("{calls} calls, {returns} returns in {:?}", began.elapsed());
    assert!(returns > 0 && looks.len() > 9, "too short to tell");
    let settled = &looks[looks.len() / 3..];
    for (at, name) in ["relay", "agent"].into_iter().enumerate() {
        let memory = settled.iter().map(|look| look[at].0).collect::<Vec<_>>();
        let descriptors = settled.iter().map(|look| look[at].1).collect::<Vec<_>>();
        let ((held, added), (open, opened)) = (growth(&memory), growth(&descriptors));
        eprintln!(
            "{name}: {:.0} KiB at first, then {:.0} KiB and {:.0} KiB more at the end; {open} \
             descriptors, then {opened} more",
            looks[0][at].0 / 1024.0,
            held / 1024.0,
            added / 1024.0,
        );
        assert!(added < held / 20.0 + MOST_BYTES, "{name}: {memory:?}");
        assert!(opened < MOST_DESCRIPTORS, "{name}: {descriptors:?}");
    }
    pair.up.stop();
}

/// The least of the first half, and what the least of the second is more.
fn growth(values: &[f64]) -> (f64, f64) {
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let (first, second) = values.split_at(values.len() / 2);
    (least(first), least(second) - least(first))
}
