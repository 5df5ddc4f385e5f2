//! A program asks for permission: the question goes to every paired browser, and
//! only a signed answer counts.

use std::path::Path;

use agent_client_protocol_schema::v1::{
    PermissionOptionId, PermissionOptionKind, RequestPermissionOutcome, RequestPermissionRequest,
    SelectedPermissionOutcome, ToolCallContent,
};
use katachi_protocol::record::Denial;
use katachi_protocol::run::{RunEvent, RunRequest};
use katachi_sandbox::Plan;
use tokio::sync::mpsc::Sender;

use crate::runner;
use crate::tunnel::{Question, Service, ask};

/// What wants a person to be asked.
const RULE: &str = "the program asks for permission";

/// Asks, waits, and says what to tell the program; and what was denied, if it was.
///
/// One answer allows one thing once: an option that would allow more is not chosen.
pub(super) fn decide(
    service: &Service,
    (plan, workspace): (&Plan, &Path),
    request: &RequestPermissionRequest,
    events: &Sender<RunEvent>,
) -> (RequestPermissionOutcome, Option<Denial>) {
    let argv = words(request);
    let refuse = |why: &str, option: Option<PermissionOptionId>| {
        let denial = runner::unapproved("permission", &argv, RULE, why, events);
        (chosen(option), Some(denial))
    };
    let reject = option(request, PermissionOptionKind::RejectOnce);
    let Some(allow) = option(request, PermissionOptionKind::AllowOnce) else {
        return refuse("it offers no way to allow it once", reject);
    };
    if argv.iter().map(String::len).sum::<usize>() > RunRequest::MAX_BYTES {
        return refuse("it is too long to be shown whole", reject);
    }
    let question = Question {
        argv: &argv,
        directory: workspace,
        rule: RULE,
    };
    match ask(service, plan, question, events) {
        Ok(()) => (chosen(Some(allow)), None),
        // Whoever asked went away, and with them the whole answer.
        Err(why) if events.is_closed() => refuse(why, None),
        Err(why) => refuse(why, reject),
    }
}

/// Everything about the tool that the program would use: its kind, its title, its
/// input, the files that it names and what it would write.
fn words(request: &RequestPermissionRequest) -> Vec<String> {
    let fields = &request.tool_call.fields;
    let kind = serde_json::to_value(fields.kind.unwrap_or_default()).unwrap_or_default();
    let mut words = vec![kind.as_str().unwrap_or("other").to_owned()];
    words.extend(fields.title.clone());
    words.extend(fields.raw_input.as_ref().map(ToString::to_string));
    let locations = fields.locations.iter().flatten();
    words.extend(locations.map(|place| place.path.display().to_string()));
    for content in fields.content.iter().flatten() {
        if let ToolCallContent::Diff(diff) = content {
            words.push(diff.path.display().to_string());
            words.push(diff.new_text.clone());
        }
    }
    words
}

fn option(
    request: &RequestPermissionRequest,
    kind: PermissionOptionKind,
) -> Option<PermissionOptionId> {
    let found = request.options.iter().find(|option| option.kind == kind)?;
    Some(found.option_id.clone())
}

fn chosen(option: Option<PermissionOptionId>) -> RequestPermissionOutcome {
    match option {
        Some(id) => RequestPermissionOutcome::Selected(SelectedPermissionOutcome::new(id)),
        None => RequestPermissionOutcome::Cancelled,
    }
}
