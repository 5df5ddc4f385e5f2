//! What a chip does, and what happens without one.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use katachi_store::Secret;
use katachi_store::tpm::{Tpm as _, TpmDevice, TpmError};
use rustix::process::Signal;

use crate::software::{Case, SWTPM, SoftwareTpm};

pub const CASES: [Case; 11] = [
    ("opens_what_it_sealed", SWTPM, opens_what_it_sealed),
    (
        "opens_after_the_chip_was_restarted",
        SWTPM,
        opens_after_the_chip_was_restarted,
    ),
    (
        "refuses_what_another_chip_sealed",
        SWTPM,
        refuses_what_another_chip_sealed,
    ),
    (
        "leaves_nothing_behind_in_the_chip",
        SWTPM,
        leaves_nothing_behind_in_the_chip,
    ),
    (
        "waits_while_others_use_the_chip",
        SWTPM,
        waits_while_others_use_the_chip,
    ),
    (
        "gives_up_on_a_chip_that_never_answers",
        SWTPM,
        gives_up_on_a_chip_that_never_answers,
    ),
    ("says_that_the_chip_died", SWTPM, says_that_the_chip_died),
    (
        "refuses_every_changed_sealed_secret",
        SWTPM,
        refuses_every_changed_sealed_secret,
    ),
    (
        "says_that_there_is_no_chip",
        &[],
        says_that_there_is_no_chip,
    ),
    (
        "gives_up_on_a_socket_that_takes_nobody_up",
        &[],
        gives_up_on_a_socket_that_takes_nobody_up,
    ),
    (
        "refuses_answers_that_are_none",
        &[],
        refuses_answers_that_are_none,
    ),
];

pub fn secret() -> Secret<32> {
    Secret::new(std::array::from_fn(|index| 0xa0 ^ index as u8))
}

fn opens_what_it_sealed() {
    let chip = SoftwareTpm::start();
    let sealed = chip.device().seal(&secret()).unwrap();
    assert!(sealed.len() <= 512, "{} bytes", sealed.len());
    assert_eq!(chip.device().unseal(&sealed).unwrap(), secret());
    // No two seals are alike.
    assert_ne!(chip.device().seal(&secret()).unwrap(), sealed);
    chip.device().status().unwrap();
}

fn opens_after_the_chip_was_restarted() {
    let mut chip = SoftwareTpm::start();
    let sealed = chip.device().seal(&secret()).unwrap();
    chip.restart();
    assert_eq!(chip.device().unseal(&sealed).unwrap(), secret());
}

fn refuses_what_another_chip_sealed() {
    let (one, other) = (SoftwareTpm::start(), SoftwareTpm::start());
    let sealed = one.device().seal(&secret()).unwrap();
    assert_eq!(other.device().unseal(&sealed).unwrap_err(), TpmError::Other);

    // Not the name alone holds it: with the other chip's name in its place, the
    // other chip itself refuses.
    let named = other.device().seal(&secret()).unwrap();
    let forged = [&named[..38], &sealed[38..]].concat();
    assert_eq!(other.device().unseal(&forged).unwrap_err(), TpmError::Other);
}

fn leaves_nothing_behind_in_the_chip() {
    // A chip has room for three objects and a few sessions.
    let chip = SoftwareTpm::start();
    let (one, other) = (chip.device(), SoftwareTpm::start().device());
    let sealed = one.seal(&secret()).unwrap();
    for _ in 0..8 {
        assert_eq!(one.unseal(&sealed).unwrap(), secret());
        let foreign = [&sealed[..60], &[0; 40], &sealed[100..]].concat();
        one.unseal(&foreign).unwrap_err();
    }
    drop(other);
}

fn waits_while_others_use_the_chip() {
    let chip = SoftwareTpm::start();
    let sealed = chip.device().seal(&secret()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(chip.device().unseal(&sealed).unwrap(), secret()));
        }
    });
}

fn gives_up_on_a_chip_that_never_answers() {
    let mut chip = SoftwareTpm::start();
    let sealed = chip.device().seal(&secret()).unwrap();
    chip.signal(Signal::STOP);
    let impatient = chip.device().with_deadline(Duration::from_millis(500));
    for attempt in [
        impatient.unseal(&sealed).map(|_| ()),
        impatient.seal(&secret()).map(|_| ()),
        impatient.status(),
    ] {
        assert_eq!(attempt.unwrap_err(), TpmError::Timeout);
    }
    let started = Instant::now();
    impatient.status().unwrap_err();
    let waited = started.elapsed();
    assert!(
        waited >= Duration::from_millis(450) && waited < Duration::from_millis(1500),
        "{waited:?}"
    );
    // What it was asked it does afterwards, for nobody, and has no room left: a
    // kernel's resource manager would have cleared up.
    chip.signal(Signal::CONT);
    chip.restart();
    assert_eq!(chip.device().unseal(&sealed).unwrap(), secret());
}

fn says_that_the_chip_died() {
    let mut chip = SoftwareTpm::start();
    let sealed = chip.device().seal(&secret()).unwrap();
    chip.kill();
    let started = Instant::now();
    let error = chip.device().unseal(&sealed).unwrap_err();
    assert!(matches!(error, TpmError::Unavailable { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1));
}

fn refuses_every_changed_sealed_secret() {
    let chip = SoftwareTpm::start();
    let sealed = chip.device().seal(&secret()).unwrap();
    for place in (0..sealed.len()).step_by(5) {
        let mut changed = sealed.clone();
        changed[place] ^= 1;
        let error = chip.device().unseal(&changed).unwrap_err();
        assert!(
            matches!(
                error,
                TpmError::Other | TpmError::Damaged | TpmError::Failed { .. }
            ),
            "byte {place}: {error}"
        );
    }
    for length in [0, 3, 4, 37, 38, 60, sealed.len() - 1] {
        assert_eq!(
            chip.device().unseal(&sealed[..length]).unwrap_err(),
            TpmError::Damaged
        );
    }
}

fn says_that_there_is_no_chip() {
    let nowhere = tempfile::tempdir().unwrap();
    for device in [
        TpmDevice::device(nowhere.path().join("tpmrm0")),
        TpmDevice::unix_socket(nowhere.path().join("socket")),
        TpmDevice::tcp("127.0.0.1:1".parse().unwrap()),
    ] {
        let started = Instant::now();
        let error = device.status().unwrap_err();
        assert!(matches!(error, TpmError::Unavailable { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}

fn gives_up_on_a_socket_that_takes_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    // Whoever comes first waits in the queue, the others are not even let in.
    let device = TpmDevice::unix_socket(&path).with_deadline(Duration::from_millis(300));
    let queue: Vec<_> = (0..3)
        .map(|_| {
            let device = device.clone();
            std::thread::spawn(move || device.status())
        })
        .collect();
    for waiting in queue {
        assert_eq!(waiting.join().unwrap().unwrap_err(), TpmError::Timeout);
    }
}

fn refuses_answers_that_are_none() {
    let answers: [&[u8]; 7] = [
        // Shorter than a header, a length of gigabytes, of less than a header.
        b"\x80\x01\x00\x00",
        b"\x80\x01\xff\xff\xff\xff\0\0\0\0",
        b"\x80\x01\x00\x00\x00\x03\0\0\0\0",
        // A success without anything, and one with an inner length too long.
        b"\x80\x01\x00\x00\x00\x0a\0\0\0\0",
        b"\x80\x02\x00\x00\x00\x12\0\0\0\0\x80\0\0\0\0\0\xff\xff",
        // Another kind of tag; a refusal that goes on.
        b"\x00\xc4\x00\x00\x00\x0a\0\0\0\0",
        b"\x80\x01\x00\x00\x00\x0b\0\0\x01\x01\x00",
    ];
    for answer in answers {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let liar = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer).unwrap();
        });
        let device = TpmDevice::unix_socket(&path).with_deadline(Duration::from_secs(20));
        let error = device.seal(&secret()).unwrap_err();
        assert!(
            matches!(error, TpmError::Failed { .. }),
            "{answer:x?}: {error}"
        );
        liar.join().unwrap();
    }
}
