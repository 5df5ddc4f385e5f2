//! An agent's key in two places, as its owner sees it in Chromium: both are kept out
//! until the owner has decided.

use std::process::Command;

use libtest_mimic::Trial;

use crate::support::far::{self, Far};
use crate::support::page::{self, Person};
use crate::support::up::Up;
use crate::support::{self, Place, needing};

pub(crate) fn trials() -> Vec<Trial> {
    vec![needing(
        page::NEEDED,
        support::can_confine() && page::is_possible(),
        "an_owner_is_told_of_a_copied_key_and_decides",
        an_owner_is_told_of_a_copied_key_and_decides,
    )]
}

fn an_owner_is_told_of_a_copied_key_and_decides() {
    let (far, place) = (Far::start(), Place::new());
    let relay = ["--relay-url", &far.url, "--relay-ca", &far.authority];
    let config = place.file("config.toml", "[tunnel]\nlongest_wait = 0.3\n");
    let command = || {
        let mut command = place.command();
        command.env("KATACHI_CONFIG", &config);
        command
    };
    let mut up = Up::start_by(command(), &relay);
    let link = format!("https://{}", up.wait_for("https://"));
    let pictures = page::pictures();
    let address = far::ADDRESS.to_string();
    let told = [&link, &address, pictures.to_str().unwrap()];
    let mut owner = Person::starts("copied.cjs", &told);
    up.wait_for("Connected.");
    owner.says("open");

    // Somebody on the same machine, for whom the vault opens.
    let copy = place.home().with_file_name("copy");
    let copied = Command::new("cp")
        .arg("-a")
        .args([&place.home(), &copy])
        .status();
    assert!(copied.unwrap().success());
    let mut stolen = command();
    stolen.env("KATACHI_HOME", &copy);
    let mut stolen = Up::start_by(stolen, &relay);
    for both in [&mut up, &mut stolen] {
        both.wait_for("two places used this agent's key");
    }
    owner.told("two places");
    let asked = owner.says("asked");
    assert!(!asked.contains("Online"), "{asked}");
    for text in [
        "two places used this agent's key",
        "somebody has a copy",
        "Let it in again",
    ] {
        assert!(asked.contains(text), "{text}: {asked}");
    }
    stolen.stop();
    owner.told("one place");
    up.wait_for("Connected.");
    owner.told("connected");
    let activity = owner.says("activity");
    assert_eq!(owner.says("faults"), "", "{activity}");
    owner.ends();
    up.stop();
}
