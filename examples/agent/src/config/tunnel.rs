//! The `[tunnel]` section.

use std::path::Path;

use super::{Carrier, CarrierKind, Cloudflared, file};
use crate::cli::Options;
use crate::mistake::Mistake;

/// Settles what carries the tunnel.
///
/// # Errors
///
/// Returns a [`Mistake`] for a digest that is none, or options without their carrier.
pub(super) fn settle(
    options: &Options,
    file: file::Tunnel,
    path: &Path,
) -> Result<Carrier, Mistake> {
    let program = options.cloudflared.clone().or(file.cloudflared);
    let digest = match (&options.cloudflared_sha256, &file.cloudflared_sha256) {
        (Some(text), _) => Some((text, "--cloudflared-sha256".to_owned())),
        (None, Some(text)) => {
            let place = format!("{}: key tunnel.cloudflared_sha256", path.display());
            Some((text, place))
        }
        (None, None) => None,
    };
    let sha256 = match digest {
        None => None,
        Some((text, place)) => Some(parse(text).ok_or_else(|| {
            Mistake::new(
                place,
                format!("`{text}` is not a SHA-256 digest"),
                "give 64 hexadecimal digits, as sha256sum prints them",
            )
        })?),
    };
    let kind = options.tunnel_carrier.or(file.carrier).unwrap_or_default();
    match kind {
        CarrierKind::Cloudflared => Ok(Carrier::Cloudflared(Cloudflared { program, sha256 })),
        _ if program.is_some() || sha256.is_some() => Err(Mistake::new(
            "tunnel.carrier",
            "a cloudflared is named, and the tunnel does not use one",
            "set tunnel.carrier (or --tunnel-carrier) to cloudflared, or name none",
        )),
        CarrierKind::Embedded => Ok(Carrier::Embedded),
        CarrierKind::WebSocket => Ok(Carrier::WebSocket),
    }
}

fn parse(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(carrier: Option<CarrierKind>, sha256: Option<&str>) -> Result<Carrier, Mistake> {
        let file = file::Tunnel {
            carrier,
            cloudflared: None,
            cloudflared_sha256: sha256.map(str::to_owned),
            ..file::Tunnel::default()
        };
        settle(&Options::default(), file, Path::new("config.toml"))
    }

    #[test]
    fn the_tunnel_is_our_own_unless_told_otherwise() {
        assert_eq!(settled(None, None).unwrap(), Carrier::Embedded);
        let websocket = settled(Some(CarrierKind::WebSocket), None);
        assert_eq!(websocket.unwrap(), Carrier::WebSocket);
        let digest = "aB".repeat(32);
        let Carrier::Cloudflared(chosen) =
            settled(Some(CarrierKind::Cloudflared), Some(&digest)).unwrap()
        else {
            panic!("not what was asked for");
        };
        assert_eq!(chosen.sha256, Some([0xab; 32]));
    }

    #[test]
    fn a_digest_that_is_none_or_unused_is_refused() {
        for wrong in [
            "",
            "abc",
            &"zz".repeat(32),
            &"+f".repeat(32),
            &"a".repeat(65),
        ] {
            let refused = settled(Some(CarrierKind::Cloudflared), Some(wrong)).unwrap_err();
            assert!(
                refused.to_string().contains("cloudflared_sha256"),
                "{refused}"
            );
        }
        for other in [None, Some(CarrierKind::WebSocket)] {
            assert!(settled(other, Some(&"ab".repeat(32))).is_err());
        }
    }
}
