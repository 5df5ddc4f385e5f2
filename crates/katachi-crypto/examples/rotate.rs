//! Replaces a key while old data stays readable, then forgets the old key.
//!
//! `cargo run -p katachi-crypto --example rotate`

use katachi_crypto::envelope::Context;
use katachi_crypto::keyset::Keyset;

fn main() -> Result<(), katachi_crypto::Error> {
    let mut keys = Keyset::new();
    let context = Context::new("note").row(b"1");

    let first = keys.rotate("notes")?;
    let old = keys.seal("notes", &context, b"written under the first key")?;
    println!("sealed {} bytes under key {first}", old.as_bytes().len());

    let second = keys.rotate("notes")?;
    println!("new values are sealed under key {second}");
    println!(
        "the old value still opens: {} bytes",
        keys.open(&context, &old)?.len()
    );

    keys.destroy(first)?;
    match keys.open(&context, &old) {
        Ok(_) => unreachable!("a destroyed key opens nothing"),
        Err(error) => println!("after key {first} was destroyed: {error}"),
    }
    Ok(())
}
