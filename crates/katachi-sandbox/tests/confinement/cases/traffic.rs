//! What passes the proxy, within which bounds, and ports that are published.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use katachi_sandbox::policy::ByteSize;
use katachi_sandbox::report::Enforced;
use katachi_sandbox::{Child, Outcome, Plan, Policy};

use super::Case;
use super::proxy::{PROXY, Scene, case, hex, own_address, reported};
use crate::bed::{Bed, Ground, Verdict, must};
use crate::servers::Recorder;
use crate::verdicts::Seen;

pub(crate) const CASES: &[Case] = &[
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
    case("a self-test sees the network control hold", witness),
];

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
    bed.shows(Seen::Ended);
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

fn many(bed: &Bed) -> Verdict {
    bed.shows(Seen::Ended);
    let scene = Scene::new(bed, &["api.test"]);
    let plan = scene.plan(bed)?;
    let outcome = bed.run(&plan, &["many", PROXY, "200"])?;
    must(outcome.success(), "they could not even be made")?;
    reported(&outcome, "a further connection", "most at one time")?;
    // Another sandbox is not harmed, and neither is the caller.
    bed.allowed_by(&plan, &["reach", &scene.at("api.test")])
}

fn bytes(bed: &Bed) -> Verdict {
    bed.shows(Seen::Ended);
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

fn publish(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
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
    let child = start(&plan)?;
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
    visit(port, child)
}

/// What was built for any command of the plan has the network of each.
fn pooled(bed: &Bed) -> Verdict {
    bed.shows(Seen::Denied);
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
    let child = pool
        .command(Bed::argv(&["serve", &port.to_string(), &ready, &failed]))
        .spawn()
        .map_err(|error| error.to_string())?;
    let ready = std::path::Path::new(&ready);
    wait_until("the server does not listen", || ready.exists())?;
    visit(port, child)
}

/// Comes by the published port, hears what the server inside says, and answers; then
/// the command ends, and the port with it.
fn visit(port: u16, mut child: Child) -> Verdict {
    let text = |error: std::io::Error| error.to_string();
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect(loopback).map_err(text)?;
    let patience = Some(Duration::from_secs(30));
    stream.set_read_timeout(patience).map_err(text)?;
    let mut said = [0; 7];
    stream.read_exact(&mut said).map_err(text)?;
    must(&said == b"reached", "somebody else answered")?;
    stream.write_all(b"thanks").map_err(text)?;
    stream.shutdown(Shutdown::Write).map_err(text)?;
    let outcome = child.wait().map_err(text)?;
    must(outcome.success(), "the server did not hear the end")?;
    must(
        TcpStream::connect(loopback).is_err(),
        "the port outlives the command",
    )
}

fn witness(bed: &Bed) -> Verdict {
    bed.shows(Seen::Works);
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

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn wait_until(otherwise: &str, happened: impl Fn() -> bool) -> Verdict {
    let until = Instant::now() + Duration::from_secs(30);
    while !happened() {
        must(Instant::now() < until, otherwise)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
