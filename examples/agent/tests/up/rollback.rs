//! An older copy of everything that the agent keeps, put back: nothing on this machine
//! can tell, and the relay can.

use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;

use crate::support::browser::{Browser, EMAIL};
use crate::support::served::Served;
use crate::support::up::{Up, block_on};
use crate::support::{Place, needing};

pub(crate) fn trials() -> Vec<Trial> {
    vec![needing(
        "unix signals",
        cfg!(unix),
        "an_older_copy_of_everything_is_known_by_the_relay",
        an_older_copy_of_everything_is_known_by_the_relay,
    )]
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

fn an_older_copy_of_everything_is_known_by_the_relay() {
    let place = Place::new();
    let state = tempfile::tempdir().unwrap();
    let relay = Served::start(state.path(), |relay| {
        relay.args(["--listen", "127.0.0.1:0"])
    });
    let options = ["--relay-url", &relay.url, "--relay-ca", &relay.authority];
    let up = || Up::start(&place, &options);
    let mut first = up();
    first.wait_for("https://");
    let code = first.wait_for("code ");
    block_on(async {
        let authority = std::fs::read_to_string(&relay.authority).unwrap();
        let browser = Browser::new(&relay.url, &authority);
        browser.sign_up(EMAIL).await;
        browser.approve(&code).await;
    });
    first.wait_for("Connected.");
    first.stop();
    place.agent_reading("sk-old", &["key", "set", "old"]).ok();
    let copied = place.home().with_file_name("copied");
    copy(&place.home(), &copied);

    // A key that was removed since is what somebody wants back.
    place.agent(&["key", "rm", "old"]).ok();
    place.agent(&["vault", "recovery-code"]).ok();
    let mut second = up();
    second.wait_for("Connected.");
    second.stop();
    std::fs::remove_dir_all(place.home()).unwrap();
    copy(&copied, &place.home());

    // The control: nothing on this machine can tell.
    assert!(place.agent(&["key", "list"]).ok().contains("old"));
    let mut third = up();
    third.wait_for("the relay remembers a newer one");
    third.wait_for("vault accept-restore");
    assert_eq!(third.ends(), Some(2));

    let mut accept = vec!["vault", "accept-restore"];
    accept.extend(options);
    place.agent(&accept).ok();
    let mut fourth = up();
    fourth.wait_for("Connected.");
    fourth.stop();
}
