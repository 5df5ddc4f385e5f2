//! The process that looks, and what it looks for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use hmac::{Hmac, KeyInit, Mac};
use libtest_mimic::{Failed, Trial};

use super::child;

/// Shortest piece of a secret that counts as found, in bytes.
const WINDOW: usize = 16;

pub(crate) fn tests() -> Vec<Trial> {
    let backend = if cfg!(feature = "ring") {
        "ring"
    } else {
        "rustcrypto"
    };
    let mut works = vec![
        "envelope",
        "stream",
        "threads",
        "stream-threads",
        "keyset",
        "mac",
        "secrets",
    ];
    // Only root looks into a process that is undumpable.
    if rustix::process::geteuid().is_root() {
        works.push("hardened");
    }
    if cfg!(feature = "password") {
        works.push("password");
    }
    // Without leave to read another process's memory the tests are listed as
    // ignored, and fail where everything is required.
    let barred = !may_look();
    let why = if barred {
        " (needs to read /proc/PID/mem of a child)"
    } else {
        ""
    };
    let ignored = barred && std::env::var_os("KATACHI_REQUIRE_ALL").is_none();
    let tests = works.into_iter().map(|work| {
        Trial::test(
            format!("leaves_nothing_of_its_{work}_with_{backend}{why}"),
            move || leaves_nothing(work),
        )
        .with_ignored_flag(ignored)
    });
    let tests = tests.chain([Trial::test(
        format!("finds_what_was_dropped_without_wiping{why}"),
        || finds_what_is_left("unwiped"),
    )
    .with_ignored_flag(ignored)]);
    #[cfg(feature = "ring")]
    let tests = tests.chain([Trial::test(
        format!("finds_what_ring_leaves_behind_by_itself{why}"),
        || finds_what_is_left("bare-ring"),
    )
    .with_ignored_flag(ignored)]);
    tests.collect()
}

/// Whether this system lets us read the memory of a child.
fn may_look() -> bool {
    let Ok(mut looked_into) = LookedInto::start("secrets") else {
        return false;
    };
    looked_into.wait("held").is_ok() && looked_into.look(&[]).is_ok()
}

fn leaves_nothing(work: &'static str) -> Result<(), Failed> {
    let mut looked_into = LookedInto::start(work)?;
    let sealed = looked_into.wait("held")?;
    let needles = needles(&sealed);
    let held = looked_into.look(&needles)?;
    if work != "password" && held.is_empty() {
        return Err("the scan does not see a key in use: it looks badly".into());
    }
    looked_into.go_on()?;
    looked_into.wait("dropped")?;
    let left = looked_into.look(&needles)?;
    looked_into.go_on()?;
    if left.is_empty() {
        return Ok(());
    }
    let first: Vec<_> = left.iter().take(20).collect();
    Err(format!("{} pieces left behind, among them {first:?}", left.len()).into())
}

fn finds_what_is_left(work: &str) -> Result<(), Failed> {
    let mut looked_into = LookedInto::start(work)?;
    looked_into.wait("held")?;
    looked_into.go_on()?;
    looked_into.wait("dropped")?;
    let left = looked_into.look(&needles(&[]))?;
    looked_into.go_on()?;
    match left.is_empty() {
        true => Err("nothing: then this test shows nothing about the others either".into()),
        false => Ok(()),
    }
}

/// What must not be found, by name.
fn needles(sealed: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (key, plaintext) = (child::key(), child::plaintext());
    let mut all = Vec::new();
    add_key(&mut all, "key", key.expose_secret());
    add_schedule(&mut all, "key", key.expose_secret());
    for (number, piece) in plaintext.expose_secret().chunks_exact(WINDOW).enumerate() {
        all.push((format!("plaintext {number}"), piece.to_vec()));
    }
    if let Some((header, rest)) = sealed.split_first_chunk::<16>() {
        let context = child::context();
        let mut mac = Hmac::<sha2::Sha512>::new_from_slice(key.expose_secret())
            .expect("HMAC takes keys of every length");
        for part in [
            b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0".as_slice(),
            &rest[..24],
            b"katachi.v1",
            header,
            context.as_bytes(),
            &[1],
        ] {
            mac.update(part);
        }
        let block = mac.finalize().into_bytes();
        add_key(&mut all, "message key", &block[..32]);
        add_schedule(
            &mut all,
            "message key",
            block[..32].try_into().expect("it is 32 bytes"),
        );
    }
    #[cfg(feature = "password")]
    if sealed.len() == 8 {
        use katachi_crypto::password::{Params, stretch};
        let stretched =
            stretch(key.expose_secret(), &[1; 16], &Params::FLOOR).expect("it is short");
        add_key(&mut all, "stretched password", stretched.expose_secret());
    }
    all
}

/// A key in windows: as it is, in text, as the pads of HMAC, as swapped words.
fn add_key(all: &mut Vec<(String, Vec<u8>)>, name: &str, key: &[u8]) {
    let masked = |mask: u8| key.iter().map(|byte| byte ^ mask).collect::<Vec<u8>>();
    for (form, bytes) in [
        ("", key.to_vec()),
        (" as inner pad", masked(0x36)),
        (" as outer pad", masked(0x5c)),
    ] {
        let swapped = |size: usize| -> Vec<u8> {
            bytes
                .chunks(size)
                .flat_map(|word| word.iter().rev().copied())
                .collect()
        };
        for (order, bytes) in [
            ("", bytes.clone()),
            (", 32-bit words swapped", swapped(4)),
            (", 64-bit words swapped", swapped(8)),
        ] {
            for (half, window) in bytes.chunks_exact(WINDOW).enumerate() {
                all.push((format!("{name}{form}{order}, half {half}"), window.to_vec()));
            }
        }
    }
    let lower: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    all.push((
        format!("{name} in upper hex"),
        lower.to_uppercase().into_bytes(),
    ));
    all.push((format!("{name} in hex"), lower.into_bytes()));
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(key);
    all.push((format!("{name} in base64"), text.as_bytes()[..40].to_vec()));
}

/// The round keys of AES-256 (FIPS 197, section 5.2) after the key itself.
fn add_schedule(all: &mut Vec<(String, Vec<u8>)>, name: &str, key: &[u8; 32]) {
    let mut words: Vec<[u8; 4]> = key
        .chunks_exact(4)
        .map(|word| word.try_into().expect("it is four bytes"))
        .collect();
    let mut constant = 1u8;
    for at in 8..60 {
        let mut word = words[at - 1];
        if at % 8 == 0 {
            word.rotate_left(1);
            word = word.map(substitute);
            word[0] ^= constant;
            constant <<= 1;
        } else if at % 8 == 4 {
            word = word.map(substitute);
        }
        for (byte, earlier) in word.iter_mut().zip(words[at - 8]) {
            *byte ^= earlier;
        }
        words.push(word);
    }
    for (round, key) in words.concat().chunks_exact(16).enumerate().skip(2) {
        all.push((format!("{name}, round {round}"), key.to_vec()));
    }
}

/// The S-box of AES: the inverse in GF(2^8), then an affine map.
fn substitute(byte: u8) -> u8 {
    let multiply = |one: u8, two: u8| {
        (0..8).fold(0u8, |sum, bit| {
            let shifted = (0..bit).fold(one, |value, _| {
                (value << 1) ^ if value & 0x80 == 0 { 0 } else { 0x1b }
            });
            sum ^ if two >> bit & 1 == 1 { shifted } else { 0 }
        })
    };
    // The 254th power is the inverse, and leaves zero alone.
    let inverse = (0..254).fold(1, |power, _| multiply(power, byte));
    [0, 1, 2, 3, 4]
        .iter()
        .fold(0x63, |sum, turns| sum ^ inverse.rotate_left(*turns))
}

struct LookedInto {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl LookedInto {
    fn start(work: &str) -> Result<Self, Failed> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(format!("{}{work}", child::ARGUMENT))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("it has no output")?);
        Ok(Self { child, lines })
    }

    /// Waits until the child says that it is at `place`; gives what it adds.
    fn wait(&mut self, place: &str) -> Result<Vec<u8>, Failed> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        let hex = line
            .trim_end()
            .strip_prefix(place)
            .ok_or_else(|| format!("expected {place}, and the child said {line:?}"))?
            .trim();
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).map_err(Into::into))
            .collect()
    }

    fn go_on(&mut self) -> Result<(), Failed> {
        let input = self.child.stdin.as_mut().ok_or("it has no input")?;
        Ok(input.write_all(b"\n")?)
    }

    /// Searches all writable memory; gives the regions where something was found.
    fn look(&self, needles: &[(String, Vec<u8>)]) -> Result<BTreeMap<String, usize>, Failed> {
        let process = self.child.id();
        let memory = File::open(format!("/proc/{process}/mem"))?;
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
        let by_start: BTreeMap<[u8; 8], Vec<usize>> = needles.iter().enumerate().fold(
            BTreeMap::new(),
            |mut starts, (number, (_, needle))| {
                let start = needle[..8].try_into().expect("needles are longer");
                starts.entry(start).or_insert_with(Vec::new).push(number);
                starts
            },
        );
        let mut filter = vec![false; 1 << 16];
        for start in by_start.keys() {
            filter[usize::from(u16::from_le_bytes([start[0], start[1]]))] = true;
        }
        let mut found = BTreeMap::new();
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (range, rest) = line.split_once(' ').ok_or("maps have another form")?;
            let (from, to) = range.split_once('-').ok_or("maps have another form")?;
            let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
            let mut bytes = vec![0; usize::try_from(to - from)?];
            if memory.read_exact_at(&mut bytes, from).is_err() {
                continue;
            }
            let region = rest.rsplit(' ').next().unwrap_or("");
            for (at, window) in bytes.windows(8).enumerate() {
                if !filter[usize::from(u16::from_le_bytes([window[0], window[1]]))] {
                    continue;
                }
                let start: [u8; 8] = window.try_into()?;
                for &number in by_start.get(&start).into_iter().flatten() {
                    let (name, needle) = &needles[number];
                    if bytes[at..].starts_with(needle) {
                        *found.entry(format!("{name} in {region}")).or_insert(0) += 1;
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Drop for LookedInto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
