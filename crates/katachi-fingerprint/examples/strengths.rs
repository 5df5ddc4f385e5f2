//! Prints how many bits typical machines give: the table of the README.
//!
//! ```text
//! cargo run -p katachi-fingerprint --features testing --example strengths
//! ```

use katachi_fingerprint::testing::Machine;
use katachi_fingerprint::{Component, Enrollment, FLOOR_BITS};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("| machine | copied home | copied image | moved drive |");
    println!("|---|---|---|---|");
    let mut notes = Vec::new();
    for (name, machine) in Machine::all() {
        let (_, enrollment) = Enrollment::enroll(&machine.look()?)?;
        let strength = enrollment.strength();
        println!(
            "| {name} | {} | {} | {} |",
            strength.home_copy, strength.image_copy, strength.moved_drive
        );
        let indispensable: Vec<_> = enrollment
            .indispensable()
            .iter()
            .map(Component::to_string)
            .collect();
        if !indispensable.is_empty() {
            notes.push(format!(
                "{name}: indispensable {}",
                indispensable.join(", ")
            ));
        }
    }
    println!("\nbits of the fingerprint alone; below {FLOOR_BITS} it is a copy deterrent");
    notes.iter().for_each(|note| println!("{note}"));
    Ok(())
}
