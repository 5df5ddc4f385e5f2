//! MCP servers of the account, used by a program that speaks the Agent Client
//! Protocol. The program and the servers are real ones on the protocols' SDKs from
//! npm, each in its sandbox.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use katachi_protocol::Sensitive;
use katachi_protocol::approval::Decision;
use katachi_protocol::mcp::PutMcp;
use katachi_protocol::run::RunEvent;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::servers::{self, config, sign};
use crate::support::device::Device;
use crate::support::meeting::{Meeting, notes_of, text_of};
use crate::support::up::{Up, block_on};
use crate::support::{self, Place, meeting, needing, up};

const CANARY: &str = "canary-outside-93be";
const KEY: &str = "sk-test-acp-mcp-2f41";
const SECRET: &str = "mcp-secret-of-the-server-5a";

pub(crate) fn trials() -> Vec<Trial> {
    let present = support::can_confine() && servers::files().is_some() && sdk(ACP).is_some();
    let trial = |name: &str, test: fn()| {
        let needed = "user namespaces, node, and the SDKs of ACP and MCP";
        needing(needed, present, name, test)
    };
    vec![
        trial(
            "tools_of_a_signed_server_are_listed_and_called",
            tools_of_a_signed_server_are_listed_and_called,
        ),
        trial(
            "a_tool_that_asks_waits_for_a_person",
            a_tool_that_asks_waits_for_a_person,
        ),
        trial(
            "the_secret_of_a_server_stays_with_it",
            the_secret_of_a_server_stays_with_it,
        ),
        trial(
            "nothing_else_is_opened_with_the_sockets",
            nothing_else_is_opened_with_the_sockets,
        ),
        trial(
            "four_methods_are_served_and_no_other",
            four_methods_are_served_and_no_other,
        ),
        trial(
            "what_is_no_message_ends_its_connection_alone",
            what_is_no_message_ends_its_connection_alone,
        ),
        trial(
            "connections_and_calls_have_a_bound",
            connections_and_calls_have_a_bound,
        ),
        trial(
            "a_server_that_dies_is_an_error_of_the_call",
            a_server_that_dies_is_an_error_of_the_call,
        ),
        trial(
            "who_leaves_ends_the_servers_and_their_sockets",
            who_leaves_ends_the_servers_and_their_sockets,
        ),
        trial(
            "what_a_killed_agent_left_is_removed_by_the_next",
            what_a_killed_agent_left_is_removed_by_the_next,
        ),
        trial(
            "where_the_way_cannot_be_confined_there_is_none",
            where_the_way_cannot_be_confined_there_is_none,
        ),
    ]
}

const ACP: &str = "@agentclientprotocol/sdk";
const MCP: &str = "@modelcontextprotocol/sdk";

/// Where npm put an SDK.
fn sdk(name: &str) -> Option<PathBuf> {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/node/node_modules");
    modules.join(name).canonicalize().ok()
}

/// The configuration of an agent whose AI is our program, with our server under a
/// policy of its own, and `more` of the section `[mcp]`.
fn configure(place: &Place, more: &str) -> Command {
    place.agent_reading(KEY, &["key", "set", "maker"]).ok();
    let program = include_str!("../support/acp-mcp.mjs");
    let program = place.file("acp-mcp.mjs", program).canonicalize().unwrap();
    let (acp, mcp) = (sdk(ACP).unwrap(), sdk(MCP).unwrap());
    let modules = acp.ancestors().nth(2).unwrap();
    let ai = format!(
        "[filesystem]\nread = [\"@system\", {program:?}, {modules:?}]\nwrite = [\".\"]\n[commands]\nallow = [\"@system\", \"@node\"]\n"
    );
    let ai = place.file("ai.toml", &ai);
    let server = format!(
        "[filesystem]\nread = [\"@system\", {:?}, {modules:?}]\nwrite = [\".\"]\n[commands]\nallow = [\"@node\"]\n",
        server_file(place)
    );
    let server = place.file("plums.toml", &server);
    let policies = servers::confine_files(place);
    let config = format!(
        "[ai]\nkind = \"acp\"\ncommand = [\"node\", {program:?}, {acp:?}, {mcp:?}]\nkeys = {{ MAKER_KEY = \"maker\" }}\npolicy = {ai:?}\n[mcp]\n{more}\n{policies}plums = {server:?}\nother = {server:?}\n"
    );
    std::fs::write(place.home().join("config.toml"), config).unwrap();
    let mut command = place.command();
    command.env("KATACHI_CONFIG", place.home().join("config.toml"));
    command
}

fn server_file(place: &Place) -> PathBuf {
    let text = include_str!("../support/mcp-server.mjs");
    place.file("mcp-server.mjs", text).canonicalize().unwrap()
}

/// Our server, which nobody signed.
fn plums(place: &Place, meeting: &Meeting) -> PutMcp {
    let (file, sdk) = (server_file(place), sdk(MCP).unwrap());
    let command = ["node", file.to_str().unwrap(), sdk.to_str().unwrap()];
    config(&command, meeting)
}

/// Signs our server for the agent, with a secret.
async fn sign_plums(place: &Place, meeting: &Meeting, device: &Device) {
    let mut config = plums(place, meeting);
    let secret = Sensitive::new(SECRET);
    config.secrets.insert("TOKEN".to_owned(), secret);
    sign(&mut config, "plums", device, meeting);
    meeting.browser.put_mcp("plums", &config).await;
}

/// Does `work` at an agent that is lent our server.
fn with_plums(place: &Place, more: &str, work: impl AsyncFnOnce(&Meeting, &Device)) {
    let mut up = Up::start_by(configure(place, more), &[]);
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        sign_plums(place, &meeting, &device).await;
        work(&meeting, &device).await;
    });
    up.stop();
}

/// What the program said of each of `steps`, and all that the person saw.
async fn perform(
    (meeting, device): (&Meeting, &Device),
    steps: Value,
    decision: Decision,
) -> (Vec<Value>, Vec<RunEvent>) {
    let text = steps.to_string();
    let events = meeting.decide(device, (None, &text), decision).await;
    assert!(
        matches!(events.last(), Some(RunEvent::Exit { code: Some(0), .. })),
        "{events:#?}"
    );
    let said = text_of(&events);
    let said = said.lines().map(|line| serde_json::from_str(line).unwrap());
    (said.collect(), events)
}

fn call(tool: &str) -> Value {
    json!({ "do": "call", "server": "plums", "tool": tool })
}

fn has_words(result: &Value, words: &str, is_error: bool) {
    let text = result["content"][0]["text"].as_str().unwrap_or_default();
    let whole = text.contains(words) && result["isError"] == is_error;
    assert!(whole, "{words:?}: {result:#}");
}

fn tools_of_a_signed_server_are_listed_and_called() {
    let place = Place::new();
    std::fs::write(place.workspace().join("plums.txt"), "two plums\n").unwrap();
    let canary = place.file("canary.txt", CANARY).canonicalize().unwrap();
    // The file is there for whoever is not confined.
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), CANARY);
    let inside = place.workspace().join("plums.txt");
    let mut sockets = PathBuf::new();
    with_plums(&place, "", async |meeting, device| {
        servers::sign_files(meeting, device).await;
        // The same one, which would start, but nobody signed it: it is not even named.
        let other = plums(&place, meeting);
        meeting.browser.put_mcp("other", &other).await;
        let read = |path: &Path| json!({ "do": "call", "server": "files", "tool": "read_text_file", "arguments": { "path": path } });
        let steps = json!([
            { "do": "entries" },
            { "do": "list", "server": "files" },
            { "do": "list", "server": "plums" },
            read(&inside),
            read(&canary),
            call("count"),
        ]);
        let (said, events) = perform((meeting, device), steps, Decision::Deny).await;
        let entries = said[0].as_array().unwrap();
        let mut names: Vec<_> = entries
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["files", "plums"]);
        for one in entries {
            let command = Path::new(one["command"].as_str().unwrap());
            assert!(command.is_absolute(), "{one}");
            assert_eq!(
                (&one["args"][0], &one["env"]),
                (&json!("mcp-bridge"), &json!([]))
            );
            let socket = Path::new(one["args"][1].as_str().unwrap());
            assert!(socket.as_os_str().len() < 100, "{one}");
            sockets = socket.parent().unwrap().to_owned();
        }
        let has = |list: &Value, name: &str| list.as_array().unwrap().contains(&json!(name));
        assert!(has(&said[1], "read_text_file"), "{}", said[1]);
        assert!(has(&said[2], "count"), "{}", said[2]);
        has_words(&said[3], "two plums", false);
        has_words(&said[4], "denied by the policy of this machine", true);
        assert!(!format!("{events:?}").contains(CANARY), "{events:#?}");
        has_words(&said[5], "two plums", false);
        let told = |name: &str| {
            let is_it = |event: &RunEvent| matches!(event, RunEvent::Tool { name: told, .. } if told == name);
            assert!(events.iter().any(is_it), "{name}: {events:#?}");
        };
        told("files__read_text_file");
        told("plums__count");
        let denied = events.iter().any(|event| {
            matches!(event, RunEvent::Denied { target, allow_with: Some(line), .. } if target.ends_with("canary.txt") && line.contains("read = "))
        });
        assert!(denied, "{events:#?}");
        // A session that is loaded is told of them too.
        let session = meeting::session_of(&events);
        let again = json!([call("count")]).to_string();
        let events = meeting
            .decide(device, (Some(&session), &again), Decision::Deny)
            .await;
        assert!(text_of(&events).contains("two plums"), "{events:#?}");
    });
    assert!(!sockets.exists(), "{} stayed", sockets.display());
    let log = place.agent(&["audit", "--json"]).ok();
    assert!(log.contains("canary.txt"), "{log}");
}

fn a_tool_that_asks_waits_for_a_person() {
    for (decision, made) in [(Decision::Deny, false), (Decision::Approve, true)] {
        let place = Place::new();
        let mark = place.workspace().join("marked");
        let ask = "ask = [\"plums/mark\", \"plums/nothing\"]";
        with_plums(&place, ask, async |meeting, device| {
            let steps = json!([call("count"), call("mark")]).to_string();
            let decide = async |event: &RunEvent| {
                if let RunEvent::Approval(request) = event {
                    assert!(!mark.exists(), "it was called before anybody said so");
                    let said = meeting::signed(request.clone(), decision, device);
                    assert_eq!(meeting.ask(device, said).await.unwrap().status, 204);
                }
                true
            };
            let events = meeting.follow(device, (None, &steps), decide).await;
            let asked: Vec<_> = events
                .iter()
                .filter_map(|event| match event {
                    RunEvent::Approval(request) => Some(&request.argv),
                    _ => None,
                })
                .collect();
            assert_eq!(asked, [&["plums", "mark", "{}"]], "{events:#?}");
            let said = text_of(&events);
            let result: Value = serde_json::from_str(said.lines().nth(1).unwrap()).unwrap();
            match made {
                true => has_words(&result, "marked", false),
                false => has_words(&result, "a person denied it", true),
            }
            // A rule about nothing would have nobody asked, and is named.
            let notes = notes_of(&events);
            assert!(notes.contains("plums/nothing"), "{notes}");
        });
        assert_eq!(mark.exists(), made);
    }
}

fn the_secret_of_a_server_stays_with_it() {
    let place = Place::new();
    with_plums(&place, "", async |meeting, device| {
        let steps = json!([call("token"), { "do": "look" }]);
        let (said, _) = perform((meeting, device), steps, Decision::Deny).await;
        // The server has it, and the program can look: it finds what is its own.
        has_words(&said[0], &format!("{} characters", SECRET.len()), false);
        assert!(said[1]["self"].as_str().unwrap().contains(KEY));
        let seen = said[1]["proc"].to_string();
        assert!(seen.contains("acp-mcp.mjs") && seen.contains(KEY), "{seen}");
        assert!(!said[1].to_string().contains(SECRET), "{}", said[1]);
        assert!(!seen.contains("mcp-server.mjs"), "{seen}");
    });
    for (path, bytes) in place.stored() {
        let found = bytes
            .windows(SECRET.len())
            .any(|window| window == SECRET.as_bytes());
        assert!(!found, "{}", path.display());
    }
}

fn nothing_else_is_opened_with_the_sockets() {
    let place = Place::new();
    let outside = tempfile::tempdir().unwrap();
    let outside = outside.path().join("socket");
    let inside = place.workspace().join("socket");
    std::fs::create_dir(place.workspace().join("deep")).unwrap();
    let deep = place.workspace().join("deep/socket");
    let _listeners: Vec<_> = [&outside, &inside, &deep]
        .into_iter()
        .map(|path| {
            let listener = UnixListener::bind(path).unwrap();
            let open = std::fs::Permissions::from_mode(0o666);
            std::fs::set_permissions(path, open).unwrap();
            // It is there for whoever is not confined.
            std::os::unix::net::UnixStream::connect(path).unwrap();
            listener
        })
        .collect();
    with_plums(&place, "", async |meeting, device| {
        let reach = |path: &Path| json!({ "do": "connect", "server": "plums", "path": path });
        let exec = |words: &[&str]| json!({ "do": "exec", "server": "plums", "words": words });
        let steps = json!([
            reach(Path::new("lent")),
            reach(&outside),
            reach(&inside),
            reach(&deep),
            exec(&["mcp-bridge", "/nowhere"]),
            exec(&["--version"]),
            exec(&["key", "list"]),
            exec(&["--home", "/tmp", "mcp-bridge", "/nowhere"]),
        ]);
        let (said, events) = perform((meeting, device), steps, Decision::Deny).await;
        assert_eq!(said[0], "connected");
        for refused in &said[1..4] {
            assert!(
                ["ENOENT", "ECONNREFUSED", "EACCES", "ENOTSOCK"]
                    .contains(&refused.as_str().unwrap()),
                "{said:?}"
            );
        }
        // It starts, and finds no socket.
        assert_eq!(said[4], 1);
        for refused in &said[5..] {
            assert_ne!(refused, 0, "{said:?}");
            assert_ne!(refused, 1, "{said:?}");
        }
        let denied = |event: &&RunEvent| matches!(event, RunEvent::Denied { target, .. } if target.contains("--version"));
        assert!(events.iter().any(|event| denied(&event)), "{events:#?}");
        // A command of the same person has no part in it.
        let run = meeting.run(device, &["ls", "/tmp"]).await;
        assert!(!text_of(&run).contains("katachi-mcp"), "{run:?}");
    });
}

fn raw(lines: &[Value], count: usize) -> Value {
    let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
    json!({ "do": "raw", "server": "plums", "lines": lines, "count": count })
}

fn request(id: u32, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn four_methods_are_served_and_no_other() {
    let place = Place::new();
    with_plums(&place, "", async |meeting, device| {
        let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
        let others = [
            "resources/list",
            "resources/read",
            "resources/templates/list",
            "resources/subscribe",
            "prompts/list",
            "prompts/get",
            "completion/complete",
            "logging/setLevel",
            "sampling/createMessage",
            "elicitation/create",
            "roots/list",
            "tasks/list",
            "server/discover",
            "tools/call/x",
            "",
        ];
        let mut lines = vec![
            request(1, "initialize", hello),
            json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
            request(2, "ping", json!({})),
            request(3, "tools/list", json!({})),
            request(4, "tools/list", json!({ "cursor": "x" })),
            request(5, "tools/call", json!({ "name": "nothing" })),
            request(6, "tools/call", json!(["count"])),
            // What no one is asked is done for nobody.
            json!({ "jsonrpc": "2.0", "method": "tools/call", "params": { "name": "mark" } }),
        ];
        let numbered = others.iter().zip(10..);
        lines.extend(numbered.map(|(method, id)| request(id, method, json!({}))));
        let (said, _) = perform(
            (meeting, device),
            json!([raw(&lines, 6 + others.len())]),
            Decision::Deny,
        )
        .await;
        assert_eq!(said[0]["ended"], false, "{said:#?}");
        let answers = said[0]["answers"].as_array().unwrap();
        let of = |id: u32| answers.iter().find(|answer| answer["id"] == id).unwrap();
        assert_eq!(of(1)["result"]["protocolVersion"], "2025-06-18");
        let capabilities = json!({ "tools": {} });
        assert_eq!(of(1)["result"]["capabilities"], capabilities);
        assert_eq!(of(2)["result"], json!({}));
        assert_eq!(of(3)["result"]["tools"].as_array().unwrap().len(), 5);
        for id in [4, 5, 6] {
            assert_eq!(of(id)["error"]["code"], -32602, "{}", of(id));
        }
        for (method, id) in others.iter().zip(10..) {
            assert_eq!(of(id)["error"]["code"], -32601, "{method}: {}", of(id));
        }
    });
    assert!(!place.workspace().join("marked").exists());
}

fn what_is_no_message_ends_its_connection_alone() {
    let place = Place::new();
    with_plums(&place, "", async |meeting, device| {
        let ping = request(1, "ping", json!({})).to_string();
        let line = |line: &str, pad: usize| json!({ "do": "raw", "server": "plums", "lines": [line], "pad": pad, "count": 1 });
        let bad = [
            line("plums!", 0),
            line("{}", 0),
            line("{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}", 0),
            line("{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"ping\"}", 0),
            line("{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"ping\"}", 0),
            line(&format!("[{ping}]"), 0),
            // A message, but for its length.
            line(&ping, 1024 * 1024),
        ];
        let mut steps = bad.to_vec();
        steps.extend([line(&ping, 1024 * 1024 - 100), call("count")]);
        let (said, _) = perform((meeting, device), json!(steps), Decision::Deny).await;
        for (step, said) in bad.iter().zip(&said) {
            assert_eq!(said, &json!({ "answers": [], "ended": true }), "{step}");
        }
        // Others go on, and a long message that fits is one.
        let [.., pong, counted] = &said[..] else {
            panic!("{said:#?}");
        };
        assert_eq!(pong["answers"][0]["result"], json!({}), "{pong}");
        has_words(counted, "two plums", false);
    });
}

fn connections_and_calls_have_a_bound() {
    let place = Place::new();
    with_plums(&place, "", async |meeting, device| {
        let steps = json!([
            { "do": "crowd", "server": "plums", "size": 12 },
            { "do": "flights", "server": "plums", "size": 5 },
            { "do": "call", "server": "plums", "tool": "count", "retries": 400 },
        ]);
        let (said, _) = perform((meeting, device), steps, Decision::Deny).await;
        assert_eq!(said[0], 8, "{said:#?}");
        assert_eq!(said[1].as_array().unwrap().len(), 1, "{said:#?}");
        assert_eq!(said[1][0]["error"]["code"], -32000, "{said:#?}");
        // Those that nobody waits for any more take no room.
        has_words(&said[2], "two plums", false);
    });
}

fn a_server_that_dies_is_an_error_of_the_call() {
    let place = Place::new();
    with_plums(&place, "", async |meeting, device| {
        let steps = json!([call("count"), call("die"), call("count")]);
        let (said, _) = perform((meeting, device), steps, Decision::Deny).await;
        has_words(&said[0], "two plums", false);
        has_words(&said[1], "of the MCP server plums failed", true);
        has_words(&said[2], "of the MCP server plums failed", true);
        // The next message has a new one.
        let (said, _) = perform((meeting, device), json!([call("count")]), Decision::Deny).await;
        has_words(&said[0], "two plums", false);
    });
}

/// Whether a server of ours runs.
fn runs(place: &Place) -> bool {
    let mark = server_file(place);
    let numbers = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = numbers.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.into_iter().any(|line| {
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|word| word.ends_with(b"node"))
            && words.next() == Some(mark.as_os_str().as_encoded_bytes())
    })
}

/// Where sockets lie, if `event` has the entries of servers.
fn sockets_in(event: &RunEvent) -> Option<PathBuf> {
    let RunEvent::Output { data, .. } = event else {
        return None;
    };
    let entries: Value = serde_json::from_str(data).ok()?;
    let socket = Path::new(entries[0]["args"][1].as_str()?);
    Some(socket.parent()?.to_owned())
}

fn what_a_killed_agent_left_is_removed_by_the_next() {
    let place = Place::new();
    let mut up = Up::start_by(configure(&place, ""), &[]);
    let mut sockets = None;
    block_on(async {
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        sign_plums(&place, &meeting, &device).await;
        let text = json!([{ "do": "entries" }, call("wait")]).to_string();
        let until_it_is_killed = async |event: &RunEvent| {
            sockets = sockets_in(event);
            if sockets.is_some() {
                up::signal("-KILL", &up.child);
            }
            sockets.is_none()
        };
        meeting
            .follow(&device, (None, &text), until_it_is_killed)
            .await;
    });
    up.child.wait().unwrap();
    let sockets = sockets.unwrap();
    assert!(sockets.exists(), "{} is gone by itself", sockets.display());
    let mut next = Up::start_by(configure(&place, ""), &[]);
    next.wait_for("Connected.");
    assert!(!sockets.exists(), "{} stays", sockets.display());
    next.stop();
}

fn who_leaves_ends_the_servers_and_their_sockets() {
    let place = Place::new();
    let waiting = place.workspace().join("waiting");
    with_plums(&place, "", async |meeting, device| {
        let mut sockets = None;
        let text = json!([{ "do": "entries" }, call("wait")]).to_string();
        let until_it_waits = async |event: &RunEvent| {
            sockets = sockets_in(event).or(sockets.take());
            if !matches!(event, RunEvent::Tool { .. }) {
                return true;
            }
            let deadline = Instant::now() + up::PATIENCE;
            while !waiting.exists() {
                assert!(Instant::now() < deadline, "the tool was not called");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            false
        };
        meeting.follow(device, (None, &text), until_it_waits).await;
        let sockets = sockets.unwrap();
        let deadline = Instant::now() + up::PATIENCE;
        while sockets.exists() || runs(&place) {
            assert!(Instant::now() < deadline, "{} stays", sockets.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

/// The same file under another name.
fn link(from: &str, to: &Path) {
    if std::fs::hard_link(from, to).is_err() {
        std::fs::copy(from, to).unwrap();
    }
}

fn where_the_way_cannot_be_confined_there_is_none() {
    let agent = env!("CARGO_BIN_EXE_katachi-agent");
    let without = |place: &Place, program: &Path, change: &dyn Fn(), why: &str| {
        let told = configure(place, "");
        let mut command = Command::new(program);
        command.current_dir(place.workspace());
        for (name, value) in told.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut up = Up::start_by(command, &[]);
        block_on(async {
            let meeting = Meeting::of(&mut up).await;
            let device = meeting.paired(&up).await;
            sign_plums(place, &meeting, &device).await;
            change();
            let steps = json!([{ "do": "entries" }]);
            let (said, events) = perform((&meeting, &device), steps, Decision::Deny).await;
            // It is answered, without servers, and the person is told why.
            assert_eq!(said[0], json!([]), "{why}");
            let notes = notes_of(&events);
            assert!(
                notes.contains("are not lent") && notes.contains(why),
                "{notes}"
            );
            assert!(!runs(place), "{why}: a server was started");
        });
        up.stop();
    };
    // A program that the AI could replace.
    let place = Place::new();
    let program = place.workspace().join("agent");
    std::fs::copy(agent, &program).unwrap();
    without(&place, &program, &|| {}, "could replace");
    // One that was upgraded while it ran.
    let place = Place::new();
    let program = place.home().with_file_name("agent");
    link(agent, &program);
    let upgrade = || {
        let new = program.with_file_name("new");
        std::fs::write(&new, "#!/bin/sh\n").unwrap();
        std::fs::rename(&new, &program).unwrap();
    };
    without(&place, &program, &upgrade, "was replaced or moved");
    // More unix sockets than can be hidden from it.
    let place = Place::new();
    let many: Vec<_> = (0..65)
        .map(|number| UnixListener::bind(place.workspace().join(number.to_string())).unwrap())
        .collect();
    without(
        &place,
        Path::new(agent),
        &|| {},
        "unix sockets lie in what it may read",
    );
    drop(many);
}
