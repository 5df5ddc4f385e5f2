//! Links in mail: once, in time, for their purpose; and mail that nobody can bend.
#![cfg(feature = "mail")]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use katachi_auth::clock::Timestamp;
use katachi_auth::mail::{
    Address, FileMailer, Links, Mail, MailError, Mailer, MemoryLinks, Outbox, Purpose,
};
use katachi_auth::session::Token;
use katachi_crypto::SecretString;

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

fn ana() -> Address {
    Address::parse("ana@example.com").unwrap()
}

fn later(seconds: u64) -> Timestamp {
    NOW.after(Duration::from_secs(seconds))
}

fn issue(store: &MemoryLinks, now: Timestamp) -> Option<Token> {
    Links::default()
        .issue(store, Purpose::ResetPassword, "a-1", &ana(), now)
        .unwrap()
}

fn works(store: &MemoryLinks, token: &str, purpose: Purpose, now: Timestamp) -> bool {
    let redeemed = Links::default().redeem(store, purpose, token, now).unwrap();
    redeemed.is_some_and(|confirmed| confirmed.account == "a-1" && confirmed.address == ana())
}

#[test]
fn a_link_is_good_once_in_time_and_for_its_purpose() {
    let store = MemoryLinks::new(8);
    let reset = Purpose::ResetPassword;
    let token = issue(&store, NOW).unwrap();
    assert!(works(&store, token.expose_secret(), reset, later(3599)));
    assert!(!works(&store, token.expose_secret(), reset, NOW), "used");

    let token = issue(&store, NOW).unwrap();
    assert!(
        !works(&store, token.expose_secret(), reset, later(3600)),
        "old"
    );

    let token = issue(&store, NOW).unwrap();
    let verify = Purpose::VerifyAddress;
    assert!(!works(&store, token.expose_secret(), verify, NOW));

    for forged in ["", "x", Token::generate().unwrap().expose_secret()] {
        assert!(!works(&store, forged, reset, NOW));
    }
}

#[test]
fn a_newer_link_replaces_the_older_and_none_comes_too_soon() {
    let store = MemoryLinks::new(8);
    let old = issue(&store, NOW).unwrap();
    assert!(issue(&store, later(59)).is_none());
    let new = issue(&store, later(60)).unwrap();
    let reset = Purpose::ResetPassword;
    assert!(!works(&store, old.expose_secret(), reset, later(61)));
    assert!(works(&store, new.expose_secret(), reset, later(61)));
}

#[test]
fn the_store_is_bounded_and_holds_digests_alone() {
    let store = MemoryLinks::new(1);
    let token = issue(&store, NOW).unwrap();
    assert!(!format!("{store:?} {token:?}").contains(token.expose_secret()));
    let other = |now| {
        Links::default()
            .issue(&store, Purpose::ResetPassword, "b-2", &ana(), now)
            .unwrap()
    };
    assert!(other(NOW).is_none());
    assert!(other(later(3600)).is_some(), "expired links make room");
}

#[test]
fn of_many_uses_at_once_one_works() {
    let store = Arc::new(MemoryLinks::new(8));
    let token = Arc::new(issue(&store, NOW).unwrap());
    let (start, won) = (Arc::new(Barrier::new(16)), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (store, token) = (Arc::clone(&store), Arc::clone(&token));
            let (start, won) = (Arc::clone(&start), Arc::clone(&won));
            std::thread::spawn(move || {
                start.wait();
                if works(&store, token.expose_secret(), Purpose::ResetPassword, NOW) {
                    won.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(won.load(Ordering::SeqCst), 1);
}

#[test]
fn a_subject_cannot_smuggle_a_header() {
    for bad in [
        "Hello\r\nBcc: all@example.com",
        "Hello\n",
        "a\0b",
        &"x".repeat(201),
    ] {
        let text = SecretString::new("text".into());
        assert_eq!(Mail::new(ana(), bad, text).unwrap_err(), MailError::Subject);
    }
}

#[test]
fn a_mail_in_a_folder_is_whole_and_readable_by_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("mail");
    let from = Address::parse("katachi@example.com").unwrap();
    let mailer = FileMailer::new(&place, from).unwrap();
    let text = SecretString::new("https://relay.example/reset?token=secret".into());
    let mail = Mail::new(ana(), "Reset", text).unwrap();
    assert!(!format!("{mail:?}").contains("token="));
    mailer.send(&mail).unwrap();
    let files: Vec<_> = place
        .read_dir()
        .unwrap()
        .map(|file| file.unwrap())
        .collect();
    assert_eq!(files.len(), 1);
    let written = std::fs::read_to_string(files[0].path()).unwrap();
    assert!(written.contains("To: ana@example.com\r\n"));
    assert!(written.contains("Subject: Reset\r\n"));
    assert!(written.contains("token=secret"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            files[0].metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            place.metadata().unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
}

/// Blocks until it may send.
struct Slow(Arc<Barrier>, Arc<AtomicUsize>);

impl Mailer for Slow {
    fn send(&self, _: &Mail) -> Result<(), MailError> {
        self.0.wait();
        self.1.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn a_request_is_answered_before_anybody_looks_the_address_up() {
    let (gate, sent) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
    let (look, looked) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&looked);
    let outbox = Outbox::start(
        Slow(Arc::clone(&gate), Arc::clone(&sent)),
        4,
        move |address: Address| {
            // The look-up itself waits, and the request does not.
            look.wait();
            count.fetch_add(1, Ordering::SeqCst);
            let text = SecretString::new("link".into());
            (address == ana()).then(|| Mail::new(address, "Reset", text).unwrap())
        },
        |error| panic!("{error}"),
    )
    .unwrap();
    let unknown = Address::parse("nobody@example.com").unwrap();
    assert_eq!(outbox.post(unknown), Ok(()));
    assert_eq!(outbox.post(ana()), Ok(()));
    assert_eq!(looked.load(Ordering::SeqCst), 0);
    for _ in 0..3 {
        gate.wait();
    }
    drop(outbox);
    assert_eq!(looked.load(Ordering::SeqCst), 2);
    assert_eq!(sent.load(Ordering::SeqCst), 1);
}
