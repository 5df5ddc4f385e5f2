//! The link of `up` as a picture at a terminal, read by another program's reader of QR
//! codes, and the terminals that get the link alone.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use katachi_protocol::channel::PairingFragment;
use libtest_mimic::Trial;

use crate::support::{Place, needing};

/// Pixels of one module of the picture.
const SCALE: usize = 4;

pub(crate) fn trials() -> Vec<Trial> {
    let present = cfg!(unix) && Command::new("script").arg("--version").output().is_ok();
    let trial = |name: &str, test: fn()| needing("script, of util-linux", present, name, test);
    vec![
        trial("a_phone_reads_the_link", a_phone_reads_the_link),
        trial("the_link_stands_alone", the_link_stands_alone),
    ]
}

/// A terminal in which `up` runs.
struct Terminal(Child);

impl Terminal {
    fn of(place: &Place, columns: u16, options: &str) -> Self {
        let agent = place.command();
        let mut command = Command::new("script");
        for (name, value) in agent.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let line = format!(
            "stty cols {columns} rows 60; exec {} up --listen 127.0.0.1:0 --expect-account mia@orchard.example {options}",
            agent.get_program().to_str().unwrap()
        );
        let child = command
            .args([
                "--quiet",
                "--return",
                "--flush",
                "--command",
                &line,
                "/dev/null",
            ])
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .current_dir(place.workspace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// What is shown up to the code that a person compares, without colours.
    fn shows(&mut self) -> Vec<String> {
        let lines = BufReader::new(self.0.stdout.take().unwrap()).lines();
        let mut shown = Vec::new();
        for line in lines.map_while(Result::ok) {
            let mut plain = String::new();
            let mut parts = line.split('\u{1b}');
            plain.push_str(parts.next().unwrap());
            for part in parts {
                plain.push_str(part.split_once('m').map_or("", |(_, text)| text));
            }
            shown.push(plain.trim_end_matches('\r').to_owned());
            if plain.trim_start().starts_with("code ") {
                return shown;
            }
        }
        panic!("no code was shown: {shown:#?}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // With its keyboard gone, `script` ends what runs in it.
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn link_in(shown: &[String]) -> String {
    let link = shown.iter().find(|line| line.contains("/device?"));
    link.unwrap().trim().to_owned()
}

fn is_picture(line: &str) -> bool {
    line.chars().count() > 40 && line.chars().all(|c| " ▀▄█".contains(c))
}

/// What a camera would see: two rows of modules for each line, black for what is drawn.
fn read(picture: &[&String]) -> String {
    let rows: Vec<Vec<char>> = picture.iter().map(|line| line.chars().collect()).collect();
    let (width, height) = (rows[0].len() * SCALE, rows.len() * 2 * SCALE);
    let dark = |x: usize, y: usize| {
        let drawn = rows[y / SCALE / 2].get(x / SCALE);
        match y / SCALE % 2 {
            0 => matches!(drawn, Some('█' | '▀')),
            _ => matches!(drawn, Some('█' | '▄')),
        }
    };
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| {
        if dark(x, y) { 0 } else { 255 }
    });
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "{picture:#?}");
    grids[0].decode().unwrap().1
}

fn a_phone_reads_the_link() {
    let place = Place::new();
    let shown = Terminal::of(&place, 120, "").shows();
    let picture: Vec<_> = shown.iter().filter(|line| is_picture(line)).collect();
    let link = link_in(&shown);
    assert_eq!(read(&picture), link);
    // The secret stands where no browser sends it on.
    let (address, fragment) = link.split_once('#').unwrap();
    let fragment = PairingFragment::parse(fragment).unwrap();
    assert!(!address.contains(fragment.secret.expose_secret()));
    assert!(!address.contains(&fragment.agent));
}

fn the_link_stands_alone() {
    for (columns, options) in [(50, ""), (120, "--no-qr")] {
        let place = Place::new();
        let shown = Terminal::of(&place, columns, options).shows();
        assert!(!link_in(&shown).is_empty());
        assert!(!shown.iter().any(|line| line.contains('█')), "{shown:#?}");
    }
}
