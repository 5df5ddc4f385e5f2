//! What a person is asked at a terminal, a real one that `script` makes: whose approval
//! it was, before anything is kept.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use libtest_mimic::Trial;

use crate::support::browser::{Browser, EMAIL};
use crate::support::far::Far;
use crate::support::{Place, far, needing};

pub(crate) fn trials() -> Vec<Trial> {
    let script = Command::new("script").arg("--version").output();
    vec![needing(
        "script",
        script.is_ok(),
        "d15_a_login_shows_who_approved_and_keeps_nothing_without_a_yes",
        a_login_shows_who_approved_and_keeps_nothing_without_a_yes,
    )]
}

/// A command in a terminal of its own.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    screen: ChildStdout,
}

impl Terminal {
    fn runs(place: &Place, arguments: &[&str]) -> Self {
        let agent = place.command();
        let words = std::iter::once(agent.get_program().to_str().unwrap());
        let words = words.chain(arguments.iter().copied());
        let line: String = words.map(|word| format!("'{word}' ")).collect();
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        for (name, value) in agent.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        let mut script = script
            .current_dir(place.workspace())
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (keys, screen) = (script.stdin.take(), script.stdout.take());
        Self {
            script,
            keys: keys.unwrap(),
            screen: screen.unwrap(),
        }
    }

    /// What is on the screen up to `mark`, which may be a question without an end.
    fn shows(&mut self, mark: &str) -> String {
        let (mut seen, mut byte) = (Vec::new(), [0]);
        while !seen.ends_with(mark.as_bytes()) {
            let read = self.screen.read(&mut byte).unwrap();
            let so_far = String::from_utf8_lossy(&seen);
            assert!(read > 0, "`{mark}` did not come: {so_far}");
            seen.push(byte[0]);
        }
        String::from_utf8(seen).unwrap()
    }

    fn types(&mut self, text: &str) {
        writeln!(self.keys, "{text}").unwrap();
    }

    /// The exit code, and what was still shown.
    fn ends(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.screen.read_to_string(&mut rest).unwrap();
        (self.script.wait().unwrap().code(), rest)
    }
}

fn a_login_shows_who_approved_and_keeps_nothing_without_a_yes() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let far = Far::start();
    let ca = std::fs::read_to_string(&far.own_authority).unwrap();
    let browser = Browser::at(far::ADDRESS, &far.url, &ca);
    runtime.block_on(browser.sign_up(EMAIL));
    let place = Place::new();
    let registration = place.home().join("data/relay.sealed");
    // Whatever is not a yes is a no, an empty line too.
    for (answer, is_yes) in [
        ("n", false),
        ("", false),
        ("yes please", false),
        ("y", true),
    ] {
        let relay = [
            "login",
            "--relay-url",
            &far.url,
            "--relay-ca",
            &far.authority,
        ];
        let mut terminal = Terminal::runs(&place, &relay);
        terminal.shows("    code ");
        let code = terminal.shows("\n");
        runtime.block_on(browser.approve(code.trim()));
        let asked = terminal.shows("[y/N] ");
        assert!(asked.contains(EMAIL), "{asked}");
        assert!(!registration.exists(), "it was kept before anybody agreed");
        terminal.types(answer);
        let (code, rest) = terminal.ends();
        let agents = runtime.block_on(browser.agents()).agents;
        if is_yes {
            assert_eq!(code, Some(0), "{rest}");
            assert!(registration.exists() && agents.len() == 1, "{agents:?}");
        } else {
            assert_eq!(code, Some(1), "{rest}");
            assert!(rest.contains("nothing was kept"), "{rest}");
            assert!(!registration.exists(), "{answer:?} kept it");
            assert!(agents.is_empty(), "the relay kept it: {agents:?}");
        }
    }
}
