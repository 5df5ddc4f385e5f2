//! What a `cloudflared` counts: any text is read, its lines add up in whatever order,
//! and numbers that are written as it writes them are read as they are.
#![no_main]

use katachi_protocol::agent::CloudflaredCounts as Counts;
use libfuzzer_sys::fuzz_target;

#[path = "../../examples/agent/src/cloudflared/counts.rs"]
mod counts;

fuzz_target!(|text: &str| {
    let whole = counts::parse(text);
    let mut lines: Vec<&str> = text.lines().collect();
    let sum = |sum: Counts, line: &&str| add(sum, counts::parse(line));
    assert_eq!(lines.iter().fold(Counts::default(), sum), whole);
    lines.reverse();
    assert_eq!(counts::parse(&lines.join("\n")), whole);

    let [connections, requests, errors] = [0, 4, 8].map(|at| {
        let bytes = text.bytes().skip(at).take(4);
        bytes.fold(0, |number, byte| number << 8 | u64::from(byte))
    });
    let written = format!(
        "# TYPE cloudflared_tunnel_ha_connections gauge\n\
         cloudflared_tunnel_ha_connections {connections}\n\
         cloudflared_tunnel_total_requests {requests:e}\n\
         cloudflared_tunnel_request_errors{{a=\"}} 7\"}} {errors}\n"
    );
    let told = Counts {
        connections,
        requests,
        errors,
    };
    assert_eq!(counts::parse(&written), told);
    // Whatever else stands before it.
    let after = format!("{}\n{written}", text.replace("cloudflared", "another"));
    assert_eq!(counts::parse(&after), told);
});

fn add(a: Counts, b: Counts) -> Counts {
    Counts {
        connections: a.connections.saturating_add(b.connections),
        requests: a.requests.saturating_add(b.requests),
        errors: a.errors.saturating_add(b.errors),
    }
}
