//! An agent that streams without end, and a browser that reads slowly: who sends waits,
//! and the program holds no more than its windows. `KATACHI_LONG=1` makes it a gibibyte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;

use crate::agent::{TestAgent, wait_until_online};
use crate::flood::Process;

const MIB: usize = 1024 * 1024;
/// What the windows of HTTP/2, the buffers of both sockets and the kernel may hold of what
/// was sent and not read.
const UNDER_WAY: usize = 24 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r03_a_slow_reader_holds_the_agent_back_and_the_program_holds_little() {
    let is_long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
    let all = if is_long { 1024 * MIB } else { 96 * MIB };
    let (process, relay) = Process::start();
    let browser = relay.browser_of("ana@example.org").await;
    let agent = TestAgent::approved(&relay, &browser).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let flood = move || async move {
        let piece = Bytes::from(vec![b'x'; 16 * 1024]);
        let pieces = futures_util::stream::repeat_with(move || {
            counter.fetch_add(piece.len(), Ordering::SeqCst);
            Ok::<_, std::io::Error>(piece.clone())
        });
        Response::new(Body::from_stream(pieces))
    };
    let router = Router::new().route("/v1/channel", post(flood));
    let _open = agent.open_tunnel(&relay, router, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let before = process.memory();
    let mut carried = browser.carry(&agent.id, "go").await.unwrap();
    let (mut read, mut most) = (0, 0);
    let held = |read: usize| sent.load(Ordering::SeqCst).saturating_sub(read);
    while read < all {
        // Nothing is read for a while, now and then: as much waits as may, and no more.
        if read % (all / 4) < 64 * 1024 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            assert!(held(read) < UNDER_WAY, "{} bytes wait unread", held(read));
        }
        read += carried.next().await.expect("it goes on").len();
        most = most.max(process.memory());
    }
    let grown = most.saturating_sub(before);
    println!("{} MiB streamed: {} KiB more", read / MIB, grown / 1024);
    assert!(grown < UNDER_WAY, "{} KiB", grown / 1024);
}
