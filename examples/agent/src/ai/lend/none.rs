//! MCP servers for a program in the sandbox, where a sandboxed program starts no
//! other: none.

use std::sync::Mutex;
use std::thread::Scope;

use agent_client_protocol_schema::v1::McpServer;
use katachi_protocol::record::Denial;
use katachi_protocol::run::RunEvent;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use crate::mcp::{self, note};
use crate::policy::Rules;
use crate::runner::Finished;
use crate::tunnel::Service;

/// There is none.
#[derive(Debug)]
pub(super) enum Lent {}

/// What an open one would be.
#[derive(Debug)]
pub(super) enum Open {}

impl Lent {
    /// Tells that servers which are there are not lent.
    pub(super) fn start(
        (service, _): (&Service, &Rules),
        events: &Sender<RunEvent>,
        _: &mut Finished,
    ) -> Option<Self> {
        let configs = Handle::current().block_on(mcp::startable(service));
        if configs.is_ok_and(|configs| !configs.is_empty()) {
            note(
                events,
                "MCP servers of the account are not lent to programs on this system",
            );
        }
        None
    }

    pub(super) fn rules(&self) -> &Rules {
        match *self {}
    }

    pub(super) fn entries(&self) -> Vec<McpServer> {
        match *self {}
    }

    pub(super) fn open<'scope, 'env>(
        &'env self,
        _: &'scope Scope<'scope, 'env>,
        _: &'env Service,
        _: &'env Sender<RunEvent>,
        _: &'env Mutex<Vec<Denial>>,
    ) -> Open {
        match *self {}
    }

    pub(super) fn end(self, _: &Sender<RunEvent>, _: &mut Finished) {
        match self {}
    }
}
