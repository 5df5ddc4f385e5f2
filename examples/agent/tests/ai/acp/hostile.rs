//! Programs that hang, flood, fall silent or end where they should not. Each is a shell
//! script in the real sandbox that goes along with the protocol up to a point.

use std::path::PathBuf;
use std::time::Duration;

use katachi_protocol::approval::{ApprovalRequest, Approvals, Decision};
use katachi_protocol::run::RunEvent;

use super::{last_error, needed_little, running, up_with, wait_until};
use crate::support::device::Device;
use crate::support::meeting::{Meeting, notes_of, session_of, signed, text_of};
use crate::support::up::{PATIENCE, Up, block_on};
use crate::support::{Place, can_confine, needing};

/// What both times are set to: enough for a program that means well on a busy machine.
const SHORT: &str = "start_time = 8\nanswer_time = 8\n";
/// An answer that takes this long has no deadline.
const FOR_EVER: Duration = Duration::from_secs(90);

pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
    let present = can_confine();
    let trial = |name: &str, test: fn()| needing("user namespaces", present, name, test);
    vec![
        trial(
            "a_program_that_is_not_ready_in_time_is_ended",
            a_program_that_is_not_ready_in_time_is_ended,
        ),
        trial(
            "an_answer_that_takes_too_long_is_stopped",
            an_answer_that_takes_too_long_is_stopped,
        ),
        trial(
            "a_flood_is_stopped_in_little_memory",
            a_flood_is_stopped_in_little_memory,
        ),
        trial(
            "a_program_that_does_not_read_is_ended",
            a_program_that_does_not_read_is_ended,
        ),
        trial(
            "a_question_goes_with_what_asked_it",
            a_question_goes_with_what_asked_it,
        ),
        trial(
            "what_ends_or_answers_at_random_is_told_and_forgotten",
            what_ends_or_answers_at_random_is_told_and_forgotten,
        ),
    ]
}

/// An agent with such a program, and a paired browser.
struct Stage {
    place: Place,
    up: Up,
    meeting: Meeting,
    device: Device,
}

impl Stage {
    async fn set(times: &str) -> Self {
        let place = Place::new();
        let script = place.file("hostile.sh", include_str!("hostile.sh"));
        let script = script.canonicalize().unwrap();
        let argv = ["sh", script.to_str().unwrap()];
        let mut up = up_with(&place, &argv, &[&script], times);
        let meeting = Meeting::of(&mut up).await;
        let device = meeting.paired(&up).await;
        Self {
            place,
            up,
            meeting,
            device,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.workspace().join(name)
    }

    /// The answer to a message, of a program that does as `mode` says.
    async fn answer(&self, mode: &str, session: Option<&str>) -> Vec<RunEvent> {
        self.answer_to(mode, session, async |_| true).await
    }

    /// The same, with each event given to `each` until that has seen enough.
    async fn answer_to(
        &self,
        mode: &str,
        session: Option<&str>,
        each: impl AsyncFnMut(&RunEvent) -> bool,
    ) -> Vec<RunEvent> {
        std::fs::write(self.file("mode"), mode).unwrap();
        let message = (session, "how many plums?");
        let answer = self.meeting.follow(&self.device, message, each);
        let answer = tokio::time::timeout(FOR_EVER, answer).await;
        answer.unwrap_or_else(|_| panic!("{mode}: nobody ends it"))
    }

    /// The error that such an answer ends with; nothing of the program is left then.
    async fn error(&self, mode: &str, session: Option<&str>) -> String {
        let events = self.answer(mode, session).await;
        assert_eq!(self.left(), Vec::<u32>::new(), "{mode}");
        last_error(&events).to_owned()
    }

    fn left(&self) -> Vec<u32> {
        running(&self.place, "sh", "hostile.sh")
    }

    async fn waiting(&self) -> Vec<ApprovalRequest> {
        let waiting: Approvals = self.meeting.read(&self.device, "/v1/approvals").await;
        waiting.approvals
    }

    /// What the agent says to an approval of `request` now.
    async fn approve(&self, request: &ApprovalRequest) -> (u16, String) {
        let said = signed(request.clone(), Decision::Approve, &self.device);
        let answer = self.meeting.ask(&self.device, said).await.unwrap();
        let status = answer.status;
        let text = String::from_utf8(answer.whole().await.unwrap()).unwrap();
        (status, text)
    }

    async fn is_refused(&self, request: &ApprovalRequest) {
        let (status, text) = self.approve(request).await;
        assert!(
            status == 403 && text.contains("withdrawn"),
            "{status} {text}"
        );
    }

    fn history(&self, session: &str) -> String {
        self.place.agent(&["history", "show", session]).ok()
    }
}

/// What was asked in an answer.
fn question(events: &[RunEvent]) -> ApprovalRequest {
    let asked = events.iter().find_map(|event| match event {
        RunEvent::Approval(request) => Some(request.clone()),
        _ => None,
    });
    asked.unwrap_or_else(|| panic!("nothing was asked: {events:#?}"))
}

fn a_program_that_is_not_ready_in_time_is_ended() {
    block_on(async {
        let stage = Stage::set(SHORT).await;
        let events = stage.answer("hang-at-start", None).await;
        let error = last_error(&events);
        for part in ["within 8 seconds (ai.start_time)", "initialize", "longer"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert_eq!(stage.left(), Vec::<u32>::new());
        let session = session_of(&events);
        let kept = stage.history(&session);
        assert!(kept.contains("ai.start_time"), "{kept}");

        let answer = async |mode: &str| stage.answer(mode, Some(&session)).await;
        assert_eq!(text_of(&answer("well").await), "begun-anew");
        assert_eq!(text_of(&answer("well").await), "loaded");
        // A session that cannot be had is not waited for with every message.
        let events = answer("hang-at-load").await;
        let (error, notes) = (last_error(&events), notes_of(&events));
        assert!(error.contains("did not answer session/load"), "{error}");
        assert!(notes.contains("next message begins anew"), "{notes}");
        assert_eq!(text_of(&answer("well").await), "begun-anew");

        let error = stage.error("hang-at-new", None).await;
        assert!(error.contains("did not answer session/new"), "{error}");
        stage.up.stop();
    });
}

fn an_answer_that_takes_too_long_is_stopped() {
    block_on(async {
        let stage = Stage::set(SHORT).await;
        let events = stage.answer("hang", None).await;
        let error = last_error(&events);
        for part in [
            "more than 8 seconds (ai.answer_time)",
            "did not, and was ended",
            "set a longer",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert_eq!(stage.left(), Vec::<u32>::new());
        assert!(stage.file("cancelled").exists(), "it was not told before");
        let session = session_of(&events);
        let kept = stage.history(&session);
        assert!(
            kept.contains("begun") && kept.contains("ai.answer_time"),
            "{kept}"
        );
        let again = stage.answer("well", Some(&session)).await;
        let notes = notes_of(&again);
        assert!(notes.contains("interrupted"), "{notes}");
        assert_eq!(text_of(&again), "loaded");

        // One that stops when it is told to was not interrupted.
        let error = stage.error("cancel", Some(&session)).await;
        assert!(error.contains("told to cancel, and did"), "{error}");
        let again = stage.answer("well", Some(&session)).await;
        assert_eq!(notes_of(&again), "");
        assert_eq!(text_of(&again), "loaded");
        stage.up.stop();
    });
}

fn a_flood_is_stopped_in_little_memory() {
    block_on(async {
        let stage = Stage::set(SHORT).await;
        let error = stage.error("line", None).await;
        assert!(error.contains("a message of more than"), "{error}");
        needed_little(&stage.up);
        // How far it comes until the time is over depends on the machine.
        let error = stage.error("updates", None).await;
        let why = ["ai.answer_time", "bytes for one answer"];
        assert!(why.iter().any(|why| error.contains(why)), "{error}");
        needed_little(&stage.up);
        stage.up.stop();
        // Each refusal is kept, so that there are only so many.
        let stage = Stage::set("").await;
        let error = stage.error("refused", None).await;
        assert!(error.contains("more than 1000 things"), "{error}");
        stage.up.stop();
    });
}

fn a_program_that_does_not_read_is_ended() {
    block_on(async {
        let stage = Stage::set(SHORT).await;
        let events = stage.answer("deaf", None).await;
        let error = last_error(&events);
        assert!(error.contains("did not, and was ended"), "{error}");
        assert_eq!(text_of(&events), "begun");
        assert_eq!(stage.left(), Vec::<u32>::new());
        let error = stage.error("deaf-flood", None).await;
        assert!(error.contains("does not read what it is told"), "{error}");
        needed_little(&stage.up);
        stage.up.stop();
    });
}

fn a_question_goes_with_what_asked_it() {
    block_on(async {
        let stage = Stage::set(SHORT).await;
        // Until the time is over.
        let see = async |event: &RunEvent| {
            if let RunEvent::Approval(request) = event {
                assert_eq!(stage.waiting().await, std::slice::from_ref(request));
            }
            true
        };
        let events = stage.answer_to("ask", None, see).await;
        let error = last_error(&events);
        assert!(error.contains("ai.answer_time"), "{error}");
        assert_eq!(stage.waiting().await, []);
        stage.is_refused(&question(&events)).await;
        let answered = std::fs::read_to_string(stage.file("answered")).unwrap();
        assert!(answered.contains("\"cancelled\""), "{answered}");

        // Until whoever asked stops it.
        let until_asked = async |event: &RunEvent| !matches!(event, RunEvent::Approval(_));
        let events = stage.answer_to("ask", None, until_asked).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !stage.waiting().await.is_empty() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the question outlives who asked"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stage.is_refused(&question(&events)).await;
        wait_until("the end of the program", || stage.left().is_empty());

        // Until the program ends.
        let events = stage.answer("ask-and-end", None).await;
        let error = last_error(&events);
        assert!(error.contains("(exit 3)"), "{error}");
        assert_eq!(stage.waiting().await, []);
        stage.is_refused(&question(&events)).await;

        let audit = stage
            .place
            .agent(&["audit", "--json", "--limit", "10000"])
            .ok();
        assert!(
            audit.contains("refused: this request was withdrawn"),
            "{audit}"
        );
        assert_eq!(
            audit.matches("what asked for it is over").count(),
            6,
            "{audit}"
        );
        stage.up.stop();
    });
}

fn what_ends_or_answers_at_random_is_told_and_forgotten() {
    block_on(async {
        let stage = Stage::set("").await;
        for (mode, why) in [
            ("garbage-at-start", "no JSON-RPC message: plums"),
            ("wrong-id", "a request that it was not asked"),
            ("text-id", "a request that it was not asked"),
            ("old-id", "a request that it was not asked"),
            ("half-at-start", "in the middle of a message (exit 0)"),
            ("half", "in the middle of a message (exit 3)"),
        ] {
            let error = stage.error(mode, None).await;
            assert!(error.contains(why), "{mode}: {error}");
        }
        let events = stage.answer("well", None).await;
        assert_eq!(text_of(&events), "begun-anew");
        stage.up.stop();
    });
}
