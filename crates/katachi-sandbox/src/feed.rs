//! What was refused, as it happens.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::report::Violation;

/// Refusals of one control that are kept one by one; further ones are counted,
/// so that a flood of one kind hides no other.
const MOST: usize = 1000;

/// Everything that was refused to one command, for whoever asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Feed(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    kept: Vec<Violation>,
    /// How many of each control there were.
    seen: BTreeMap<String, usize>,
    ended: bool,
    waiting: Vec<Waker>,
}

impl Feed {
    /// Keeps a refusal, or counts it where too many are kept.
    pub(crate) fn add(&self, violation: Violation) {
        self.keep(self.lock(), violation);
    }

    /// Keeps a refusal unless the very same is kept.
    pub(crate) fn add_once(&self, violation: Violation) {
        let state = self.lock();
        if !state.kept.contains(&violation) {
            self.keep(state, violation);
        }
    }

    /// Everything so far.
    pub(crate) fn list(&self) -> Vec<Violation> {
        let state = self.lock();
        let mut list = state.kept.clone();
        list.extend(state.counted());
        list
    }

    /// Says that nothing will be added any more.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        if !state.ended {
            let counted: Vec<Violation> = state.counted().collect();
            state.kept.extend(counted);
            state.seen.clear();
            state.ended = true;
            self.tell(state);
        }
    }

    /// A reader that begins with the first.
    pub(crate) fn stream(&self) -> ViolationStream {
        ViolationStream {
            feed: self.clone(),
            next: 0,
        }
    }

    fn keep(&self, mut state: MutexGuard<'_, State>, violation: Violation) {
        let seen = state.seen.entry(violation.control.clone()).or_default();
        *seen += 1;
        if *seen <= MOST {
            state.kept.push(violation);
            self.tell(state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let locked = self.0.state.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, mut state: MutexGuard<'_, State>) {
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.0.changed.notify_all();
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// What is not kept, a line for each control.
    fn counted(&self) -> impl Iterator<Item = Violation> + '_ {
        let more = self.seen.iter().filter(|(_, seen)| **seen > MOST);
        more.map(|(control, seen)| Violation {
            control: control.clone(),
            operation: "any".to_owned(),
            target: format!("{} more", seen - MOST),
            reason: format!("only the first {MOST} refusals are kept one by one"),
            allow_with: None,
        })
    }
}

/// The refusals of one command, each as it happens, until the command ended.
///
/// As an iterator it waits for the next one; [`ViolationStream::recv`] does so
/// in async code, with any runtime. Every stream begins with the first refusal,
/// and a clone goes on where its original stands.
///
/// The last ones, such as what a command left behind under a protected name,
/// are found when somebody waits for the command or drops it.
#[derive(Clone, Debug)]
pub struct ViolationStream {
    feed: Feed,
    next: usize,
}

impl ViolationStream {
    /// The next refusal; `None` once the command ended and all were told.
    pub async fn recv(&mut self) -> Option<Violation> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    /// Everything so far, without waiting and without going on.
    #[must_use]
    pub fn so_far(&self) -> Vec<Violation> {
        self.feed.list()
    }

    /// As [`ViolationStream::recv`], for hand-written futures.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Violation>> {
        let mut state = self.feed.lock();
        if let Some(violation) = state.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(violation.clone()));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        let waker = context.waker();
        if !state.waiting.iter().any(|other| other.will_wake(waker)) {
            state.waiting.push(waker.clone());
        }
        Poll::Pending
    }
}

impl Iterator for ViolationStream {
    type Item = Violation;

    fn next(&mut self) -> Option<Violation> {
        let shared = &self.feed.0;
        let mut state = self.feed.lock();
        while state.kept.len() <= self.next && !state.ended {
            let waited = shared.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let violation = state.kept.get(self.next).cloned()?;
        self.next += 1;
        Some(violation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(target: usize) -> Violation {
        Violation {
            control: "network".to_owned(),
            operation: "connect".to_owned(),
            target: target.to_string(),
            reason: "no".to_owned(),
            allow_with: None,
        }
    }

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_kept() {
        let feed = Feed::default();
        for index in 0..MOST + 7 {
            feed.add_once(refusal(index));
            feed.add_once(refusal(index.min(9)));
        }
        let found = feed.list();
        assert_eq!(found.len(), MOST + 1);
        assert_eq!(found[MOST].target, "7 more");
        let other = Violation {
            control: "argv".to_owned(),
            ..refusal(0)
        };
        feed.add(other.clone());
        let found = feed.list();
        assert!(
            found.contains(&other),
            "a flood hides what is of another kind"
        );
        feed.end();
        assert_eq!(feed.list(), found);
        assert_eq!(feed.stream().collect::<Vec<_>>(), found);
    }

    #[test]
    fn whoever_waits_hears_each_as_it_comes_and_then_the_end() {
        let feed = Feed::default();
        let mut stream = feed.stream();
        let reader = std::thread::spawn(move || {
            let first = stream.next();
            (first, stream.next(), stream.next())
        });
        feed.add(refusal(1));
        feed.add(refusal(2));
        feed.end();
        let heard = reader.join().unwrap();
        assert_eq!(heard, (Some(refusal(1)), Some(refusal(2)), None));
    }

    #[test]
    fn a_task_that_waits_is_woken() {
        struct Woken(std::sync::atomic::AtomicUsize);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let woken = Arc::new(Woken(0.into()));
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        let feed = Feed::default();
        let mut stream = feed.stream();
        assert_eq!(stream.poll_recv(&mut context), Poll::Pending);
        feed.add(refusal(1));
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert_eq!(
            stream.poll_recv(&mut context),
            Poll::Ready(Some(refusal(1)))
        );
        assert_eq!(stream.poll_recv(&mut context), Poll::Pending);
        feed.end();
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 2);
        assert_eq!(stream.poll_recv(&mut context), Poll::Ready(None));
    }
}
