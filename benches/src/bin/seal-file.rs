//! Seals or opens a file as a whole process, as `age` and `openssl` do.
//!
//! `seal-file seal|open KEY FROM TO`, where KEY is a file of 32 bytes.

use std::fs::File;
use std::io;

use katachi_crypto::envelope::{Context, DataKey};
use katachi_crypto::stream::{OpenReader, SealWriter};
use katachi_crypto::{KeyId, Secret};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [work, key, from, to] = arguments.as_slice() else {
        return Err("usage: seal-file seal|open KEY FROM TO".into());
    };
    let key = Secret::from_slice(&std::fs::read(key)?)?;
    let key = DataKey::from_parts(KeyId::from_bytes([1; 8]), key);
    let context = Context::new("seal-file");
    let (mut from, to) = (File::open(from)?, File::create(to)?);
    // A chunk is 16 KiB: fewer and larger calls on both sides.
    match work.as_str() {
        "seal" => {
            let to = io::BufWriter::with_capacity(256 * 1024, to);
            let mut writer = SealWriter::new(to, &key, &context)?;
            copy(&mut from, &mut writer)?;
            writer.finish()?;
        }
        "open" => {
            let from = io::BufReader::with_capacity(256 * 1024, from);
            let mut reader = OpenReader::new(from, &key, &context)?;
            copy(&mut reader, &mut &to)?;
        }
        other => return Err(format!("no work is called {other}").into()),
    }
    Ok(())
}

fn copy(from: &mut impl io::Read, to: &mut impl io::Write) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count])?,
        }
    }
}
