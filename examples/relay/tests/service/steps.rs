//! The clock of a relay steps, as that of a machine may: the program as most run it, with
//! its records in its own file and its memory of requests in itself.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use katachi_auth::clock::{Clock as _, SystemClock, Timestamp};
use katachi_auth::signature::{Profile, RequestBinding};
use katachi_protocol::routes::HEARTBEAT;
use serde_json::json;

use crate::agent::{Answer, TestAgent, wait_until_online};
use crate::clock::Clock;
use crate::input::process::Process;
use crate::relay::TestRelay;

type Call = (Request<Bytes>, RequestBinding);

async fn heartbeat(relay: &TestRelay, agent: &TestAgent, now: Timestamp) -> (Call, Answer) {
    let idle = json!({"state": "idle"});
    let mut request = TestAgent::request(relay, Method::POST, HEARTBEAT, Some(&idle));
    let binding = agent.sign_as(&mut request, Profile::AGENT_REQUEST, now, None);
    let answer = agent.send(relay, request.clone(), &binding).await;
    assert!(answer.signed, "{}", answer.body);
    ((request, binding), answer)
}

/// A heartbeat as the real agent makes it: by the relay's time once that said that the
/// clocks differ, and for the epoch that it names.
async fn accepted(relay: &TestRelay, agent: &mut TestAgent) -> Call {
    let mut now = SystemClock.now();
    for _ in 0..3 {
        let (call, answer) = heartbeat(relay, agent, now).await;
        if answer.status == StatusCode::OK {
            return call;
        }
        if answer.body["error"] == "stale_epoch" {
            agent.set_epoch(answer.body["epoch"].as_str().unwrap());
        }
        now = Timestamp::from_unix(answer.body["server_time"].as_u64().unwrap());
    }
    panic!("its heartbeats do not recover");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s15_a_relay_whose_clock_steps_takes_nothing_twice_and_goes_on() {
    let clock = Clock::new();
    let process = Process::start_in(&Arc::new(tempfile::tempdir().unwrap()), clock.environment());
    let relay = &process.relay;
    let browser = relay.browser_of("ana@example.org").await;
    let mut agent = TestAgent::approved(relay, &browser).await;
    let echo = post(async |body: Body| Response::new(Body::from_stream(body.into_data_stream())));
    let router = Router::new().route("/v1/channel", echo);
    let tunnel = agent.open_tunnel(relay, router, None).await.unwrap();
    wait_until_online(&browser, &agent.id, true).await;
    let mut carried = browser.carry(&agent.id, "begun").await.unwrap();
    assert_eq!(carried.next().await.unwrap(), "begun");

    let mut spent = vec![accepted(relay, &mut agent).await];
    for step in [3600, -3600, 90, -90, 0] {
        clock.step(step);
        if step != 0 {
            let (_, refused) = heartbeat(relay, &agent, SystemClock.now()).await;
            assert_eq!(refused.body["error"], "skew", "{step}: {}", refused.body);
        }
        spent.push(accepted(relay, &mut agent).await);
        for (at, (request, binding)) in spent.iter().enumerate() {
            let again = agent.send(relay, request.clone(), binding).await;
            assert_eq!(
                again.status,
                StatusCode::UNAUTHORIZED,
                "{step}: the call of {at} was taken again"
            );
        }
        // Who was there is there.
        carried.send(&format!("at {step}")).await;
        assert_eq!(carried.next().await.unwrap(), format!("at {step}"));
        assert!(!tunnel.is_finished(), "{step}");
        wait_until_online(&browser, &agent.id, true).await;
    }
    let log = process.stop();
    assert!(!log.contains("panicked"), "{log}");
}
