//! The console's files, compiled in.
//!
//! The page names the digest of each (Subresource Integrity, and for imported modules
//! the `integrity` of its import map), so that a browser runs a script only as it was
//! when the page was made. The import map is the one script that stands in the page;
//! the content policy names its digest.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest as _, Sha256};

use super::extract::PathPart;
use crate::failure::Failure;

struct Asset {
    name: &'static str,
    kind: &'static str,
    body: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

const ASSETS: &[Asset] = &[
    Asset {
        name: "console.css",
        kind: "text/css; charset=utf-8",
        body: include_str!("../console/console.css"),
    },
    Asset {
        name: "icon.svg",
        kind: "image/svg+xml",
        body: include_str!("../console/icon.svg"),
    },
    Asset {
        name: "console.js",
        kind: SCRIPT,
        body: include_str!("../console/console.js"),
    },
    Asset {
        name: "access.js",
        kind: SCRIPT,
        body: include_str!("../console/access.js"),
    },
    Asset {
        name: "account.js",
        kind: SCRIPT,
        body: include_str!("../console/account.js"),
    },
    Asset {
        name: "activity.js",
        kind: SCRIPT,
        body: include_str!("../console/activity.js"),
    },
    Asset {
        name: "agents.js",
        kind: SCRIPT,
        body: include_str!("../console/agents.js"),
    },
    Asset {
        name: "api.js",
        kind: SCRIPT,
        body: include_str!("../console/api.js"),
    },
    Asset {
        name: "channel.js",
        kind: SCRIPT,
        body: include_str!("../console/channel.js"),
    },
    Asset {
        name: "device.js",
        kind: SCRIPT,
        body: include_str!("../console/device.js"),
    },
    Asset {
        name: "dom.js",
        kind: SCRIPT,
        body: include_str!("../console/dom.js"),
    },
    Asset {
        name: "history.js",
        kind: SCRIPT,
        body: include_str!("../console/history.js"),
    },
    Asset {
        name: "mcp.js",
        kind: SCRIPT,
        body: include_str!("../console/mcp.js"),
    },
    Asset {
        name: "noise.js",
        kind: SCRIPT,
        body: include_str!("../console/noise.js"),
    },
    Asset {
        name: "pair.js",
        kind: SCRIPT,
        body: include_str!("../console/pair.js"),
    },
    Asset {
        name: "pairing.js",
        kind: SCRIPT,
        body: include_str!("../console/pairing.js"),
    },
    Asset {
        name: "prose.js",
        kind: SCRIPT,
        body: include_str!("../console/prose.js"),
    },
    Asset {
        name: "talk.js",
        kind: SCRIPT,
        body: include_str!("../console/talk.js"),
    },
    Asset {
        name: "waiting.js",
        kind: SCRIPT,
        body: include_str!("../console/waiting.js"),
    },
];

const PAGE: &str = include_str!("../console/index.html");

/// The import map: the digest of each script, by its path.
static IMPORT_MAP: LazyLock<String> = LazyLock::new(|| {
    let scripts = ASSETS.iter().filter(|asset| asset.kind == SCRIPT);
    let integrity: BTreeMap<String, String> = scripts
        .map(|asset| (format!("/assets/{}", asset.name), digest(asset.body)))
        .collect();
    serde_json::json!({ "integrity": integrity }).to_string()
});

/// The page with the digests of what it loads.
static FILLED: LazyLock<String> = LazyLock::new(|| {
    ASSETS
        .iter()
        .fold(PAGE.replace("{scripts}", &IMPORT_MAP), |page, asset| {
            page.replace(&format!("{{{}}}", asset.name), &digest(asset.body))
        })
});

/// Which scripts run, as a source list of a content policy (CSP level 3 section 2.3.1).
pub(crate) static SCRIPT_SOURCES: LazyLock<String> =
    LazyLock::new(|| format!("'self' '{}'", digest(&IMPORT_MAP)));

/// As Subresource Integrity section 3.1 writes it.
fn digest(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

/// `GET /` and `GET /device`.
pub(super) async fn page() -> Response {
    let page = FILLED.as_str();
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

/// `GET /assets/{name}`.
pub(super) async fn asset(
    PathPart(name): PathPart,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let asset = ASSETS
        .iter()
        .find(|asset| asset.name == name)
        .ok_or(Failure::NotFound("no such file"))?;
    // Asked for at each visit and sent only when changed, so that a new relay
    // never meets an old script.
    let tag = format!("\"{:016x}\"", fnv1a(asset.body.as_bytes()));
    let tag = HeaderValue::from_str(&tag).map_err(Failure::internal)?;
    let unchanged = headers.get(IF_NONE_MATCH) == Some(&tag);
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(CONTENT_TYPE, asset.kind)], asset.body).into_response()
    };
    response.headers_mut().insert(ETAG, tag);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Tells versions of a file apart; no one gains by a collision.
const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::{ASSETS, FILLED, IMPORT_MAP, PAGE, SCRIPT, SCRIPT_SOURCES, digest};

    #[test]
    fn every_script_and_style_is_named_with_its_digest() {
        assert!(!FILLED.contains("=\"{") && !FILLED.contains(">{scripts}"));
        let map: serde_json::Value = serde_json::from_str(&IMPORT_MAP).unwrap();
        for asset in ASSETS.iter().filter(|asset| asset.kind == SCRIPT) {
            let named = &map["integrity"][format!("/assets/{}", asset.name)];
            assert_eq!(named, &digest(asset.body), "{}", asset.name);
        }
        assert_eq!(FILLED.matches("integrity=\"sha256-").count(), 2);
        // `printf abc | openssl dgst -sha256 -binary | base64`
        let known = "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        assert_eq!(digest("abc"), known);
        assert!(SCRIPT_SOURCES.contains(&digest(&IMPORT_MAP)));
    }

    #[test]
    fn every_file_that_is_named_is_served() {
        let named = |text: &'static str, before: &'static str| {
            text.split(before)
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
        };
        let served = |name: &str| ASSETS.iter().any(|asset| asset.name == name);
        for name in named(PAGE, "\"/assets/") {
            assert!(served(name), "{name}");
        }
        for script in ASSETS.iter().filter(|asset| asset.name.ends_with(".js")) {
            for name in named(script.body, "from \"./") {
                assert!(served(name), "{} imports {name}", script.name);
            }
        }
    }

    #[test]
    fn nothing_needs_a_weaker_policy() {
        assert!(!PAGE.contains("style=") && !PAGE.contains("<style"));
        assert!(!PAGE.contains("<script>") && !PAGE.contains("onclick"));
        for script in ASSETS.iter().filter(|asset| asset.name.ends_with(".js")) {
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "style: ",
            ] {
                assert!(!script.body.contains(sink), "{} uses {sink}", script.name);
            }
        }
    }
}
