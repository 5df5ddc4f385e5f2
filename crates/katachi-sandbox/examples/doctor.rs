//! Tells what this machine can enforce, and shows it for a small policy.
//!
//! ```text
//! cargo run -p katachi-sandbox --example doctor
//! ```

use katachi_sandbox::{PlanOptions, Policy, doctor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    katachi_sandbox::helper::run_if_requested();

    print!("{}", doctor::probe()?);
    let plan = Policy::default()
        .read("@system")
        .write(".")
        .allow("cat")
        .plan(&PlanOptions::new(std::env::current_dir()?))?;
    print!("{}", doctor::witness(&plan)?);
    Ok(())
}
