//! Hosts that are allowed, and every way around the rule.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use katachi_sandbox::policy::ByteSize;
use katachi_sandbox::report::Enforced;
use katachi_sandbox::{Outcome, Plan, Policy, Query};

use super::Case;
use super::agreement::{Dice, longer};
use crate::bed::{Bed, Ground, Verdict, must};
use crate::servers::{Files, Fixed, Recorder};

pub(crate) const CASES: &[Case] = &[
    case("an allowed host is reached through the proxy", allowed),
    case("programs that know no proxy reach an allowed host", direct),
    case("a host that no rule names is not reached", unnamed),
    case("a denied host stays denied", denied),
    case("no spelling of a host gets around the rules", spellings),
    case("a name that leads inside is refused", rebinding),
    case(
        "names are not resolved before they are allowed",
        no_question,
    ),
    case("private and metadata addresses are refused", addresses),
    case("TLS that names another host is refused", fronting),
    case(
        "requests that two readers read differently are refused",
        smuggling,
    ),
    case("SOCKS offers connections only", socks),
    case("slow and endless requests end", slow),
    case("what a command said before it ended arrives", last_words),
    case("connections end at their limit", many),
    case("bytes through the proxy end at their limit", bytes),
    case("without host rules there is no proxy", none),
    case(
        "a published port is reached from the host's loopback alone",
        publish,
    ),
    case(
        "a waiting sandbox reaches its hosts and publishes its ports",
        pooled,
    ),
    case("host rules that cannot hold are refused", plans),
    case("explain and the proxy agree", agree),
    case("a self-test sees the network control hold", witness),
];

const fn case(name: &'static str, run: fn(&Bed) -> Verdict) -> Case {
    Case {
        name,
        run,
        needs: &[],
    }
}

const PROXY: &str = "198.18.0.1:3128";

/// A server of the host, and a policy that lets a name lead to it.
struct Scene {
    server: Recorder,
    policy: Policy,
    resolver: Fixed,
}

impl Scene {
    fn new(bed: &Bed, rules: &[&str]) -> Self {
        let server = Recorder::new();
        let mut policy = bed
            .policy()
            .allow_host(format!("127.0.0.1:{}", server.port));
        for rule in rules {
            policy = policy.allow_host(format!("{rule}:{}", server.port));
        }
        Self {
            server,
            policy,
            resolver: Fixed::loopback(),
        }
    }

    fn plan(&self, bed: &Bed) -> Result<Plan, String> {
        bed.plan_with(&self.policy, self.resolver.clone())
    }

    fn at(&self, host: &str) -> String {
        format!("{host}:{}", self.server.port)
    }
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Both must be said by a violation of the network.
fn reported(outcome: &Outcome, target: &str, reason: &str) -> Verdict {
    let found = outcome.violations.iter().any(|violation| {
        violation.control == "network"
            && violation.target.contains(target)
            && violation.reason.contains(reason)
    });
    must(
        found,
        &format!(
            "no violation says {target:?} {reason:?}: {:#?}",
            outcome.violations
        ),
    )
}

/// A SOCKS 5 request for a name.
fn socks_request(host: &[u8], port: u16) -> String {
    let mut request = vec![5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
    request.extend(host);
    request.extend(port.to_be_bytes());
    hex(request)
}

fn allowed(bed: &Bed) -> Verdict {
    let scene = Scene::new(bed, &["api.test"]);
    let plan = scene.plan(bed)?;
    let target = scene.at("api.test");
    bed.allowed_by(&plan, &["reach", &target])?;
    let absolute = hex(format!(
        "GET http://{target}/x?y HTTP/1.1\r\nHost: {target}\r\nConnection: keep-alive\r\n\r\n"
    ));
    bed.allowed_by(&plan, &["say", PROXY, &absolute, "reached"])?;
    must(
        scene.server.seen().contains(&format!(
            "GET /x?y HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
        )),
        "the request was not written anew",
    )?;
    let chunked = hex(format!(
        "POST http://{target}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    ));
    bed.allowed_by(&plan, &["say", PROXY, &chunked, "reached"])?;
    let socks = format!(
        "050100 {} {}",
        socks_request(b"API.test.", scene.server.port),
        hex("GET / HTTP/1.1\r\n\r\n")
    );
    bed.allowed_by(&plan, &["say", PROXY, &socks, "reached"])?;
    // And by the address that the policy names.
    bed.allowed_by(&plan, &["reach", &scene.at("127.0.0.1")])
}

fn direct(bed: &Bed) -> Verdict {
    let scene = Scene::new(bed, &["api.test", "*.sub.test.example"]);
    let plan = scene.plan(bed)?;
    for host in ["api.test", "a.b.sub.test.example", "127.0.0.1"] {
        bed.allowed_by(&plan, &["reach-direct", &scene.at(host)])?;
    }
    bed.denied_by(&plan, &["reach-direct", &scene.at("other.test")])?;
    // An address of the pool that stands for nothing, and another port.
    bed.denied_by(&plan, &["reach-direct", &scene.at("198.18.9.9")])?;
    bed.denied_by(&plan, &["reach-direct", "api.test:1"])
}

fn unnamed(bed: &Bed) -> Verdict {
    let scene = Scene::new(bed, &["api.test"]);
    let other = Recorder::new();
    let target = format!("127.0.0.1:{}", other.port);
    bed.control(&["reach", &target])?;
    let plan = scene.plan(bed)?;
    for attempt in ["reach", "reach-direct"] {
        bed.denied_by(&plan, &[attempt, &target])?;
    }
    let outcome = bed.run(&plan, &["reach", &target])?;
    reported(&outcome, &target, "no rule of network.allow names")?;
    let line = outcome
        .violations
        .iter()
        .find_map(|found| found.allow_with.clone());
    must(
        line == Some(format!("[network] allow = [\"{target}\"]")),
        &format!("the line is {line:?}"),
    )?;
    // The line does what it says.
    let plan = bed.plan(&bed.policy().allow_host(&target))?;
    bed.allowed_by(&plan, &["reach", &target])
}

fn denied(bed: &Bed) -> Verdict {
    let mut scene = Scene::new(bed, &["*.test.example"]);
    scene.policy = scene.policy.deny_host("telemetry.test.example");
    let plan = scene.plan(bed)?;
    bed.allowed_by(&plan, &["reach", &scene.at("api.test.example")])?;
    bed.denied_by(&plan, &["reach", &scene.at("telemetry.test.example")])?;
    bed.denied_by(
        &plan,
        &["reach-direct", &scene.at("telemetry.test.example")],
    )?;
    let outcome = bed.run(&plan, &["reach", &scene.at("TELEMETRY.test.example.")])?;
    reported(&outcome, "telemetry.test.example", "network.deny")?;
    // A denied address stays denied behind an allowed name.
    let scene = Scene::new(bed, &["api.test"]);
    let mut policy = bed.policy().allow_host(scene.at("api.test"));
    policy = policy.deny_host("127.0.0.1");
    let plan = bed.plan_with(&policy, scene.resolver.clone())?;
    let outcome = bed.run(&plan, &["reach", &scene.at("api.test")])?;
    reported(&outcome, "api.test", "network.deny = \"127.0.0.1\"")
}

fn spellings(bed: &Bed) -> Verdict {
    let server = Recorder::new();
    let port = server.port;
    bed.control(&["reach", &format!("127.0.0.1:{port}")])?;
    let policy = bed.policy().allow_host(format!("allowed.test:{port}"));
    let plan = bed.plan_with(&policy, Fixed::new("1.1.1.1"))?;
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0177.0.0.1",
        "2130706433",
        "017700000001",
        "127.0.0.1.",
        "localhost",
        "LOCALHOST.",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "allowed.test@127.0.0.1",
        "127.0.0.1#allowed.test",
        "127.0.0.1%00.allowed.test",
        "127.0.0.1\\@allowed.test",
        "127.0.0.1/allowed.test",
        // Letters and dots that some programs take for others.
        "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
        "127\u{3002}0\u{3002}0\u{3002}1",
        "\u{430}llowed.test",
        "xn--llowed-8cd.test",
        "xallowed.test",
        "allowed.test.evil.test",
    ] {
        let connect = hex(format!("CONNECT {host}:{port} HTTP/1.1\r\n\r\n"));
        bed.denied_by(&plan, &["say", PROXY, &connect, "HTTP/1.1 200"])?;
        let absolute = hex(format!("GET http://{host}:{port}/ HTTP/1.1\r\n\r\n"));
        bed.denied_by(&plan, &["say", PROXY, &absolute, "reached"])?;
    }
    for host in [
        &b"127.0.0.1\0.allowed.test"[..],
        b"127.0.0.1",
        b"127.1",
        b"::1",
        b"[::1]",
        b"allowed.test\0",
    ] {
        let request = format!(
            "050100 {} {}",
            socks_request(host, port),
            hex("GET / HTTP/1.1\r\n\r\n")
        );
        bed.denied_by(&plan, &["say", PROXY, &request, "reached"])?;
    }
    must(
        server.seen().matches("GET").count() == 1,
        "somebody else reached it",
    )
}

fn rebinding(bed: &Bed) -> Verdict {
    let server = Recorder::new();
    let target = format!("evil.test:{}", server.port);
    bed.control(&["reach", &format!("127.0.0.1:{}", server.port)])?;
    let policy = bed.policy().allow_host(&target);
    for address in [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fd00::1",
        "0.0.0.0",
    ] {
        let plan = bed.plan_with(&policy, Fixed::new(address))?;
        bed.denied_by(&plan, &["reach", &target])?;
        let outcome = bed.run(&plan, &["reach-direct", &target])?;
        must(outcome.exit_code() == 1, "a name led inside")?;
        reported(&outcome, "evil.test", "it led to")?;
    }
    // So is what the host calls its own.
    if let Some(own) = own_address() {
        let plan = bed.plan_with(&policy, Fixed::new(&own.to_string()))?;
        bed.denied_by(&plan, &["reach", &target])?;
    }
    must(
        server.seen().matches("GET").count() == 1,
        "somebody else reached it",
    )
}

/// The address with which this machine would speak to others. Nothing is sent.
pub(super) fn own_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

fn no_question(bed: &Bed) -> Verdict {
    let scene = Scene::new(bed, &["api.test", "*.sub.test.example"]);
    let plan = scene.plan(bed)?;
    let secret = "c2VjcmV0.evil.test";
    bed.denied_by(&plan, &["resolve", secret])?;
    bed.denied_by(&plan, &["reach", &format!("{secret}:443")])?;
    bed.denied_by(&plan, &["ask", secret])?;
    bed.denied_by(&plan, &["ask", "api.test"])?;
    // Even an allowed name is only looked up for a connection.
    bed.allowed_by(&plan, &["resolve", "c2VjcmV0.sub.test.example"])?;
    must(
        scene.resolver.asked().is_empty(),
        &format!("the resolver was asked for {:?}", scene.resolver.asked()),
    )?;
    let outcome = bed.run(&plan, &["resolve", secret])?;
    reported(
        &outcome,
        &secret.to_lowercase(),
        "no rule of network.allow names",
    )?;
    bed.allowed_by(&plan, &["reach-direct", &scene.at("api.test")])?;
    must(
        scene.resolver.asked() == ["api.test"],
        "the resolver was asked for something else",
    )
}

fn addresses(bed: &Bed) -> Verdict {
    let scene = Scene::new(bed, &["api.test"]);
    let plan = scene.plan(bed)?;
    for target in [
        "169.254.169.254:80",
        "10.0.0.1:22",
        "192.0.2.1:80",
        "[fd00:ec2::254]:80",
        "100.100.100.200:80",
    ] {
        let started = Instant::now();
        let outcome = bed.run(&plan, &["reach", target])?;
        must(outcome.exit_code() == 1, target)?;
        must(
            started.elapsed() < Duration::from_secs(5),
            "somebody was asked",
        )?;
        reported(&outcome, target, "no rule of network.allow names")?;
        bed.denied_by(&plan, &["tcp", target])?;
    }
    bed.denied_by(&plan, &["udp", "192.0.2.1:53"])
}

fn fronting(bed: &Bed) -> Verdict {
    let files = Files::new("api.test", &bed.outside, bed.workspace.join("ca.pem"));
    let target = format!("api.test:{}", files.port);
    let policy = bed
        .policy()
        .allow_host(&target)
        .allow_host(format!("127.0.0.1:{}", files.port));
    let plan = bed.plan_with(&policy, Fixed::loopback())?;
    let connect = |hello: &[u8]| {
        let request = format!("CONNECT {target} HTTP/1.1\r\n\r\n");
        format!("{} {}", hex(request), hex(hello))
    };
    // A server's hello starts like this.
    let answered = "\u{16}\u{3}\u{3}";
    let good = files.hello("api.test");
    bed.allowed_by(&plan, &["say", PROXY, &connect(&good), answered])?;
    let evil = files.hello("evil.test");
    let outcome = bed.run(&plan, &["say", PROXY, &connect(&evil), answered])?;
    must(outcome.exit_code() == 1, "another name was passed on")?;
    reported(&outcome, &target, "evil.test")?;
    // The same in two records, so that no single one holds the name.
    let body = &evil[5..];
    let (first, second) = body.split_at(60);
    let record = |part: &[u8]| [&[22, 3, 1, 0, part.len() as u8][..], part].concat();
    let mut cut = record(first);
    for part in second.chunks(200) {
        cut.extend(record(part));
    }
    bed.denied_by(&plan, &["say", PROXY, &connect(&cut), answered])?;
    let outcome = bed.run(&plan, &["say", PROXY, &connect(&cut), answered])?;
    reported(&outcome, &target, "evil.test")?;
    // Past the proxy as well.
    bed.allowed_by(&plan, &["say", &target, &hex(&good), answered])?;
    bed.denied_by(&plan, &["say", &target, &hex(&evil), answered])?;
    let damaged = {
        let mut damaged = good;
        damaged[9] ^= 0xff;
        damaged[43] = 0xff;
        damaged
    };
    bed.denied_by(&plan, &["say", &target, &hex(damaged), answered])
}

fn smuggling(bed: &Bed) -> Verdict {
    let scene = Scene::new(bed, &["api.test"]);
    let plan = scene.plan(bed)?;
    let host = scene.at("api.test");
    let second = "GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n";
    for request in [
        format!(
            "POST http://{host}/ HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}"
        ),
        format!(
            "POST http://{host}/ HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 0\r\n\r\n{second}"
        ),
        format!("POST http://{host}/ HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n{second}"),
        format!(
            "POST http://{host}/ HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{second}"
        ),
        format!("GET http://{host}/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"),
        format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nHost: evil.test\r\n\r\n"),
        format!("GET http://{host}/ HTTP/1.1\r\nX: a\0b\r\n\r\n{second}"),
        format!("GET http://{host}/ HTTP/1.1\r\n\r\n{second}"),
        format!(
            "POST http://{host}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}"
        ),
        format!("GET http://{host}/\r\nHost: evil.test HTTP/1.1\r\n\r\n"),
    ] {
        let outcome = bed.run(&plan, &["say", PROXY, &hex(&request), "reached"])?;
        must(
            !outcome.violations.is_empty(),
            &format!("nothing was reported of {request:?}"),
        )?;
    }
    let seen = scene.server.seen();
    must(
        !seen.contains("smuggled") && !seen.contains("evil.test"),
        &seen,
    )
}

fn socks(bed: &Bed) -> Verdict {
    let scene = Scene::new(bed, &["api.test"]);
    let plan = scene.plan(bed)?;
    let port = scene.server.port.to_be_bytes();
    let request = |command: u8| hex([&[5, command, 0, 1, 127, 0, 0, 1][..], &port].concat());
    let connect = hex("GET / HTTP/1.1\r\n\r\n");
    bed.allowed_by(
        &plan,
        &[
            "say",
            PROXY,
            &format!("050100 {} {connect}", request(1)),
            "reached",
        ],
    )?;
    // BIND and UDP ASSOCIATE.
    for command in [2, 3] {
        let outcome = bed.run(
            &plan,
            &[
                "say",
                PROXY,
                &format!("050100 {} {connect}", request(command)),
                "reached",
            ],
        )?;
        must(outcome.exit_code() == 1, "it was offered")?;
        reported(&outcome, "SOCKS", "only connections")?;
    }
    // SOCKS 4 and 4a, and one who insists on a password.
    let four = hex([&[4, 1][..], &port, &[127, 0, 0, 1, 0]].concat());
    let four_a = hex([&[4, 1][..], &port, &[0, 0, 0, 1, 0], b"api.test\0"].concat());
    for request in [four, four_a, "050102".to_owned()] {
        bed.denied_by(
            &plan,
            &["say", PROXY, &format!("{request} {connect}"), "reached"],
        )?;
    }
    Ok(())
}

fn slow(bed: &Bed) -> Verdict {
    let scene = Scene::new(bed, &["api.test"]);
    let plan = scene.plan(bed)?;
    let host = scene.at("api.test");
    // Without end: refused at once.
    let endless = format!("GET http://{host}/ HTTP/1.1\r\nX: {}", "x".repeat(40_000));
    bed.allowed_by(&plan, &["say", PROXY, &hex(&endless), "400 Bad Request"])?;
    let fields = format!(
        "GET http://{host}/ HTTP/1.1\r\n{}\r\n",
        "X: y\r\n".repeat(200)
    );
    bed.allowed_by(&plan, &["say", PROXY, &hex(&fields), "400 Bad Request"])?;
    // Never finished: ended by the deadline, all of them at one time.
    std::thread::scope(|scope| {
        let attempts = [
            (PROXY, "GET http://api".to_owned()),
            (PROXY, "CONNECT ".to_owned()),
            (PROXY, "\u{5}".to_owned()),
            (PROXY, "\u{5}\u{1}\0".to_owned()),
            (PROXY, String::new()),
            (host.as_str(), "\u{16}\u{3}\u{1}\u{1}".to_owned()),
        ]
        .map(|(target, said)| {
            let plan = &plan;
            scope.spawn(move || bed.allowed_by(plan, &["say", target, &hex(said), "end"]))
        });
        attempts
            .into_iter()
            .try_for_each(|attempt| attempt.join().unwrap())
    })
}

fn many(bed: &Bed) -> Verdict {
    let scene = Scene::new(bed, &["api.test"]);
    let plan = scene.plan(bed)?;
    let outcome = bed.run(&plan, &["many", PROXY, "200"])?;
    must(outcome.success(), "they could not even be made")?;
    reported(&outcome, "a further connection", "most at one time")?;
    // Another sandbox is not harmed, and neither is the caller.
    bed.allowed_by(&plan, &["reach", &scene.at("api.test")])
}

fn bytes(bed: &Bed) -> Verdict {
    let mut scene = Scene::new(bed, &["api.test"]);
    scene.policy.limits.network = Some(
        "400"
            .parse::<ByteSize>()
            .map_err(|error| error.to_string())?,
    );
    let plan = scene.plan(bed)?;
    bed.allowed_by(&plan, &["reach", &scene.at("api.test")])?;
    let long = format!("CONNECT {0} HTTP/1.1\r\n\r\n", scene.at("api.test"));
    let request = format!("{} {}", hex(long), hex("x".repeat(2000)));
    let outcome = bed.run(&plan, &["say", PROXY, &request, "reached"])?;
    must(outcome.exit_code() == 1, "more bytes passed than the limit")?;
    reported(&outcome, "a further byte", "limits.network")
}

fn none(bed: &Bed) -> Verdict {
    let server = Recorder::new();
    let target = format!("127.0.0.1:{}", server.port);
    bed.only_outside(&["reach", &target])?;
    bed.denied(&[
        "say",
        PROXY,
        &hex(format!("CONNECT {target} HTTP/1.1\r\n\r\n")),
        "200",
    ])?;
    bed.denied(&["variable", "HTTPS_PROXY"])?;
    bed.denied(&["resolve", "example.com"])?;
    // Publishing opens nothing the other way.
    let port = free_port();
    let plan = bed.plan(&bed.policy().publish(port))?;
    bed.denied_by(&plan, &["reach", &target])?;
    bed.denied_by(
        &plan,
        &[
            "say",
            PROXY,
            &hex(format!("CONNECT {target} HTTP/1.1\r\n\r\n")),
            "200",
        ],
    )
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn publish(bed: &Bed) -> Verdict {
    let port = free_port();
    let ready = bed.inside("ready");
    let refused = bed.inside("refused");
    let attempt = ["serve", &port.to_string(), &ready, &refused].map(str::to_owned);
    let attempt: Vec<&str> = attempt.iter().map(String::as_str).collect();
    let start = |plan: &Plan| {
        let _ = std::fs::remove_file(&ready);
        let child = plan
            .command(Bed::argv(&attempt))
            .spawn()
            .map_err(|error| error.to_string())?;
        // Says that it does not work where it does not.
        for _ in 0..3000 {
            if std::path::Path::new(&ready).exists() {
                return Ok(child);
            }
            if std::path::Path::new(&refused).exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("the server does not listen".to_owned())
    };
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // Without a rule it is nobody's.
    let child = start(&bed.plan(&bed.policy())?);
    must(
        TcpStream::connect(loopback).is_err(),
        "it is published without a rule",
    )?;
    must(
        child.is_ok() || Ground::here() == Ground::Nothing,
        "the server does not listen",
    )?;
    drop(child);

    let plan = bed.plan(&bed.policy().publish(port))?;
    let mut child = start(&plan)?;
    if let Some(own) = own_address() {
        let reached = TcpStream::connect_timeout(&(own, port).into(), Duration::from_secs(1));
        must(reached.is_err(), "it is published to the network")?;
    }
    // A second sandbox cannot have the port too, and says so.
    let second = plan.command(Bed::argv(&attempt)).spawn();
    must(
        second.is_err_and(|error| error.to_string().contains(&format!("port {port}"))),
        "two sandboxes have one port",
    )?;
    let mut stream = TcpStream::connect(loopback).map_err(|error| error.to_string())?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut said = [0; 7];
    stream
        .read_exact(&mut said)
        .map_err(|error| error.to_string())?;
    must(&said == b"reached", "somebody else answered")?;
    stream.write_all(b"thanks").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let outcome = child.wait().map_err(|error| error.to_string())?;
    must(outcome.success(), "the server did not hear the end")?;
    must(
        TcpStream::connect(loopback).is_err(),
        "the port outlives the command",
    )
}

/// What was built for any command of the plan has the network of each.
fn pooled(bed: &Bed) -> Verdict {
    let port = free_port();
    let scene = Scene::new(bed, &["api.test"]);
    let other = Recorder::new();
    let policy = scene.policy.clone().publish(port);
    let plan = bed.plan_with(&policy, scene.resolver.clone())?;
    let pool = katachi_sandbox::Pool::new(&plan, 1).map_err(|error| error.to_string())?;
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let waiting = || wait_until("nothing waits", || pool.ready() == 1);
    let run = |attempt: &[&str]| -> Result<Outcome, String> {
        waiting()?;
        let output = pool.command(Bed::argv(attempt)).output();
        output
            .map(|output| output.outcome)
            .map_err(|error| error.to_string())
    };
    waiting()?;
    must(
        TcpStream::connect(loopback).is_err(),
        "a port is published while nothing runs",
    )?;
    for how in ["reach", "reach-direct"] {
        let reached = run(&[how, &scene.at("api.test")])?;
        must(reached.success(), &format!("{how}: {:?}", reached.ending))?;
        let refused = run(&[how, &scene.at("other.test")])?;
        must(refused.exit_code() == 1, "an unnamed host was reached")?;
    }
    let target = format!("127.0.0.1:{}", other.port);
    bed.control(&["reach", &target])?;
    let refused = run(&["reach", &target])?;
    must(refused.exit_code() == 1, "the host was reached")?;
    reported(&refused, &target, "no rule of network.allow names")?;

    let (ready, failed) = (bed.inside("ready"), bed.inside("failed"));
    waiting()?;
    let mut child = pool
        .command(Bed::argv(&["serve", &port.to_string(), &ready, &failed]))
        .spawn()
        .map_err(|error| error.to_string())?;
    let ready = std::path::Path::new(&ready);
    wait_until("the server does not listen", || ready.exists())?;
    let mut stream = TcpStream::connect(loopback).map_err(|error| error.to_string())?;
    let mut said = [0; 7];
    stream
        .read_exact(&mut said)
        .map_err(|error| error.to_string())?;
    must(&said == b"reached", "somebody else answered")?;
    stream.write_all(b"thanks").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let outcome = child.wait().map_err(|error| error.to_string())?;
    must(outcome.success(), "the server did not hear the end")?;
    must(
        TcpStream::connect(loopback).is_err(),
        "the port outlives the command",
    )
}

fn wait_until(otherwise: &str, happened: impl Fn() -> bool) -> Verdict {
    let until = Instant::now() + Duration::from_secs(30);
    while !happened() {
        must(Instant::now() < until, otherwise)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn plans(bed: &Bed) -> Verdict {
    let refused = |policy: Policy, words: &[&str]| {
        let error = bed.plan(&policy).err().ok_or("it was accepted")?;
        must(words.iter().all(|word| error.contains(word)), &error)
    };
    refused(
        bed.policy().allow_host("example.com"),
        &["network.allow = \"example.com\"", "names no port", "write"],
    )?;
    refused(bed.policy().allow_host("*:443"), &["anybody can own"])?;
    refused(bed.policy().allow_host("*.com:443"), &["anybody can own"])?;
    refused(
        bed.policy().allow_host("https://example.com:443"),
        &["network.allow"],
    )?;
    if !cfg!(feature = "idna") {
        refused(
            bed.policy().allow_host("b\u{fc}cher.example:443"),
            &["xn--"],
        )?;
    }
    refused(bed.policy().allow_host("localhost:80"), &["127.0.0.1:80"])?;
    refused(
        bed.policy()
            .allow_host("a.example.com:443")
            .deny_host("*.example.com"),
        &["contradicts", "network.deny"],
    )?;
    refused(
        bed.policy().allow_host("a.example.com:3000").publish(3000),
        &["network.publish = 3000", "contradicts"],
    )?;
    refused(bed.policy().publish(0), &["network.publish = 0"])
}

fn agree(bed: &Bed) -> Verdict {
    let scene = Scene::new(
        bed,
        &["api.test", "*.sub.test.example", "bad.sub.test.example.x"],
    );
    let port = scene.server.port;
    let mut scene = scene;
    scene.policy = scene.policy.deny_host("bad.sub.test.example");
    let plan = scene.plan(bed)?;
    let mut seen = [0, 0];
    for host in [
        "api.test",
        "API.TEST.",
        "x.api.test",
        "a.sub.test.example",
        "sub.test.example",
        "bad.sub.test.example",
        "BAD.sub.test.example.",
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "10.0.0.1",
        "a%00b",
        "a@b",
    ] {
        let target = format!("{host}:{port}");
        let answer = plan.explain(&Query::Connect(target.clone()));
        let reached = bed.run(&plan, &["reach", &target])?.success();
        must(
            answer.allowed == reached,
            &format!(
                "{answer}, and it was {}",
                if reached { "reached" } else { "refused" }
            ),
        )?;
        seen[usize::from(reached)] += 1;
    }
    must(
        seen.iter().all(|count| *count >= 4),
        "one answer alone was seen",
    )?;
    agree_on_random(bed)
}

/// A name of up to four labels, in the spelling of a rule.
fn random_name(dice: &mut Dice) -> String {
    let mut name = dice.pick(&["test.example", "api.test"]).to_owned();
    for _ in 0..dice.below(3) {
        name = format!("{}.{name}", dice.pick(&["a", "b", "sub"]));
    }
    name
}

/// Random rules against random hosts, all in one sandbox for each set of rules.
fn agree_on_random(bed: &Bed) -> Verdict {
    let scene = Scene::new(bed, &[]);
    let port = scene.server.port;
    let (mut seen, mut planned) = ([0, 0], 0);
    for seed in 0..8 * longer() {
        let mut dice = Dice::new(seed);
        let mut policy = scene.policy.clone();
        for _ in 0..=dice.below(3) {
            let every = dice.pick(&["", "*."]);
            let at = [port, port, port.wrapping_add(1)][dice.below(3)];
            policy = policy.allow_host(format!("{every}{}:{at}", random_name(&mut dice)));
        }
        for _ in 0..dice.below(2) {
            let every = dice.pick(&["", "*."]);
            policy = policy.deny_host(format!("{every}{}", random_name(&mut dice)));
        }
        // Some contradict themselves, and say so.
        let plan = match bed.plan_with(&policy, scene.resolver.clone()) {
            Ok(plan) => plan,
            Err(error) => {
                must(error.contains("contradicts"), &error)?;
                continue;
            }
        };
        planned += 1;
        let targets: Vec<String> = (0..24)
            .map(|_| {
                let name = random_name(&mut dice);
                let name = match dice.below(4) {
                    0 => name.to_uppercase(),
                    1 => format!("{name}."),
                    2 => format!("x{name}"),
                    _ => name,
                };
                format!("{name}:{port}")
            })
            .collect();
        let mut attempt = vec!["reach-each"];
        attempt.extend(targets.iter().map(String::as_str));
        let output = plan
            .command(Bed::argv(&attempt))
            .stderr(std::process::Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        must(
            said.lines().count() == targets.len(),
            "the attempt said too little",
        )?;
        for (target, line) in targets.iter().zip(said.lines()) {
            let answer = plan.explain(&Query::Connect(target.clone()));
            seen[usize::from(answer.allowed)] += 1;
            must(
                answer.allowed.to_string() == line,
                &format!(
                    "seed {seed}: {answer}, and it was {line}\n{}",
                    policy.to_toml()
                ),
            )?;
        }
    }
    must(
        planned >= 4 && seen.iter().all(|count| *count >= 10),
        &format!("{planned} policies gave {seen:?}"),
    )
}

fn witness(bed: &Bed) -> Verdict {
    let scene = Scene::new(bed, &["api.test"]);
    for plan in [bed.plan(&bed.policy())?, scene.plan(bed)?] {
        let seen = katachi_sandbox::doctor::witness(&plan).map_err(|error| error.to_string())?;
        let control = seen.control("network").ok_or("there is no such control")?;
        must(control.witnessed, &seen.to_string())?;
    }
    // Ports that are published lead in and nowhere else, with limits as without.
    let ports = [free_port(), free_port()];
    let mut policy = scene.policy.clone().publish(ports[0]).publish(ports[1]);
    policy.limits.memory = Some(ByteSize::new(8 << 30));
    policy.limits.network = Some(ByteSize::new(1 << 20));
    let witness = |policy: &Policy| {
        let plan = bed.plan_with(policy, scene.resolver.clone())?;
        katachi_sandbox::doctor::witness(&plan).map_err(|error| error.to_string())
    };
    let seen = witness(&policy)?;
    for control in ["network", "limits"] {
        let control = seen.control(control).ok_or("there is no such control")?;
        let holds = control.witnessed && !matches!(control.enforced, Enforced::Off(_));
        must(holds, &seen.to_string())?;
    }
    must(
        !seen.to_string().contains("the self-test"),
        &seen.to_string(),
    )?;
    // A port at which nothing is heard is named, and nothing is said to be seen: the
    // word is longer than these bytes.
    policy.limits.network = Some(ByteSize::new(7));
    let seen = witness(&policy)?;
    let control = seen.control("network").ok_or("there is no such control")?;
    let named = ports.iter().all(|port| {
        let line =
            format!("the self-test did not reach its server behind network.publish = {port}");
        seen.residual.contains(&line)
    });
    must(!control.witnessed && named, &seen.to_string())?;
    // A plan says what it lets through, and what nobody can keep in then.
    let report = scene.plan(bed)?.enforcement();
    let control = report
        .control("network")
        .ok_or("there is no such control")?;
    must(control.requested.contains("api.test"), &control.requested)?;
    let told = report
        .residual
        .iter()
        .any(|line| line.contains("through an allowed host"));
    must(told, "the way out through an allowed host is not told")
}

fn last_words(bed: &Bed) -> Verdict {
    let scene = Scene::new(bed, &["api.test"]);
    let plan = scene.plan(bed)?;
    let target = scene.at("api.test");
    let connect = hex(format!("CONNECT {target} HTTP/1.1\r\n\r\n"));
    for count in 1..=5 {
        bed.allowed_by(
            &plan,
            &["say", PROXY, &format!("{connect} {}", hex("farewell")), ""],
        )?;
        let until = Instant::now() + Duration::from_secs(2);
        while scene.server.seen().matches("farewell").count() < count {
            must(Instant::now() < until, "it did not arrive")?;
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}
