//! One command on macOS or Windows: started, watched, and ended with all that
//! it started.
//!
//! The caller's program executes itself once more, as on Linux. That second life
//! starts the command confined and stays: it holds what the command lives in,
//! counts its time, and ends it when the caller lets go of the control pipe, also
//! by dying.
//!
//! ```text
//! caller --exec--> helper --------> command
//!   |                 |             (Seatbelt, or AppContainer and job)
//!   |  plan, orders   |
//!   +----- pipes -----+
//! ```
//!
//! On Linux this is compiled for its tests, which run the same start without
//! Seatbelt.

mod spec;
#[cfg(unix)]
#[path = "unix/mod.rs"]
mod system;
#[cfg(test)]
mod tests;
pub(crate) mod windows;

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::message::{End, Message, Order};
pub(crate) use spec::{Confinement, Spec};
use system::{Running, Standard};
#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) use system::{attach, leave_session, pass_on, privileged_by_file};
#[cfg(windows)]
use windows::start as system;

/// How often limits are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What happened to the command.
enum Event {
    Ended,
    Order(Order),
    /// The caller let go.
    Released,
}

/// Why the command is over.
enum Over {
    ByItself,
    TimedOut,
    Limit(&'static str),
    Released,
}

/// Starts the command of `spec` and stays until it and all it started is gone.
/// The end of `control` ends it.
///
/// # Errors
///
/// Returns the system's error if nobody reads `status` any more.
pub(crate) fn supervise(
    spec: &Spec,
    streams: [Standard; 3],
    control: impl Read + Send + 'static,
    status: &mut impl Write,
) -> io::Result<()> {
    let mut running = match Running::start(spec, streams) {
        Ok(running) => running,
        Err(failure) => return failure.0.send(status),
    };
    let told = Message::Started(Vec::new()).send(status);
    let (events, tell) = {
        let (tell, events) = mpsc::channel();
        (events, tell)
    };
    let (waiter, ended) = (running.waiter(), tell.clone());
    std::thread::spawn(move || {
        waiter.wait();
        // Nobody listens once the command is over.
        let _ = ended.send(Event::Ended);
    });
    std::thread::spawn(move || {
        let mut control = control;
        while let Some(order) = Order::receive(&mut control) {
            let _ = tell.send(Event::Order(order));
        }
        let _ = tell.send(Event::Released);
    });
    let over = match told {
        Ok(()) => watch(spec, &mut running, &events),
        Err(_) => Over::Released,
    };
    let own = running.end();
    let end = match over {
        Over::ByItself => own?,
        Over::TimedOut => End::TimedOut,
        Over::Limit(name) => End::Limit(name.to_owned()),
        Over::Released => return Ok(()),
    };
    Message::Ended(end).send(status)
}

fn watch(spec: &Spec, running: &mut Running, events: &Receiver<Event>) -> Over {
    let begun = Instant::now();
    let wall_time = spec.wall_time_ms.map(Duration::from_millis);
    let watched = spec.is_watched();
    let mut looked = Instant::now();
    loop {
        let left = wall_time.map(|limit| limit.saturating_sub(begun.elapsed()));
        let patience = match (left, watched) {
            (Some(left), true) => left.min(LOOK),
            (Some(left), false) => left,
            (None, true) => LOOK,
            (None, false) => Duration::from_secs(3600),
        };
        match events.recv_timeout(patience) {
            Ok(Event::Ended) => return Over::ByItself,
            Ok(Event::Released) | Err(RecvTimeoutError::Disconnected) => return Over::Released,
            Ok(Event::Order(Order::Signal(number))) => running.signal(number),
            // Nothing asks here.
            Ok(Event::Order(Order::Answer(..))) | Err(RecvTimeoutError::Timeout) => {}
        }
        if wall_time.is_some_and(|limit| begun.elapsed() >= limit) {
            return Over::TimedOut;
        }
        if watched && looked.elapsed() >= LOOK {
            if let Some(limit) = running.passed_limit(spec) {
                return Over::Limit(limit);
            }
            looked = Instant::now();
        }
    }
}
