//! The device flow from both ends.

#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod proofs;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use katachi_auth::clock::Timestamp;
use katachi_auth::device::{
    AuthorizationResponse, Config, DecideError, DeviceStore, Failure, Find, Grant, GuessLimits,
    Guesser, Guesses, Inserted, MemoryDeviceStore, Metadata, Next, PollAnswer, PollError, Polling,
    Server, Start, StartError,
};
use katachi_auth::replay::Unavailable;
use katachi_crypto::Secret;

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);
const TOKEN_URL: &str = "https://relay.example/oauth/token";

fn later(seconds: u64) -> Timestamp {
    NOW.after(Duration::from_secs(seconds))
}

struct World {
    server: Server,
    store: MemoryDeviceStore,
    guesses: Guesses,
}

fn ana() -> Guesser<'static> {
    Guesser {
        session: "s-ana",
        account: "ana",
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
    }
}

impl World {
    fn new() -> Self {
        Self {
            server: Server::new(
                Config::new("https://relay.example/device"),
                &Secret::new([9; 32]),
            ),
            store: MemoryDeviceStore::new(100),
            guesses: Guesses::new(GuessLimits::default()),
        }
    }

    fn start(&self, thumbprint: Option<&str>) -> AuthorizationResponse {
        let start = Start {
            client_id: "agent",
            thumbprint,
            details: "laptop, Linux",
        };
        self.server.start(&self.store, &start, NOW).unwrap()
    }

    fn approve(&self, code: &str) -> Result<(), DecideError> {
        self.server
            .approve(&self.store, &self.guesses, &ana(), code, NOW)
            .map(drop)
    }

    fn poll_as(
        &self,
        client: &str,
        code: &str,
        key: Option<&str>,
        now: Timestamp,
    ) -> Result<String, PollError> {
        let approval = self.server.poll(&self.store, client, code, key, now)?;
        Ok(approval.account)
    }

    fn poll(&self, code: &str, now: Timestamp) -> Result<String, PollError> {
        self.poll_as("agent", code, None, now)
    }
}

fn code(outcome: Result<String, PollError>) -> &'static str {
    outcome.expect_err("the poll was granted").code()
}

#[test]
fn d15_a_person_approves_and_the_program_learns_who() {
    let world = World::new();
    let started = world.start(None);
    assert_eq!(started.interval, Some(5));
    assert_eq!(
        code(world.poll(&started.device_code, later(5))),
        "authorization_pending"
    );
    let shown = world
        .server
        .look_up(
            &world.store,
            &world.guesses,
            &ana(),
            &started.user_code.to_lowercase(),
            NOW,
        )
        .unwrap();
    assert_eq!(shown.details, "laptop, Linux");
    world.approve(&started.user_code).unwrap();
    assert_eq!(world.poll(&started.device_code, later(10)).unwrap(), "ana");
}

#[test]
fn a_denied_grant_and_an_expired_one_say_so() {
    let world = World::new();
    let denied = world.start(None);
    world
        .server
        .deny(&world.store, &world.guesses, &ana(), &denied.user_code, NOW)
        .unwrap();
    assert_eq!(
        code(world.poll(&denied.device_code, later(5))),
        "access_denied"
    );
    let expired = world.start(None);
    world.approve(&expired.user_code).unwrap();
    assert_eq!(
        code(world.poll(&expired.device_code, later(600))),
        "expired_token"
    );
}

#[test]
fn d03_polling_early_costs_five_seconds_that_stay() {
    let world = World::new();
    let started = world.start(None);
    let poll = |at| world.poll(&started.device_code, later(at));
    assert!(matches!(poll(0), Err(PollError::Pending)));
    assert!(matches!(poll(1), Err(PollError::SlowDown { interval: 10 })));
    assert!(
        matches!(poll(7), Err(PollError::SlowDown { interval: 15 })),
        "six are not ten"
    );
    assert!(matches!(poll(22), Err(PollError::Pending)));
    assert!(
        matches!(poll(32), Err(PollError::SlowDown { interval: 20 })),
        "and it stays"
    );
}

#[test]
fn d03_half_a_second_early_is_forgiven() {
    let world = World::new();
    let started = world.start(None);
    let poll = |millis| {
        world
            .poll(
                &started.device_code,
                NOW.after(Duration::from_millis(millis)),
            )
            .unwrap_err()
    };
    assert!(matches!(poll(0), PollError::Pending));
    assert!(matches!(poll(4500), PollError::Pending));
    assert!(matches!(poll(8999), PollError::SlowDown { .. }));
}

#[test]
fn d03_polling_without_restraint_ends_the_grant() {
    let world = World::new();
    let started = world.start(None);
    let last = (0..11)
        .map(|_| code(world.poll(&started.device_code, NOW)))
        .last();
    assert_eq!(last, Some("access_denied"));
    assert!(matches!(
        world.approve(&started.user_code),
        Err(DecideError::Unknown)
    ));
}

#[test]
fn d06_of_fifty_polls_at_once_one_gets_the_approval() {
    let world = World::new();
    let started = world.start(None);
    world.approve(&started.user_code).unwrap();
    let (granted, invalid) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let barrier = Barrier::new(50);
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                barrier.wait();
                match world.poll(&started.device_code, later(5)) {
                    Ok(_) => granted.fetch_add(1, Ordering::SeqCst),
                    Err(error) => {
                        assert_eq!(error.code(), "invalid_grant");
                        invalid.fetch_add(1, Ordering::SeqCst)
                    }
                };
            });
        }
    });
    assert_eq!((granted.into_inner(), invalid.into_inner()), (1, 49));
    assert_eq!(
        code(world.poll(&started.device_code, later(60))),
        "invalid_grant"
    );
}

#[test]
fn d07_a_code_is_worth_nothing_to_another_client_or_key() {
    let world = World::new();
    let started = world.start(Some("thumb-a"));
    world.approve(&started.user_code).unwrap();
    let device_code = &started.device_code;
    for (client, key) in [
        ("other", Some("thumb-a")),
        ("agent", Some("thumb-b")),
        ("agent", None),
    ] {
        assert_eq!(
            code(world.poll_as(client, device_code, key, later(5))),
            "invalid_grant"
        );
    }
    assert_eq!(
        code(world.poll_as("agent", "guessed", Some("thumb-a"), NOW)),
        "invalid_grant"
    );
    assert_eq!(
        world
            .poll_as("agent", device_code, Some("thumb-a"), later(5))
            .unwrap(),
        "ana"
    );
}

#[test]
fn d07_a_stranger_s_polls_do_not_slow_the_client_down() {
    let world = World::new();
    let started = world.start(None);
    for _ in 0..20 {
        assert_eq!(
            code(world.poll_as("other", &started.device_code, None, NOW)),
            "invalid_grant"
        );
    }
    assert!(matches!(
        world.poll(&started.device_code, NOW),
        Err(PollError::Pending)
    ));
}

#[test]
fn a_poll_is_waited_for_by_its_own_client_alone_until_its_grant_is_used() {
    let world = World::new();
    let asked = |client: &str, code: &str, key: Option<&str>, now| {
        let before = format!("{:?}", world.store);
        let answer = world
            .server
            .is_waited_for(&world.store, client, code, key, now)
            .unwrap();
        assert_eq!(
            before,
            format!("{:?}", world.store),
            "asking changes nothing"
        );
        answer
    };
    let open = world.start(None);
    let bound = world.start(Some("thumb"));
    let (open, bound_code) = (&open.device_code, &bound.device_code);
    // A grant that names no key is anybody's of that client, with a key or without.
    assert!(asked("agent", open, None, NOW));
    assert!(asked("agent", open, Some("thumb"), NOW));
    for (client, code, key) in [
        ("other", bound_code.as_str(), Some("thumb")),
        ("", bound_code, Some("thumb")),
        ("agent", bound_code, Some("another")),
        ("agent", bound_code, Some("")),
        ("agent", bound_code, None),
        ("agent", &bound_code[1..], Some("thumb")),
        ("agent", &bound.user_code, Some("thumb")),
        ("agent", "", Some("thumb")),
    ] {
        assert!(!asked(client, code, key, NOW), "{client} {code} {key:?}");
    }
    let theirs = |now| asked("agent", bound_code, Some("thumb"), now);
    assert!(theirs(NOW) && theirs(later(599)));
    assert!(!theirs(later(600)), "it ran out");
    world.approve(&bound.user_code).unwrap();
    assert!(theirs(later(5)), "the approval is to be fetched");
    let fetched = world.poll_as("agent", bound_code, Some("thumb"), later(5));
    fetched.unwrap();
    assert!(!theirs(later(6)), "it was used");
}

#[test]
fn a_poll_that_was_denied_is_still_to_be_told_so() {
    let world = World::new();
    let started = world.start(None);
    world
        .server
        .deny(
            &world.store,
            &world.guesses,
            &ana(),
            &started.user_code,
            NOW,
        )
        .unwrap();
    let waited = world
        .server
        .is_waited_for(&world.store, "agent", &started.device_code, None, NOW);
    assert!(waited.unwrap());
    assert_eq!(code(world.poll(&started.device_code, NOW)), "access_denied");
}

#[test]
fn whether_a_poll_is_waited_for_is_not_made_up_while_the_store_is_away() {
    struct Away;
    impl DeviceStore for Away {
        fn insert(&self, _: Grant, _: Timestamp) -> Result<Inserted, Unavailable> {
            Err(Unavailable::new("away"))
        }

        fn change(&self, _: &Find, _: &mut dyn FnMut(&mut Grant)) -> Result<bool, Unavailable> {
            Err(Unavailable::new("away"))
        }
    }
    let world = World::new();
    let asked = world
        .server
        .is_waited_for(&Away, "agent", "code", None, NOW);
    assert!(asked.is_err());
}

#[test]
fn d08_the_short_code_says_nothing_about_the_long_one() {
    let world = World::new();
    let started = [world.start(None), world.start(None)];
    for one in &started {
        let letters = one.user_code.replace('-', "");
        assert!(!one.device_code.to_uppercase().contains(&letters));
        assert_eq!(one.device_code.len(), 43);
    }
    assert_ne!(started[0].device_code, started[1].device_code);
    assert_ne!(started[0].user_code, started[1].user_code);
}

#[test]
fn d10_guessing_is_stopped_for_session_account_prefix_and_everybody() {
    let limits = GuessLimits {
        session: 5,
        account: 8,
        prefix: 12,
        global: 20,
        ..GuessLimits::default()
    };
    let wrong = |guesses: &Guesses, session: &str, account: &str, address: IpAddr, now| {
        let world = World::new();
        let who = Guesser {
            session,
            account,
            address,
        };
        world
            .server
            .look_up(&world.store, guesses, &who, "BCDF-GHJK", now)
            .unwrap_err()
    };
    let tries = |guesses: &Guesses, who: &dyn Fn(u8) -> (String, String, IpAddr)| {
        (0..100)
            .take_while(|n| {
                let (session, account, address) = who(*n);
                matches!(
                    wrong(guesses, &session, &account, address, NOW),
                    DecideError::Unknown
                )
            })
            .count()
    };
    let v4 = |last| IpAddr::V4(Ipv4Addr::new(198, 51, 100, last));
    let v6 = |n: u8| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, u16::from(n), 0, 0, 0, 1));
    let far = |n| IpAddr::V4(Ipv4Addr::new(10, n, 0, 1));

    let same_session = |n| ("s".into(), format!("a{n}"), far(n));
    assert_eq!(tries(&Guesses::new(limits), &same_session), 5);
    let same_account = |n| (format!("s{n}"), "a".into(), far(n));
    assert_eq!(tries(&Guesses::new(limits), &same_account), 8);
    let same_v4_network = |n| (format!("s{n}"), format!("a{n}"), v4(n));
    assert_eq!(tries(&Guesses::new(limits), &same_v4_network), 12);
    let same_v6_site = |n| (format!("s{n}"), format!("a{n}"), v6(n));
    assert_eq!(tries(&Guesses::new(limits), &same_v6_site), 12);
    let everywhere = |n| (format!("s{n}"), format!("a{n}"), far(n));
    let guesses = Guesses::new(limits);
    assert_eq!(tries(&guesses, &everywhere), 20);

    let refused = wrong(&guesses, "new", "new", far(200), later(60));
    let DecideError::TooMany(too_many) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(too_many.retry_after, Duration::from_secs(3540));
    assert!(matches!(
        wrong(&guesses, "new", "new", far(200), later(3600)),
        DecideError::Unknown
    ));
}

#[test]
fn d10_a_right_code_costs_no_guess() {
    let world = World::new();
    for _ in 0..30 {
        world.approve(&world.start(None).user_code).unwrap();
    }
}

#[test]
fn d14_the_link_with_the_code_in_it_approves_nothing_by_itself() {
    let world = World::new();
    let started = world.start(None);
    let link = started.verification_uri_complete.unwrap();
    assert!(link.ends_with(&format!("?user_code={}", started.user_code)));
    world
        .server
        .look_up(
            &world.store,
            &world.guesses,
            &ana(),
            &started.user_code,
            NOW,
        )
        .unwrap();
    assert_eq!(
        code(world.poll(&started.device_code, later(5))),
        "authorization_pending"
    );
}

#[test]
fn d17_the_store_holds_neither_code() {
    let world = World::new();
    let started = world.start(None);
    world.approve(&started.user_code).unwrap();
    let dump = format!("{:?}", world.store);
    for secret in [
        &started.device_code,
        &started.user_code,
        &started.user_code.replace('-', ""),
    ] {
        assert!(!dump.contains(secret.as_str()));
    }
    assert!(!format!("{started:?}").contains(&started.device_code));
}

#[test]
fn d18_starts_are_bounded_and_make_room_by_expiry() {
    let world = World::new();
    for _ in 0..100 {
        world.start(None);
    }
    let start = Start {
        client_id: "agent",
        thumbprint: None,
        details: "",
    };
    let refused = world
        .server
        .start(&world.store, &start, later(599))
        .unwrap_err();
    assert!(matches!(refused, StartError::Full));
    world
        .server
        .start(&world.store, &start, later(600))
        .unwrap();
    let long = Start {
        details: &"x".repeat(4000),
        ..start
    };
    assert!(matches!(
        world.server.start(&world.store, &long, NOW),
        Err(StartError::TooLong)
    ));
}

#[test]
fn a_decision_is_final() {
    let world = World::new();
    let started = world.start(None);
    world.approve(&started.user_code).unwrap();
    let again = world.server.deny(
        &world.store,
        &world.guesses,
        &ana(),
        &started.user_code,
        NOW,
    );
    assert!(matches!(again, Err(DecideError::Unknown)));
    assert!(world.poll(&started.device_code, later(5)).is_ok());
}

// The client.

#[test]
fn d02_an_absent_interval_is_five_seconds() {
    assert_eq!(
        Polling::new(None, 600).wait(),
        Duration::from_secs(6),
        "and a fifth"
    );
    let json = r#"{"device_code":"d","user_code":"u","verification_uri":"v","expires_in":600}"#;
    let response: AuthorizationResponse = serde_json::from_str(json).unwrap();
    assert_eq!(response.interval, None);
}

#[test]
fn d04_a_server_out_of_reach_is_asked_ever_more_slowly() {
    let mut polling = Polling::new(Some(5), 3600);
    let waits: Vec<u64> = (0..8)
        .map(
            |_| match polling.answered(PollAnswer::Unreachable, Duration::ZERO) {
                Next::Wait(wait) => wait.as_secs(),
                other => panic!("{other:?}"),
            },
        )
        .collect();
    assert_eq!(waits, [12, 24, 48, 96, 120, 120, 120, 120]);
    let next = polling.answered(PollAnswer::Pending, Duration::ZERO);
    assert_eq!(
        next,
        Next::Wait(Duration::from_secs(6)),
        "and at once again when it is back"
    );
}

#[test]
fn d05_a_client_whose_clock_runs_a_third_fast_still_succeeds() {
    let world = World::new();
    let started = world.start(None);
    let mut polling = Polling::new(started.interval, started.expires_in);
    // Milliseconds of real time; the client thinks that 1.3 times as many have passed.
    let mut real: u64 = 0;
    loop {
        real += (polling.wait().as_millis() as f64 / 1.3) as u64;
        if real > 120_000 {
            world.approve(&started.user_code).ok();
        }
        let now = NOW.after(Duration::from_millis(real));
        let answer = match world.poll(&started.device_code, now) {
            Ok(_) => PollAnswer::Granted,
            Err(error) => PollAnswer::from_status(error.status(), Some(error.code())),
        };
        let elapsed = Duration::from_millis((real as f64 * 1.3) as u64);
        match polling.answered(answer, elapsed) {
            Next::Wait(_) => {}
            Next::Done => break,
            Next::Stop(failure) => panic!("{failure} after {real} ms"),
        }
    }
    assert!(!polling.clock_runs_fast(), "the margin was enough");
}

#[test]
fn the_client_obeys_slow_down_and_stops_when_told() {
    let mut polling = Polling::new(Some(5), 600);
    let slow = |polling: &mut Polling| polling.answered(PollAnswer::SlowDown, Duration::ZERO);
    assert_eq!(slow(&mut polling), Next::Wait(Duration::from_secs(14)));
    assert!(!polling.clock_runs_fast());
    assert_eq!(slow(&mut polling), Next::Wait(Duration::from_secs(21)));
    assert!(polling.clock_runs_fast());
    let mut stops =
        |status, error| polling.answered(PollAnswer::from_status(status, error), Duration::ZERO);
    assert_eq!(
        stops(400, Some("access_denied")),
        Next::Stop(Failure::Denied)
    );
    assert_eq!(
        stops(400, Some("expired_token")),
        Next::Stop(Failure::Expired)
    );
    let refused = Failure::Refused("invalid_client".into());
    assert_eq!(stops(401, Some("invalid_client")), Next::Stop(refused));
    assert_eq!(stops(200, None), Next::Done);
    assert!(matches!(stops(503, None), Next::Wait(_)));
    let late = polling.answered(PollAnswer::Pending, Duration::from_secs(595));
    assert_eq!(late, Next::Stop(Failure::Expired));
}

#[test]
fn the_server_describes_itself() {
    let metadata = Metadata::for_device_flow(
        "https://relay.example/",
        "/oauth/device_authorization",
        "/oauth/token",
    );
    let json = serde_json::to_value(&metadata).unwrap();
    assert_eq!(json["issuer"], "https://relay.example");
    assert_eq!(json["token_endpoint"], TOKEN_URL);
    assert_eq!(
        json["grant_types_supported"][0],
        "urn:ietf:params:oauth:grant-type:device_code"
    );
}
