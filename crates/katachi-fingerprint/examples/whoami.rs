//! Shows what this machine can be recognised by, and what that is worth.
//!
//! ```text
//! cargo run -p katachi-fingerprint --example whoami [DIRECTORY]
//! ```
//!
//! Names parts and never prints a value.

use katachi_fingerprint::{Component, Enrollment, FLOOR_BITS, Probe, SystemProbe, device_id};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = match std::env::args_os().nth(1) {
        Some(directory) => directory.into(),
        None => std::env::current_dir()?,
    };
    let seen = SystemProbe::new().volume_of(&directory).observe();

    println!(
        "parts of this machine, with {} as the place of the data:",
        directory.display()
    );
    for component in Component::ALL {
        let found = match seen.reading(component) {
            Some(reading) if reading.count() > 1 => {
                format!("{} values, {} bits each", reading.count(), reading.bits())
            }
            Some(reading) => format!("{} bits", reading.bits()),
            None => "absent".to_owned(),
        };
        println!(
            "  {component:<20} {:<6} {found}",
            component.class().to_string()
        );
    }

    let (secret, enrollment) = match Enrollment::enroll(&seen) {
        Ok(enrolled) => enrolled,
        Err(error) => {
            println!("{error}");
            return Ok(());
        }
    };
    let strength = enrollment.strength();
    println!("a secret bound to them has {strength}");
    if strength.is_copy_deterrent() {
        println!(
            "that is below {FLOOR_BITS} bits: by itself a copy deterrent, which belongs under a \
             keychain or TPM secret"
        );
    }
    for component in enrollment.indispensable() {
        println!("indispensable: {component}; if it changes, only another way in helps");
    }
    enrollment.recover(&seen, |guess| *guess == secret)?;
    println!(
        "enrolled and recovered; enrolment of {} bytes",
        enrollment.to_bytes().len()
    );

    match device_id(&seen, "whoami") {
        Ok(id) => println!(
            "device id for this program: {id} (from the {})",
            id.source()
        ),
        Err(error) => println!("no device id: {error}"),
    }
    Ok(())
}
