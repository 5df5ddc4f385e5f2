//! A browser that stops reading what a program writes without end: the program waits,
//! nobody's memory grows, others are served, and a stop is still a stop.

use std::time::{Duration, Instant};

use katachi_protocol::agent::{AgentState, AgentStatus};
use katachi_protocol::channel::ChannelRequest;
use libtest_mimic::Trial;

use crate::support::meeting::{Meeting, post, run};
use crate::support::up::{PATIENCE, Up, block_on};
use crate::support::{self, Place, device, needing, up};

pub(crate) fn trials() -> Vec<Trial> {
    let confine = support::can_confine();
    let case = |name: &str, test: fn()| needing("user namespaces", confine, name, test);
    vec![
        case(
            "a_command_waits_for_a_reader_that_does_not_read",
            commands_wait,
        ),
        case("an_ai_waits_for_a_reader_that_does_not_read", an_ai_waits),
    ]
}

/// Most that a program's output may take of the memory of an agent or a relay, whatever
/// it writes, in bytes.
const MOST: usize = 32 << 20;

/// Writes to `stream` without end, and how often to a file.
fn floods(stream: u8) -> String {
    format!("while :; do head -c 65536 /dev/zero | tr '\\0' x >&{stream}; echo $$ >> written; done")
}

fn commands_wait() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        for stream in [1, 2] {
            let request = run(&["sh", "-c", &floods(stream)]);
            is_held_up(&place, &up, &meeting, &device, request).await;
        }
    });
    up.stop();
}

fn an_ai_waits() {
    let place = Place::new();
    std::fs::write(place.workspace().join("ai.sh"), floods(1)).unwrap();
    let mut up = Up::start(&place, &["--ai-command", "sh ai.sh"]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let request = post("/v1/message", serde_json::json!({ "text": "go" }));
        is_held_up(&place, &up, &meeting, &device, request).await;
    });
    up.stop();
}

async fn is_held_up(
    place: &Place,
    up: &Up,
    meeting: &Meeting,
    device: &device::Device,
    request: ChannelRequest,
) {
    let state = async || {
        meeting
            .read::<AgentStatus>(device, "/v1/status")
            .await
            .state
    };
    assert_eq!(state().await, AgentState::Idle);
    let before = [up.memory(), up::memory(up.relay())];
    let mut answer = meeting.ask(device, request).await.unwrap();
    answer.piece().await.unwrap().unwrap();
    // Nothing is read from here on. What is under way somewhere is filled, and then
    // the program stands still.
    let written = place.workspace().join("written");
    let count = || std::fs::read(&written).map_or(0, |lines| lines.len());
    let deadline = Instant::now() + PATIENCE;
    let mut last = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = count();
        if now > 0 && now == last {
            break;
        }
        assert!(Instant::now() < deadline, "the program is not held up");
        last = now;
    }
    for (before, process) in before.into_iter().zip([up.child.id(), up.relay()]) {
        let grown = up::memory(process).saturating_sub(before);
        assert!(grown < MOST, "{process}: {grown} bytes more");
    }
    // It waits, and others do not.
    assert_eq!(state().await, AgentState::Busy);
    drop(answer);
    let deadline = Instant::now() + PATIENCE;
    while state().await != AgentState::Idle {
        assert!(Instant::now() < deadline, "the program outlived its reader");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    std::fs::remove_file(written).unwrap();
}
