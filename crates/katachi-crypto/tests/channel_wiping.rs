//! Looks for a channel's long-lived keys, its pairing secret and its messages in
//! the memory of another process, from outside.
//!
//! A child (this program again) pairs two ends and sends a message, reports,
//! drops all and reports again; each time this side reads all of the child's
//! writable memory. While the channels are open the keys have to be found, which
//! shows that it looks well; afterwards nothing must be.

#[cfg(all(
    target_os = "linux",
    target_arch = "x86_64",
    feature = "channel",
    any(feature = "ring", feature = "rustcrypto")
))]
mod wiping {
    use std::fs::File;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::FileExt;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use katachi_crypto::channel::{
        Binding, Channel, CodeInitiator, CodeResponder, Event, Initiator, Responder, StaticKey,
        Step,
    };
    use katachi_crypto::kdf::{self, Label};
    use katachi_crypto::{Secret, SecretBytes};
    use libtest_mimic::{Failed, Trial};

    /// Starts the argument that names the handshake to do.
    const ARGUMENT: &str = "--look-into=";

    const NOW: Duration = Duration::ZERO;

    const BINDING: Binding<'static> = Binding {
        relay: "https://relay.example",
        account: "ada",
        agent: "laptop",
        device: "phone",
        stream: "1",
    };

    /// Something that nothing else in memory looks like.
    fn secret<const N: usize>(name: &str) -> Secret<N> {
        let label = Label::new("channel wiping").field(name.as_bytes());
        kdf::derive(&[b"seed of the test"], b"", &label)
    }

    /// Does what the child is for, if this is one.
    pub(super) fn work() -> bool {
        let name = std::env::args()
            .find_map(|argument| argument.strip_prefix(ARGUMENT).map(ToOwned::to_owned));
        match name.as_deref() {
            None => return false,
            Some("link") => hold(pair_by_link),
            Some("code") => hold(pair_by_code),
            Some(other) => panic!("no work is called {other}"),
        }
        pause("dropped");
        true
    }

    /// Talks over a pair of channels and holds them while they are looked into.
    #[inline(never)]
    fn hold(open: fn(StaticKey, StaticKey) -> (Channel, Channel)) {
        // Held beside the channels, so that there is something to find.
        let (device, agent) = (secret::<32>("device"), secret::<32>("agent"));
        let (mut one, mut two) = open(
            StaticKey::from_secret(secret("device")),
            StaticKey::from_secret(secret("agent")),
        );
        let message = secret::<8_000>("message");
        let long = SecretBytes::new(message.expose_secret().repeat(3));
        let mut sent = Vec::new();
        // The second one under another key.
        for now in [NOW, katachi_crypto::channel::KEY_LIFETIME] {
            one.send(now, long.expose_secret(), &mut sent)
                .expect("it is short");
        }
        let (mut input, mut events) = (sent.as_slice(), Vec::new());
        while let Some(event) = two.receive(&mut input).expect("it was sent so") {
            events.push(event);
        }
        assert!(matches!(
            events[..],
            [Event::Message(_), Event::Rekeyed, Event::Message(_)]
        ));
        pause("held");
        drop((device, agent, message, long, events, one, two));
    }

    /// Without the two bytes of length before it.
    fn message(frame: &[u8]) -> &[u8] {
        &frame[2..]
    }

    #[inline(never)]
    fn pair_by_link(device: StaticKey, agent: StaticKey) -> (Channel, Channel) {
        let link = secret("link");
        let (begun, sent) =
            Initiator::pair(&device, &agent.public(), &link, &BINDING).expect("the keys are sound");
        let waiting = Responder::pair(&agent, &link, &BINDING).expect("the keys are sound");
        let incoming = waiting.read(message(&sent)).expect("it was sent so");
        let (unproved, sent) = incoming.answer(NOW).expect("the keys are sound");
        let (on_device, sent) = begun.finish(message(&sent), NOW).expect("it was sent so");
        match unproved.prove(&mut sent.as_slice()) {
            Ok(Step::Done(proved)) => (on_device, proved.into_channel()),
            other => panic!("{other:?}"),
        }
    }

    #[inline(never)]
    fn pair_by_code(device: StaticKey, agent: StaticKey) -> (Channel, Channel) {
        let (begun, sent) = CodeInitiator::begin(&device, &BINDING).expect("the keys are sound");
        let waiting = CodeResponder::wait(&agent, &BINDING).expect("the keys are sound");
        let (committed, sent) = waiting.answer(message(&sent)).expect("it was sent so");
        let (unrevealed, sent) = begun.answer(message(&sent), NOW).expect("it was sent so");
        let (on_agent, sent) = committed
            .finish(message(&sent), NOW)
            .expect("it was sent so");
        match unrevealed.reveal(&mut sent.as_slice()) {
            Ok(Step::Done(on_device)) => (on_device.codes_are_equal(), on_agent.codes_are_equal()),
            other => panic!("{other:?}"),
        }
    }

    /// Tells the other side where we are, and waits until it has looked.
    fn pause(place: &str) {
        println!("{place}");
        let answer = std::io::stdin().lock().read_line(&mut String::new());
        answer.expect("the parent answers");
    }

    pub(super) fn tests() -> Vec<Trial> {
        let barred = !may_look();
        let why = if barred {
            " (needs to read /proc/PID/mem of a child)"
        } else {
            ""
        };
        let ignored = barred && std::env::var_os("KATACHI_REQUIRE_ALL").is_none();
        ["link", "code"]
            .map(|work| {
                Trial::test(
                    format!("pairing_by_{work}_leaves_nothing{why}"),
                    move || leaves_nothing(work),
                )
                .with_ignored_flag(ignored)
            })
            .into()
    }

    /// Whether this system lets us open the memory of a child.
    fn may_look() -> bool {
        let Ok(mut child) = start("link") else {
            return true;
        };
        let opened = File::open(format!("/proc/{}/mem", child.id())).is_ok();
        let _ = child.kill();
        let _ = child.wait();
        opened
    }

    fn start(work: &str) -> std::io::Result<Child> {
        Command::new(std::env::current_exe()?)
            .arg(format!("{ARGUMENT}{work}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
    }

    fn leaves_nothing(work: &str) -> Result<(), Failed> {
        let (held, left) = leftovers(work)?;
        for name in ["device", "agent", "message"] {
            if !held.iter().any(|found| found.starts_with(name)) {
                return Err(format!("{name} is not seen in use: the scan looks badly").into());
            }
        }
        match left.as_slice() {
            [] => Ok(()),
            left => Err(format!("left behind: {left:?}").into()),
        }
    }

    /// What is found while the channels are held, and after they were dropped.
    fn leftovers(work: &str) -> Result<(Vec<String>, Vec<String>), Failed> {
        let mut child = start(work)?;
        let found = look_twice(&mut child);
        // Ended by itself where all went well.
        let _ = child.kill();
        child.wait()?;
        found
    }

    fn look_twice(child: &mut Child) -> Result<(Vec<String>, Vec<String>), Failed> {
        let mut lines = BufReader::new(child.stdout.take().ok_or("it has no output")?);
        let mut input = child.stdin.take().ok_or("it has no input")?;
        let mut look = |place: &str| {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            if line.trim_end() != place {
                return Err(format!("expected {place}, and the child said {line:?}").into());
            }
            let found = look(child.id());
            input.write_all(b"\n")?;
            found
        };
        Ok((look("held")?, look("dropped")?))
    }

    /// Names and places of the secrets' 16-byte pieces in writable memory.
    fn look(process: u32) -> Result<Vec<String>, Failed> {
        let needles = [
            ("device", secret::<32>("device").expose_secret().to_vec()),
            ("agent", secret::<32>("agent").expose_secret().to_vec()),
            ("link", secret::<32>("link").expose_secret().to_vec()),
            (
                "message",
                secret::<8_000>("message").expose_secret().to_vec(),
            ),
        ];
        let pieces: std::collections::HashMap<[u8; 8], (&str, &[u8])> = needles
            .iter()
            .flat_map(|(name, bytes)| bytes.chunks_exact(16).map(move |piece| (*name, piece)))
            .filter_map(|(name, piece)| Some((*piece.first_chunk::<8>()?, (name, piece))))
            .collect();
        let mut is_start = vec![false; 1 << 16];
        for start in pieces.keys() {
            is_start[usize::from(u16::from_le_bytes([start[0], start[1]]))] = true;
        }
        let memory = File::open(format!("/proc/{process}/mem"))?;
        let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))?;
        let mut found = Vec::new();
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (range, rest) = line.split_once(' ').ok_or("maps have another form")?;
            let (from, to) = range.split_once('-').ok_or("maps have another form")?;
            let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
            let mut bytes = vec![0; usize::try_from(to - from)?];
            if memory.read_exact_at(&mut bytes, from).is_err() {
                continue;
            }
            let region = rest.rsplit(' ').next().unwrap_or("");
            for (at, window) in bytes.windows(16).enumerate() {
                if is_start[usize::from(u16::from_le_bytes([window[0], window[1]]))]
                    && let Some(start) = window.first_chunk::<8>()
                    && let Some((name, piece)) = pieces.get(start)
                    && window == *piece
                {
                    found.push(format!("{name} in {region} at {:#x}", from + at as u64));
                }
            }
        }
        Ok(found)
    }
}

#[cfg(all(
    target_os = "linux",
    target_arch = "x86_64",
    feature = "channel",
    any(feature = "ring", feature = "rustcrypto")
))]
fn main() -> std::process::ExitCode {
    if wiping::work() {
        return std::process::ExitCode::SUCCESS;
    }
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), wiping::tests()).exit_code()
}

#[cfg(not(all(
    target_os = "linux",
    target_arch = "x86_64",
    feature = "channel",
    any(feature = "ring", feature = "rustcrypto")
)))]
fn main() {}
