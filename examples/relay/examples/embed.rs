//! A relay inside another program, on a free port, until Enter is pressed.
//!
//!     cargo run -p katachi-relay --example embed

use katachi_relay::{Config, Relay};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let state = tempfile::tempdir()?;
    let relay = Relay::bind(Config::local(state.path())).await?;
    println!("open {}", relay.public_url());
    if let Some(authority) = relay.authority() {
        println!("its certificate comes from {}", authority.display());
    }
    println!("press Enter to stop");
    let enter = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    relay
        .serve(async {
            let _ = enter.await;
        })
        .await?;
    Ok(())
}
