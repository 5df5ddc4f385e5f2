//! A browser's side of the relay, for tests.

use katachi_protocol::account::SignUp;
use katachi_protocol::agent::Agents;
use katachi_protocol::device::UserCodeBody;
use katachi_protocol::run::{MessageRequest, RunEvent, RunRequest};
use katachi_protocol::{Sensitive, routes};
use reqwest::{Client, Method, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) const EMAIL: &str = "mia@orchard.example";
const PASSWORD: &str = "a long enough password";

pub(crate) struct Browser {
    http: Client,
    origin: String,
}

impl Browser {
    /// Opens a browser that trusts the authority in `ca_pem`.
    pub(crate) fn new(origin: &str, ca_pem: &str) -> Self {
        // A second test in this process finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let host = origin
            .strip_prefix("https://")
            .unwrap()
            .split(':')
            .next()
            .unwrap();
        let authority = reqwest::Certificate::from_pem(ca_pem.as_bytes()).unwrap();
        let http = Client::builder()
            .tls_certs_only([authority])
            .resolve(host, ([127, 0, 0, 1], 0).into())
            .no_proxy()
            .cookie_store(true)
            .build()
            .unwrap();
        Self {
            http,
            origin: origin.to_owned(),
        }
    }

    pub(crate) async fn sign_up(&self, email: &str) {
        let body = SignUp {
            email: email.to_owned(),
            password: Sensitive::new(PASSWORD),
        };
        let answer = self.send(Method::POST, routes::SIGN_UP, Some(&body)).await;
        assert!(answer.status().is_success(), "{:?}", answer.text().await);
    }

    pub(crate) async fn approve(&self, user_code: &str) {
        let body = UserCodeBody {
            user_code: user_code.to_owned(),
        };
        let answer = self
            .send(Method::POST, routes::DEVICE_APPROVE, Some(&body))
            .await;
        assert!(answer.status().is_success(), "{:?}", answer.text().await);
    }

    pub(crate) async fn agents(&self) -> Agents {
        self.get(routes::AGENTS).await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let answer = self.send(Method::GET, path, None::<&()>).await;
        assert!(
            answer.status().is_success(),
            "{path}: {:?}",
            answer.text().await
        );
        answer.json().await.unwrap()
    }

    pub(crate) async fn start(&self, agent: &str, argv: &[&str], cwd: Option<&str>) -> Response {
        let body = RunRequest {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            cwd: cwd.map(str::to_owned),
        };
        self.send(Method::POST, &routes::agent_run(agent), Some(&body))
            .await
    }

    pub(crate) async fn run(&self, agent: &str, argv: &[&str]) -> Vec<RunEvent> {
        events(self.start(agent, argv, None).await).await
    }

    pub(crate) async fn message(
        &self,
        agent: &str,
        session: Option<&str>,
        text: &str,
    ) -> Vec<RunEvent> {
        let body = MessageRequest {
            session: session.map(str::to_owned),
            text: text.to_owned(),
        };
        events(
            self.send(Method::POST, &routes::agent_message(agent), Some(&body))
                .await,
        )
        .await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Response {
        let mut request = self
            .http
            .request(method.clone(), format!("{}{path}", self.origin))
            .header("sec-fetch-site", "same-origin");
        if method != Method::GET {
            request = request.header("origin", &self.origin);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.unwrap()
    }
}

async fn events(answer: Response) -> Vec<RunEvent> {
    assert!(answer.status().is_success(), "{:?}", answer.text().await);
    let text = answer.text().await.unwrap();
    let events: Vec<_> = text
        .lines()
        .map(|line| RunEvent::from_line(line).unwrap())
        .collect();
    assert!(events.last().unwrap().is_last(), "{text}");
    events
}
