//! A reader in another language, written from the format page alone, opens what
//! we seal and refuses what we refuse.
//!
//! It takes Python with the package `cryptography`, run by the interpreter named
//! in `KATACHI_PYTHON` or found as `python3`; without it the tests are listed as
//! ignored, and fail where `KATACHI_REQUIRE_ALL` is set.

#[cfg(any(feature = "ring", feature = "rustcrypto"))]
mod reader {
    use std::io::Write;
    use std::path::Path;
    use std::process::{Command, Stdio};

    use katachi_crypto::envelope::{Context, DataKey, Kind};
    use katachi_crypto::stream::SealWriter;
    use katachi_crypto::{KeyId, Secret};
    use libtest_mimic::{Failed, Trial};

    type Check = fn() -> Result<(), Failed>;

    pub(super) fn tests() -> Vec<Trial> {
        let absent = !is_here();
        let why = if absent {
            " (needs Python with `cryptography`; name it in KATACHI_PYTHON)"
        } else {
            ""
        };
        let ignored = absent && std::env::var_os("KATACHI_REQUIRE_ALL").is_none();
        let all: [(&str, Check); 4] = [
            ("opens_what_we_seal", opens_what_we_seal),
            ("opens_streams_and_the_text_form", opens_streams_and_text),
            ("opens_the_frozen_samples", opens_the_frozen_samples),
            ("refuses_what_we_refuse", refuses_what_we_refuse),
        ];
        all.into_iter()
            .map(|(name, test)| {
                Trial::test(format!("a_foreign_reader_{name}{why}"), test)
                    .with_ignored_flag(ignored)
            })
            .collect()
    }

    fn python() -> Command {
        Command::new(std::env::var_os("KATACHI_PYTHON").unwrap_or_else(|| "python3".into()))
    }

    fn is_here() -> bool {
        python()
            .args(["-c", "import cryptography"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// The context that both sides build, each in its own way.
    fn context() -> Context {
        Context::new("test")
            .tenant("acme")
            .table("notes")
            .column("text")
            .row(b"17")
            .version(3)
    }

    fn fields() -> String {
        let version = hex(&3u64.to_be_bytes());
        format!(
            "1:{},2:{},3:{},4:{},5:{},6:{version}",
            hex(b"test"),
            hex(b"acme"),
            hex(b"notes"),
            hex(b"text"),
            hex(b"17")
        )
    }

    fn key() -> DataKey {
        DataKey::from_parts(KeyId::from_bytes(*b"key id 1"), Secret::new([7; 32]))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Gives `envelopes`, in hexadecimal or text form, to the reader.
    fn read(fields: &str, envelopes: &[String]) -> Result<Vec<String>, Failed> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/reader.py");
        let mut child = python()
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().ok_or("it has no input")?;
        let lines: String = envelopes
            .iter()
            .map(|envelope| format!("{} {fields} {envelope}\n", hex(&[7; 32])))
            .collect();
        let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
        let output = child.wait_with_output()?;
        writer.join().map_err(|_| "the writer panicked")??;
        if !output.status.success() {
            return Err(format!("the reader ended with {}", output.status).into());
        }
        Ok(String::from_utf8(output.stdout)?
            .lines()
            .map(str::to_owned)
            .collect())
    }

    fn expect(got: &[String], wanted: &[String]) -> Result<(), Failed> {
        if got.len() != wanted.len() {
            return Err(format!("{} answers to {} envelopes", got.len(), wanted.len()).into());
        }
        match got.iter().zip(wanted).position(|(one, two)| one != two) {
            Some(at) => {
                Err(format!("answer {at} is {:.80}, not {:.80}", got[at], wanted[at]).into())
            }
            None => Ok(()),
        }
    }

    fn opens_what_we_seal() -> Result<(), Failed> {
        let (mut envelopes, mut wanted) = (Vec::new(), Vec::new());
        for length in [0, 1, 64, 16_383, 16_384, 16_385, 50_000] {
            let plaintext = vec![length as u8; length];
            let sealed = key().seal(Kind::Column, &context(), &plaintext)?;
            envelopes.push(hex(sealed.as_bytes()));
            wanted.push(format!("open {}", hex(&plaintext)));
        }
        expect(&read(&fields(), &envelopes)?, &wanted)
    }

    fn opens_streams_and_text() -> Result<(), Failed> {
        let mut writer = SealWriter::new(Vec::new(), &key(), &context())?;
        writer.write_all(&[9; 40_000])?;
        let text = key().seal(Kind::Record, &context(), b"as text")?.to_text();
        let envelopes = [hex(&writer.finish()?), text];
        let wanted = [&[9; 40_000][..], b"as text"].map(|plain| format!("open {}", hex(plain)));
        expect(&read(&fields(), &envelopes)?, &wanted)
    }

    fn opens_the_frozen_samples() -> Result<(), Failed> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        let (mut envelopes, mut wanted) = (Vec::new(), Vec::new());
        for (name, plaintext) in [
            ("v1-empty.ktc", vec![]),
            ("v1-short.ktc", b"katachi".to_vec()),
            ("v1-chunks.ktc", vec![0x42; 20_000]),
            ("v1-column.ktc", "pässword".as_bytes().to_vec()),
        ] {
            envelopes.push(hex(&std::fs::read(folder.join(name))?));
            wanted.push(format!("open {}", hex(&plaintext)));
        }
        envelopes.push(std::fs::read_to_string(folder.join("v1-text.txt"))?);
        wanted.push(format!("open {}", hex(b"katachi")));
        expect(&read(&fields(), &envelopes)?, &wanted)
    }

    /// Every byte of a small envelope changed, and every cut of it: both sides
    /// have to refuse.
    fn refuses_what_we_refuse() -> Result<(), Failed> {
        use katachi_crypto::envelope::Sealed;
        let sealed = key()
            .seal(Kind::Record, &context(), b"sixteen bytes ok")?
            .into_bytes();
        let flips = (0..sealed.len()).map(|at| {
            let mut changed = sealed.clone();
            changed[at] ^= 1 << (at % 8);
            changed
        });
        let cuts = (1..sealed.len()).map(|length| sealed[..length].to_vec());
        let wrong: Vec<Vec<u8>> = flips.chain(cuts).collect();
        let envelopes: Vec<String> = wrong.iter().map(|bytes| hex(bytes)).collect();
        for (bytes, answer) in wrong.iter().zip(read(&fields(), &envelopes)?) {
            let ours = Sealed::parse(bytes).and_then(|sealed| key().open(&context(), &sealed));
            // The key id is an operator's hint to us, and bound as context to both.
            if ours.is_ok() || !answer.starts_with("refused") {
                return Err(format!("{ours:?} and {answer} for {}", hex(bytes)).into());
            }
        }
        Ok(())
    }
}

#[cfg(any(feature = "ring", feature = "rustcrypto"))]
fn main() -> std::process::ExitCode {
    libtest_mimic::run(&libtest_mimic::Arguments::from_args(), reader::tests()).exit_code()
}

#[cfg(not(any(feature = "ring", feature = "rustcrypto")))]
fn main() {}
