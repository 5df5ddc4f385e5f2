//! Which node has an agent's tunnel, and requests that reach another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::StatusCode;
use serde_json::json;
use tokio::time::timeout;

use crate::agent::{TestAgent, wait_until_online};
use crate::nodes::Cluster;
use crate::relay::Browser;

/// Bytes of an agent that floods.
const FLOOD: usize = 64 * 1024;

/// What an agent has seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// Requests that ended before their answer did.
    cancelled: AtomicUsize,
    /// Pieces that it could send.
    pieces: AtomicUsize,
}

struct Watch(Arc<Seen>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(1, Ordering::SeqCst);
    }
}

/// Says its name, then what it is told, piece by piece. Told `endless` it says its
/// name every 20 ms; told `flood` it sends as much as it is let.
pub(crate) fn router(name: &'static str, seen: Arc<Seen>) -> Router {
    let answer = move |body: Body| async move {
        let start = (body.into_data_stream(), None, Watch(seen));
        let pieces =
            futures_util::stream::unfold(start, move |(mut told, first, watch)| async move {
                let is_first = first.is_none();
                let first: Bytes = match first {
                    Some(first) => first,
                    None => told.next().await?.ok()?,
                };
                let piece = match &first[..] {
                    b"endless" => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Bytes::from(name)
                    }
                    b"flood" => {
                        watch.0.pieces.fetch_add(1, Ordering::SeqCst);
                        Bytes::from(vec![0; FLOOD])
                    }
                    _ if is_first => Bytes::from(format!("{name}:{}", first.escape_ascii())),
                    _ => told.next().await?.ok()?,
                };
                Some((
                    Ok::<_, std::convert::Infallible>(piece),
                    (told, Some(first), watch),
                ))
            });
        Body::from_stream(pieces)
    };
    Router::new().route("/v1/channel", post(answer))
}

/// An account on every node, and an agent with its tunnel to the node `at`.
pub(crate) async fn connected(
    cluster: &Cluster,
    at: usize,
    nodes: usize,
) -> (Vec<Browser>, TestAgent, Arc<Seen>) {
    let mut browsers = vec![cluster.node(0).browser_of("ana@example.org").await];
    for node in 1..nodes {
        browsers.push(cluster.node(node).signed_in("ana@example.org").await);
    }
    let agent = TestAgent::approved(cluster.node(0), &browsers[0]).await;
    let seen = Arc::new(Seen::default());
    agent
        .open_tunnel(cluster.node(at), router("agent", Arc::clone(&seen)), None)
        .await
        .unwrap();
    for browser in &browsers {
        wait_until_online(browser, &agent.id, true).await;
    }
    (browsers, agent, seen)
}

pub(crate) async fn becomes(what: &str, mut there: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !there().await {
        assert!(began.elapsed() < Duration::from_secs(5), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reaches_another_node_is_forwarded_as_a_stream_and_cancelled_with_it() {
    let cluster = Cluster::start(3);
    let (browsers, agent, seen) = connected(&cluster, 2, 3).await;
    for browser in &browsers {
        let mut carried = browser.carry(&agent.id, "hello").await.unwrap();
        assert_eq!(carried.next().await.unwrap(), "agent:hello");
        // Both ways at once: what is said next comes back before the end.
        carried.send("again").await;
        assert_eq!(carried.next().await.unwrap(), "again");
        drop(carried);
    }
    becomes("the agent was not told", async || {
        seen.cancelled.load(Ordering::SeqCst) == 3
    })
    .await;

    // A browser that does not read holds the agent up, over both hops.
    let flooded = browsers[0].carry(&agent.id, "flood").await.unwrap();
    let mut before = usize::MAX;
    becomes("nothing holds the agent up", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = seen.pieces.load(Ordering::SeqCst);
        std::mem::replace(&mut before, now) == now && now > 0
    })
    .await;
    assert!(before * FLOOD < 32 << 20, "{before} pieces are under way");
    drop(flooded);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_tunnel_wins_whichever_nodes_they_reach() {
    let cluster = Cluster::start(3);
    let (browsers, agent, _) = connected(&cluster, 0, 3).await;
    let mut former = browsers[0].carry(&agent.id, "endless").await.unwrap();
    former.next().await.unwrap();
    let newer = router("newer", Arc::default());
    agent
        .open_tunnel(cluster.node(1), newer, None)
        .await
        .unwrap();
    // The old owner closes its own.
    let ended = async { while former.next().await.is_some() {} };
    timeout(Duration::from_secs(2), ended).await.unwrap();
    for browser in &browsers {
        let carried = browser.carry(&agent.id, "x").await;
        assert_eq!(carried.unwrap().next().await.unwrap(), "newer:x");
    }
    assert_eq!(cluster.sql("SELECT node FROM katachi_relay.tunnels"), "b");
    let audit = browsers[2].json("/api/audit").await;
    let entries = audit["entries"].as_array().unwrap();
    assert!(
        entries
            .iter()
            .any(|entry| entry["action"] == "tunnel_replaced")
    );
    assert_eq!(audit["intact"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_notifications_a_node_sees_by_itself_that_a_tunnel_is_another_s() {
    let cluster = Cluster::start(2);
    let (browsers, agent, _) = connected(&cluster, 0, 2).await;
    let mut former = browsers[0].carry(&agent.id, "endless").await.unwrap();
    former.next().await.unwrap();
    // A claim of the other node of which nobody hears.
    cluster.sql(
        "UPDATE katachi_relay.tunnels
         SET node = 'b', generation = nextval('katachi_relay.tunnel_generations')",
    );
    let ended = async { while former.next().await.is_some() {} };
    timeout(Duration::from_secs(2), ended).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_in_the_middle_of_a_request_fails_it_within_two_seconds() {
    let mut cluster = Cluster::start(3);
    let (browsers, agent, _) = connected(&cluster, 2, 3).await;
    let mut carried = browsers[0].carry(&agent.id, "endless").await.unwrap();
    carried.next().await.unwrap();
    let killed = Instant::now();
    cluster.kill(2);
    let ended = async { while carried.next().await.is_some() {} };
    timeout(Duration::from_secs(2), ended).await.unwrap();
    // Until the lease is over it is a broken tunnel, then an agent that is away.
    let (status, problem) = browsers[1].carry(&agent.id, "x").await.err().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(2));
    assert!(status.is_server_error(), "{status}: {problem}");
    becomes("the dead owner is asked", async || {
        let refused = browsers[1].carry(&agent.id, "x").await.err();
        refused.unwrap().1["error"] == "offline"
    })
    .await;
    assert!(killed.elapsed() < Duration::from_millis(2500));

    // The agent connects again, anywhere.
    let again = router("again", Arc::default());
    agent
        .open_tunnel(cluster.node(1), again, None)
        .await
        .unwrap();
    wait_until_online(&browsers[0], &agent.id, true).await;
    let carried = browsers[0].carry(&agent.id, "x").await;
    assert_eq!(carried.unwrap().next().await.unwrap(), "again:x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_is_dead_within_two_seconds_and_closes_its_tunnels_when_it_wakes() {
    let cluster = Cluster::start(2);
    let (browsers, agent, seen) = connected(&cluster, 1, 2).await;
    let mut carried = browsers[0].carry(&agent.id, "endless").await.unwrap();
    carried.next().await.unwrap();
    let stopped = Instant::now();
    cluster.signal(1, "-STOP");
    let ended = async { while carried.next().await.is_some() {} };
    timeout(Duration::from_secs(2), ended).await.unwrap();
    becomes("it is taken for alive", async || {
        let refused = browsers[0].carry(&agent.id, "x").await.err();
        refused.unwrap().1["error"] == "offline"
    })
    .await;
    assert!(stopped.elapsed() < Duration::from_secs(3));
    cluster.signal(1, "-CONT");
    becomes("its tunnel is still open", async || {
        seen.cancelled.load(Ordering::SeqCst) == 1
    })
    .await;
    becomes("its row is still there", async || {
        cluster.sql("SELECT count(*) FROM katachi_relay.tunnels") == "0"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_on_one_node_ends_on_all() {
    let cluster = Cluster::start(3);
    let (browsers, agent, _) = connected(&cluster, 2, 3).await;
    // Signed out where the account's other browser is.
    let mut carried = browsers[0].carry(&agent.id, "endless").await.unwrap();
    carried.next().await.unwrap();
    cluster.sql("DELETE FROM katachi_relay.sessions; UPDATE katachi_relay.service SET endings = endings + 1");
    let ended = async { while carried.next().await.is_some() {} };
    timeout(Duration::from_secs(2), ended).await.unwrap();

    // An agent that its owner removes elsewhere.
    let browser = cluster.node(0).signed_in("ana@example.org").await;
    let mut carried = browser.carry(&agent.id, "endless").await.unwrap();
    carried.next().await.unwrap();
    let path = format!("/api/agents/{}", agent.id);
    let removed = browser.send(http::Method::DELETE, &path, None).await;
    assert_eq!(removed.status(), StatusCode::NO_CONTENT);
    let ended = async { while carried.next().await.is_some() {} };
    timeout(Duration::from_secs(2), ended).await.unwrap();
    let heartbeat = json!({"state": "idle"});
    for node in 0..3 {
        let answer = agent
            .call(
                cluster.node(node),
                http::Method::POST,
                "/v1/agent/heartbeat",
                Some(heartbeat.clone()),
            )
            .await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{node}");
        assert_eq!(answer.body["error"], "revoked", "{node}: {}", answer.body);
        assert!(answer.signed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_not_let_in_between_nodes_and_nothing_makes_two_hops() {
    let cluster = Cluster::start(3);
    let (browsers, agent, seen) = connected(&cluster, 2, 3).await;
    let generation = cluster.sql("SELECT generation FROM katachi_relay.tunnels");
    let address = cluster.sql("SELECT address FROM katachi_relay.nodes WHERE name = 'c'");
    // What a node would ask, by somebody without a certificate, and with one of an
    // authority of its own.
    for identity in [None, Some(())] {
        let request = http::Request::post("https://agent/v1/channel?mode=resume")
            .header("katachi-agent", &agent.id)
            .header("katachi-generation", &generation)
            .body(Body::from("endless"))
            .unwrap();
        let answered = stranger(&address, identity.is_some(), request).await;
        assert!(answered.is_none(), "{answered:?}");
    }
    assert_eq!(
        seen.cancelled.load(Ordering::SeqCst),
        0,
        "the agent was asked"
    );

    // A row that names a node without the tunnel: that one says so and asks nobody.
    cluster.sql("UPDATE katachi_relay.tunnels SET node = 'b'");
    let (status, problem) = browsers[0].carry(&agent.id, "x").await.err().unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(problem["error"], "offline");
}

/// Asks a node as another would, with a certificate that is not of the cluster or
/// none; the status, if there is one.
async fn stranger(
    address: &str,
    certified: bool,
    request: http::Request<Body>,
) -> Option<StatusCode> {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use rustls_pki_types::{PrivateKeyDer, ServerName};

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let believing = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believing));
    let mut config = if certified {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a.katachi.internal".to_owned()]).unwrap();
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        believing.with_client_auth_cert(chain, key).unwrap()
    } else {
        believing.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("c").unwrap(), stream)
        .await
        .ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .ok()?;
    tokio::spawn(connection);
    Some(sender.send_request(request).await.ok()?.status())
}

/// Believes whoever answers.
#[derive(Debug)]
struct Believing;

impl rustls::client::danger::ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
