//! Tells what this machine can enforce, and shows it for a small policy.
//!
//! ```text
//! cargo run -p katachi-sandbox --example doctor
//! ```

use katachi_sandbox::report::Tier;
use katachi_sandbox::{PlanOptions, Policy, doctor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    katachi_sandbox::helper::run_if_requested();

    print!("{}", doctor::probe()?);
    let policy = Policy::default().read("@system").write(".").allow("cat");
    let options = PlanOptions::new(std::env::current_dir()?);
    print!("{}", doctor::witness(&policy.plan(&options)?)?);
    // What would be left where nobody can make namespaces.
    let below = policy.plan(&options.only(Tier::Landlock))?;
    print!("{}", doctor::witness(&below)?);
    Ok(())
}
