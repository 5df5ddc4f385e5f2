//! Reads a stream of run events from standard input and tells what happened.
//!
//!     echo '{"event":"exit","code":0,"seconds":0.1}' | cargo run -p katachi-protocol --example events

use std::io::BufRead as _;

use katachi_protocol::run::RunEvent;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for line in std::io::stdin().lock().lines() {
        match RunEvent::from_line(&line?)? {
            RunEvent::Approval(request) => println!("waits for approval of {:?}", request.argv),
            RunEvent::Started { argv, .. } => println!("started {argv:?}"),
            RunEvent::Output { data, .. } => print!("{data}"),
            RunEvent::Tool { name, detail } => println!("uses {name} {detail}"),
            RunEvent::Denied {
                operation,
                target,
                allow_with,
                ..
            } => {
                println!(
                    "denied {operation} {target}; allowed by {}",
                    allow_with.unwrap_or_default()
                );
            }
            RunEvent::Exit {
                code,
                signal,
                seconds,
            } => {
                println!("ended with {code:?} {signal:?} after {seconds} s");
            }
            RunEvent::Error { message } => println!("failed: {message}"),
        }
    }
    Ok(())
}
