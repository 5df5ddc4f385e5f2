//! Programs that others wrote, at the running relay: `curl`, which verifies its
//! certificate and plays the browser, an agent whose signatures are made by npm
//! `http-message-signatures`, and a device that npm `oauth4webapi` connects. What systemd
//! and cargo make of the operator's guide.
//!
//! Where one is missing its tests are listed as ignored, and fail under
//! `KATACHI_REQUIRE_ALL=1`. What builds for minutes waits for `KATACHI_LONG=1`.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
#![allow(dead_code, reason = "the helpers are shared with other tests")]

#[path = "../service/agent.rs"]
mod agent;
#[path = "../service/embedded.rs"]
mod embedded;
mod guide;
#[path = "../program/pages.rs"]
mod pages;
#[path = "../service/relay.rs"]
mod relay;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

use agent::{TestAgent, poll, start_device};
use embedded::database;
use relay::{PASSWORD, TestRelay};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let required = std::env::var_os("KATACHI_REQUIRE_ALL").is_some_and(|all| all == "1");
    let curl = Command::new("curl").arg("--version").output().is_ok();
    let signer = node_modules("http-message-signatures").is_some();
    let mut trials = Vec::new();
    let mut test = |name: &str, needs: &'static str, here: bool, test: fn()| {
        let run = move || match here {
            true => {
                test();
                Ok(())
            }
            false => Err(Failed::from(format!("needs {needs}"))),
        };
        trials.push(match here || required {
            true => Trial::test(name, run),
            false => Trial::test(format!("{name} (needs {needs})"), run).with_ignored_flag(true),
        });
    };
    test(
        "curl_signs_in_and_asks",
        "curl",
        curl,
        curl_signs_in_and_asks,
    );
    test(
        "curl_trusts_nobody_else",
        "curl",
        curl,
        curl_trusts_nobody_else,
    );
    let needs = "npm http-message-signatures";
    test(
        "s02_another_signer_is_taken_and_checks_the_answer",
        needs,
        signer,
        another_signer,
    );
    test(
        "d06_d07_another_oauth_client_connects_a_device",
        "npm oauth4webapi",
        node_modules("oauth4webapi").is_some(),
        another_oauth_client,
    );
    test(
        "systemd_accepts_the_guides_unit",
        "systemd-analyze",
        Command::new("systemd-analyze").output().is_ok(),
        guide::systemd_accepts_the_unit,
    );
    let long = std::env::var_os("KATACHI_LONG").is_some_and(|long| long == "1");
    let waits = if long { "" } else { " (needs KATACHI_LONG=1)" };
    let install = format!("the_guides_command_installs_the_program{waits}");
    let install = Trial::test(install, || {
        guide::the_guides_command_installs_the_program();
        Ok(())
    });
    trials.push(install.with_ignored_flag(!long));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn on_a_relay<T>(work: impl AsyncFnOnce(TestRelay) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { work(TestRelay::start().await).await })
}

/// `curl` that knows where the relay is, with a cookie jar.
fn curl(relay: &TestRelay, arguments: &[&str]) -> Output {
    let jar = relay.state.path().join("jar");
    let port = relay.address.port();
    Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60"])
        .args(["--resolve", &format!("katachi.localhost:{port}:127.0.0.1")])
        .args([
            "--write-out",
            "\n%{http_code} %{http_version} %{ssl_verify_result}",
        ])
        .arg("--cookie")
        .arg(&jar)
        .arg("--cookie-jar")
        .arg(&jar)
        .args(arguments)
        .output()
        .unwrap()
}

/// The body as JSON and what `curl` says of the answer.
fn answer(output: &Output) -> (Value, String) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let (body, about) = text.rsplit_once('\n').unwrap();
    (
        serde_json::from_str(body).unwrap_or_default(),
        about.to_owned(),
    )
}

fn curl_signs_in_and_asks() {
    on_a_relay(async |relay: TestRelay| {
        relay.browser_of("ana@example.org").await;
        let ca = relay.authority.to_str().unwrap();
        let (url, origin) = (relay.url.clone(), format!("Origin: {}", relay.url));
        let ask =
            |arguments: &[&str]| answer(&curl(&relay, &[&["--cacert", ca], arguments].concat()));
        let path = |path: &str| format!("{url}{path}");
        let account = json!({"email": "ana@example.org", "password": PASSWORD}).to_string();
        let log_in = |headers: &[&str], body: &str| {
            let target = path("/api/login");
            let mut arguments = vec!["--json", body, &target];
            for header in headers {
                arguments.extend(["--header", header]);
            }
            ask(&arguments)
        };

        assert_eq!(ask(&[&path("/api/me")]).1, "401 2 0", "nobody is signed in");
        assert_eq!(
            log_in(&[], &account).1,
            "403 2 0",
            "a page of ours names its origin"
        );
        let wrong = json!({"email": "ana@example.org", "password": "not the password"}).to_string();
        assert_eq!(log_in(&[&origin], &wrong).1, "401 2 0");
        let (me, about) = log_in(&[&origin], &account);
        assert_eq!(
            (me["email"].as_str(), about.as_str()),
            (Some("ana@example.org"), "200 2 0")
        );

        // The cookie alone, over either version of HTTP.
        for (option, about) in [("--http2", "200 2 0"), ("--http1.1", "200 1.1 0")] {
            let (me, said) = ask(&[option, "--tlsv1.3", &path("/api/me")]);
            assert_eq!(
                (me["email"].as_str(), said.as_str()),
                (Some("ana@example.org"), about)
            );
        }
        let (agents, _) = ask(&[&path("/api/agents")]);
        assert_eq!(agents, json!({"agents": []}));
        let out = ask(&[
            "--request",
            "POST",
            "--header",
            &origin,
            &path("/api/logout"),
        ]);
        assert_eq!(out.1, "204 2 0");
        assert_eq!(ask(&[&path("/api/me")]).1, "401 2 0");
    });
}

fn curl_trusts_nobody_else() {
    on_a_relay(async |relay: TestRelay| {
        let ca = relay.authority.to_str().unwrap();
        let health = format!("{}/healthz", relay.url);
        assert_eq!(
            answer(&curl(&relay, &["--cacert", ca, &health])).1,
            "200 2 0"
        );
        // CURLE_PEER_FAILED_VERIFICATION, and CURLE_SSL_CONNECT_ERROR.
        let other = TestRelay::start().await;
        let theirs = other.authority.to_str().unwrap();
        for (arguments, code) in [
            (&[health.as_str()][..], 60),
            (&["--cacert", theirs, &health], 60),
            (&["--cacert", ca, "--tls-max", "1.2", &health], 35),
        ] {
            let refused = curl(&relay, arguments).status.code();
            assert_eq!(refused, Some(code), "{arguments:?}");
        }
    });
}

fn another_signer() {
    on_a_relay(async |relay: TestRelay| {
        let browser = relay.browser_of("ana@example.org").await;
        let started = start_device(&relay).await;
        let code = json!({"user_code": started["user_code"]});
        assert!(
            browser
                .post("/api/device/approve", code)
                .await
                .status()
                .is_success()
        );
        let device_code = started["device_code"].as_str().unwrap();
        let token: Value = poll(&relay, device_code).await.json().await.unwrap();
        let heartbeat = |alter: &str| {
            let job = json!({
                "url": relay.url, "port": relay.address.port(), "ca": relay.authority,
                "token": token, "body": r#"{"state":"busy"}"#, "alter": alter,
            });
            sign(&job)
        };
        let state = async || browser.json("/api/agents").await["agents"][0]["state"].clone();
        for alter in ["query", "digest", "type", "header"] {
            let refused = heartbeat(alter);
            assert_eq!(refused["status"], 401, "{alter}: {refused}");
            assert_eq!(refused["body"]["error"], "refused", "{alter}");
            assert_eq!(
                refused["verified"],
                Value::Null,
                "{alter}: no signature at all"
            );
        }
        assert_eq!(state().await, "idle", "nothing was changed");
        let taken = heartbeat("nothing");
        assert_eq!(taken["status"], 200, "{taken}");
        assert_eq!(taken["verified"], true, "{taken}");
        assert_eq!(taken["whole"], true, "{taken}");
        assert!(taken["body"]["next_seconds"].as_u64().unwrap() > 0);
        assert_eq!(state().await, "busy");
    });
}

fn another_oauth_client() {
    on_a_relay(async |relay: TestRelay| {
        let browser = relay.browser_of("ana@example.org").await;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/device.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .env("NODE_PATH", node_modules("oauth4webapi").unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut to = child.stdin.take().unwrap();
        let mut from = BufReader::new(child.stdout.take().unwrap()).lines();
        // Where it fails, it says why on standard error and this ends.
        let mut said =
            || -> Value { serde_json::from_str(&from.next().unwrap().unwrap()).unwrap() };
        let port = relay.address.port();
        let job = json!({"url": relay.url, "port": port, "ca": relay.authority});
        writeln!(to, "{job}").unwrap();
        let started = said();
        assert_eq!(started["pending"], "authorization_pending");
        let code = json!({"user_code": started["user_code"]});
        let approved = browser.post("/api/device/approve", code).await;
        assert!(approved.status().is_success());
        writeln!(to, "approved").unwrap();
        let became = said();
        assert!(child.wait().unwrap().success());

        assert_eq!(became["stolen"], "invalid_grant", "{became}");
        assert_eq!(became["given"], 1, "{became}");
        assert_eq!(became["words"], json!(["invalid_grant"]), "{became}");
        assert_eq!(became["again"], "invalid_grant", "{became}");
        let token = &became["token"];
        assert_eq!(
            (&token["token_type"], &token["expires_in"]),
            (&json!("dpop"), &json!(600))
        );
        let owner = json!({
            "agent_id": token["agent_id"], "key_id": token["key_id"], "approved_by": "ana@example.org",
        });
        assert_eq!(became["owner"], owner);
        // The token is nothing in the hands of another key, and good as it is alone.
        assert_eq!(became["other"], "invalid_token", "{became}");
        assert_eq!(became["longer"], "invalid_token", "{became}");
        assert_eq!(became["plain"], 401, "{became}");
        // What came along makes the device an agent.
        let agent = TestAgent::from_token(token);
        let beat = agent.call(
            &relay,
            http::Method::POST,
            "/v1/agent/heartbeat",
            Some(json!({"state": "busy"})),
        );
        assert_eq!(beat.await.status, 200);
        let agents = browser.json("/api/agents").await;
        assert_eq!(agents["agents"][0]["host_name"], "a box of another make");
    });
}

fn sign(job: &Value) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/signer.cjs");
    let mut child = Command::new("node")
        .arg(script)
        .env(
            "NODE_PATH",
            node_modules("http-message-signatures").unwrap(),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(job.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the other signer failed on {job}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The folder of node packages that holds `package`.
fn node_modules(package: &str) -> Option<PathBuf> {
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/node/node_modules");
    let given = std::env::var_os("NODE_PATH").map(PathBuf::from);
    let mut folders = [given, Some(local)].into_iter().flatten();
    folders.find(|folder| folder.join(package).is_dir())
}
