//! A line of a run's stream: read, written and read again is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| katachi_protocol::run::check_line_law(line));
