//! Publishes digests of board serial, product UUID and TPM endorsement key for
//! an application.
//!
//! Root runs this once at every boot, for instance by a service like this:
//!
//! ```text
//! [Unit]
//! Description=Publish digests of the board for my-application
//!
//! [Service]
//! Type=oneshot
//! ExecStart=/usr/local/libexec/publish my-application
//!
//! [Install]
//! WantedBy=multi-user.target
//! ```
//!
//! From then on `SystemProbe::published_for("my-application")` counts these
//! parts, for root and for users alike.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(application) = std::env::args().nth(1) else {
        return Err("usage: publish APPLICATION".into());
    };
    let published = katachi_fingerprint::publish(Path::new("/"), &application)?;
    for part in &published.parts {
        println!("{part}");
    }
    if let Some(error) = &published.tpm {
        println!("without the TPM endorsement key: {error}");
    }
    println!("published in {}", published.path.display());
    Ok(())
}
