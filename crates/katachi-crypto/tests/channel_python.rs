//! Python's `noiseprotocol` at the other end of a channel, in both roles of each
//! handshake, with the framing written once more from the documentation.
//!
//! It takes Python with the package `noiseprotocol`, run by the interpreter
//! named in `KATACHI_PYTHON` or found as `python3`; without it the tests are
//! listed as ignored, and fail where `KATACHI_REQUIRE_ALL` is set.

#[cfg(all(feature = "channel", any(feature = "ring", feature = "rustcrypto")))]
mod peer {
    use std::error::Error;
    use std::io::{BufRead, BufReader, Write};
    use std::path::Path;
    use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
    use std::time::Duration;

    use katachi_crypto::Secret;
    use katachi_crypto::channel::{
        Binding, Channel, CodeInitiator, CodeResponder, Event, Frames, Initiator, KEY_LIFETIME,
        Responder, StaticKey, Step,
    };
    use libtest_mimic::{Failed, Trial};

    type Result<T> = std::result::Result<T, Box<dyn Error>>;

    type Check = fn() -> Result<()>;

    const BINDING: Binding<'static> = Binding {
        relay: "https://relay.example",
        account: "ada",
        agent: "laptop",
        device: "phone",
        stream: "1",
    };

    const START: Duration = Duration::from_secs(7);

    pub(super) fn tests() -> Vec<Trial> {
        let absent = !is_here();
        let why = if absent {
            " (needs Python with `noiseprotocol`; name it in KATACHI_PYTHON)"
        } else {
            ""
        };
        let ignored = absent && std::env::var_os("KATACHI_REQUIRE_ALL").is_none();
        let all: [(&str, Check); 6] = [
            ("answers_pairing_by_link", || initiate("IKpsk2")),
            ("begins_pairing_by_link", || respond("IKpsk2")),
            ("answers_a_later_channel", || initiate("IK")),
            ("begins_a_later_channel", || respond("IK")),
            ("answers_pairing_by_code", initiate_by_code),
            ("begins_pairing_by_code", respond_by_code),
        ];
        all.into_iter()
            .map(|(name, test)| {
                let run = move || test().map_err(|error| Failed::from(error.to_string()));
                Trial::test(format!("python_{name}{why}"), run).with_ignored_flag(ignored)
            })
            .collect()
    }

    fn python() -> Command {
        Command::new(std::env::var_os("KATACHI_PYTHON").unwrap_or_else(|| "python3".into()))
    }

    fn is_here() -> bool {
        python()
            .args(["-c", "import noise.connection"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Result<Vec<u8>> {
        let byte = |at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?);
        (0..text.len()).step_by(2).map(byte).collect()
    }

    /// The Python process, and its frames.
    struct Peer {
        child: Child,
        input: ChildStdin,
        output: BufReader<ChildStdout>,
    }

    impl Peer {
        fn start(
            pattern: &str,
            role: &str,
            key: &StaticKey,
            remote: Option<&StaticKey>,
            secret: Option<&Secret<32>>,
        ) -> Result<Self> {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/channel_python/peer.py");
            let or_dash = |bytes: Option<String>| bytes.unwrap_or_else(|| "-".into());
            let mut child = python()
                .arg(script)
                .args([pattern, role, &hex(key.expose_secret())])
                .arg(or_dash(remote.map(|key| hex(key.public().as_bytes()))))
                .arg(or_dash(secret.map(|secret| hex(secret.expose_secret()))))
                .arg(hex(&BINDING.prologue()))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let input = child.stdin.take().ok_or("it has no input")?;
            let output = BufReader::new(child.stdout.take().ok_or("it has no output")?);
            Ok(Self {
                child,
                input,
                output,
            })
        }

        fn send(&mut self, frames: &[u8]) -> Result<()> {
            Ok(writeln!(self.input, "frames {}", hex(frames))?)
        }

        /// What the next line, which starts with `word`, says.
        fn line(&mut self, word: &str) -> Result<String> {
            let mut line = String::new();
            self.output.read_line(&mut line)?;
            match line.trim_end().split_once(' ') {
                Some((first, rest)) if first == word => Ok(rest.to_owned()),
                _ => Err(format!("{word} was expected and not {line:?}").into()),
            }
        }

        fn frames(&mut self) -> Result<Vec<u8>> {
            unhex(&self.line("frames")?)
        }

        /// The one handshake message that it sends next.
        fn message(&mut self) -> Result<Vec<u8>> {
            let frames = self.frames()?;
            let (mut reader, mut input) = (Frames::of_handshake(), frames.as_slice());
            let message = reader.next(&mut input)?.ok_or("the frame is cut")?;
            Ok(message.to_vec())
        }

        fn expect_hash(&mut self, channel: &Channel) -> Result<()> {
            let theirs = self.line("hash")?;
            if theirs != hex(channel.handshake_hash()) {
                return Err("the handshake hashes differ".into());
            }
            Ok(())
        }

        /// Messages both ways with changes of keys at both ends, then a close by
        /// each.
        fn talk(mut self, mut channel: Channel) -> Result<()> {
            let lengths = [0, 1, 248, 249, 5000, 16_376, 16_377, 70_000];
            let mut rekeyed = 0;
            for (number, length) in lengths.into_iter().enumerate() {
                let message: Vec<u8> = (0..length).map(|at: usize| at.to_le_bytes()[0]).collect();
                let mut out = Vec::new();
                // Each message an hour after the last: under a new key.
                let now = START + KEY_LIFETIME * number as u32;
                channel.send(now, &message, &mut out)?;
                self.send(&out)?;
                let answer = self.frames()?;
                let mut input = answer.as_slice();
                let got = loop {
                    match channel.receive(&mut input)?.ok_or("the answer is cut")? {
                        Event::Message(got) => break got,
                        Event::Rekeyed => rekeyed += 1,
                        other => return Err(format!("{other:?} instead of an answer").into()),
                    }
                };
                let wanted: Vec<u8> = message.into_iter().rev().collect();
                if got.expose_secret() != wanted || !input.is_empty() {
                    return Err(format!("another answer to {length} bytes").into());
                }
            }
            let mut out = Vec::new();
            channel.close(&mut out)?;
            self.send(&out)?;
            let answer = self.frames()?;
            let last = channel.receive(&mut answer.as_slice())?;
            channel.end()?;
            let status = self.child.wait()?;
            if (last, rekeyed, status.success()) != (Some(Event::Closed), 4, true) {
                return Err(format!("{rekeyed} changes of keys, ended with {status}").into());
            }
            Ok(())
        }
    }

    impl Drop for Peer {
        fn drop(&mut self) {
            // Only where a test failed before its end; nothing is left to do then.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn keys() -> Result<(StaticKey, StaticKey, Secret<32>)> {
        let (ours, theirs) = (StaticKey::generate()?, StaticKey::generate()?);
        Ok((ours, theirs, Secret::random()?))
    }

    fn initiate(pattern: &str) -> Result<()> {
        let (ours, theirs, secret) = keys()?;
        let agent = theirs.public();
        let (used, (begun, sent)) = if pattern == "IKpsk2" {
            let begun = Initiator::pair(&ours, &agent, &secret, &BINDING)?;
            (Some(&secret), begun)
        } else {
            (None, Initiator::resume(&ours, &agent, &BINDING)?)
        };
        let mut peer = Peer::start(pattern, "responder", &theirs, None, used)?;
        peer.send(&sent)?;
        let (channel, sent) = begun.finish(&peer.message()?, START)?;
        peer.expect_hash(&channel)?;
        peer.send(&sent)?;
        peer.talk(channel)
    }

    fn respond(pattern: &str) -> Result<()> {
        let (ours, theirs, secret) = keys()?;
        let (used, waiting) = if pattern == "IKpsk2" {
            let waiting = Responder::pair(&ours, &secret, &BINDING)?;
            (Some(&secret), waiting)
        } else {
            (None, Responder::resume(&ours, &BINDING)?)
        };
        let mut peer = Peer::start(pattern, "initiator", &theirs, Some(&ours), used)?;
        let incoming = waiting.read(&peer.message()?)?;
        if incoming.peer() != theirs.public() {
            return Err("another key".into());
        }
        let (unproved, sent) = incoming.answer(START)?;
        peer.send(&sent)?;
        let hash = peer.line("hash")?;
        let Step::Done(proved) = unproved.prove(&mut peer.frames()?.as_slice())? else {
            return Err("the first record is cut".into());
        };
        let channel = proved.into_channel();
        if hash != hex(channel.handshake_hash()) {
            return Err("the handshake hashes differ".into());
        }
        peer.talk(channel)
    }

    fn initiate_by_code() -> Result<()> {
        let (ours, theirs, _) = keys()?;
        let (begun, sent) = CodeInitiator::begin(&ours, &BINDING)?;
        let mut peer = Peer::start("XX", "responder", &theirs, None, None)?;
        peer.send(&sent)?;
        let (unrevealed, sent) = begun.answer(&peer.message()?, START)?;
        peer.send(&sent)?;
        let hash = peer.line("hash")?;
        let Step::Done(uncompared) = unrevealed.reveal(&mut peer.frames()?.as_slice())? else {
            return Err("the first record is cut".into());
        };
        if peer.line("code")? != uncompared.code().to_string() {
            return Err("the codes differ".into());
        }
        let channel = uncompared.codes_are_equal();
        if hash != hex(channel.handshake_hash()) || channel.peer() != theirs.public() {
            return Err("the handshake hashes or keys differ".into());
        }
        peer.talk(channel)
    }

    fn respond_by_code() -> Result<()> {
        let (ours, theirs, _) = keys()?;
        let mut peer = Peer::start("XX", "initiator", &theirs, None, None)?;
        let waiting = CodeResponder::wait(&ours, &BINDING)?;
        let (committed, sent) = waiting.answer(&peer.message()?)?;
        peer.send(&sent)?;
        let (uncompared, sent) = committed.finish(&peer.message()?, START)?;
        peer.send(&sent)?;
        let hash = peer.line("hash")?;
        if peer.line("code")? != uncompared.code().to_string() {
            return Err("the codes differ".into());
        }
        let channel = uncompared.codes_are_equal();
        if hash != hex(channel.handshake_hash()) || channel.peer() != theirs.public() {
            return Err("the handshake hashes or keys differ".into());
        }
        peer.talk(channel)
    }
}

#[cfg(all(feature = "channel", any(feature = "ring", feature = "rustcrypto")))]
fn main() -> std::process::ExitCode {
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), peer::tests()).exit_code()
}

#[cfg(not(all(feature = "channel", any(feature = "ring", feature = "rustcrypto"))))]
fn main() {}
