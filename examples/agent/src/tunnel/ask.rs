//! A start that a person has to approve: the question, and the wait for its answer.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use katachi_protocol::approval::{ApprovalRequest, Decision};
use katachi_protocol::run::RunEvent;
use katachi_sandbox::Plan;
use tokio::sync::mpsc;

use super::service::Service;
use crate::approvals::LIFETIME;
use crate::runner::{self, Finished, Job};

/// How often a start that waits for approval looks whether anybody still waits
/// for it.
const GLANCE: Duration = Duration::from_millis(200);

/// Has a person asked about `job` where the policy wants that, and waits. Marks
/// it as approved, or says how it ended instead.
pub(crate) fn approve(
    service: &Service,
    plan: &Plan,
    job: &mut Job,
    events: &mpsc::Sender<RunEvent>,
) -> Result<(), Finished> {
    let Some(directory) = runner::directory(plan.workspace(), job.cwd.as_deref()) else {
        return Ok(()); // Refused with its reason when it is started.
    };
    let Some(rule) = plan.needs_approval(&job.argv, &directory) else {
        return Ok(());
    };
    let question = Question {
        argv: &job.argv,
        directory: &directory,
        rule: &rule,
    };
    match ask(service, plan, question, events) {
        Ok(()) => {
            job.approved = Some(directory);
            Ok(())
        }
        Err(why) => Err(runner::not_approved(job, &rule, why, events)),
    }
}

/// What a person is asked about, and which rule wants that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) argv: &'a [String],
    /// Absolute, with all links followed.
    pub(crate) directory: &'a Path,
    pub(crate) rule: &'a str,
}

/// Asks every paired device and waits for the signed answer of one.
///
/// # Errors
///
/// Returns why it is not approved.
pub(crate) fn ask(
    service: &Service,
    plan: &Plan,
    question: Question<'_>,
    events: &mpsc::Sender<RunEvent>,
) -> Result<(), &'static str> {
    let (Ok(nonce), Some(shown)) = (
        katachi_crypto::random::bytes::<16>(),
        question.directory.to_str(),
    ) else {
        return Err("nobody could be asked");
    };
    let now = crate::audit::now();
    let request = ApprovalRequest {
        nonce: URL_SAFE_NO_PAD.encode(nonce),
        argv: question.argv.to_vec(),
        directory: shown.to_owned(),
        plan_hash: plan.hash().to_owned(),
        rule: question.rule.to_owned(),
        expires_at: now + LIFETIME,
    };
    let Some(answer) = service.approvals.ask(request.clone(), now) else {
        return Err("too many starts wait for approval already");
    };
    let (nonce, expires) = (request.nonce.clone(), request.expires_at);
    // Whoever started it may be gone; then the loop below ends at once.
    let _ = events.blocking_send(RunEvent::Approval(request));
    let decision = loop {
        match answer.recv_timeout(GLANCE) {
            Ok(decision) => break Some(decision),
            Err(_) if events.is_closed() || crate::audit::now() >= expires => break None,
            Err(_) => {}
        }
    };
    service.approvals.withdraw(&nonce);
    if events.is_closed() {
        return Err("it was withdrawn, since what asked for it is over");
    }
    // A device that answered just before that was told that its answer counts.
    match decision.or_else(|| answer.try_recv().ok()) {
        Some(Decision::Approve) => Ok(()),
        Some(Decision::Deny) => Err("a person denied it"),
        None => Err("nobody approved it in time"),
    }
}
