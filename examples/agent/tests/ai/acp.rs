//! Programs that speak the Agent Client Protocol. The program is one of our own on
//! the protocol's SDK from npm, which does what a message lists; everything else is
//! as it is for a person.

mod hostile;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use katachi_protocol::approval::Decision;
use katachi_protocol::run::RunEvent;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::support::meeting::{Meeting, notes_of, session_of, text_of};
use crate::support::provider::{Provider, says, uses};
use crate::support::up::{Up, block_on};
use crate::support::{self, Place, needing, up};

const CANARY: &str = "canary-outside-2c9a";
const KEY: &str = "sk-test-acp-71d0";

pub(crate) fn trials() -> Vec<Trial> {
    let present = support::can_confine() && package("node", "@agentclientprotocol/sdk").is_some();
    let trial = |name: &str, test: fn()| {
        let needed = "user namespaces, node and @agentclientprotocol/sdk";
        needing(needed, present, name, test)
    };
    let mut trials = vec![
        needing(
            "user namespaces",
            support::can_confine(),
            "doctor_says_whether_the_ai_can_start",
            doctor_says_whether_the_ai_can_start,
        ),
        trial(
            "an_answer_streams_with_thoughts_tools_and_a_plan",
            an_answer_streams_with_thoughts_tools_and_a_plan,
        ),
        trial(
            "files_are_read_and_written_under_the_policy",
            files_are_read_and_written_under_the_policy,
        ),
        trial(
            "a_permission_is_what_a_person_signs",
            a_permission_is_what_a_person_signs,
        ),
        trial(
            "a_terminal_runs_under_the_policy",
            a_terminal_runs_under_the_policy,
        ),
        trial("who_leaves_ends_the_program", who_leaves_ends_the_program),
        trial(
            "work_that_was_killed_is_resumed_or_reported",
            work_that_was_killed_is_resumed_or_reported,
        ),
        trial(
            "a_program_that_breaks_the_protocol_is_ended",
            a_program_that_breaks_the_protocol_is_ended,
        ),
    ];
    trials.extend(hostile::trials());
    if std::env::var_os("KATACHI_LONG").is_some_and(|value| value == "1") {
        let real = package("peers", "@agentclientprotocol/claude-agent-acp");
        trials.push(needing(
            "user namespaces, node and @agentclientprotocol/claude-agent-acp",
            support::can_confine() && real.is_some(),
            "a_published_coding_agent_works_asks_and_is_confined",
            a_published_coding_agent_works,
        ));
    }
    trials
}

/// Where npm put a package.
fn package(folder: &str, name: &str) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools");
    let path = tools.join(folder).join("node_modules").join(name);
    path.canonicalize().ok()
}

/// An agent whose AI is `argv`, which may read `places` beside the workspace; `times`
/// are further lines of its configuration.
fn up_with(place: &Place, argv: &[&str], places: &[&Path], times: &str) -> Up {
    let mut read = vec!["@system".to_owned()];
    read.extend(places.iter().map(|path| path.to_str().unwrap().to_owned()));
    let policy = format!(
        "[filesystem]\nread = {read:?}\nwrite = [\".\"]\n[commands]\nallow = [\"@system\", \"@node\"]\nask = [\"touch\"]\n"
    );
    start(place, argv, ("MAKER_KEY", &policy), times)
}

/// The same under a whole policy, with the key in that variable.
fn start(place: &Place, argv: &[&str], (key, policy): (&str, &str), times: &str) -> Up {
    place.agent_reading(KEY, &["key", "set", "maker"]).ok();
    let policy = place.file("ai.toml", policy);
    let config = format!(
        "[ai]\nkind = \"acp\"\ncommand = {argv:?}\nkeys = {{ {key} = \"maker\" }}\npolicy = {policy:?}\n{times}"
    );
    std::fs::write(place.home().join("config.toml"), config).unwrap();
    let mut command = place.command();
    command.env("KATACHI_CONFIG", place.home().join("config.toml"));
    Up::start_by(command, &[])
}

/// The same with our own program.
fn up(place: &Place, traits: &[&str]) -> Up {
    let sdk = package("node", "@agentclientprotocol/sdk").unwrap();
    let program = include_str!("../support/acp-agent.mjs");
    let program = place.file("acp-agent.mjs", program).canonicalize().unwrap();
    let mut argv = vec!["node", program.to_str().unwrap(), sdk.to_str().unwrap()];
    argv.extend(traits);
    let modules = sdk.ancestors().nth(2).unwrap();
    up_with(place, &argv, &[&program, modules], "")
}

fn steps(steps: &Value) -> String {
    steps.to_string()
}

fn last_error(events: &[RunEvent]) -> &str {
    match events.last() {
        Some(RunEvent::Error { message }) => message,
        _ => panic!("{events:#?}"),
    }
}

fn is_done(events: &[RunEvent]) -> bool {
    matches!(events.last(), Some(RunEvent::Exit { code: Some(0), .. }))
}

fn an_answer_streams_with_thoughts_tools_and_a_plan() {
    let place = Place::new();
    let mut up = up(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let first = steps(&json!([
            { "do": "think", "text": "hm" },
            { "do": "plan" },
            { "do": "tool", "title": "look for plums" },
            { "do": "say", "text": "There are " },
            { "do": "say", "text": "two." },
            { "do": "env" },
        ]));
        let events = meeting
            .decide(&device, (None, &first), Decision::Deny)
            .await;
        assert!(is_done(&events), "{events:#?}");
        let text = text_of(&events);
        assert!(text.starts_with("There are two."), "{text}");
        // Its key, and nothing of ours.
        assert!(text.contains(KEY) && !text.contains("KATACHI"), "{text}");
        assert_eq!(notes_of(&events), "hm");
        let tools: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                RunEvent::Tool { name, detail } => Some(format!("{name}: {detail}")),
                _ => None,
            })
            .collect();
        assert_eq!(
            tools,
            [
                "plan: [x] count; [ ] tell",
                "search: look for plums {\"words\":\"plum\"}"
            ]
        );
        // The next message goes on with the same session of a new process.
        let session = session_of(&events);
        let second = steps(&json!([{ "do": "recall" }]));
        let events = meeting
            .decide(&device, (Some(&session), &second), Decision::Deny)
            .await;
        assert_eq!(text_of(&events), "think,plan,tool,say,say,env|recall");
        assert_eq!(notes_of(&events), "");
        let limit = steps(&json!([{ "do": "say", "text": "…", "stop": "max_tokens" }]));
        let events = meeting
            .decide(&device, (Some(&session), &limit), Decision::Deny)
            .await;
        assert!(
            last_error(&events).contains("limit of tokens"),
            "{events:?}"
        );
        let shown = place.agent(&["history", "show", &session]).ok();
        assert!(shown.contains("There are two."), "{shown}");
        assert!(!shown.contains("again:"), "{shown}");
    });
    up.stop();
}

fn files_are_read_and_written_under_the_policy() {
    let place = Place::new();
    std::fs::write(place.workspace().join("plums.txt"), "one\ntwo plums\n").unwrap();
    let canary = place.file("canary.txt", CANARY).canonicalize().unwrap();
    // The file is there for whoever is not confined.
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), CANARY);
    let outside = canary.with_file_name("note.txt");
    let mut up = up(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let say = async |step: Value| {
            let text = steps(&json!([step]));
            let events = meeting.decide(&device, (None, &text), Decision::Deny).await;
            assert!(is_done(&events), "{events:#?}");
            assert!(!format!("{events:?}").contains(CANARY), "{events:#?}");
            events
        };
        let inside = place.workspace().join("plums.txt");
        let read = say(json!({ "do": "read", "path": inside })).await;
        assert_eq!(text_of(&read), "one\ntwo plums\n");
        let refused = |events: &[RunEvent], line: &str| {
            let text = text_of(events);
            assert!(text.contains("denied by the policy"), "{text}");
            let shown = events.iter().any(|event| {
                matches!(event, RunEvent::Denied { allow_with: Some(allow), .. } if allow.contains(line))
            });
            assert!(shown, "{events:#?}");
        };
        refused(
            &say(json!({ "do": "read", "path": canary })).await,
            "read = ",
        );
        let note = json!({ "do": "write", "path": outside, "content": "x" });
        refused(&say(note).await, "write = ");
        // By itself it gets no further.
        let own = say(json!({ "do": "own", "path": canary })).await;
        assert!(text_of(&own).contains("ENOENT"), "{own:#?}");
        let note = place.workspace().join("note.txt");
        let write = say(json!({ "do": "write", "path": note, "content": "2" })).await;
        assert_eq!(text_of(&write), "written");
    });
    up.stop();
    let note = std::fs::read_to_string(place.workspace().join("note.txt"));
    assert_eq!(note.unwrap(), "2");
    assert!(!outside.exists());
}

fn a_permission_is_what_a_person_signs() {
    let place = Place::new();
    let mut up = up(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let step = json!({ "do": "ask", "title": "count plums", "input": { "n": 2 } });
        let text = steps(&json!([step]));
        for (decision, answer) in [(Decision::Approve, "once"), (Decision::Deny, "no")] {
            let events = meeting.decide(&device, (None, &text), decision).await;
            assert_eq!(text_of(&events), answer, "{events:#?}");
            let asked = events.iter().find_map(|event| match event {
                RunEvent::Approval(request) => Some(request.clone()),
                _ => None,
            });
            let asked = asked.unwrap();
            assert_eq!(asked.argv, ["execute", "count plums", "{\"n\":2}"]);
            assert_eq!(Path::new(&asked.directory), place.workspace());
            let is_denied = events.iter().any(|event| {
                matches!(event, RunEvent::Denied { control, reason, .. } if control == "permission" && reason.contains("a person denied it"))
            });
            assert_eq!(is_denied, decision == Decision::Deny, "{events:#?}");
        }
        // A person says yes to one thing once, and never for ever.
        let step = json!({ "do": "ask", "title": "all", "only": "always" });
        let text = steps(&json!([step]));
        let events = meeting
            .decide(&device, (None, &text), Decision::Approve)
            .await;
        assert_eq!(text_of(&events), "cancelled", "{events:#?}");
    });
    up.stop();
}

fn a_terminal_runs_under_the_policy() {
    let place = Place::new();
    let mut up = up(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let run = async |step: Value, decision: Decision| {
            let text = steps(&json!([step]));
            let events = meeting.decide(&device, (None, &text), decision).await;
            assert!(is_done(&events), "{events:#?}");
            (text_of(&events), events)
        };
        let echo = json!({ "do": "terminal", "argv": ["echo", "plums"] });
        assert_eq!(run(echo, Decision::Deny).await.0, "0: plums\n");
        let curl = json!({ "do": "terminal", "argv": ["curl", "http://elsewhere.example"] });
        let (text, events) = run(curl, Decision::Deny).await;
        assert!(text.starts_with("126: denied by the policy"), "{text}");
        assert!(
            format!("{events:?}").contains("allow = [\\\"curl\\\"]"),
            "{events:#?}"
        );
        let sleep = json!({ "do": "terminal", "argv": ["sleep", "60"], "kill": true });
        assert_eq!(run(sleep, Decision::Deny).await.0, "signal 9: ");
        let touch = json!({ "do": "terminal", "argv": ["touch", "plum"] });
        let (text, _) = run(touch.clone(), Decision::Deny).await;
        assert!(text.contains("a person denied it"), "{text}");
        assert!(!place.workspace().join("plum").exists());
        assert_eq!(run(touch, Decision::Approve).await.0, "0: ");
        assert!(place.workspace().join("plum").exists());
        // Nobody approves what variables can turn into something else.
        let env = json!([{ "name": "LD_PRELOAD", "value": "./x.so" }]);
        let touch = json!({ "do": "terminal", "argv": ["touch", "pear"], "env": env });
        let (text, _) = run(touch, Decision::Approve).await;
        assert!(text.contains("takes no variables"), "{text}");
        let env = json!([{ "name": "UNITS", "value": "metric" }]);
        let shown = json!({ "do": "terminal", "argv": ["env"], "env": env });
        let (text, _) = run(shown, Decision::Deny).await;
        assert!(
            text.contains("UNITS=metric") && !text.contains(KEY),
            "{text}"
        );
    });
    up.stop();
}

/// Waits until `seen` says so.
fn wait_until(what: &str, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + up::PATIENCE;
    while !seen() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes of our program that are not its sandbox's own.
fn programs(place: &Place) -> Vec<u32> {
    running(place, "node", "acp-agent.mjs")
}

/// The processes of `interpreter` with the program in `file`.
fn running(place: &Place, interpreter: &str, file: &str) -> Vec<u32> {
    let mark = place.home().with_file_name(file);
    let mark = mark.canonicalize().unwrap();
    let numbers = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|number: &u32| {
            let line = std::fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            words
                .next()
                .is_some_and(|word| word.ends_with(interpreter.as_bytes()))
                && words.next() == Some(mark.as_os_str().as_encoded_bytes())
        })
        .collect()
}

fn who_leaves_ends_the_program() {
    let place = Place::new();
    let mut up = up(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let text = steps(&json!([{ "do": "wait" }]));
        let until_it_waits = async |event: &RunEvent| !matches!(event, RunEvent::Output { .. });
        let events = meeting.follow(&device, (None, &text), until_it_waits).await;
        assert_eq!(text_of(&events), "waiting");
    });
    // It was told before it was ended.
    let mark = place.workspace().join("cancelled");
    wait_until("a cancellation", || mark.exists());
    wait_until("the end of the program", || programs(&place).is_empty());
    up.stop();
}

fn work_that_was_killed_is_resumed_or_reported() {
    for (traits, note) in [
        (&[][..], "The program goes on from there."),
        (
            &["no-load"][..],
            "cannot load conversations, and begins anew",
        ),
    ] {
        let place = Place::new();
        let mut up = up(&place, traits);
        block_on(async {
            let meeting = Meeting::of(&mut up).await;
            let device = meeting.paired(&up).await;
            let text = steps(&json!([{ "do": "wait" }]));
            let kill = async |event: &RunEvent| {
                if matches!(event, RunEvent::Output { .. }) {
                    let found = programs(&place);
                    assert!(!found.is_empty(), "the program is not there");
                    for number in found {
                        let number = number.to_string();
                        let mut kill = std::process::Command::new("kill");
                        assert!(kill.args(["-9", &number]).status().unwrap().success());
                    }
                }
                true
            };
            let events = meeting.follow(&device, (None, &text), kill).await;
            let error = last_error(&events);
            assert!(
                error.contains("signal 9") && error.contains("interrupted"),
                "{error}"
            );
            let session = session_of(&events);
            let text = steps(&json!([{ "do": "recall" }]));
            let message = (Some(session.as_str()), text.as_str());
            let events = meeting.decide(&device, message, Decision::Deny).await;
            let notes = notes_of(&events);
            assert!(
                notes.contains("was interrupted") && notes.contains(note),
                "{notes}"
            );
            let recalled = match traits.is_empty() {
                true => "wait|recall",
                false => "recall",
            };
            assert_eq!(text_of(&events), recalled, "{events:#?}");
            // Once answered, it is not said again.
            let events = meeting.decide(&device, message, Decision::Deny).await;
            assert!(!notes_of(&events).contains("interrupted"), "{events:#?}");
        });
        up.stop();
    }
}

/// Whether the agent got by with the memory that its bounds add up to.
fn needed_little(up: &Up) {
    let status = format!("/proc/{}/status", up.child.id());
    let status = std::fs::read_to_string(status).unwrap();
    let mut lines = status.lines();
    let peak = lines.find(|line| line.starts_with("VmHWM")).unwrap();
    let peak: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak < 400 * 1024, "{peak} KiB were needed for that");
}

fn a_program_that_breaks_the_protocol_is_ended() {
    let place = Place::new();
    let mut running = up(&place, &[]);
    block_on(async {
        let meeting = Meeting::of(&mut running).await;
        let device = meeting.paired(&running).await;
        for (step, why) in [
            (
                json!({ "do": "raw", "line": "plums!" }),
                "no JSON-RPC message: plums!",
            ),
            (
                json!({ "do": "raw", "line": "x".repeat(1024), "times": 8192 }),
                "a message of more than",
            ),
            (json!({ "do": "flood" }), "bytes for one answer"),
            (
                json!({ "do": "raw", "line": "{\"id\":77,\"result\":{}}" }),
                "that it was not asked",
            ),
            (
                json!({ "do": "raw", "line": "{\"id\":3,\"result\":{}}" }),
                "answer to session/prompt is not one",
            ),
            (json!({ "do": "exit", "code": 3 }), "(exit 3)"),
        ] {
            let text = steps(&json!([step]));
            let events = meeting.decide(&device, (None, &text), Decision::Deny).await;
            let error = last_error(&events);
            assert!(error.contains(why), "{why}: {error}");
            let left = programs(&place);
            assert!(left.is_empty(), "{why}: {left:?} goes on");
        }
        needed_little(&running);
    });
    running.stop();

    let place = Place::new();
    let mut running = up(&place, &["version"]);
    block_on(async {
        let meeting = Meeting::of(&mut running).await;
        let device = meeting.paired(&running).await;
        let events = meeting.message(&device, None, "[]").await;
        assert!(
            last_error(&events).contains("speaks version 99"),
            "{events:#?}"
        );
    });
    running.stop();
}

fn doctor_says_whether_the_ai_can_start() {
    let place = Place::new();
    place.agent_reading(KEY, &["key", "set", "maker"]).ok();
    let allow_cat = "[filesystem]\nread = [\"@system\"]\n[commands]\nallow = [\"cat\"]\n";
    let allow_cat = place.file("ai.toml", allow_cat);
    let said = |command: &str, key: &str| {
        let config = format!(
            "[ai]\nkind = \"acp\"\ncommand = [{command:?}]\nkeys = {{ K = {key:?} }}\npolicy = {allow_cat:?}\n"
        );
        std::fs::write(place.home().join("config.toml"), config).unwrap();
        let said = place.agent(&["doctor", "--json"]);
        let report: Value = serde_json::from_str(&said.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap().clone();
        let about_ai = findings.iter().find(|finding| finding["about"] == "AI");
        let about_ai = about_ai.unwrap().clone();
        let detail = about_ai["detail"].as_str().unwrap().to_owned();
        (about_ai["health"].as_str().unwrap().to_owned(), detail)
    };
    let (health, detail) = said("cat", "maker");
    assert_eq!(health, "good", "{detail}");
    assert!(detail.contains("speaks ACP, cat, may start"), "{detail}");
    let (health, detail) = said("ls", "maker");
    assert_eq!(health, "bad", "{detail}");
    assert!(detail.contains("allow = [\"ls\"]"), "{detail}");
    let (health, detail) = said("cat", "other");
    assert_eq!(health, "bad", "{detail}");
    assert!(detail.contains("katachi-agent key set other"), "{detail}");
}

/// A coding agent as it is published, whose model is a stand-in on loopback, the one
/// address that its policy opens: it answers, uses a tool of its own, and asks before.
fn a_published_coding_agent_works() {
    let place = Place::new();
    let canary = place.file("canary.txt", CANARY).canonicalize().unwrap();
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), CANARY);
    let shell = |command: String| {
        uses(
            "",
            "Bash",
            json!({ "command": command, "description": "a step" }),
        )
    };
    let read = format!("cat {}", canary.display());
    let provider = Provider::with_asides(vec![
        shell("mkdir plums".to_owned()),
        says("There is a place now."),
        shell("mkdir pears".to_owned()),
        says("Then not."),
        shell(read.clone()),
        says("Nothing there."),
    ]);
    let address = provider.address();
    let program = package("peers", "@agentclientprotocol/claude-agent-acp").unwrap();
    let modules = program.ancestors().nth(2).unwrap().to_owned();
    // What does the work is a program for each system, beside it.
    let work = std::fs::read_dir(modules.join("@anthropic-ai"))
        .unwrap()
        .flatten();
    let mut work = work.map(|package| package.path().join("claude"));
    let work = work.find(|file| file.is_file()).expect("its program");
    // It asks a person, rather than a model, whether it may.
    let own = place.workspace().join("own");
    std::fs::create_dir(&own).unwrap();
    let settings = json!({ "permissions": { "defaultMode": "default" } });
    std::fs::write(own.join("settings.json"), settings.to_string()).unwrap();
    let policy = format!(
        "[filesystem]\nread = [\"@system\", {modules:?}]\nwrite = [\".\"]\n\
         [commands]\nallow = [\"@system\", \"@node\", {{ path = {work:?} }}]\n\
         [network]\nallow = [\"{address}\"]\n\
         [env]\nset = {{ ANTHROPIC_BASE_URL = \"http://{address}\", CLAUDE_CONFIG_DIR = {own:?}, \
         CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC = \"1\", DISABLE_AUTOUPDATER = \"1\" }}\n"
    );
    let index = program.join("dist/index.js");
    let argv = ["node", index.to_str().unwrap()];
    let mut up = start(&place, &argv, ("ANTHROPIC_API_KEY", &policy), "");
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        for (command, decision, said) in [
            ("mkdir plums", Decision::Approve, "There is a place now."),
            ("mkdir pears", Decision::Deny, "Then not."),
            (&read, Decision::Approve, "Nothing there."),
        ] {
            let events = meeting.decide(&device, (None, "go on"), decision).await;
            assert!(is_done(&events), "{events:#?}");
            assert!(text_of(&events).contains(said), "{events:#?}");
            let asked = events.iter().find_map(|event| match event {
                RunEvent::Approval(request) => Some(request.clone()),
                _ => None,
            });
            let asked = asked.unwrap_or_else(|| panic!("{events:#?}"));
            assert_eq!(asked.argv[..2], ["execute", command], "{asked:?}");
            assert_eq!(Path::new(&asked.directory), place.workspace());
            let used = events
                .iter()
                .any(|event| matches!(event, RunEvent::Tool { name, .. } if name == "execute"));
            assert!(used, "{events:#?}");
        }
    });
    up.stop();
    assert!(place.workspace().join("plums").is_dir());
    assert!(!place.workspace().join("pears").exists());
    let asked = provider.asked();
    assert_eq!(asked.len(), 6);
    for request in &asked {
        assert_eq!(request.path, "/v1/messages");
        assert_eq!(request.key.as_deref(), Some(KEY));
        assert!(!request.body.to_string().contains(CANARY));
    }
    let refused = asked[3].told();
    assert!(refused.contains("refused permission"), "{refused}");
    let confined = asked[5].told();
    assert!(confined.contains("No such file"), "{confined}");
}
