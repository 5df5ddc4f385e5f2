//! The text format of Prometheus, read as far as a `cloudflared` counts in it.

use katachi_protocol::agent::CloudflaredCounts;

/// Reads `name{labels} value`, a line each. What is not a count of ours is passed over,
/// and several with one name are added.
pub(super) fn parse(text: &str) -> CloudflaredCounts {
    let mut counts = CloudflaredCounts::default();
    for line in text.lines() {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let count = match name {
            "cloudflared_tunnel_ha_connections" => &mut counts.connections,
            "cloudflared_tunnel_total_requests" => &mut counts.requests,
            "cloudflared_tunnel_request_errors" => &mut counts.errors,
            _ => continue,
        };
        let labelled = line.rsplit_once('}').map(|(_, value)| value);
        let value = labelled.unwrap_or(&line[name.len()..]);
        let value = value.split_whitespace().next().unwrap_or_default();
        let value: f64 = value.parse().unwrap_or_default();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast saturates, and a count is whole"
        )]
        let value = value as u64;
        *count = count.saturating_add(value);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_with_labels_and_without() {
        let text = "# HELP cloudflared_tunnel_ha_connections Number of active ha connections\n\
            # TYPE cloudflared_tunnel_ha_connections gauge\n\
            cloudflared_tunnel_ha_connections 4\n\
            cloudflared_tunnel_total_requests{name=\"a b} c\"} 1.2e+01 1700000000\n\
            cloudflared_tunnel_total_requests{name=\"\"} 30\n\
            cloudflared_tunnel_request_errors NaN\n\
            cloudflared_tunnel_request_errors_more 9\n";
        let counts = CloudflaredCounts {
            connections: 4,
            requests: 42,
            errors: 0,
        };
        assert_eq!(parse(text), counts);
        assert_eq!(parse("nothing of that"), CloudflaredCounts::default());
    }
}
