//! Hosts that are allowed, and every way around the rule.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use katachi_sandbox::{Outcome, Plan, Policy, Query};

use super::Case;
use super::agreement::{Dice, longer};
use crate::bed::{Bed, Verdict, must};
use crate::servers::{Files, Fixed, Recorder};
use crate::verdicts::Seen;

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
    case("host rules that cannot hold are refused", plans),
    case("explain and the proxy agree", agree),
];

pub(super) const fn case(name: &'static str, run: fn(&Bed) -> Verdict) -> Case {
    Case {
        name,
        run,
        needs: &[],
    }
}

pub(super) const PROXY: &str = "198.18.0.1:3128";

/// A server of the host, and a policy that lets a name lead to it.
pub(super) struct Scene {
    pub(super) server: Recorder,
    pub(super) policy: Policy,
    pub(super) resolver: Fixed,
}

impl Scene {
    pub(super) fn new(bed: &Bed, rules: &[&str]) -> Self {
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

    pub(super) fn plan(&self, bed: &Bed) -> Result<Plan, String> {
        bed.plan_with(&self.policy, self.resolver.clone())
    }

    pub(super) fn at(&self, host: &str) -> String {
        format!("{host}:{}", self.server.port)
    }
}

pub(super) fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Both must be said by a violation of the network.
pub(super) fn reported(outcome: &Outcome, target: &str, reason: &str) -> Verdict {
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
    bed.shows(Seen::Works);
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
    bed.shows(Seen::Agrees);
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
