//! A model behind HTTP, through the `genai` crate, which speaks the wire formats
//! of the providers.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use genai::chat::{ChatMessage, ChatOptions, ChatRequest, ChatStreamEvent, MessageContent, Tool};
use genai::resolver::{AuthData, Endpoint};
use genai::{Client, ModelIden, ServiceTarget};

use crate::config::HttpModel;
use crate::relay_client;

/// Time without a byte of a streamed answer.
const SILENCE: Duration = Duration::from_secs(120);
/// Longest answer of the model between two uses of tools, in bytes.
const MAX_TEXT: usize = 512 * 1024;
/// Tokens that a model may write between two uses of tools.
const MAX_TOKENS: u32 = 16 * 1024;

/// A model, and the key with which it is asked.
#[derive(Debug)]
pub(super) struct Model {
    client: Client,
    name: String,
}

/// What it said in one turn.
#[derive(Debug)]
pub(super) struct Turn {
    /// Everything, as the model wants to have it back.
    pub(super) content: MessageContent,
}

impl Model {
    /// The model of `config`, asked with `key`, which goes into a header of its
    /// requests and nowhere else.
    ///
    /// # Errors
    ///
    /// Returns an error if TLS cannot be set up.
    pub(super) fn new(
        config: &HttpModel,
        key: Option<katachi_crypto::SecretString>,
    ) -> anyhow::Result<Self> {
        let base = config.base_url.clone();
        let is_plain = base.as_deref().is_some_and(|url| url.starts_with("http:"));
        let http = relay_client::public_http()?
            .https_only(!is_plain)
            .read_timeout(SILENCE)
            .build()?;
        let auth = move |_: ModelIden| {
            Ok(Some(match &key {
                Some(key) => AuthData::from_single(key.expose_secret()),
                None => AuthData::from_single(""),
            }))
        };
        // Shared, since the resolver is cloned for each request and a secret is not.
        let auth = std::sync::Arc::new(auth);
        let client = Client::builder()
            .with_reqwest(http)
            .with_auth_resolver_fn(move |model: ModelIden| auth(model))
            .with_service_target_resolver_fn(move |mut target: ServiceTarget| {
                if let Some(base) = &base {
                    target.endpoint = Endpoint::from_owned(base.clone());
                }
                Ok(target)
            })
            .build()
            .context("the client of the model")?;
        Ok(Self {
            client,
            name: config.model.clone(),
        })
    }

    /// Asks for one turn; `say` gets the text as it comes.
    ///
    /// # Errors
    ///
    /// Returns an error if the provider refuses, falls silent or says too much.
    pub(super) async fn turn(
        &self,
        system: &str,
        messages: &[ChatMessage],
        tools: &[Tool],
        mut say: impl AsyncFnMut(&str),
    ) -> anyhow::Result<Turn> {
        let request = ChatRequest::new(messages.to_vec())
            .with_system(system)
            .with_tools(tools.iter().cloned());
        let options = ChatOptions::default()
            .with_max_tokens(MAX_TOKENS)
            .with_capture_content(true)
            .with_capture_reasoning_content(true)
            .with_capture_tool_calls(true);
        let asked = self
            .client
            .exec_chat_stream(self.name.as_str(), request, Some(&options));
        let answer = tokio::time::timeout(SILENCE, asked).await;
        let mut answer = answer
            .context("the model did not answer in time")?
            .map_err(refused)?;
        let mut length = 0;
        while let Some(event) = answer.stream.next().await {
            match event.map_err(refused)? {
                ChatStreamEvent::Chunk(chunk) => {
                    length += chunk.content.len();
                    if length > MAX_TEXT {
                        bail!("the model said more than {MAX_TEXT} bytes at once");
                    }
                    say(&chunk.content).await;
                }
                ChatStreamEvent::End(end) => {
                    return Ok(Turn {
                        content: end.captured_content.unwrap_or_default(),
                    });
                }
                _ => {}
            }
        }
        bail!("the model's answer was cut off")
    }
}

/// What the client says, without what a request may have held.
fn refused(error: genai::Error) -> anyhow::Error {
    let said = error.to_string();
    let said = crate::output::one_line(&said);
    let short: String = said.chars().take(500).collect();
    anyhow::anyhow!("the model could not be asked: {short}")
}
