//! How many bits typical machines give: the table of the documentation.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use katachi_fingerprint::Enrollment;
use katachi_fingerprint::testing::Machine;

#[test]
fn the_strength_of_every_fake_machine_is_ordered_and_named() {
    let readme = include_str!("../README.md");
    for (name, machine) in Machine::all() {
        let (_, enrollment) = Enrollment::enroll(&machine.look().unwrap()).unwrap();
        let strength = enrollment.strength();
        let row = format!(
            "| {name} | {} | {} | {} |",
            strength.home_copy, strength.image_copy, strength.moved_drive
        );
        assert!(readme.contains(&row), "the table of the README: {row}");
        assert!(strength.moved_drive <= strength.image_copy, "{name}");
        assert!(strength.image_copy <= strength.home_copy, "{name}");
        assert!(strength.is_copy_deterrent(), "{name}");
    }
}
