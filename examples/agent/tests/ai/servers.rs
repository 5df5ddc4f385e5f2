//! MCP servers of an account, and the signatures that let them start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use katachi_protocol::mcp::PutMcp;

use crate::support::Place;
use crate::support::device::Device;
use crate::support::meeting::Meeting;

/// Where npm put the server for files.
pub(crate) fn files() -> Option<PathBuf> {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/node/node_modules");
    let server = modules.join("@modelcontextprotocol/server-filesystem/dist/index.js");
    server.canonicalize().ok()
}

/// The part of a configuration that gives that server a policy of its own, under
/// which it may read the workspace.
pub(crate) fn confine_files(place: &Place) -> String {
    let server = files().unwrap();
    let modules = server.ancestors().nth(4).unwrap();
    let own = place.file(
        "files.toml",
        &format!(
            "[filesystem]\nread = [\"@system\", \".\", {:?}]\n[commands]\nallow = [\"@node\"]\n",
            modules.to_str().unwrap()
        ),
    );
    format!("[mcp.policies]\nfiles = {:?}\n", own.to_str().unwrap())
}

/// Signs that server for the agent, told by its arguments that it may read
/// everything.
pub(crate) async fn sign_files(meeting: &Meeting, device: &Device) {
    let server = files().unwrap();
    let mut config = config(&["node", server.to_str().unwrap(), "/"], meeting);
    sign(&mut config, "files", device, meeting);
    meeting.browser.put_mcp("files", &config).await;
}

pub(crate) fn config(command: &[&str], meeting: &Meeting) -> PutMcp {
    PutMcp {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        released_to: vec![meeting.agent.clone()],
        signatures: BTreeMap::new(),
    }
}

pub(crate) fn sign(config: &mut PutMcp, name: &str, device: &Device, meeting: &Meeting) {
    let signature = device.sign_mcp(&meeting.agent, name, config).unwrap();
    config.signatures = BTreeMap::from([(meeting.agent.clone(), signature)]);
}
