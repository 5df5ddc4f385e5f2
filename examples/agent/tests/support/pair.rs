//! An agent, its relay behind what stands between them, and somebody who is paired.

use std::time::{Duration, Instant};

use katachi_protocol::channel::PairingFragment;

use super::Place;
use super::browser::{Browser, EMAIL};
use super::device::Device;
use super::far::{self, Far};
use super::meeting::Meeting;
use super::up::{PATIENCE, Up};

/// An agent that reaches its relay through something, and somebody who is paired with it.
pub(crate) struct Pair {
    pub(crate) place: Place,
    pub(crate) far: Far,
    pub(crate) up: Up,
    pub(crate) meeting: Meeting,
    pub(crate) device: Device,
}

impl Pair {
    /// They meet at `far`, with the agent told `config` and `options`.
    pub(crate) async fn meet(far: Far, config: &str, options: &[&str]) -> Self {
        let place = Place::new();
        let config = place.file("config.toml", config);
        let mut command = place.command();
        command.env("KATACHI_CONFIG", config);
        let relay = ["--relay-url", &far.url, "--relay-ca", &far.authority];
        let mut up = Up::start_by(command, &[&relay[..], options].concat());
        let link = up.wait_for("https://");
        let code = up.wait_for("code ");
        let (_, fragment) = link.split_once('#').unwrap();
        up.fragment = PairingFragment::parse(fragment);
        let ca = std::fs::read_to_string(&far.own_authority).unwrap();
        let browser = Browser::at(far::ADDRESS, &far.url, &ca);
        browser.sign_up(EMAIL).await;
        browser.approve(&code).await;
        up.wait_for("Connected.");
        let agents = browser.agents().await.agents;
        let agent = agents[0].id.clone();
        let meeting = Meeting { browser, agent };
        meeting.is_online().await;
        let device = meeting.paired(&up).await;
        Self {
            place,
            far,
            up,
            meeting,
            device,
        }
    }
}

impl Meeting {
    /// Waits until the relay can ask the agent.
    pub(crate) async fn is_online(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.browser.agents().await.agents[0].online {
            assert!(Instant::now() < deadline, "the agent does not come");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
