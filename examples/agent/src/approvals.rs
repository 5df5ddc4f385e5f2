//! Starts that wait for a person: what the policy lists under `commands.ask`.
//!
//! Each waits under a nonce of its own for the signed answer of a paired device.
//! An answer counts once, for exactly the argument vector, directory and plan
//! that were asked about, and neither after its time nor after what asked is over:
//! whoever asks withdraws the question before anybody is told of that end. It is checked
//! first and counts later, so that what cannot be written down starts nothing.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_protocol::Timestamp;
use katachi_protocol::approval::{ApprovalAnswer, ApprovalRequest, Decision};
use katachi_protocol::channel::Device;
use ring::signature::{ED25519, UnparsedPublicKey};

/// How long a request waits, in seconds.
pub(crate) const LIFETIME: u64 = 120;
/// Requests that are remembered at once. Those that wait are never given up for others.
const MAX_REQUESTS: usize = 64;

/// Why an answer does not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("no start waits under this nonce")]
    Unknown,
    #[error("this request was answered before")]
    Spent,
    #[error("this request was withdrawn, since what asked for it is over; nothing was started")]
    Withdrawn,
    #[error("this request is too old; run the command again")]
    Expired,
    #[error("the answer is to another {0} than was asked about")]
    Differs(&'static str),
    #[error("this device has no key to sign approvals with; pair it again")]
    NoKey,
    #[error("the signature is not this device's")]
    Signature,
}

/// Everything that waits, and what was answered a short while ago.
#[derive(Debug, Default)]
pub(crate) struct Approvals(Mutex<HashMap<String, Entry>>);

#[derive(Debug)]
struct Entry {
    request: ApprovalRequest,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Whom to tell.
    Waits(SyncSender<Decision>),
    Answered,
    Withdrawn,
}

impl Approvals {
    /// Puts `request` up for an answer, which arrives at the receiver.
    ///
    /// Returns `None` if too many wait already.
    pub(crate) fn ask(
        &self,
        request: ApprovalRequest,
        now: Timestamp,
    ) -> Option<Receiver<Decision>> {
        let mut entries = self.lock();
        entries.retain(|_, entry| entry.request.expires_at > now);
        if entries.len() >= MAX_REQUESTS {
            // Who asks and gives up over and over keeps nobody else from asking. An
            // answer to what is forgotten is refused as well, in other words.
            let over = entries.values().filter(|entry| !entry.waits());
            let oldest = over.min_by_key(|entry| entry.request.expires_at)?;
            let oldest = oldest.request.nonce.clone();
            entries.remove(&oldest);
        }
        let (waiting, answer) = sync_channel(1);
        let entry = Entry {
            request: request.clone(),
            state: State::Waits(waiting),
        };
        entries.insert(request.nonce, entry);
        Some(answer)
    }

    /// What waits for an answer.
    pub(crate) fn waiting(&self, now: Timestamp) -> Vec<ApprovalRequest> {
        let entries = self.lock();
        let open = entries
            .values()
            .filter(|entry| entry.waits() && entry.request.expires_at > now);
        open.map(|entry| entry.request.clone()).collect()
    }

    /// Ends a request that nobody waits for any more.
    pub(crate) fn withdraw(&self, nonce: &str) {
        if let Some(entry) = self.lock().get_mut(nonce).filter(|entry| entry.waits()) {
            entry.state = State::Withdrawn;
        }
    }

    /// Checks the answer of `device`, whose identity the channel has shown. It has no
    /// effect yet.
    ///
    /// # Errors
    ///
    /// Returns why it does not count; the request then waits on, unless it is
    /// spent or too old.
    pub(crate) fn check(
        &self,
        device: &Device,
        answer: &ApprovalAnswer,
        now: Timestamp,
    ) -> Result<Checked<'_>, Refused> {
        let entries = self.lock();
        let nonce = &answer.request.nonce;
        let entry = entries.get(nonce).ok_or(Refused::Unknown)?;
        if entry.request.expires_at <= now {
            return Err(Refused::Expired);
        }
        match entry.state {
            State::Waits(_) => {}
            State::Answered => return Err(Refused::Spent),
            State::Withdrawn => return Err(Refused::Withdrawn),
        }
        same(&entry.request, &answer.request)?;
        let key = device.signing_key.as_deref().ok_or(Refused::NoKey)?;
        // What is checked are our own bytes, not the device's.
        let signed = entry.request.signed_bytes(answer.decision);
        if !is_signed(key, &signed, &answer.signature) {
            return Err(Refused::Signature);
        }
        Ok(Checked {
            entries,
            nonce: nonce.clone(),
            decision: answer.decision,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that counts as soon as somebody [says so](Self::count). As long as nobody
/// does, the request neither ends nor is answered by others.
#[derive(Debug)]
pub(crate) struct Checked<'a> {
    entries: MutexGuard<'a, HashMap<String, Entry>>,
    nonce: String,
    decision: Decision,
}

impl Checked<'_> {
    /// Tells who waits.
    pub(crate) fn count(mut self) {
        let entry = self.entries.get_mut(&self.nonce);
        let state = entry.map(|entry| std::mem::replace(&mut entry.state, State::Answered));
        if let Some(State::Waits(waiting)) = state {
            // There is room for the one answer; who waits withdraws before leaving.
            let _ = waiting.send(self.decision);
        }
    }
}

impl Entry {
    fn waits(&self) -> bool {
        matches!(self.state, State::Waits(_))
    }
}

/// Names the first thing in which `seen` is not what was `asked`.
fn same(asked: &ApprovalRequest, seen: &ApprovalRequest) -> Result<(), Refused> {
    let pairs = [
        ("argv", asked.argv == seen.argv),
        ("directory", asked.directory == seen.directory),
        ("plan", asked.plan_hash == seen.plan_hash),
        ("rule", asked.rule == seen.rule),
        ("expiry", asked.expires_at == seen.expires_at),
    ];
    match pairs.into_iter().find(|(_, same)| !same) {
        Some((what, _)) => Err(Refused::Differs(what)),
        None => Ok(()),
    }
}

/// Whether `signature` is `key`'s Ed25519 over `message`, both base64url.
pub(crate) fn is_signed(key: &str, message: &[u8], signature: &str) -> bool {
    let (Ok(key), Ok(signature)) = (
        URL_SAFE_NO_PAD.decode(key),
        URL_SAFE_NO_PAD.decode(signature),
    ) else {
        return false;
    };
    UnparsedPublicKey::new(&ED25519, key)
        .verify(message, &signature)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    const NOW: Timestamp = 1_800_000_000;

    fn request() -> ApprovalRequest {
        ApprovalRequest {
            nonce: "n".repeat(22),
            argv: ["touch", "plum"].map(str::to_owned).to_vec(),
            directory: "/work".to_owned(),
            plan_hash: "ab".repeat(32),
            rule: "commands.ask = touch".to_owned(),
            expires_at: NOW + LIFETIME,
        }
    }

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn device(signing_key: Option<&Ed25519KeyPair>) -> Device {
        Device {
            id: "d".to_owned(),
            name: "a browser".to_owned(),
            paired_at: 0,
            signing_key: signing_key.map(|pair| URL_SAFE_NO_PAD.encode(pair.public_key().as_ref())),
        }
    }

    fn signed(
        request: ApprovalRequest,
        decision: Decision,
        pair: &Ed25519KeyPair,
    ) -> ApprovalAnswer {
        let signature = pair.sign(&request.signed_bytes(decision));
        ApprovalAnswer {
            request,
            decision,
            signature: URL_SAFE_NO_PAD.encode(signature.as_ref()),
        }
    }

    /// Checks an answer, which then counts.
    fn answer(
        approvals: &Approvals,
        device: &Device,
        answer: &ApprovalAnswer,
        now: Timestamp,
    ) -> Result<(), Refused> {
        approvals.check(device, answer, now).map(Checked::count)
    }

    #[test]
    fn the_answer_of_the_device_counts_once() {
        let (approvals, pair) = (Approvals::default(), key(1));
        let waits = approvals.ask(request(), NOW).unwrap();
        let approve = signed(request(), Decision::Approve, &pair);
        // What is only checked, since it could not be written down, can be said again.
        let checked = approvals.check(&device(Some(&pair)), &approve, NOW);
        drop(checked.unwrap());
        assert!(waits.try_recv().is_err());
        answer(&approvals, &device(Some(&pair)), &approve, NOW).unwrap();
        assert_eq!(waits.try_recv(), Ok(Decision::Approve));
        let again = answer(&approvals, &device(Some(&pair)), &approve, NOW);
        assert_eq!(again, Err(Refused::Spent));
        assert!(approvals.waiting(NOW).is_empty());
    }

    #[test]
    fn an_answer_that_comes_too_late_is_called_that() {
        let (approvals, pair) = (Approvals::default(), key(1));
        let waits = approvals.ask(request(), NOW).unwrap();
        let approve = signed(request(), Decision::Approve, &pair);
        let late = answer(&approvals, &device(Some(&pair)), &approve, NOW + LIFETIME);
        assert_eq!(late, Err(Refused::Expired));
        assert!(waits.try_recv().is_err());
    }

    #[test]
    fn an_answer_to_what_was_withdrawn_is_called_that() {
        let (approvals, pair) = (Approvals::default(), key(1));
        let waits = approvals.ask(request(), NOW).unwrap();
        approvals.withdraw(&request().nonce);
        assert!(approvals.waiting(NOW).is_empty());
        let approve = signed(request(), Decision::Approve, &pair);
        let late = answer(&approvals, &device(Some(&pair)), &approve, NOW);
        assert_eq!(late, Err(Refused::Withdrawn));
        assert!(waits.try_recv().is_err());
    }

    #[test]
    fn what_was_answered_cannot_be_withdrawn() {
        let (approvals, pair) = (Approvals::default(), key(1));
        let waits = approvals.ask(request(), NOW).unwrap();
        let deny = signed(request(), Decision::Deny, &pair);
        answer(&approvals, &device(Some(&pair)), &deny, NOW).unwrap();
        approvals.withdraw(&request().nonce);
        assert_eq!(waits.try_recv(), Ok(Decision::Deny));
        let again = answer(&approvals, &device(Some(&pair)), &deny, NOW);
        assert_eq!(again, Err(Refused::Spent));
    }

    #[test]
    fn an_answer_to_anything_else_is_refused_by_name() {
        let (approvals, pair) = (Approvals::default(), key(1));
        let waits = approvals.ask(request(), NOW).unwrap();
        let change = |change: fn(&mut ApprovalRequest)| {
            let mut other = request();
            change(&mut other);
            signed(other, Decision::Approve, &pair)
        };
        for (other, why) in [
            (
                change(|r| r.argv[1] = "pear".to_owned()),
                Refused::Differs("argv"),
            ),
            (
                change(|r| r.argv = vec!["touch plum".to_owned()]),
                Refused::Differs("argv"),
            ),
            (
                change(|r| r.directory = "/".to_owned()),
                Refused::Differs("directory"),
            ),
            (
                change(|r| r.plan_hash = "cd".repeat(32)),
                Refused::Differs("plan"),
            ),
            (
                change(|r| r.rule = "none".to_owned()),
                Refused::Differs("rule"),
            ),
            (change(|r| r.expires_at += 1), Refused::Differs("expiry")),
            (change(|r| r.nonce = "m".repeat(22)), Refused::Unknown),
        ] {
            let refused = answer(&approvals, &device(Some(&pair)), &other, NOW);
            assert_eq!(refused, Err(why));
        }
        let mut flipped = signed(request(), Decision::Deny, &pair);
        flipped.decision = Decision::Approve;
        let wrong = signed(request(), Decision::Approve, &key(2));
        for forged in [flipped, wrong] {
            let refused = answer(&approvals, &device(Some(&pair)), &forged, NOW);
            assert_eq!(refused, Err(Refused::Signature));
        }
        let approve = signed(request(), Decision::Approve, &pair);
        let refused = answer(&approvals, &device(None), &approve, NOW);
        assert_eq!(refused, Err(Refused::NoKey));
        // After all of that the right answer still counts.
        assert!(waits.try_recv().is_err());
        answer(&approvals, &device(Some(&pair)), &approve, NOW).unwrap();
        assert_eq!(waits.try_recv(), Ok(Decision::Approve));
    }

    #[test]
    fn only_so_many_wait() {
        let approvals = Approvals::default();
        let mut kept = Vec::new();
        for n in 0..MAX_REQUESTS {
            let mut one = request();
            one.nonce = n.to_string();
            kept.push(approvals.ask(one, NOW).unwrap());
        }
        assert!(approvals.ask(request(), NOW).is_none());
        // What is over makes room, what waits does not.
        approvals.withdraw("7");
        assert!(approvals.ask(request(), NOW).is_some());
        assert_eq!(approvals.waiting(NOW).len(), MAX_REQUESTS);
        let mut another = request();
        another.nonce = "another".to_owned();
        assert!(approvals.ask(another.clone(), NOW).is_none());
        assert!(approvals.ask(another, NOW + LIFETIME).is_some());
    }
}
