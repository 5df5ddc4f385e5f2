//! Bounds on what a peer can make the relay hold, and for how long.

use std::time::Duration;

use clap::Args;
use katachi_crypto::password::Params;

/// Bounds on what a peer can make the relay hold, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Connections at once from one address (IPv6: one /64).
    pub connections_per_address: usize,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time for the headers of a request, and for the first request to arrive.
    pub headers: Duration,
    /// Bytes of the headers of a request.
    pub header_bytes: u32,
    /// Time for the body of a request.
    pub body: Duration,
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Bytes of bodies that are read at once on one connection; more wait.
    pub bodies_per_connection: usize,
    /// Time for the other end of a connection to take anything of what waits for it.
    pub write: Duration,
    /// Tunnels open at once.
    pub tunnels: usize,
    /// Streams at once through the tunnel of one agent, and on one connection of a
    /// browser.
    pub streams_per_agent: usize,
    /// Calls that one agent may make in a minute with nonces of no order, where this relay
    /// alone remembers them. Agents of ours count theirs, which takes no room for each.
    pub nonces_per_agent: usize,
    /// Bytes that one agent may move in a second, both ways together; more wait.
    pub agent_bytes_per_second: u64,
    /// How often the other end of a silent HTTP/2 connection is asked whether it is
    /// there.
    pub keep_alive: Duration,
    /// Time for its answer, after which it is gone.
    pub keep_alive_timeout: Duration,
    /// Bytes of one stream that may be under way unread (RFC 9113 section 5.2).
    pub stream_window: u32,
    /// Bytes of all streams of one tunnel that may be under way unread.
    pub tunnel_window: u32,
    /// Bytes of all streams of one browser that may be under way unread.
    pub browser_window: u32,
    /// Time for an agent to begin its answer.
    pub answer: Duration,
    /// How often a silent browser of a channel is asked whether it is there.
    pub channel_ping: Duration,
    /// Silence of a browser after which its channel ends; also the time for either
    /// end to take a piece that the other sent.
    pub channel_silence: Duration,
    /// How often an open channel looks whether its session has become too old.
    pub session_check: Duration,
    /// Time between two heartbeats that agents are asked for, in whole seconds.
    pub heartbeat: Duration,
    /// Seconds between two polls of who waits for a person's approval (RFC 8628
    /// section 3.2, `interval`).
    pub device_interval: u32,
    /// What hashing a password costs. Records of a lower cost are replaced when their
    /// owner signs in.
    pub password: Params,
    /// Time for running requests to end once a shutdown was asked for.
    pub drain: Duration,
    /// How long agents are told to stay away when the relay stops: until another node
    /// or its successor serves.
    pub restart: Duration,
    /// Agents that are told to come back in one second, so that they do not come all
    /// at once.
    pub returns_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            connections: 4096,
            connections_per_address: 1024,
            handshake: seconds(10),
            headers: seconds(10),
            header_bytes: 16 * 1024,
            body: seconds(10),
            body_bytes: 256 * 1024,
            bodies_per_connection: 1024 * 1024,
            write: seconds(60),
            tunnels: 16_384,
            streams_per_agent: 128,
            nonces_per_agent: 4096,
            agent_bytes_per_second: 64 * 1024 * 1024,
            keep_alive: seconds(15),
            keep_alive_timeout: seconds(10),
            stream_window: 256 * 1024,
            tunnel_window: 4 * 1024 * 1024,
            browser_window: 1024 * 1024,
            answer: seconds(30),
            channel_ping: seconds(20),
            channel_silence: seconds(60),
            session_check: seconds(60),
            heartbeat: seconds(30),
            device_interval: 5,
            password: Params::FLOOR,
            drain: seconds(5),
            restart: Duration::from_millis(500),
            returns_per_second: 200,
        }
    }
}

/// Limits that an operator may have reason to change; the others are those of
/// [`Limits::default`]. Times are in seconds, with a fraction if need be.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits")]
pub struct LimitOptions {
    /// Connections at once [default: 4096]
    #[arg(long, value_name = "NUMBER", env = "KATACHI_RELAY_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,

    /// Connections at once from one address [default: 1024]
    #[arg(
        long,
        value_name = "NUMBER",
        env = "KATACHI_RELAY_MAX_CONNECTIONS_PER_ADDRESS"
    )]
    pub max_connections_per_address: Option<usize>,

    /// Tunnels at once [default: 16384]
    #[arg(long, value_name = "NUMBER", env = "KATACHI_RELAY_MAX_TUNNELS")]
    pub max_tunnels: Option<usize>,

    /// Bytes that one agent may move in a second [default: 67108864]
    #[arg(long, value_name = "NUMBER", env = "KATACHI_RELAY_AGENT_BYTES_PER_SECOND", value_parser = clap::value_parser!(u64).range(65_536..))]
    pub agent_bytes_per_second: Option<u64>,

    /// Silence after which a tunnel is asked whether it lives [default: 15]
    #[arg(long, value_name = "SECONDS", env = "KATACHI_RELAY_KEEP_ALIVE", value_parser = seconds)]
    pub keep_alive: Option<Duration>,

    /// Time for its answer [default: 10]
    #[arg(long, value_name = "SECONDS", env = "KATACHI_RELAY_KEEP_ALIVE_TIMEOUT", value_parser = seconds)]
    pub keep_alive_timeout: Option<Duration>,

    /// Silence, or time without reading, after which a browser's channel ends [default: 60]
    #[arg(long, value_name = "SECONDS", env = "KATACHI_RELAY_CHANNEL_SILENCE", value_parser = seconds)]
    pub channel_silence: Option<Duration>,

    /// Time between two heartbeats of an agent, whole and from 5 to 300 [default: 30]
    #[arg(long, value_name = "SECONDS", env = "KATACHI_RELAY_HEARTBEAT", value_parser = clap::value_parser!(u64).range(5..=300))]
    pub heartbeat: Option<u64>,

    /// Time between two polls of a machine that waits for approval, whole and from 1 to 60 [default: 5]
    #[arg(long, value_name = "SECONDS", env = "KATACHI_RELAY_DEVICE_INTERVAL", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub device_interval: Option<u32>,

    /// Time for running requests to end when the relay stops [default: 5]
    #[arg(long, value_name = "SECONDS", env = "KATACHI_RELAY_DRAIN", value_parser = seconds)]
    pub drain: Option<Duration>,

    /// How long agents stay away when the relay stops [default: 0.5]
    #[arg(long, value_name = "SECONDS", env = "KATACHI_RELAY_RESTART", value_parser = seconds)]
    pub restart: Option<Duration>,

    /// Agents that are told to come back in one second then [default: 200]
    #[arg(long, value_name = "NUMBER", env = "KATACHI_RELAY_RETURNS_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    pub returns_per_second: Option<u32>,
}

impl LimitOptions {
    /// The limits with what was given in its place.
    #[must_use]
    pub fn to_limits(&self) -> Limits {
        let usual = Limits::default();
        let silence = self.channel_silence.unwrap_or(usual.channel_silence);
        Limits {
            connections: self.max_connections.unwrap_or(usual.connections),
            connections_per_address: self
                .max_connections_per_address
                .unwrap_or(usual.connections_per_address),
            tunnels: self.max_tunnels.unwrap_or(usual.tunnels),
            agent_bytes_per_second: self
                .agent_bytes_per_second
                .unwrap_or(usual.agent_bytes_per_second),
            keep_alive: self.keep_alive.unwrap_or(usual.keep_alive),
            keep_alive_timeout: self.keep_alive_timeout.unwrap_or(usual.keep_alive_timeout),
            channel_silence: silence,
            // A browser that is there has answered by then.
            channel_ping: usual.channel_ping.min(silence / 3),
            heartbeat: self.heartbeat.map_or(usual.heartbeat, Duration::from_secs),
            device_interval: self.device_interval.unwrap_or(usual.device_interval),
            drain: self.drain.unwrap_or(usual.drain),
            restart: self.restart.unwrap_or(usual.restart),
            returns_per_second: self.returns_per_second.unwrap_or(usual.returns_per_second),
            ..usual
        }
    }
}

/// Reads a time in seconds, from a tenth of a second to a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let refused = || format!("`{text}` is not a number of seconds from 0.1 to 86400");
    let seconds: f64 = text.parse().map_err(|_| refused())?;
    match (0.1..=86_400.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_takes_the_place_of_the_default_and_nothing_else_does() {
        let options = LimitOptions {
            keep_alive: Some(Duration::from_secs(2)),
            channel_silence: Some(Duration::from_secs(3)),
            ..LimitOptions::default()
        };
        let limits = options.to_limits();
        assert_eq!(limits.keep_alive, Duration::from_secs(2));
        assert_eq!(limits.channel_ping, Duration::from_secs(1));
        let usual = format!("{:?}", Limits::default());
        assert_eq!(format!("{:?}", LimitOptions::default().to_limits()), usual);
    }

    #[test]
    fn a_time_that_is_none_is_refused() {
        for wrong in ["", "0", "-1", "NaN", "inf", "15s", "86401"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    }
}
