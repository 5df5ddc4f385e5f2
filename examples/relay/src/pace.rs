//! How many bytes one agent may move in a second: a token bucket over all streams of its
//! tunnel, both ways. What is above it waits where it is, and the windows of HTTP/2 pass
//! the waiting on to whoever sends.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// The bucket of one tunnel.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: u64,
    /// When the bucket is full again.
    full_at: Mutex<Instant>,
}

/// What the bucket holds, as a time of its rate.
const BURST: Duration = Duration::from_secs(1);

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes_per_second: bytes_per_second.max(1),
            full_at: Mutex::new(Instant::now()),
        })
    }

    /// Takes as many bytes as have come; when the next may, if not now.
    fn take(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        *full_at = (*full_at).max(now) + cost;
        let next = *full_at - BURST.min(full_at.saturating_duration_since(now));
        (next > now).then_some(next)
    }
}

/// A body that keeps to a pace.
pub(crate) struct Paced<B> {
    body: B,
    pace: Arc<Pace>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<B> Paced<B> {
    pub(crate) fn new(body: B, pace: Arc<Pace>) -> Self {
        Self {
            body,
            pace,
            pause: None,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let next = self.pace.take(data.remaining(), Instant::now());
            self.pause = next.map(|next| Box::pin(sleep_until(next)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Pace;

    #[test]
    fn a_second_s_worth_passes_at_once_and_then_what_the_rate_gives() {
        let pace = Pace::new(1000);
        let now = Instant::now();
        assert_eq!(pace.take(400, now), None);
        assert_eq!(pace.take(600, now), None);
        let next = pace.take(500, now).expect("it is used up");
        let wait = next - now;
        let half = Duration::from_millis(500);
        assert!(wait.abs_diff(half) < Duration::from_millis(2), "{wait:?}");
        // Later there is room again, and never more than a second's worth.
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.take(1000, later), None);
        assert!(pace.take(100, later).is_some());
    }
}
