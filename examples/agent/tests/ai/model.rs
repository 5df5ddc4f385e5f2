//! A model behind HTTP that uses tools. The model is a stand-in that speaks
//! Anthropic's Messages API as documented, streamed; everything else is real.

use std::path::Path;

use katachi_protocol::approval::Decision;
use katachi_protocol::run::RunEvent;
use libtest_mimic::Trial;
use serde_json::json;

use crate::servers;
use crate::support::meeting::{Meeting, session_of, text_of};
use crate::support::provider::{Provider, says, uses};
use crate::support::up::{Up, block_on};
use crate::support::{self, Place, meeting, needing, provider, up};

const CANARY: &str = "canary-outside-51d2";
const KEY: &str = "sk-test-9b1f4c2e77";

pub(crate) fn trials() -> Vec<Trial> {
    let confine = support::can_confine();
    let confined = |name: &str, test: fn()| needing("user namespaces", confine, name, test);
    vec![
        confined(
            "a_model_works_with_tools_under_the_policy",
            a_model_works_with_tools_under_the_policy,
        ),
        confined(
            "a_command_of_a_model_waits_for_a_person",
            a_command_of_a_model_waits_for_a_person,
        ),
        confined(
            "a_conversation_and_what_was_kept_are_there_again",
            a_conversation_and_what_was_kept_are_there_again,
        ),
        confined(
            "an_argument_rule_makes_a_model_wait_for_a_person",
            an_argument_rule_makes_a_model_wait_for_a_person,
        ),
        needing(
            "user namespaces, node and @modelcontextprotocol/server-filesystem",
            confine && servers::files().is_some(),
            "a_model_uses_the_tools_of_an_mcp_server",
            a_model_uses_the_tools_of_an_mcp_server,
        ),
        confined(
            "a_model_that_never_ends_is_ended",
            a_model_that_never_ends_is_ended,
        ),
        confined(
            "an_answer_that_takes_too_long_is_ended_with_its_tools",
            an_answer_that_takes_too_long_is_ended_with_its_tools,
        ),
        confined(
            "a_provider_that_refuses_is_told_of",
            a_provider_that_refuses_is_told_of,
        ),
    ]
}

/// An agent with the model at `provider`, and its key in the vault.
fn up(place: &Place, provider: &Provider, policy: &str) -> Up {
    up_with(place, provider, policy, "")
}

/// The same with `more` in its configuration.
fn up_with(place: &Place, provider: &Provider, policy: &str, more: &str) -> Up {
    place.agent_reading(KEY, &["key", "set", "anthropic"]).ok();
    let policy = place.file("ai.toml", policy);
    let config = format!(
        "[ai]\nkind = \"http\"\nmodel = \"claude-sonnet-4-5\"\nbase_url = {:?}\nkey = \"anthropic\"\npolicy = {:?}\n{more}",
        provider.base_url(),
        policy.to_str().unwrap()
    );
    std::fs::write(place.home().join("config.toml"), config).unwrap();
    let mut command = place.command();
    command
        .env(
            "KATACHI_LOG",
            "warn,genai=trace,hyper=trace,katachi_agent=trace",
        )
        .env("KATACHI_CONFIG", place.home().join("config.toml"));
    Up::start_by(command, &[])
}

const POLICY: &str = r#"[filesystem]
read = ["@system"]
write = ["."]
[commands]
allow = ["@system"]
ask = ["touch"]
"#;

const QUESTION: &str = "how many plums?";

fn a_model_works_with_tools_under_the_policy() {
    let place = Place::new();
    std::fs::write(place.workspace().join("plums.txt"), "two plums\n").unwrap();
    let canary = place.file("canary.txt", CANARY).canonicalize().unwrap();
    let canary = canary.to_str().unwrap().to_owned();
    // The file is there for whoever is not confined.
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), CANARY);
    // What a program's children are refused: a file, and one that is changed; a
    // program by its path, and one that is only looked up.
    let secret = place.file("secret.txt", CANARY).canonicalize().unwrap();
    let secret = secret.to_str().unwrap().to_owned();
    let outside = Path::new(&secret).parent().unwrap();
    let beside = place.workspace().join("beside");
    std::os::unix::fs::symlink(outside, beside).unwrap();
    let outside = outside.to_str().unwrap().to_owned();
    let script =
        format!("sh -c 'cat {secret}; echo x > /etc/katachi-other; /usr/bin/perl; python3'; true");
    let provider = Provider::start(vec![
        uses("I look. ", "read", json!({ "path": "plums.txt" })),
        uses("", "read", json!({ "path": canary })),
        uses("", "run", json!({ "argv": ["cat", canary] })),
        uses(
            "",
            "run",
            json!({ "argv": ["curl", "http://elsewhere.example"] }),
        ),
        uses("", "run", json!({ "argv": ["sh", "-c", script] })),
        uses("", "search", json!({ "pattern": "tw. pl" })),
        uses("", "write", json!({ "path": "note.txt", "content": "2" })),
        uses("", "list", json!({ "path": "." })),
        uses(
            "",
            "write",
            json!({ "path": "/etc/katachi-note", "content": "2" }),
        ),
        uses("", "read", json!({ "file": "plums.txt" })),
        // The directory that holds both files, by its name and by a link to it.
        uses("", "list", json!({ "path": outside })),
        uses(
            "",
            "search",
            json!({ "pattern": "canary", "path": outside }),
        ),
        uses("", "list", json!({ "path": "beside/" })),
        uses(
            "",
            "search",
            json!({ "pattern": "canary", "path": "beside/" }),
        ),
        uses(
            "",
            "search",
            json!({ "pattern": "canary", "path": "../secret.txt" }),
        ),
        says("There are two."),
    ]);
    let mut up = up(&place, &provider, POLICY);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let events = meeting
            .decide(&device, (None, QUESTION), Decision::Deny)
            .await;
        assert_eq!(text_of(&events), "I look. There are two.", "{events:#?}");
        assert!(matches!(
            events.last(),
            Some(RunEvent::Exit { code: Some(0), .. })
        ));
        let used = events
            .iter()
            .filter(|event| matches!(event, RunEvent::Tool { .. }));
        assert_eq!(used.count(), 15);
        let denied: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                RunEvent::Denied {
                    target, allow_with, ..
                } => Some((target.clone(), allow_with.clone().unwrap_or_default())),
                _ => None,
            })
            .collect();
        let shown = |what: &str, line: &str| {
            assert!(
                denied
                    .iter()
                    .any(|(target, allow)| target.contains(what) && allow.contains(line)),
                "{what}: {denied:?}"
            );
        };
        shown("canary.txt", "read = ");
        shown("curl", "allow = [\"curl\"]");
        shown("katachi-note", "write = ");
        shown("secret.txt", "read = ");
        let of_outside = denied.iter().filter(|(target, _)| *target == outside);
        assert!(of_outside.count() >= 2, "{denied:?}");
        shown("katachi-other", "write = ");
        shown("perl", "allow = [\"perl\"]");
        // By its name, where no other one stands before it in this machine's PATH.
        shown("python3", "python3\"]");
        assert!(!format!("{events:?}").contains(CANARY));
    });
    up.stop();
    assert_eq!(
        std::fs::read_to_string(place.workspace().join("note.txt")).unwrap(),
        "2"
    );

    let asked = provider.asked();
    assert_eq!(asked.len(), 16);
    for one in &asked {
        assert_eq!(one.path, "/v1/messages");
        assert_eq!(one.key.as_deref(), Some(KEY));
        assert_eq!(one.body["stream"], true);
        let names: Vec<_> = one.body["tools"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tool| tool["name"].as_str().unwrap())
            .collect();
        assert!(
            names.starts_with(&["run", "read", "write", "list", "search"]),
            "{names:?}"
        );
        let body = one.body.to_string();
        assert!(!body.contains(CANARY) && !body.contains(KEY), "{body}");
    }
    let told: Vec<_> = asked[1..].iter().map(provider::Asked::told).collect();
    for (result, part) in told.iter().zip([
        "two plums",
        "denied by the policy of this machine",
        "No such file",
        "allow = [\"curl\"]",
        "allow = [\"perl\"]",
        "plums.txt:1:two plums",
        "written",
        "note.txt",
        "denied by the policy of this machine",
        "the arguments of read are wrong",
        "denied by the policy of this machine",
        "denied by the policy of this machine",
        "denied by the policy of this machine",
        "denied by the policy of this machine",
        "denied by the policy of this machine",
    ]) {
        assert!(result.contains(part), "{part}: {result}");
    }
    // What is outside is not listed either.
    for one in &told[10..] {
        assert!(
            !one.contains("secret.txt:") && !one.contains("ai.toml"),
            "{one}"
        );
    }
    // The model is not told which files there are outside.
    assert!(
        !told[4].contains("read = ") && !told[4].contains("write = "),
        "{}",
        told[4]
    );
    // The log says everything that it ever does, and the key is in none of it.
    for (path, bytes) in place.stored() {
        let found = bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes());
        assert!(!found, "{}", path.display());
    }
}

fn a_command_of_a_model_waits_for_a_person() {
    for (decision, made) in [(Decision::Deny, false), (Decision::Approve, true)] {
        let place = Place::new();
        let provider = Provider::start(vec![
            uses("", "run", json!({ "argv": ["touch", "plum"] })),
            says("Done."),
        ]);
        let mut up = up(&place, &provider, POLICY);
        block_on(async {
            let meeting = Meeting::of(&mut up).await;
            let device = meeting.paired(&up).await;
            let events = meeting.decide(&device, (None, QUESTION), decision).await;
            let asked = events.iter().any(|event| {
                matches!(event, RunEvent::Approval(request) if request.argv == ["touch", "plum"])
            });
            assert!(asked, "{events:#?}");
        });
        assert_eq!(place.workspace().join("plum").exists(), made);
        let told = provider.asked()[1].told();
        assert_eq!(told.contains("a person denied it"), !made, "{told}");
        up.stop();
    }
}

fn git(place: &Place, words: &[&str]) -> String {
    let output = std::process::Command::new("git")
        .args([
            "-c",
            "user.name=Mia",
            "-c",
            "user.email=mia@orchard.example",
        ])
        .args(words)
        .current_dir(place.workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn an_argument_rule_makes_a_model_wait_for_a_person() {
    let policy = r#"[filesystem]
read = ["@system"]
write = ["."]
git = "full"
[commands]
allow = ["@system", "@git"]
ask = [["git", "push"]]
"#;
    for (decision, pushed) in [(Decision::Deny, false), (Decision::Approve, true)] {
        let place = Place::new();
        git(&place, &["init", "-q", "-b", "main"]);
        git(&place, &["init", "-q", "--bare", "far.git"]);
        git(&place, &["commit", "-q", "--allow-empty", "-m", "plums"]);
        // The other end is started by the one name that the rule is about.
        let far = "--receive-pack=git receive-pack";
        let push = ["git", "push", far, "./far.git", "main"];
        let provider = Provider::start(vec![
            uses("", "run", json!({ "argv": ["git", "rev-parse", "HEAD"] })),
            // What a shell starts is seen too, and nobody is asked for it there.
            uses(
                "",
                "run",
                json!({ "argv": ["sh", "-c", "git push ./far.git main"] }),
            ),
            uses("", "run", json!({ "argv": push })),
            says("Done."),
        ]);
        let mut up = up(&place, &provider, policy);
        let events = block_on(async {
            let meeting = Meeting::of(&mut up).await;
            let device = meeting.paired(&up).await;
            let before_push = async |event: &RunEvent| {
                if let RunEvent::Approval(request) = event {
                    let refs = git(&place, &["--git-dir=far.git", "for-each-ref"]);
                    assert_eq!(refs, "", "it was pushed before anybody said so");
                    let said = meeting::signed(request.clone(), decision, &device);
                    assert_eq!(meeting.ask(&device, said).await.unwrap().status, 204);
                }
                true
            };
            meeting.follow(&device, (None, QUESTION), before_push).await
        });
        up.stop();
        let asked: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                RunEvent::Approval(request) => Some(request.argv.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(asked, [push], "{events:#?}");
        let refs = git(&place, &["--git-dir=far.git", "for-each-ref"]);
        let asked = provider.asked();
        let told = asked[3].told();
        assert_eq!(refs.contains("refs/heads/main"), pushed, "{refs} {told}");
        let head = git(&place, &["rev-parse", "HEAD"]);
        assert!(asked[1].told().contains(head.trim()), "{}", asked[1].told());
        assert!(asked[2].told().contains("denied"), "{}", asked[2].told());
        assert_eq!(told.contains("a person denied it"), !pushed, "{told}");
    }
}

fn a_model_uses_the_tools_of_an_mcp_server() {
    let place = Place::new();
    std::fs::write(place.workspace().join("plums.txt"), "two plums\n").unwrap();
    let canary = place.file("canary.txt", CANARY).canonicalize().unwrap();
    let inside = place.workspace().join("plums.txt");
    let provider = Provider::start(vec![
        uses("", "files__read_text_file", json!({ "path": inside })),
        uses("", "files__read_text_file", json!({ "path": canary })),
        says("There are two."),
    ]);
    let more = servers::confine_files(&place);
    let mut up = up_with(&place, &provider, POLICY, &more);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        servers::sign_files(&meeting, &device).await;
        let events = meeting
            .decide(&device, (None, QUESTION), Decision::Deny)
            .await;
        assert_eq!(text_of(&events), "There are two.", "{events:#?}");
        assert!(!format!("{events:?}").contains(CANARY));
        let denied = events.iter().any(|event| {
            matches!(event, RunEvent::Denied { target, .. } if target.ends_with("canary.txt"))
        });
        assert!(denied, "{events:#?}");
    });
    up.stop();
    let asked = provider.asked();
    let offered = asked[0].body["tools"].to_string();
    assert!(offered.contains("files__read_text_file"), "{offered}");
    assert!(asked[1].told().contains("two plums"), "{}", asked[1].told());
    let told = asked[2].told();
    assert!(told.contains("denied by the policy"), "{told}");
    assert!(!told.contains(CANARY), "{told}");
}

fn a_conversation_and_what_was_kept_are_there_again() {
    let place = Place::new();
    let provider = Provider::start(vec![
        uses("", "remember", json!({ "key": "plums", "value": "two" })),
        says("Two."),
        uses("", "recall", json!({ "words": "plums" })),
        says("Still two."),
    ]);
    let mut up = up(&place, &provider, POLICY);
    let session = block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let first = meeting
            .decide(&device, (None, QUESTION), Decision::Deny)
            .await;
        let session = session_of(&first);
        meeting
            .decide(&device, (Some(&session), QUESTION), Decision::Deny)
            .await;
        session
    });
    let seen = up.stop_and_show();
    let asked = provider.asked();
    let roles: Vec<_> = asked[2].body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    assert!(asked[2].body["messages"].to_string().contains("Two."));
    assert!(
        asked[3].told().contains("plums: two"),
        "{}",
        asked[3].told()
    );
    let shown = place.agent(&["history", "show", &session]).ok();
    assert!(
        shown.contains("Two.") && shown.contains("Still two."),
        "{shown}"
    );
    assert_eq!(place.agent(&["memory", "get", "plums"]).ok().trim(), "two");
    assert!(seen.len() > 1000, "the log is silent: {seen}");
    assert!(!seen.contains(KEY), "the key is in the log");
}

fn an_answer_that_takes_too_long_is_ended_with_its_tools() {
    let place = Place::new();
    let provider = Provider::start(vec![
        uses("I wait. ", "run", json!({ "argv": ["sleep", "600"] })),
        says("There are two."),
    ]);
    let mut up = up_with(&place, &provider, POLICY, "answer_time = 5\n");
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let answer = meeting.message(&device, None, QUESTION);
        let events = tokio::time::timeout(2 * up::PATIENCE, answer).await;
        let events = events.expect("nobody ends it");
        let Some(RunEvent::Error { message }) = events.last() else {
            panic!("{events:#?}");
        };
        assert!(
            message.contains("more than 5 seconds (ai.answer_time)"),
            "{message}"
        );
        assert_eq!(provider.asked().len(), 1, "the model was asked on");
        // It is in the history, and no part of what the model is told.
        let session = session_of(&events);
        let kept = place.agent(&["history", "show", &session]).ok();
        assert!(
            kept.contains("I wait.") && kept.contains("ai.answer_time"),
            "{kept}"
        );
        let events = meeting.message(&device, Some(&session), QUESTION).await;
        assert_eq!(text_of(&events), "There are two.");
        let told = provider.asked()[1].body.to_string();
        assert!(!told.contains("answer_time"), "{told}");
    });
    up.stop();
}

fn a_model_that_never_ends_is_ended() {
    let place = Place::new();
    let provider = Provider::start(vec![uses("", "list", json!({ "path": "." })); 64]);
    let mut up = up(&place, &provider, POLICY);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let events = meeting
            .decide(&device, (None, QUESTION), Decision::Deny)
            .await;
        let Some(RunEvent::Error { message }) = events.last() else {
            panic!("{events:?}");
        };
        assert!(message.contains("32 times"), "{message}");
    });
    assert_eq!(provider.asked().len(), 32);
    up.stop();
}

fn a_provider_that_refuses_is_told_of() {
    let place = Place::new();
    // It has nothing to say, and answers 529.
    let provider = Provider::start(Vec::new());
    let mut up = up(&place, &provider, POLICY);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        let events = meeting
            .decide(&device, (None, QUESTION), Decision::Deny)
            .await;
        let Some(RunEvent::Error { message }) = events.last() else {
            panic!("{events:?}");
        };
        assert!(
            message.contains("529") && !message.contains(KEY),
            "{message}"
        );
    });
    up.stop();
}
