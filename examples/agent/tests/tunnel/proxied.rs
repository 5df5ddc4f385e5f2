//! A network whose proxy ends every TLS connection, by a real nginx: the tunnel inside of
//! a WebSocket passes, and one that is bound to its TLS connection is refused.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use libtest_mimic::Trial;

use crate::nginx::{self, Nginx};
use crate::support::browser::{Browser, EMAIL};
use crate::support::far::Far;
use crate::support::meeting::text_of;
use crate::support::pair::Pair;
use crate::support::up::{Up, block_on};
use crate::support::{self, Place, far, needing};

pub(crate) fn trials() -> Vec<Trial> {
    let present = support::can_confine() && nginx::is_installed();
    vec![
        needing(
            "user namespaces and nginx",
            present,
            "a_tunnel_inside_of_a_websocket_passes_a_proxy_that_ends_tls",
            a_tunnel_inside_of_a_websocket_passes_a_proxy_that_ends_tls,
        ),
        needing(
            "user namespaces and nginx",
            present,
            "a_tunnel_that_is_bound_to_its_tls_connection_does_not_pass_it",
            a_tunnel_that_is_bound_to_its_tls_connection_does_not_pass_it,
        ),
    ]
}

/// A relay, and nginx between it and the agent; the port of both.
fn behind_nginx() -> (Far, Nginx, u16) {
    let port = free_port();
    let mut far = Far::at(port);
    let nginx = Nginx::before((far::ADDRESS, port).into());
    far.authority = nginx.authority();
    (far, nginx, port)
}

/// A port that is free on both addresses, out of the range from which the system gives
/// ports to whoever asks for any: between the look and its use another program could get it.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let is_free = |port: &u16| {
        let places = [Ipv4Addr::LOCALHOST, far::ADDRESS].map(|place| (place, *port));
        places.iter().all(|place| TcpListener::bind(place).is_ok())
    };
    let first = std::process::id().wrapping_mul(31);
    std::iter::repeat_with(|| first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)))
        .take(1_000)
        .map(|n| 20_000 + u16::try_from(n % 10_000).unwrap())
        .find(is_free)
        .expect("a free port")
}

fn a_tunnel_inside_of_a_websocket_passes_a_proxy_that_ends_tls() {
    block_on(async {
        let (far, mut nginx, port) = behind_nginx();
        let carrier = ["--tunnel-carrier", "websocket"];
        let mut pair = Pair::meet(far, "", &carrier).await;
        let said = pair.meeting.run(&pair.device, &["echo", "hello"]).await;
        assert_eq!(text_of(&said), "hello\n");
        // Longer than any frame of a WebSocket here, and than a window of HTTP/2.
        let many = ["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"];
        let said = pair.meeting.run(&pair.device, &many).await;
        assert_eq!(text_of(&said).len(), 1_000_000);

        nginx.restart(port);
        pair.up.wait_for("Not connected:");
        pair.up.wait_for("Connected.");
        pair.meeting.is_online().await;
        let said = pair.meeting.run(&pair.device, &["echo", "again"]).await;
        assert_eq!(text_of(&said), "again\n");
        pair.up.stop();
    });
}

fn a_tunnel_that_is_bound_to_its_tls_connection_does_not_pass_it() {
    block_on(async {
        let (far, _nginx, _) = behind_nginx();
        let place = Place::new();
        let relay = ["--relay-url", &far.url, "--relay-ca", &far.authority];
        let mut up = Up::start(&place, &relay);
        up.wait_for("https://");
        let code = up.wait_for("code ");
        let ca = std::fs::read_to_string(&far.own_authority).unwrap();
        let browser = Browser::at(far::ADDRESS, &far.url, &ca);
        browser.sign_up(EMAIL).await;
        browser.approve(&code).await;
        // Calls are signed for themselves and pass; the tunnel's signature names a TLS
        // connection that the relay does not have.
        let why = up.wait_for("Not connected:");
        assert!(why.contains("refuses"), "{why}");
        assert!(!browser.agents().await.agents[0].online);
        up.stop();
    });
}
