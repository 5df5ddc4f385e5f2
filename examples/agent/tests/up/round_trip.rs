//! `up` with its embedded relay, somebody who approves, and back.

use std::time::{Duration, Instant};

use katachi_protocol::record::{Conversation, Denials, History, Sessions};
use katachi_protocol::run::{OutputStream, RunEvent};
use libtest_mimic::Trial;

use crate::support::browser::EMAIL;
use crate::support::meeting::{Meeting, get, post, run};
use crate::support::up::{PATIENCE, Up, block_on, signal};
use crate::support::{self, Place, needing};

pub(crate) fn trials() -> Vec<Trial> {
    let confine = support::can_confine();
    let user = "user namespaces";
    let plain = |name: &str, test: fn()| needing("unix signals", cfg!(unix), name, test);
    vec![
        plain(
            "another_account_that_approves_gets_nothing",
            another_account_that_approves_gets_nothing,
        ),
        plain(
            "a_machine_reconnects_and_is_forgotten",
            a_machine_reconnects_and_is_forgotten,
        ),
        plain(
            "a_relay_that_stops_tells_its_agent",
            a_relay_that_stops_tells_its_agent,
        ),
        plain("only_one_up_runs_in_a_home", only_one_up_runs_in_a_home),
        plain(
            "the_relay_ends_with_an_agent_that_is_killed",
            the_relay_ends_with_an_agent_that_is_killed,
        ),
        needing(
            user,
            confine,
            "a_command_runs_and_streams_back",
            a_command_runs_and_streams_back,
        ),
        needing(
            user,
            confine,
            "a_reader_that_goes_away_ends_the_command",
            a_reader_that_goes_away_ends_the_command,
        ),
        needing(
            user,
            confine,
            "messages_are_answered_and_kept",
            messages_are_answered_and_kept,
        ),
        needing(
            user,
            confine,
            "a_message_without_an_ai_says_how_to_configure_one",
            a_message_without_an_ai_says_how_to_configure_one,
        ),
    ]
}

fn stdout_of(events: &[RunEvent]) -> String {
    let pieces = events.iter().filter_map(|event| match event {
        RunEvent::Output {
            stream: OutputStream::Stdout,
            data,
        } => Some(data.as_str()),
        _ => None,
    });
    pieces.collect()
}

fn another_account_that_approves_gets_nothing() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let (browser, code) = up.browser();
        browser.sign_up("somebody@else.example").await;
        browser.approve(&code).await;
        up.wait_for("somebody@else.example approved, which is not the account expected");
        assert!(!place.home().join("data/relay.sealed").exists());
    });
    assert_eq!(up.ends(), Some(1));
}

fn a_machine_reconnects_and_is_forgotten() {
    let place = Place::new();
    let mut first = Up::start(&place, &[]);
    block_on(first.approved());
    first.stop();

    // The relay is another process now, on another port, with another epoch.
    let mut second = Up::start(&place, &[]);
    second.wait_for("Connected.");
    second.stop();

    place.agent(&["unregister"]).ok();
    assert!(!place.home().join("data/relay.sealed").exists());
    let mut third = Up::start(&place, &[]);
    third.wait_for("code ");
    third.stop();

    place.agent(&["unregister", "--everything", "--yes"]).ok();
    assert!(place.stored().is_empty(), "{:?}", place.stored());
}

fn a_relay_that_stops_tells_its_agent() {
    let told = |name: &str| {
        let place = Place::new();
        let mut up = Up::start(&place, &[]);
        block_on(up.approved());
        let relay = up.relay().to_string();
        let mut kill = std::process::Command::new("kill");
        assert!(kill.args([name, &relay]).status().unwrap().success());
        up.ends();
        let log = place.agent(&["audit", "--json"]).ok();
        log.contains("POST /v1/reconnect")
    };
    assert!(told("-TERM"));
    // One that is killed says nothing.
    assert!(!told("-KILL"));
}

fn only_one_up_runs_in_a_home() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    up.wait_for("code ");
    let second = place.agent(&["up", "--expect-account", EMAIL]);
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("runs already"), "{}", second.stderr);
    up.stop();
}

fn the_relay_ends_with_an_agent_that_is_killed() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    let ca = up.wait_for("its authority is");
    let link = up.wait_for("https://");
    let address = format!("127.0.0.1:{}", link.split([':', '/']).nth(1).unwrap());
    assert!(
        std::net::TcpStream::connect(&address).is_ok(),
        "{ca} {address}"
    );
    signal("-KILL", &up.child);
    let deadline = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(&address).is_ok() {
        assert!(Instant::now() < deadline, "the relay outlived its agent");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn a_command_runs_and_streams_back() {
    let place = Place::new();
    std::fs::create_dir(place.workspace().join("sub")).unwrap();
    std::fs::write(place.workspace().join("sub/plums.txt"), "two plums\n").unwrap();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let events = meeting.run(&device, &["cat", "sub/plums.txt"]).await;
        assert!(
            matches!(&events[0], RunEvent::Started { argv, plan_hash, .. } if argv[0] == "cat" && plan_hash.len() == 64)
        );
        assert_eq!(stdout_of(&events), "two plums\n");
        assert!(matches!(
            events.last(),
            Some(RunEvent::Exit { code: Some(0), .. })
        ));

        let events = meeting
            .run(&device, &["sh", "-c", "echo to stderr >&2; exit 3"])
            .await;
        assert!(events.contains(&RunEvent::Output {
            stream: OutputStream::Stderr,
            data: "to stderr\n".into()
        }));
        assert!(matches!(
            events.last(),
            Some(RunEvent::Exit { code: Some(3), .. })
        ));

        let pwd = |cwd: &str| {
            post(
                "/v1/run",
                serde_json::json!({ "argv": ["pwd"], "cwd": cwd }),
            )
        };
        let answer = meeting.ask(&device, pwd("sub")).await.unwrap();
        let answer = String::from_utf8(answer.whole().await.unwrap()).unwrap();
        assert!(answer.contains("/sub\\n"), "{answer}");
        let outside = meeting.ask(&device, pwd("../..")).await.unwrap();
        assert_eq!(outside.status, 400);

        let events = meeting
            .run(&device, &[env!("CARGO_BIN_EXE_katachi-agent"), "--version"])
            .await;
        assert!(
            matches!(
                &events[0],
                RunEvent::Denied {
                    allow_with: Some(_),
                    ..
                }
            ),
            "{events:?}"
        );
        assert!(matches!(
            events.last(),
            Some(RunEvent::Exit {
                code: Some(126),
                ..
            })
        ));
        let denials: Denials = meeting.read(&device, "/v1/denials").await;
        assert_eq!(denials.denials.len(), 1);
    });
    up.stop();
    let audit = place.agent(&["audit", "--json"]).ok();
    for call in [
        "POST /v1/run",
        "GET /v1/denials",
        "POST /v1/agent/heartbeat",
        "POST /v1/agent/activity",
    ] {
        assert!(audit.contains(call), "{call}: {audit}");
    }
    // A person who edits the log is told so.
    let log = place.home().join("state/audit.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replacen("plums.txt", "pears.txt", 1)).unwrap();
    let said = place.agent(&["audit"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("altered"), "{}", said.stderr);
}

fn a_reader_that_goes_away_ends_the_command() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let beat = "while true; do date +%s%N > beat; sleep 0.1; done";
        let beating = run(&["sh", "-c", beat]);
        let mut answer = meeting.ask(&device, beating).await.unwrap();
        let first = answer.piece().await.unwrap().unwrap();
        assert!(first.starts_with(b"{\"event\":\"started\""));
        let file = place.workspace().join("beat");
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(answer);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = std::fs::read(&file).unwrap();
            tokio::time::sleep(Duration::from_millis(700)).await;
            if std::fs::read(&file).unwrap() == before {
                break;
            }
            assert!(Instant::now() < deadline, "the command outlived its reader");
        }
    });
    up.stop();
    assert!(place.agent(&["audit"]).ok().contains("cancelled"));
}

fn messages_are_answered_and_kept() {
    let place = Place::new();
    let mut up = Up::start(&place, &["--ai-command", "sed s/^/heard:/"]);
    let session = block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let events = meeting.message(&device, None, "when do plums ripen?").await;
        assert_eq!(stdout_of(&events), "heard:when do plums ripen?");
        let RunEvent::Started {
            session: Some(session),
            ..
        } = &events[0]
        else {
            panic!("{events:?}");
        };
        meeting.message(&device, Some(session), "and pears?").await;
        let found: History = meeting.read(&device, "/v1/history?q=plums").await;
        assert_eq!(found.hits.len(), 2, "{found:?}");
        meeting.message(&device, None, "forget this").await;

        let listed: Sessions = meeting.read(&device, "/v1/sessions").await;
        let [newest, oldest] = listed.sessions.as_slice() else {
            panic!("{listed:?}");
        };
        assert_eq!(&oldest.session, session);
        assert_eq!(
            (oldest.title.as_str(), oldest.messages),
            ("when do plums ripen?", 4)
        );
        let path = format!("/v1/sessions/{session}");
        let opened: Conversation = meeting.read(&device, &path).await;
        assert!(!opened.more);
        let said = opened.messages.iter();
        let said = said.map(|said| (said.role.as_str(), said.state.as_str(), said.text.as_str()));
        assert_eq!(
            said.collect::<Vec<_>>(),
            [
                ("user", "complete", "when do plums ripen?"),
                ("assistant", "complete", "heard:when do plums ripen?"),
                ("user", "complete", "and pears?"),
                ("assistant", "complete", "heard:and pears?"),
            ]
        );
        for (named, status) in [(newest.session.as_str(), 204), ("4711", 404), ("plum", 404)] {
            let mut request = get(&format!("/v1/sessions/{named}"));
            request.method = "DELETE".to_owned();
            let answer = meeting.ask(&device, request).await.unwrap();
            assert_eq!(answer.status, status, "{named}");
        }
        let left: Sessions = meeting.read(&device, "/v1/sessions").await;
        assert_eq!(left.sessions, std::slice::from_ref(oldest));
        session.clone()
    });
    up.stop();
    let shown = place.agent(&["history", "show", &session]).ok();
    for text in ["when do plums ripen?", "heard:and pears?"] {
        assert!(shown.contains(text), "{shown}");
    }
    assert!(
        place
            .agent(&["history", "search", "pears"])
            .ok()
            .contains("pears")
    );
    let listed = place.agent(&["history", "list"]).ok();
    assert!(
        listed.contains("4 messages") && listed.contains('█'),
        "{listed}"
    );
}

fn a_message_without_an_ai_says_how_to_configure_one() {
    let place = Place::new();
    let mut up = Up::start(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let events = meeting.message(&device, None, "hello").await;
        let Some(RunEvent::Error { message }) = events.last() else {
            panic!("{events:?}");
        };
        assert!(message.contains("ai.command"), "{message}");
    });
    up.stop();
}
