//! The caller's end of the control pipe.

use std::io::PipeWriter;
use std::sync::{Arc, Mutex, PoisonError};

use crate::child::Signal;
use crate::message::Order;

/// Closing the control pipe ends the sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Killer(Arc<Mutex<Option<PipeWriter>>>);

impl Killer {
    pub(crate) fn new(control: PipeWriter) -> Self {
        Self(Arc::new(Mutex::new(Some(control))))
    }

    pub(crate) fn kill(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.tell(Order::Signal(number(signal)));
    }

    /// Answers a question of the sandbox.
    #[cfg(target_os = "linux")]
    pub(crate) fn answer(&self, number: u64, yes: bool) {
        self.tell(Order::Answer(number, yes));
    }

    fn tell(&self, order: Order) {
        let mut control = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(control) = control.as_mut() {
            // An error means that nobody listens any more.
            let _ = order.send(control);
        }
    }

    pub(crate) fn was_used(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }
}

#[cfg(unix)]
fn number(signal: Signal) -> i32 {
    match signal {
        Signal::Interrupt => libc::SIGINT,
        Signal::Terminate => libc::SIGTERM,
        Signal::Hangup => libc::SIGHUP,
        Signal::Quit => libc::SIGQUIT,
        Signal::User1 => libc::SIGUSR1,
        Signal::User2 => libc::SIGUSR2,
    }
}

/// Other systems have none.
#[cfg(not(unix))]
fn number(_: Signal) -> i32 {
    0
}
